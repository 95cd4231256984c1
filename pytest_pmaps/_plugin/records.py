"""What tests and fixtures captured, kept on the node that asked.

Of each process the first and the last snapshot are kept.  Their pages lie in the engine's
memory, not on the heap that is being measured; what is kept here is two small objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from ..snapshots import Snapshot

__all__ = ["Pair", "Process", "Record", "begin", "end", "of_item", "own", "taken_for"]


class Process(NamedTuple):
    """A process for good: pids are used again, start times are not."""

    pid: int
    start_time: int


class Pair(NamedTuple):
    """The first and the last snapshot of one process; the same one where there is only one."""

    first: Snapshot
    last: Snapshot


class Record:
    """What one node captured: a test in one attempt, or the fixtures of a wider scope.

    ``fixtures`` names those that asked; ``changes`` counts what was added.
    """

    def __init__(self) -> None:
        self.pairs: dict[Process, Pair] = {}
        self.fixtures: set[str] = set()
        self.changes = 0

    def add(self, snapshot: Snapshot) -> None:
        """Note a snapshot that was just taken."""
        process = Process(snapshot.pid, snapshot.columns.start_time)
        first = self.pairs[process].first if process in self.pairs else snapshot
        self.pairs[process] = Pair(first, snapshot)
        self.changes += 1

    def rewind(self, pairs: dict[Process, Pair]) -> None:
        """Forget what was added since ``pairs`` was copied from this."""
        self.pairs = dict(pairs)
        self.changes += 1


_RECORD = pytest.StashKey[Record]()
_ATTEMPT = pytest.StashKey[int]()


def begin(item: pytest.Item, attempts: int = 1) -> int:
    """A test begins, perhaps once more: it has captured nothing yet.  Gives the attempt, from 1.

    ``attempts``: how many have begun since the last one that was watched, this one included.
    """
    item.stash[_RECORD] = Record()
    item.stash[_ATTEMPT] = item.stash.get(_ATTEMPT, 0) + attempts
    return item.stash[_ATTEMPT]


def end(item: pytest.Item) -> None:
    """A test is over and told: let its snapshots go."""
    item.stash.setdefault(_RECORD, Record()).rewind({})


def own(node: pytest.Item | pytest.Collector) -> Record:
    """The record of a node."""
    return node.stash.setdefault(_RECORD, Record())


def of_item(item: pytest.Item) -> dict[Process, Pair]:
    """What a report of a test speaks of: its own snapshots, and those of the fixtures that it
    uses from wider scopes.

    Where a test captured a process that such a fixture had captured before, its own first
    snapshot is the one to compare with, if it took two; else the fixture's.
    """
    pairs = dict(own(item).pairs)
    for wider in _fixtures_records(item):
        for process, pair in wider.pairs.items():
            mine = pairs.setdefault(process, pair)
            if mine.first is mine.last:
                pairs[process] = Pair(pair.first, mine.last)
    return pairs


def taken_for(item: pytest.Item) -> bool:
    """Whether a test captured anything, or a fixture that it uses did."""
    return bool(own(item).pairs) or any(wider.pairs for wider in _fixtures_records(item))


def _fixtures_records(item: pytest.Item) -> Iterator[Record]:
    """From the nearest scope to the widest, of fixtures that this test uses."""
    used = {*getattr(item, "fixturenames", ()), *getattr(item, "funcargs", ())}
    for node in reversed(item.listchain()[:-1]):
        record = node.stash.get(_RECORD, None)
        if record is not None and record.fixtures & used:
            yield record
