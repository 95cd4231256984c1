"""What assertions say, on snapshots made by hand."""

from __future__ import annotations

import pytest

from pytest_pmaps import Fact, FootprintError, Snapshot, assert_no_dirty
from pytest_pmaps.errors import undetermined_policy
from pytest_pmaps.model import PARTS, Kind
from pytest_pmaps.plain import PlainMapping, PlainObject, PlainRange, PlainSnapshot

PAGE = 4096
ALL = (1 << len(Fact)) - 1
RESIDENT = 1 << Fact.PRESENT | 1 << Fact.NORMAL


def library() -> Snapshot:
    """A page of text, which is dirty; one of data, of which nobody knows."""
    dirty, unknown = 1 << Fact.DIRTY, ALL & ~(1 << Fact.DIRTY)
    ranges = [
        PlainRange(16, 1, RESIDENT | dirty, ALL, (1, 1)),
        PlainRange(17, 1, RESIDENT, unknown, (1, 1)),
    ]
    name, file = "/lib/libfoo.so", {"dev": (0, 1), "inode": 3}
    mapping = PlainMapping(
        16 * PAGE, 18 * PAGE, "rw-p", name=name, kind=Kind.FILE, object=0, ranges=ranges, **file
    )
    parts = [
        (PARTS.index("text"), 16 * PAGE, 17 * PAGE),
        (PARTS.index("data"), 17 * PAGE, 18 * PAGE),
    ]
    return Snapshot.from_plain(
        PlainSnapshot([mapping], [PlainObject(name, status=0, parts=parts, **file)])
    )


def test_an_open_part_does_not_hide_a_failure():
    """Neither as Undetermined nor, where the policy says so, as a skip."""
    token = undetermined_policy.set(pytest.skip.Exception)
    try:
        with pytest.raises(FootprintError, match=r"1..2 dirty pages .*text 1, data \?; the loader"):
            assert_no_dirty(library()["libfoo"])
    finally:
        undetermined_policy.reset(token)
