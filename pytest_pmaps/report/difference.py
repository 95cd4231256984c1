"""What differs between two saved snapshots."""

from __future__ import annotations

from collections.abc import Iterator

from ..delta import Delta
from ..snapshots import Snapshot
from .text import signed, table

__all__ = ["METRICS", "difference_lines", "differs", "processes"]

#: Net changes that are told.
METRICS = ("size", "rss", "anonymous", "dirty", "swap")


def differs(delta: Delta) -> bool:
    """Whether any count is another one, or may be."""
    return any(bounds != (0, 0) for bounds in _bounds(delta))


def difference_lines(change: Delta, width: int) -> Iterator[str]:
    """A row for each file (and [heap], [anon], ...) that changed, most of it first, and the total.

    Net changes, then pages that are dirty and were not; ``?`` where that is not known.
    """
    rows = [(_weight(d), name, d) for name, d in change.by_name().items() if differs(d)]
    rows.sort(key=lambda row: row[0], reverse=True)
    cells = [[name, *_cells(delta)] for _, name, delta in rows]
    head = ["mapping", *METRICS, "new dirty"]
    yield from table(head, [*cells, ["total", *_cells(change)]], width)


def processes(later: Snapshot, earlier: Snapshot) -> str:
    """What is held against what; "" where both are of one process, or it is not known."""
    names = [(s.pid, s.columns.start_time) for s in (earlier, later)]
    if not all(pid for pid, _ in names) or names[0] == names[1]:
        return ""
    who = " and ".join(f"{s.comm} {s.pid}" for s in (earlier, later))
    return f"{who} are different processes: new are pages where the other has none at the address"


def _bounds(delta: Delta) -> list[tuple[int | None, int | None]]:
    counts = [*(delta.metric(name) for name in METRICS), delta.new.dirty]
    return [count.bytes.bounds for count in counts]


def _cells(delta: Delta) -> list[str]:
    return [signed(*bounds) for bounds in _bounds(delta)]


def _weight(delta: Delta) -> list[int]:
    """By what is sure of new pages and of rss, then by what may be, then by address space."""
    size, rss, *_, new = (sorted(abs(end or 0) for end in bounds) for bounds in _bounds(delta))
    return [new[0], rss[0], new[1], rss[1], size[1]]
