"""What the fixture ``pmaps`` is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from .. import (
    assertions,
    cgroups,
    files,
    growth,
    holding,
    peaks,
    settling,
    snapshots,
    touching,
    writing,
)
from ..groups import Group
from ..snapshots import Snapshot

__all__ = ["Pmaps", "TakeGroup", "TakeSnapshot"]


class TakeSnapshot(Protocol):
    """What the fixture ``pmaps_snapshot`` is."""

    def __call__(self, target: object = None, *, stop: bool = False) -> Snapshot:
        """Capture a process, as :func:`pytest_pmaps.snapshot` does, and keep it for the report."""


class TakeGroup(Protocol):
    """What ``pmaps.group`` is."""

    def __call__(
        self, targets: Iterable[object], *, missing: Literal["raise", "skip"] = "raise"
    ) -> Group:
        """Capture several processes, as :func:`pytest_pmaps.group` does, and keep them."""


class Pmaps:
    """The library in one object; snapshots taken through it are kept for the report."""

    def __init__(self, snapshot: TakeSnapshot, group: TakeGroup) -> None:
        self.snapshot = snapshot
        self.group = group

    diff = staticmethod(snapshots.diff)
    load = staticmethod(files.load)
    save = staticmethod(files.save)
    cgroup = staticmethod(cgroups.cgroup)
    held = staticmethod(holding.held)
    peak = staticmethod(peaks.peak)
    peak_of = staticmethod(peaks.peak_of)
    settle = staticmethod(settling.settle)
    touched = staticmethod(touching.touched)
    written = staticmethod(writing.written)
    assert_at_most = staticmethod(assertions.assert_at_most)
    assert_no_dirty = staticmethod(assertions.assert_no_dirty)
    assert_no_growth = staticmethod(growth.assert_no_growth)
    assert_not_mapped = staticmethod(assertions.assert_not_mapped)
    assert_shared = staticmethod(assertions.assert_shared)
    assert_unchanged = staticmethod(assertions.assert_unchanged)
