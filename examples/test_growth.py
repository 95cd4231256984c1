"""What grows when it is called again and again, and the most that a call needs."""

from __future__ import annotations

import functools
import json

import pytest

from pytest_pmaps import FootprintError, assert_no_growth, peak

DOCUMENT = json.dumps({"numbers": list(range(1000))})


def test_parsing_holds_nothing():
    """Called a few hundred times; what is made once and kept does not count."""
    assert_no_growth(lambda: json.loads(DOCUMENT))


def test_a_cache_that_has_an_end():
    """It fills up, and passes."""
    parse = functools.lru_cache(maxsize=100)(json.loads)
    documents = iter(f"[{n}]" for n in range(10**9))
    assert_no_growth(lambda: parse(next(documents)))


def test_a_cache_that_has_none():
    """The failure's first line says by how much a call."""
    parse = functools.cache(json.loads)
    documents = iter(f"[{n}]" for n in range(10**9))
    with pytest.raises(FootprintError, match="grows with every call: "):
        assert_no_growth(lambda: parse(next(documents)))


def test_the_most_it_needs():
    """Above what was there before; the kernel counts in batches, so that it is an interval."""
    with peak() as p:
        json.loads(json.dumps(list(range(100_000))))
    assert p.growth <= "64 MiB"
