"""A C extension's author asks what the library holds, and what a call wrote."""

from __future__ import annotations

import pytest

from pytest_pmaps import FootprintError, assert_at_most, assert_no_dirty, assert_not_mapped


def test_work_leaves_the_library_clean(pmaps_snapshot, foo):
    """Reading dirties nothing, although the loader wrote RELRO and .data before."""
    before = pmaps_snapshot()
    foo.foo_work()
    after = pmaps_snapshot()
    assert_no_dirty(after["libfoo.text"])
    assert_no_dirty(after["libfoo.rodata"])
    assert_no_dirty(after["libfoo"], since=before)


def test_one_write_is_one_page(pmaps_snapshot, foo):
    """One int of .data: exactly one page becomes dirty, in .data."""
    before = pmaps_snapshot()
    foo.foo_configure(7)
    after = pmaps_snapshot()
    assert (after - before)["libfoo"].new.dirty == 1
    assert (after - before)["libfoo.data"].new.dirty == 1
    with pytest.raises(FootprintError, match=r"libfoo.so.1: 1 new dirty page \(4 KiB\), allowed 0"):
        assert_no_dirty(after["libfoo"], since=before)


def test_patching_code_is_seen(pmaps_snapshot, foo):
    """A page of text that was written stays a private copy, whatever its permissions are now."""
    assert foo.foo_patch() == 0
    after = pmaps_snapshot()
    with pytest.raises(FootprintError, match=r"libfoo.so.1 text: 1 dirty page"):
        assert_no_dirty(after["libfoo.text"])


def test_budget_of_a_call(pmaps_snapshot, foo):
    """Plain asserts take amounts; a failing one explains itself."""
    before = pmaps_snapshot()
    foo.foo_work()
    after = pmaps_snapshot()
    assert (after - before)["libfoo"].new.dirty <= "4 KiB"
    assert after["libfoo"].rss <= "256 KiB"
    assert_at_most(after["libfoo"], "64 KiB", "dirty")


def test_what_is_not_loaded(pmaps_snapshot):
    """An optional library stays out until it is needed."""
    assert_not_mapped(pmaps_snapshot(), "libtotally_optional")
