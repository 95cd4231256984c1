"""What is said of a page that Y was cleared of, in every state that it can be in afterwards."""

from __future__ import annotations

import os

import pytest

from pytest_pmaps import Fact, Kind
from pytest_pmaps._native import Columns, TouchWatch, Window, lib
from pytest_pmaps.plain import PlainMapping, PlainRange, PlainSnapshot
from pytest_pmaps.touching import _WHY, TouchedMethod, _Told

PAGE = os.sysconf("SC_PAGESIZE")
START = 0x7F0000000000

STAYS, NOTED, FLUSHED, SINGLE = (
    lib.PM_HOW_STAYS,
    lib.PM_HOW_NOTED,
    lib.PM_HOW_FLUSHED,
    lib.PM_HOW_SINGLE,
)
QUIET = STAYS | NOTED | FLUSHED | SINGLE

ANON = {
    Fact.PRESENT: 1,
    Fact.NORMAL: 1,
    Fact.ANON: 1,
    Fact.FILE: 0,
    Fact.HUGE: 0,
    Fact.SWAPPED: 0,
    Fact.KSM: 0,
    Fact.YOUNG: 0,
    Fact.RACED: 0,
}
FILE = {**ANON, Fact.ANON: 0, Fact.FILE: 1}
YOUNG = {Fact.YOUNG: 1}
NO_Y = {Fact.YOUNG: None}
ABSENT = dict.fromkeys(ANON, 0)
ZERO = {**ANON, Fact.ANON: 0, Fact.NORMAL: 0, Fact.ZERO: 1}


def page_range(page: int, facts: dict[Fact, int | None], count: int = 1) -> PlainRange:
    """Facts that are not there, or None, are unknown."""
    known = sum(1 << fact for fact, value in facts.items() if value is not None)
    set_ = sum(1 << fact for fact, value in facts.items() if value)
    return PlainRange(page, count, set_, known, (1, 1))


