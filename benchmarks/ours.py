"""The engine under test, as the benchmarks call it."""

from __future__ import annotations

from pytest_pmaps import Depth, Snapshot, snapshot
from pytest_pmaps._native import Columns, Request

#: What is timed, cheapest first: depth, and whether smaps and numa_maps are read.
TIERS = {
    "totals": (Depth.TOTALS, True),
    "mappings": (Depth.MAPPINGS, True),
    "pages": (Depth.PAGES, False),
    "kpage": (Depth.FULL, False),
    "full": (Depth.FULL, True),
}


def capture(pid: int, tier: str) -> Snapshot:
    """A capture as a user asks for it: this is what is timed."""
    depth, counters = TIERS[tier]
    return snapshot(pid, depth=depth, counters=counters)


def columns(pid: int, tier: str = "full") -> Columns:
    """A capture as the engine gives it, to look into; pid 0 is this process."""
    depth, counters = TIERS[tier]
    return Columns.capture(Request(pid, depth=depth, counters=counters))
