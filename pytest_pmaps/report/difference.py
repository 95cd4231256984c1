"""What differs between two saved snapshots."""

from __future__ import annotations

from collections.abc import Iterator

from ..delta import Delta
from ..snapshots import Snapshot
from .text import signed, table

__all__ = ["METRICS", "difference_lines", "differences", "is_sure", "processes"]

#: Net changes that are told.
METRICS = ("size", "rss", "anonymous", "dirty", "swap")
#: Told though they are 0.
_ALWAYS = ("rss", "dirty", "new dirty")

_Bounds = tuple[int | None, int | None]


def differences(change: Delta) -> dict[str, Delta]:
    """By name, the files (and [heap], [anon], ...) of which a count is another one, or may be."""
    found = {name: d for name, d in change.by_name().items() if any(map(_may, _counts(d).values()))}
    return dict(sorted(found.items(), key=lambda item: _weight(item[1]), reverse=True))


def is_sure(found: dict[str, Delta]) -> bool:
    """Whether anything is known to be another number."""
    return any(map(_must, (b for delta in found.values() for b in _counts(delta).values())))


def difference_lines(change: Delta, found: dict[str, Delta], width: int) -> Iterator[str]:
    """A row for each that differs, most of it first, and the total.

    Net changes, then pages that are dirty and were not.  What did not change anywhere is left out.
    """
    rows = {**found, "total": change}
    counts = {name: _counts(delta) for name, delta in rows.items()}
    told = [m for m in counts["total"] if m in _ALWAYS or any(_may(c[m]) for c in counts.values())]
    cells = [[name, *(signed(*count[m]) for m in told)] for name, count in counts.items()]
    yield from table(["mapping", *told], cells, width)


def _counts(delta: Delta) -> dict[str, _Bounds]:
    net = {name: delta.metric(name).bytes.bounds for name in METRICS}
    return net | {"new dirty": delta.new.dirty.bytes.bounds}


def _may(bounds: _Bounds) -> bool:
    return bounds != (0, 0)


def _must(bounds: _Bounds) -> bool:
    lo, hi = bounds
    return (lo is not None and lo > 0) or (hi is not None and hi < 0)


def _weight(delta: Delta) -> list[int]:
    """By what is sure of new pages and of rss, then by what may be, then by address space."""
    counts = _counts(delta)
    new, rss, size = (
        sorted(abs(end or 0) for end in counts[name]) for name in ("new dirty", "rss", "size")
    )
    return [new[0], rss[0], new[1], rss[1], size[1]]


def processes(later: Snapshot, earlier: Snapshot) -> str:
    """What is held against what; "" where both are of one process, or it is not known."""
    names = [(s.pid, s.columns.start_time) for s in (earlier, later)]
    if not all(pid for pid, _ in names) or names[0] == names[1]:
        return ""
    who = " and ".join(f"{s.comm} {s.pid}" for s in (earlier, later))
    return f"{who} are different processes: new are pages where the other has none at the address"
