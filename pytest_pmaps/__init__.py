"""Page maps of processes under test: what is resident, shared and dirty, and whose."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assertions import (
        assert_at_most,
        assert_no_dirty,
        assert_not_mapped,
        assert_shared,
        assert_unchanged,
    )
    from .budget import Budget, Limit, parse_budget
    from .capture import snapshot
    from .cgroups import Cgroup, CgroupPeak, cgroup
    from .checkpoints import checkpoint, include_dir
    from .counts import Count
    from .delta import Delta
    from .errors import (
        AccessDenied,
        AmbiguousMapping,
        BudgetError,
        BudgetExceeded,
        Cancelled,
        FootprintError,
        FormatError,
        NoSuchMapping,
        PmapsError,
        ProcessGone,
        Undetermined,
        Unsupported,
    )
    from .extents import Edge
    from .files import dumps, load, loads, save
    from .gates import assert_within, within
    from .groups import Group, GroupSelection, Missing, group
    from .growth import assert_no_growth
    from .holding import Held, held
    from .model import Depth, Fact, Kind, PageRange, Source, Verdict
    from .moments import Child, Moment, Moments, NoSuchMoment, Run, Runs, Spread
    from .peaks import Peak, peak, peak_of
    from .recordings import record
    from .running import run
    from .sampling import TreePeak, tree_peak
    from .settling import settle
    from .snapshots import Mapping, Pages, Selection, Snapshot, diff
    from .streaming import Stream, stream
    from .touching import (
        Touched,
        TouchedMethod,
        TouchedPages,
        TouchedRange,
        TouchedSelection,
        touched,
    )
    from .trees import Share, Tree, TreeChange, tree
    from .writing import (
        Unwatched,
        Written,
        WrittenMethod,
        WrittenPages,
        WrittenRange,
        WrittenSelection,
        written,
    )

__all__ = [
    "AccessDenied",
    "AmbiguousMapping",
    "Budget",
    "BudgetError",
    "BudgetExceeded",
    "Cancelled",
    "Cgroup",
    "CgroupPeak",
    "Child",
    "Count",
    "Delta",
    "Depth",
    "Edge",
    "Fact",
    "FootprintError",
    "FormatError",
    "Group",
    "GroupSelection",
    "Held",
    "Kind",
    "Limit",
    "Mapping",
    "Missing",
    "Moment",
    "Moments",
    "NoSuchMapping",
    "NoSuchMoment",
    "PageRange",
    "Pages",
    "Peak",
    "PmapsError",
    "ProcessGone",
    "Run",
    "Runs",
    "Selection",
    "Share",
    "Snapshot",
    "Source",
    "Spread",
    "Stream",
    "Touched",
    "TouchedMethod",
    "TouchedPages",
    "TouchedRange",
    "TouchedSelection",
    "Tree",
    "TreeChange",
    "TreePeak",
    "Undetermined",
    "Unsupported",
    "Unwatched",
    "Verdict",
    "Written",
    "WrittenMethod",
    "WrittenPages",
    "WrittenRange",
    "WrittenSelection",
    "assert_at_most",
    "assert_no_dirty",
    "assert_no_growth",
    "assert_not_mapped",
    "assert_shared",
    "assert_unchanged",
    "assert_within",
    "cgroup",
    "checkpoint",
    "diff",
    "dumps",
    "group",
    "held",
    "include_dir",
    "load",
    "loads",
    "parse_budget",
    "peak",
    "peak_of",
    "record",
    "run",
    "save",
    "settle",
    "snapshot",
    "stream",
    "touched",
    "tree",
    "tree_peak",
    "within",
    "written",
]

#: Where the names live, cheapest first: only what needs the engine loads it.
_MODULES = (
    "checkpoints",
    "errors",
    "model",
    "counts",
    "budget",
    "extents",
    "delta",
    "snapshots",
    "capture",
    "groups",
    "trees",
    "sampling",
    "streaming",
    "writing",
    "touching",
    "settling",
    "peaks",
    "holding",
    "cgroups",
    "files",
    "recordings",
    "moments",
    "running",
    "assertions",
    "growth",
    "gates",
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Load on first use: pytest loads this package in every session, used or not."""
    if name in __all__:
        for module in _MODULES:
            home = import_module(f".{module}", __name__)
            if name in home.__all__:
                return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
