"""The pages of several snapshots counted once, against a page-by-page reference."""

from __future__ import annotations

import copy
from itertools import combinations
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pytest_pmaps import Fact, Kind
from pytest_pmaps._native import Columns, Interval, Member, Window, union
from pytest_pmaps.plain import PlainMapping, PlainSnapshot
from pytest_pmaps.strategies import plain_snapshots

PAGE = 4096


class Object(NamedTuple):
    """What a page of a file is recognised by; ``place`` and ``name`` where these matter."""

    dev: tuple[int, int]
    inode: int
    base: str
    stacks: bool
    place: int | None
    name: str | None


def object_of(m: PlainMapping, place: int) -> Object | None:
    """What the mapping maps, or None where its pages cannot be told from others'."""
    base = m.name.removesuffix(" (deleted)").rpartition("/")[2]
    if m.name == "[vdso]" and m.inode == 0 and m.start >> 32:
        return Object((-1, -1), m.end - m.start, base, False, None, None)
    if m.inode == 0:
        return None
    if m.kind == Kind.SHMEM or (m.kind == Kind.FILE and m.dev[0]):
        return Object(m.dev, m.inode, base, False, None, None)
    if m.kind == Kind.FILE:
        return Object(m.dev, m.inode, base, True, place, m.name)
    return None


def classes(objects: set[Object]) -> dict[Object, Object]:
    """Objects that may be one, by one of them."""
    of = {o: o for o in objects}

    def unite(a: Object, b: Object) -> None:
        old, new = of[a], of[b]
        for o in of:
            of[o] = new if of[o] == old else of[o]

    for a, b in combinations(objects, 2):
        if (a.dev, a.inode) == (b.dev, b.inode):
            unite(a, b)
    for base in {o.base for o in objects}:
        same = [o for o in objects if o.base == base]
        if len({o.dev for o in same}) > 1 and any(o.stacks for o in same):
            for o in same:
                unite(o, same[0])
    return of


def reference(snapshots: list[PlainSnapshot], places: list[int]) -> Interval:
    """One page after the other."""
    lo = hi = most = 0
    files, sure, known = set(), set(), set()
    for snapshot, place in zip(snapshots, places, strict=True):
        crowd = 0
        for m in snapshot.mappings:
            file = object_of(m, place)
            raced = 0
            for r in m.ranges:
                for page in range(r.page, r.page + r.count):
                    fact = {
                        f: bool(r.set_bits >> f & 1) if r.known_bits >> f & 1 else None
                        for f in Fact
                    }
                    normal = fact[Fact.NORMAL]
                    raced += fact[Fact.RACED] is True
                    if normal is False:
                        continue
                    if fact[Fact.FILE] and file:
                        index = m.offset // PAGE + page - m.start // PAGE
                        files.add(file)
                        # It is the same page whatever the file is called.
                        known.add((file._replace(base=""), index))
                        if normal:
                            sure.add((file, index))
                        continue
                    hi += 1
                    if fact[Fact.EXCLUSIVE]:
                        lo += bool(normal and (fact[Fact.ANON] or not file))
                    elif fact[Fact.ANON] and normal and fact[Fact.KSM] is False:
                        crowd += 1
            pages = (m.end - m.start) // PAGE
            hi += min(max(m.raced_pages - raced, 0), pages)
        most = max(most, crowd)
    may_be = classes(files)
    lo += most + len({(may_be[o], index) for o, index in sure})
    return Interval(lo, hi + len(known))


@st.composite
def several(draw: st.DrawFn) -> list[PlainSnapshot]:
    """Snapshots with mappings in common, under other names and numbers."""
    found = [draw(plain_snapshots())]
    for _ in range(draw(st.integers(0, 3))):
        twin = copy.deepcopy(draw(st.sampled_from(found)))
        for m in twin.mappings:
            change = draw(st.sampled_from(["", "", "dev", "inode", "offset", "name", "ranges"]))
            if not m.name.startswith("/"):
                continue
            if change == "dev":
                m.dev = draw(st.sampled_from([(0, 5), (0, 6), (8, 1)]))
            elif change == "inode":
                m.inode = draw(st.integers(1, 3))
            elif change == "offset":
                m.offset += draw(st.integers(0, 5)) * PAGE
            elif change == "name":
                m.name = draw(st.sampled_from(["/a/b", "/c/b", "/c/b (deleted)", "/c/d"]))
            elif change == "ranges":
                m.ranges = m.ranges[:1]
            m.object = None
        twin.objects = []
        found.append(twin)
    return found


@given(several(), st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_union_is_the_reference(snapshots: list[PlainSnapshot], places: list[int]):
    """The same interval, page by page; whole, and by all of its windows."""
    places = places[: len(snapshots)]
    built = [Columns.build(s) for s in snapshots]
    expected = reference(snapshots, places)
    whole = [Member(c, None, None, p, False) for c, p in zip(built, places, strict=True)]
    assert union(whole, 0) == expected
    by_window = [
        m._replace(windows=[Window(i, w.start, w.end) for i, w in enumerate(m.columns.mappings)])
        for m in whole
    ]
    assert union(by_window, 0) == expected


@given(several(), st.randoms(use_true_random=False))
def test_union_is_a_set(snapshots: list[PlainSnapshot], chance):
    """Order does not matter; fewer members do not hold more; all together at most the sum."""
    members = [Member(Columns.build(s), None, None, i % 2, False) for i, s in enumerate(snapshots)]
    whole = union(members, 0)
    shuffled = list(members)
    chance.shuffle(shuffled)
    assert union(shuffled, 0) == whole
    some = union(shuffled[1:], 0)
    assert some.lo <= whole.lo
    assert some.hi <= whole.hi
    assert whole.hi <= sum(union([m], 0).hi for m in members)
    ran = union([m._replace(ran=True) for m in members], 0)
    assert ran.lo <= whole.lo
    assert ran.hi >= whole.hi
