"""What the fixture ``pmaps`` is."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, TypeVar, cast

from .. import (
    assertions,
    capture,
    cgroups,
    files,
    gates,
    growth,
    holding,
    peaks,
    running,
    sampling,
    settling,
    snapshots,
    touching,
    writing,
)
from ..groups import Group
from ..moments import Run
from ..snapshots import Snapshot
from ..trees import Tree

__all__ = ["Pmaps", "TakeGroup", "TakeSnapshot", "TakeTree"]


F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


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


class TakeTree(Protocol):
    """What ``pmaps.tree`` is."""

    def __call__(
        self, target: object = None, *, missing: Literal["raise", "skip"] = "raise"
    ) -> Tree:
        """Capture a process and its descendants, as :func:`pytest_pmaps.tree` does; keep them."""


class Pmaps:
    """The library in one object; snapshots taken through it are kept for the report."""

    def __init__(
        self,
        snapshot: TakeSnapshot,
        group: TakeGroup,
        tree: TakeTree,
        note: Callable[[Snapshot], None],
        targets: dict[str, object],
        name: Callable[[str, object], None],
    ) -> None:
        self.snapshot = snapshot
        self.group = group
        self.tree = tree
        self.run = _noting(running.run, note)
        self.within = functools.partial(gates.within, targets=targets, note=note)
        self._name = name

    def target(self, name: str, process: T) -> T:
        """Let budgets call a process by a name: ``"@server: unique_rss <= 300 MiB"``.

        As long as the test or the fixture lives that does so.
        Growth of it is against what it holds now, or when the test begins.  Gives the process.
        Raises ValueError for what is no name, TypeError and ProcessGone as ``snapshot()`` does.
        """
        __tracebackhide__ = True
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
            raise ValueError(f"{name!r} is no name: budgets call it @server")
        capture.pid_of(process)
        self._name(name, process)
        return process

    diff = staticmethod(snapshots.diff)
    load = staticmethod(files.load)
    save = staticmethod(files.save)
    cgroup = staticmethod(cgroups.cgroup)
    held = staticmethod(holding.held)
    peak = staticmethod(peaks.peak)
    peak_of = staticmethod(peaks.peak_of)
    settle = staticmethod(settling.settle)
    tree_peak = staticmethod(sampling.tree_peak)
    touched = staticmethod(touching.touched)
    written = staticmethod(writing.written)
    assert_at_most = staticmethod(assertions.assert_at_most)
    assert_no_dirty = staticmethod(assertions.assert_no_dirty)
    assert_no_growth = staticmethod(growth.assert_no_growth)
    assert_not_mapped = staticmethod(assertions.assert_not_mapped)
    assert_shared = staticmethod(assertions.assert_shared)
    assert_unchanged = staticmethod(assertions.assert_unchanged)
    assert_within = staticmethod(gates.assert_within)


def _noting(run: F, note: Callable[[Snapshot], None]) -> F:
    """Have what a run captured kept for the report: of the program, not of its children."""

    @functools.wraps(run)
    def noted(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            result = run(*args, **kwargs)
        except Exception as exc:  # a TimeoutExpired has what was seen until then
            _note_run(getattr(exc, "run", None), note)
            raise
        for each in (result,) if isinstance(result, Run) else result:
            _note_run(each, note)
        return result

    return cast("F", noted)


def _note_run(run: Run | None, note: Callable[[Snapshot], None]) -> None:
    own = [m.snapshot for m in run.moments if m.pid == run.pid] if run else []
    for snapshot in own:
        if snapshot is not None:
            note(snapshot)
