"""The engine under test, as the benchmarks call it."""

from __future__ import annotations

import time

from host import Unavailable
from pytest_pmaps import Depth, Snapshot, Source, snapshot
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


def tables_ns(pid: int) -> int:
    """What page table entries add to pages: the same capture with and without them."""
    took = {}
    for young in (True, False):
        start = time.thread_time_ns()
        taken = snapshot(pid, depth=Depth.PAGES, counters=False, young=young)
        if young and Source.PTE not in taken.sources:
            raise Unavailable("no page tables: CAP_BPF and CAP_PERFMON (pmaps doctor)")
        del taken
        took[young] = time.thread_time_ns() - start
    return max(0, took[True] - took[False])


def columns(pid: int, tier: str = "full") -> Columns:
    """A capture as the engine gives it, to look into; pid 0 is this process."""
    depth, counters = TIERS[tier]
    return Columns.capture(Request(pid, depth=depth, counters=counters))
