"""Selectors against every name that they could be tried on."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_pmaps.errors import AmbiguousMapping, NoSuchMapping
from pytest_pmaps.model import PARTS, Kind
from pytest_pmaps.select import Entry, resolve, stem
from pytest_pmaps.strategies import mapping_names

stems = st.from_regex(r"(lib)?[a-z_][a-z0-9_]{0,8}", fullmatch=True)
versions = st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,2}){0,2}", fullmatch=True)
hashes = st.from_regex(r"[0-9a-f]{8}([0-9a-f]{24})?", fullmatch=True)
tails = st.one_of(
    st.just(".so"),
    st.builds(".so.{}".format, versions),
    st.builds("-{}.so".format, versions),
    st.builds("-{}.so.{}".format, hashes, versions),
    st.builds("-{}-{}.so".format, hashes, hashes),
    st.builds(".cpython-3{}-x86_64-linux-gnu.so".format, st.integers(8, 20)),
    st.just(".abi3.so"),
    st.just(""),
)


def entry(name, inode=1):
    """A mapping of that name."""
    kind = Kind.FILE if name.startswith("/") else Kind.ANON
    return Entry(name, (0xFE, 0) if name.startswith("/") else (0, 0), inode, kind)


@given(stems, tails, st.sampled_from(["", " (deleted)"]))
def test_stem_selects_its_file(name, tail, note):
    """Under every name that a build, a distribution or auditwheel gives it."""
    mapped = entry(f"/usr/lib/{name}{tail}{note}")
    assert resolve(name, [mapped]).indexes == (0,)
    assert resolve(f"{name}.text", [mapped]).part == "text"


@given(stems, tails)
def test_shortest_selector_selects(name, tail):
    """What :func:`stem` gives selects the file that it was made from."""
    assert resolve(stem(f"{name}{tail}"), [entry(f"/x/{name}{tail}")]).indexes == (0,)


@given(stems, stems, tails)
def test_substring_selects_nothing(part, rest, tail):
    """Neither the beginning of a longer stem, nor its end, nor its middle."""
    for longer in (f"{part}{rest}", f"{rest}{part}", f"{rest}{part}{rest}"):
        assume(longer != part)
        with pytest.raises(NoSuchMapping):
            resolve(part, [entry(f"/x/{longer}{tail}")])


@given(stems, st.from_regex(r"[a-z_][a-z0-9_]{0,4}", fullmatch=True), tails)
def test_word_behind_a_dash_or_dot_is_no_version(name, word, tail):
    """``libfoo`` is not ``libfoo-bar.so``; only numbers and hashes may follow a dash."""
    assume(not re.fullmatch(r"[0-9a-f]{8,}", word))
    for longer in (f"{name}-{word}{tail or '.so'}", f"{name}.{word}x{tail or '.so'}"):
        with pytest.raises(NoSuchMapping):
            resolve(name, [entry(f"/x/{longer}")])


@given(stems, versions, versions)
def test_version_may_be_given_in_part(name, version, more):
    """Number by number, never a part of one."""
    mapped = [entry(f"/x/{name}.so.{version}.{more}")]
    assert resolve(f"{name}.so.{version}", mapped).indexes == (0,)
    with pytest.raises(NoSuchMapping):
        resolve(f"{name}.so.{version}", [entry(f"/x/{name}.so.{version}7.{more}")])


@given(stems, st.sampled_from(PARTS))
def test_exact_file_name_wins_over_part(name, part):
    """Whatever the order in which they are mapped."""
    mapped = [entry(f"/x/{name}.so"), entry(f"/x/{name}.{part}", 2)]
    for order in (mapped, mapped[::-1]):
        found = resolve(f"{name}.{part}", order)
        assert (found.part, order[found.indexes[0]].name) == (None, f"/x/{name}.{part}")


@given(mapping_names().filter(lambda name: name.startswith("/")))
def test_path_selects_its_file(name):
    """Every path that can be mapped, odd ones too."""
    assert resolve(name, [entry(name)]).indexes == (0,)


@given(mapping_names(), st.text("lib[]anon:*?.so/-1 \0\ud800\n", max_size=8))
def test_whatever_is_asked_is_found_or_refused(name, selector):
    """No text breaks it."""
    try:
        found = resolve(selector, [entry(name)]).indexes
    except NoSuchMapping as error:
        found = str(error)
    assert found == (0,) or found.startswith("no mapping matches ")


@given(stems, st.lists(st.tuples(st.sampled_from("ab"), tails), min_size=1, max_size=6))
def test_one_file_or_ambiguous(name, files):
    """A selection is of one file; with ``many`` it holds at least as much."""
    mapped = [entry(f"/{folder}/{name}{tail}") for folder, tail in files]
    everything = resolve(name, mapped, many=True).indexes
    names = {mapped[i].name for i in everything}
    if len(names) == 1:
        assert resolve(name, mapped).indexes == everything
    else:
        with pytest.raises(AmbiguousMapping) as caught:
            resolve(name, mapped)
        assert [path for path in names if path not in str(caught.value)] == []