def mapping(*pages: dict[Fact, int | None] | None, start: int = START, **more) -> PlainMapping:
    """One page each; None is not listed."""
    ranges = [page_range(start // PAGE + i, p) for i, p in enumerate(pages) if p is not None]
    given = {"kind": Kind.ANON, **more}
    return PlainMapping(start, start + len(pages) * PAGE, "rw-p", ranges=ranges, **given)


def columns(*mappings: PlainMapping, **more) -> Columns:
    """A snapshot of these."""
    return Columns.build(PlainSnapshot(list(mappings), page_size=PAGE, pid=1, **more))


def states(watch: TouchWatch, start: int = START, pages: int = 1) -> list[int]:
    """Page by page."""
    found = []
    for a, b, state in watch.regions(start, start + pages * PAGE):
        found += [state] * ((b - a) // PAGE)
    return found


def judged(was, now, how: int = QUIET, **more) -> str:
    """One page, between two moments."""
    watch = TouchWatch(-1, 1, 0)
    begin = () if was is None else (mapping(was, **more),)
    watch.add(columns(*begin), columns(mapping(now, **more)), how)
    (state,) = states(watch)
    names = {value: name for name, value in vars(lib).items() if name.startswith("PM_Y_")}
    return names[state].removeprefix("PM_Y_")


SMALL_ANON = {"extra": "THPeligible:           0\n"}
LARGE_ANON = {"extra": "THPeligible:           1\n"}
OF_FILE = {"kind": Kind.FILE, "inode": 5, "name": "/lib/libfoo.so"}


@pytest.mark.parametrize(
    ("was", "now", "how", "state"),
    [
        # It was there.
        (ANON, ANON, QUIET, "UNTOUCHED"),
        (ANON, ANON | YOUNG, QUIET, "TOUCHED"),
        (ANON, ANON | YOUNG, 0, "TOUCHED"),
        (ANON, ANON, QUIET & ~FLUSHED, "STALE"),
        (ANON, ANON, QUIET & ~STAYS, "CLEARED"),
        (ANON, ANON | {Fact.TOUCHED: 0}, QUIET & ~STAYS, "UNTOUCHED"),
        (ANON, ANON | {Fact.TOUCHED: 1}, QUIET & ~STAYS, "CLEARED"),
        (ANON, ANON | {Fact.TOUCHED: 0}, FLUSHED, "CLEARED"),
        (ANON, ANON | NO_Y, QUIET, "UNSEEN"),
        (ANON, ANON | NO_Y | {Fact.TOUCHED: 0}, QUIET, "UNTOUCHED"),
        (ANON, ANON | NO_Y | {Fact.TOUCHED: 0}, NOTED | FLUSHED, "UNTOUCHED"),
        (ANON, ANON | NO_Y | {Fact.TOUCHED: 0}, FLUSHED, "UNSEEN"),
        (ANON, ANON | NO_Y | {Fact.TOUCHED: 0}, NOTED, "UNSEEN"),
        (ANON, ANON | {Fact.NORMAL: None}, QUIET, "UNSEEN"),
        # It came.
        (ABSENT, ANON | YOUNG, QUIET, "TOUCHED"),
        (ABSENT, ANON | YOUNG, QUIET & ~SINGLE, "AROUND"),
        (None, ANON | YOUNG, QUIET, "TOUCHED"),
        (ABSENT, ANON | NO_Y, QUIET, "CAME"),
        (ABSENT, ANON | NO_Y, QUIET & ~SINGLE, "UNSEEN"),
        (ABSENT, ANON, QUIET, "UNTOUCHED"),
        (ABSENT, ANON, QUIET & ~FLUSHED, "UNTOUCHED"),
        (ABSENT, ANON, QUIET & ~STAYS, "CLEARED"),
        ({Fact.PRESENT: None}, ANON | YOUNG, QUIET, "AROUND"),
        # It went.
        (ANON, ABSENT, QUIET, "GONE"),
        (ABSENT, ABSENT, QUIET, "NOTHING"),
        (None, ABSENT, QUIET, "NOTHING"),
        (ANON, ABSENT | {Fact.SWAPPED: 1}, QUIET, "SWAPPED"),
        (ABSENT, ABSENT | {Fact.SWAPPED: None}, QUIET, "SWAPPED"),
        (ANON, ZERO, QUIET, "GONE"),
        (ABSENT, ZERO, QUIET, "NOTHING"),
        (ZERO, ZERO, QUIET, "NOTHING"),
        (ANON, {Fact.RACED: 1}, QUIET, "RACED"),
        # Huge pages, and what the kernel makes itself.
        (ANON | {Fact.HUGE: 1}, ANON | YOUNG | {Fact.HUGE: 1}, QUIET, "HUGE"),
        (ANON | {Fact.HUGE: 1}, ANON | YOUNG, QUIET, "HUGE"),
        (ANON | {Fact.HUGE: 1}, ANON, QUIET, "UNTOUCHED"),
        (ABSENT, ANON | YOUNG | {Fact.HUGE: 1}, QUIET, "HUGE"),
        (ANON, ANON | YOUNG | {Fact.HUGE: 1}, QUIET, "MADE"),
        (ANON, ANON | YOUNG | {Fact.KSM: 1}, QUIET | lib.PM_HOW_MERGES, "MADE"),
        (ANON, ANON | YOUNG, QUIET | lib.PM_HOW_MERGES, "TOUCHED"),
        (ANON, ANON | YOUNG, QUIET | lib.PM_HOW_COLLAPSES, "MADE"),
        # Kinds.
        (ANON, ANON | YOUNG, QUIET | lib.PM_HOW_ANON_ONLY, "TOUCHED"),
        (ANON, ANON | YOUNG, QUIET | lib.PM_HOW_FILE_ONLY, "LEFT_OUT"),
        (ANON, ANON | NO_Y, QUIET | lib.PM_HOW_FILE_ONLY, "LEFT_OUT"),
        (ABSENT, ANON | YOUNG, QUIET | lib.PM_HOW_FILE_ONLY, "TOUCHED"),
    ],
)
def test_anonymous(was, now, how: int, state: str):
    """A page of memory without a file."""
    assert judged(was, now, how) == state


@pytest.mark.parametrize(
    ("was", "now", "how", "state"),
    [
        (FILE, FILE, QUIET, "UNTOUCHED"),
        (FILE, FILE | YOUNG, QUIET, "TOUCHED"),
        (ABSENT, FILE | YOUNG, QUIET, "AROUND"),
        (ABSENT, FILE | NO_Y, QUIET, "UNSEEN"),
        (FILE, ANON | YOUNG, QUIET, "TOUCHED"),  # copied when it was written
        (ABSENT, ANON | YOUNG, QUIET, "TOUCHED"),
        (FILE, ABSENT, QUIET, "GONE"),
        (FILE, FILE | YOUNG, QUIET | lib.PM_HOW_ANON_ONLY, "LEFT_OUT"),
        (FILE, FILE | YOUNG, QUIET | lib.PM_HOW_FILE_ONLY, "TOUCHED"),
    ],
)
def test_of_a_file(was, now, how: int, state: str):
    """A fault maps what lies around it, too."""
    assert judged(was, now, how, **OF_FILE) == state


def test_where_huge_pages_cannot_be():
    """smaps says so; then nothing that happens to huge pages elsewhere matters."""
    anywhere = QUIET & ~SINGLE | lib.PM_HOW_COLLAPSES
    assert judged(ABSENT, ANON | YOUNG, anywhere, **SMALL_ANON) == "TOUCHED"
    assert judged(ANON, ANON | YOUNG, anywhere, **SMALL_ANON) == "TOUCHED"
    assert judged(ABSENT, ANON | YOUNG, anywhere, **LARGE_ANON) == "MADE"
    assert judged(ANON, ANON | YOUNG, anywhere, **LARGE_ANON) == "MADE"


def test_hugetlb_is_not_cleared():
    """Whatever is listed of it."""
    assert judged(ANON, ANON | YOUNG, kind=Kind.HUGETLB) == "LEFT_OUT"


def test_another_mapping_at_the_same_place():
    """What was there before was not this."""
    watch = TouchWatch(-1, 1, 0)
    other = OF_FILE | {"inode": 6}
    watch.add(columns(mapping(FILE, **OF_FILE)), columns(mapping(FILE | YOUNG, **other)), QUIET)
    assert states(watch) == [lib.PM_Y_AROUND]
    watch.add(columns(mapping(FILE, **other)), columns(mapping(FILE, **OF_FILE)), QUIET)
    assert states(watch) == [lib.PM_Y_UNTOUCHED], "and what the other one was told is not its own"


def test_incomplete_snapshots_prove_nothing():
    """What is not listed may have been there."""
    watch = TouchWatch(-1, 1, 0)
    watch.add(columns(complete=False), columns(mapping(ANON | YOUNG)), QUIET)
    assert states(watch) == [lib.PM_Y_AROUND]


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        (ANON | YOUNG, ANON, "TOUCHED"),
        (ANON, ANON | YOUNG, "TOUCHED"),
        (ANON, ANON, "UNTOUCHED"),
        (ANON | NO_Y, ANON, "UNSEEN"),
        (ANON, ANON | NO_Y, "UNSEEN"),
        (ANON | YOUNG, ABSENT, "GONE"),
        (ABSENT, ANON, "UNTOUCHED"),
        (ABSENT, ABSENT, "GONE"),
        (ABSENT, ANON | YOUNG, "TOUCHED"),
        (ANON | YOUNG | {Fact.HUGE: 1}, ANON | {Fact.HUGE: 1}, "HUGE"),
    ],
)
def test_one_stretch_after_another(first, second, state: str):
    """As when a window begins in a window."""
    watch = TouchWatch(-1, 1, 0)
    start = ANON | {Fact.HUGE: first.get(Fact.HUGE, 0)}
    watch.add(columns(mapping(start)), columns(mapping(first)), QUIET)
    watch.add(columns(mapping(first)), columns(mapping(second)), QUIET)
    # What is absent after the first was given back in it, whatever comes later.
    expected = "GONE" if first is ABSENT and second is ANON else state
    assert states(watch) == [getattr(lib, f"PM_Y_{expected}")]


def test_pages_that_moved():
    """Anonymous pages that are not where they were, and not those of files."""
    watch = TouchWatch(-1, 1, 0)
    begin = columns(
        mapping(ANON, ANON, ANON),
        mapping(FILE, ANON, start=START + 16 * PAGE, **OF_FILE),
    )
    watch.add(begin, columns(mapping(ANON, ABSENT, ANON)), QUIET)
    assert watch.moved == 2


def told(end: Columns, how: int, *reasons: str, begin: Columns | None = None) -> _Told:
    """A window of one stretch."""
    result = _Told(TouchWatch(-1, 1, 0))
    result.add(begin or end, end, how, reasons)
    return result


def counted(of: _Told, first: int, n: int) -> tuple[object, object]:
    """Pages touched of some pages of the first mapping."""
    window = Window(0, START + first * PAGE, START + (first + n) * PAGE)
    return of.count((window,), "it: touched", "").bounds


def test_referenced_bounds_what_is_not_seen():
    """Page by page it is not known; all together no more than that."""
    counters = {"referenced": 3 * PAGE}
    pages = [ANON | NO_Y] * 8
    end = columns(mapping(*pages, before={"referenced": 2 * PAGE}, after=counters))
    assert counted(told(end, QUIET), 0, 8) == (0, 3)
    assert counted(told(end, QUIET), 0, 2) == (0, 2)
    assert counted(told(end, NOTED | FLUSHED), 0, 8) == (0, 3)
    assert counted(told(end, FLUSHED, "DAMON"), 0, 8) == (0, 8), "something may have been forgotten"
    assert counted(told(end, NOTED), 0, 8) == (0, 8), "or not have been noticed"


def test_referenced_bounds_what_was_cleared():
    """It counts what is young too, wherever that is in the mapping."""
    pages = [ANON | YOUNG, ANON | YOUNG, *[ANON] * 6]
    end = columns(mapping(*pages, before={"referenced": 0}, after={"referenced": 3 * PAGE}))
    noted = told(end, NOTED | FLUSHED, "DAMON was at work")
    assert counted(noted, 0, 8) == (2, 3)
    assert counted(noted, 2, 6) == (0, 1)
    (line,) = noted.explain(noted.watch.count((Window(0, START, START + 8 * PAGE),)))
    assert line == "6 pages whose Y may have been cleared (DAMON was at work)"


def test_stretches_are_bounded_together():
    """A page touched in both counts in both."""
    counters = {"before": {"referenced": PAGE}, "after": {"referenced": PAGE}}
    end = columns(mapping(*[ANON | NO_Y] * 8, **counters))
    both = told(end, QUIET)
    both.add(end, end, QUIET, ())
    assert counted(both, 0, 8) == (0, 2)
    unbounded = columns(mapping(*[ANON | NO_Y] * 8))
    both.add(unbounded, end, FLUSHED, ("reclaim",))
    assert counted(both, 0, 8) == (0, 8)


def test_what_came_may_have_been_moved():
    """As many as are no longer where they were."""
    begin = columns(mapping(ABSENT, ABSENT, ABSENT), mapping(ANON, start=START + 64 * PAGE))
    end = columns(mapping(*[ANON | NO_Y] * 3))
    assert counted(told(end, QUIET, begin=begin), 0, 3) == (2, 3)
    still = columns(mapping(*[ANON | NO_Y] * 3), mapping(ANON, start=START + 64 * PAGE))
    assert counted(told(still, QUIET, begin=begin), 0, 3) == (3, 3)


def test_missed_pages_widen_both_ends():
    """They may belong anywhere; and what is incomplete has no end."""
    end = columns(mapping(ANON | YOUNG, ANON), missed_pages=1)
    assert counted(told(end, QUIET), 0, 2) == (0, 2)
    assert counted(told(columns(mapping(ANON), complete=False), QUIET), 0, 1) == (0, None)


def test_every_state_has_words():
    """Of those that are open."""
    known = {value for name, value in vars(lib).items() if name.startswith("PM_Y_")}
    assert set(_WHY) == known - {
        lib.PM_Y_NOTHING,
        lib.PM_Y_UNTOUCHED,
        lib.PM_Y_TOUCHED,
        lib.PM_Y_CAME,
        lib.PM_Y_N_STATES,
    }
    assert {method.value for method in TouchedMethod} == {"page tables", "smaps Referenced"}
