"""Addresses against the pages that they lie in."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_pmaps import FormatError, NoSuchMapping, Snapshot
from pytest_pmaps.extents import extent_of, parse_addresses
from pytest_pmaps.model import Fact, Kind
from pytest_pmaps.plain import PlainMapping, PlainRange, PlainSnapshot

PAGE = 4096
ALL = (1 << len(Fact)) - 1
RESIDENT = 1 << Fact.PRESENT | 1 << Fact.NORMAL | 1 << Fact.ANON | 1 << Fact.EXCLUSIVE
PAGES = st.lists(st.sampled_from([0, RESIDENT, RESIDENT | 1 << Fact.DIRTY]), min_size=1, max_size=6)


@st.composite
def places(draw):
    """A snapshot, and addresses in it or near its mappings."""
    at = draw(st.sampled_from([0, 16, (1 << 35) - 64]))
    plain = PlainSnapshot([])
    for gap, pages in draw(st.lists(st.tuples(st.sampled_from([0, 0, 0, 1]), PAGES), min_size=1)):
        plain.mappings.append(mapping(at + gap, pages))
        at += gap + len(pages)
    border = st.sampled_from([at for m in plain.mappings for at in (m.start, m.end)])
    near = st.builds(int.__add__, border, st.integers(-5, 5) | st.integers(-PAGE, PAGE))
    start, end = sorted((max(0, draw(near)), max(1, draw(near))))
    return plain, start, end - start or 1


def mapping(first, pages):
    """Of pages that are not there, or in some state; neighbours alike make one range."""
    ranges = []
    for i, state in enumerate(pages):
        last = ranges[-1] if ranges else None
        if state and last and (last.page + last.count, last.set_bits) == (first + i, state):
            last.count += 1
        elif state:
            ranges.append(PlainRange(first + i, 1, state, ALL, (1, 1)))
    end = (first + len(pages)) * PAGE
    return PlainMapping(first * PAGE, end, "rw-p", kind=Kind.ANON, index=first, ranges=ranges)


def touched(start, length):
    """The pages that hold any of the bytes; slow, and nothing to get wrong."""
    return [page for page in range(start // PAGE, start // PAGE + length // PAGE + 3)
            if page * PAGE < start + length and start < (page + 1) * PAGE]  # fmt: skip


def held(page, start, length):
    """How many bytes of a page are in between."""
    return min(start + length, (page + 1) * PAGE) - max(start, page * PAGE)


def size(selection):
    """Pages of its windows."""
    return sum(w.end - w.start for w in selection.windows) // PAGE


def states(plain):
    """What is said of each page."""
    return {
        item.page + i: (item.set_bits, item.known_bits, item.mapcount)
        for m in plain.mappings
        for item in m.ranges
        for i in range(item.count)
    }


def mapped(plain):
    """Every page of every mapping."""
    return {p for m in plain.mappings for p in range(m.start // PAGE, m.end // PAGE)}


@given(places())
def test_pages_are_those_of_the_bytes(place):
    """No page more, no page less, each in its state; or the error names what is missing."""
    plain, start, length = place
    snapshot, pages = Snapshot.from_plain(plain), touched(start, length)
    missing = set(pages) - mapped(plain)
    if missing:
        with pytest.raises(NoSuchMapping, match=f"{min(missing) * PAGE:#x}-"):
            snapshot.of((start, length))
        return
    found = snapshot.of((start, length))
    all_states = states(plain)
    assert {
        r.address // PAGE + i: (r.set_bits, r.known_bits, r.mapcount)
        for r in found.ranges()
        for i in range(r.count)
    } == {page: all_states[page] for page in pages if page in all_states}
    assert size(found) == len(pages)
    dirty = [p for p in pages if all_states.get(p, (0,))[0] >> Fact.DIRTY & 1]
    assert found.dirty == len(dirty)


@given(places())
def test_edges_are_the_pages_held_in_part(place):
    """And nothing else; what is excluded with them are they."""
    plain, start, length = place
    pages = touched(start, length)
    assume(set(pages) <= mapped(plain))
    snapshot = Snapshot.from_plain(plain)
    found = snapshot.of((start, length))
    partly = [page for page in pages if held(page, start, length) < PAGE]
    assert [(e.address // PAGE, e.bytes) for e in found.edges] == [
        (page, held(page, start, length)) for page in partly
    ]
    inside = sorted(set(pages) - set(partly))
    assert size(found.inside) == len(inside)
    assert [size(found.at(edge)) for edge in found.edges] == [1] * len(partly)
    if not inside:
        with pytest.raises(ValueError, match="no page is all its own"):
            snapshot.of((start, length), edges="exclude")
        return
    whole = snapshot.of((start, length), edges="exclude")
    assert whole.windows == found.inside.windows
    assert (whole.windows[0].start, whole.windows[-1].end) == (
        inside[0] * PAGE,
        (inside[-1] + 1) * PAGE,
    )


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 1 << 64))
def test_any_addresses_are_taken_or_refused(start, length):
    """Written in any form they are the same."""
    if start + length > 1 << 64:
        with pytest.raises(ValueError, match="no such addresses"):
            extent_of((start, length))
        return
    assert extent_of((start, length))[:2] == (start, start + length)
    forms = (f"{start:x}-{start + length:x}", f"{start:#x}+{length}", f"{start:#X}+{length:#x}")
    assert [parse_addresses(form) for form in forms] == [(start, length)] * 3


@given(st.text("0123456789abcdefxX+-. KMiB", max_size=20))
def test_no_text_breaks_it(text):
    """Addresses, no addresses, or an error that says so."""
    try:
        found = parse_addresses(text)
    except FormatError:
        return
    assert found is None or extent_of(found).end > found[0]
