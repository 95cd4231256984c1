"""What is asked for: every goal, in one place.

A goal is a bound of a figure, never a test: a figure that misses it is marked in the table.
Speeds are ratios of CPU times of one run, so that they hold on any machine.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """``sense`` is ``<=`` or ``>=``."""

    sense: str
    limit: float

    def met(self, value: float) -> bool:
        """Whether a figure is as it should be."""
        return bool({"<=": operator.le, ">=": operator.ge}[self.sense](value, self.limit))

    def __str__(self) -> str:
        return f"{'≤' if self.sense == '<=' else '≥'}{self.limit:,g}"


def _at_most(limit: float, *names: str) -> dict[str, Goal]:
    return {name: Goal("<=", limit) for name in names}


def _at_least(limit: float, *names: str) -> dict[str, Goal]:
    return {name: Goal(">=", limit) for name in names}


#: Time of a capture with page flags and counts (kpage), against the bare reads for it.
_FLOOR = _at_most(1.15, "sequential", "huge", "file", "mappings-20000", "mappings-65000")
_FLOOR |= _at_most(1.25, "python", "random")

#: How many times faster kpage is than one read per page and file; never slower than 1.05 times.
_PAGE_TYPES = _at_least(round(1 / 1.05, 3), "forks", "mappings-20000", "mappings-65000")
_PAGE_TYPES |= _at_least(4, "sequential") | _at_least(3.5, "huge", "file")
_PAGE_TYPES |= _at_least(2, "random") | _at_least(1.4, "python") | _at_least(15, "sparse")

#: How many times faster a capture of page tables alone (pages) is than psutil's memory_maps().
_PSUTIL = _at_least(4, "python")

#: Time of pages, against reading smaps and not even parsing it.
_SMAPS = _at_most(
    1.0, "python", "forks", "sequential", "random", "file", "mappings-20000", "mappings-65000"
)

#: What Y and P add, against a capture with page flags and counts.
_PTE = _at_most(0.15, "sequential")

#: By comparison, then by workload.
SPEED = {
    "kpage / floor": _FLOOR,
    "page-types / kpage": _PAGE_TYPES,
    "psutil / pages": _PSUTIL,
    "pages / smaps": _SMAPS,
    "pte / kpage": _PTE,
}

#: Everything else, by figure.
FIGURES = {
    "calls/kpage": Goal("<=", 10_000),  # reads per GiB of sequential memory
    "calls/full": Goal("<=", 10_000),
    "memory/peak/sequential": Goal("<=", 64),  # bytes per present page
    "memory/peak/random": Goal("<=", 64),
    "memory/peak/mappings-65000": Goal("<=", 64),
    "memory/peak/sparse": Goal("<=", 64),
    "memory/kept": Goal("<=", 32),  # bytes per page range
    "memory/missing/mappings-65000": Goal("<=", 0),  # pages
    "memory/missing/sparse": Goal("<=", 0),
    "stall/kpage": Goal("<=", 10),  # ms, longest call within a capture
    "observer": Goal("<=", 0),  # anonymous pages
    "idle/pages": Goal("<=", 0),  # private pages that differ
    "idle/rss": Goal("<=", 0),  # pages
    "plugin/unused": Goal("<=", 1.01),
    "plugin/engine": Goal("<=", 0),  # modules
    "plugin/used": Goal("<=", 1.2),
}
