"""The engine under test, as the benchmarks call it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest_pmaps
from pytest_pmaps._native import Columns, Depth, Request

#: What is timed, cheapest first: depth, and whether smaps and numa_maps are read.
TIERS = {
    "totals": ("totals", True),
    "mappings": ("mappings", True),
    "pages": ("pages", False),
    "kpage": ("full", False),
    "full": ("full", True),
}

_HAS_DEPTH = "depth" in inspect.signature(pytest_pmaps.snapshot).parameters


def columns(pid: int, tier: str = "full") -> Columns:
    """A capture as the engine gives it; pid 0 is this process."""
    depth, counters = TIERS[tier]
    return Columns.capture(Request(pid, depth=Depth[depth.upper()], counters=counters))


def capture(pid: int, tier: str) -> object:
    """A capture as a user gets it, where the library takes a depth already."""
    if not _HAS_DEPTH:
        return columns(pid, tier)
    depth, counters = TIERS[tier]
    arguments: dict[str, Any] = {"depth": depth, "counters": counters}
    return pytest_pmaps.snapshot(pid or None, **arguments)
