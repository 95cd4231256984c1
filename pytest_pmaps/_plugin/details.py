"""What a test measured, as ``item.user_properties``: xdist and JUnit carry them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from . import records
from .told import RECORD

if TYPE_CHECKING:
    from typing import Any

    from ..counts import Count
    from ..delta import Delta
    from ..metrics import Counted
    from ..report.run import TestDetails
    from ..snapshots import Snapshot

__all__ = ["ANYTHING", "RECORD", "begin", "fail", "measure", "numbers", "of", "publish"]

# What RECORD holds; these properties say the same for people and for JUnit.
_NUMBERS = {
    "pmaps_rss_bytes": "rss",
    "pmaps_anonymous_bytes": "anonymous",
    "pmaps_dirty_bytes": "dirty",
    "pmaps_new_dirty_bytes": "new_dirty",
}
_HEADLINE, _MAP = "pmaps_headline", "pmaps_map"
_OURS = {RECORD, _HEADLINE, _MAP, *_NUMBERS}

#: What is noted of each process.
_METRICS = ("rss", "pss", "uss", "anonymous", "dirty", "swap")
#: How many rows of a process's mappings are kept.
_MAPPINGS = 10

#: What a test's patches, or another plugin's hook, may raise in the middle of a report.
ANYTHING = (
    Exception,
    SystemExit,
    pytest.skip.Exception,
    pytest.fail.Exception,
    pytest.exit.Exception,
)

_DETAILS = pytest.StashKey["TestDetails"]()
_MEASURED = pytest.StashKey[int]()
_ATTEMPT = pytest.StashKey[tuple[int, str]]()


def begin(item: pytest.Item, attempt: int, worker: str) -> None:
    """A test begins, perhaps once more."""
    item.stash[_ATTEMPT] = attempt, worker
    if _DETAILS in item.stash:
        del item.stash[_DETAILS]
    item.stash[_MEASURED] = 0
    _replace(item.user_properties, [])


def of(item: pytest.Item) -> TestDetails:
    """The details of the present attempt."""
    from ..report.run import TestDetails

    if _DETAILS not in item.stash:
        attempt, worker = item.stash.get(_ATTEMPT, (1, ""))
        item.stash[_DETAILS] = TestDetails(attempt=attempt, worker=worker)
    return item.stash[_DETAILS]


def measure(item: pytest.Item) -> None:
    """Note the numbers of what the test itself captured, if there is something new to note."""
    record = records.own(item)
    if not record.pairs or item.stash.get(_MEASURED, 0) == record.changes:
        return
    item.stash[_MEASURED] = record.changes
    # A test's own result comes before its numbers.
    with contextlib.suppress(*ANYTHING):
        details = of(item)
        try:
            details.measured = list(_measured(item, record))
        except ANYTHING as exc:
            details.problems.append(f"numbers could not be made: {type(exc).__name__}: {exc}")
        publish(item)


def _measured(item: pytest.Item, record: records.Record) -> list[dict[str, Any]]:
    pairs = records.of_item(item)
    return [numbers(*pairs[process]) for process in record.pairs]


def numbers(first: Snapshot, last: Snapshot) -> dict[str, Any]:
    """Of one process: its last snapshot, and the change since the first."""
    from ..select import printable
    from ..snapshots import diff

    found = {name: _interval(last.metric(name)) for name in _METRICS}
    if first is not last:
        change = diff(last, first)
        found["new_dirty"] = _interval(change.new.dirty)
        found["rss_growth"] = _interval(change.rss)
    return {
        "pid": last.pid,
        "comm": printable(last.comm),
        "verdict": last.verdict.label,
        "page_size": last.page_size,
        "sources": [source.name.lower() for source in last.sources],
        **found,
        "mappings": _mappings(first, last),
    }


def _mappings(first: Snapshot, last: Snapshot) -> list[dict[str, Any]]:
    """Those that tell most: what grew most, then what is newly dirty, then what is dirty."""
    if first is last:
        rows = [_row(name, part) for name, part in last.by_name().items()]
    else:
        from ..snapshots import diff

        deltas = diff(last, first).by_name()
        rows = [_row(name, delta.later, delta) for name, delta in deltas.items()]
    return sorted(rows, key=_tells, reverse=True)[:_MAPPINGS]


def _row(name: str, part: Counted, delta: Delta | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "rss": _interval(part.rss),
        "dirty": _interval(part.dirty),
    }
    if delta is not None:
        row["rss_growth"] = _interval(delta.rss)
        # Pages that are not dirty are not newly dirty, and to ask costs time.
        row["new_dirty"] = _interval(delta.new.dirty) if row["dirty"][1] != 0 else [0, 0]
    return row


def _tells(row: dict[str, Any]) -> list[int]:
    """By what is sure, then by what may be."""
    intervals = [row.get(name, (0, 0)) for name in ("rss_growth", "new_dirty", "dirty")]
    return [interval[end] or 0 for end in (0, 1) for interval in intervals]


def _interval(count: Count) -> list[int | None]:
    return list(count.bytes.bounds)


def fail(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put what is known now, a failure's headline and maps included, on item and report."""
    publish(item)
    # The report has copied the properties already.
    _replace(report.user_properties, _ours(item.user_properties))


# ---- properties


def publish(item: pytest.Item) -> None:
    """Put what is known so far on the item, for the reports to come."""
    details = of(item)
    first = details.seen[0] if details.seen else {}
    named: list[tuple[str, object]] = [
        (name, _shown(*first[metric])) for name, metric in _NUMBERS.items() if metric in first
    ]
    if details.headline:
        named.append((_HEADLINE, details.headline))
    named += [(_MAP, path) for path in details.maps]
    _replace(item.user_properties, [*named, (RECORD, details.dumps())])


def _shown(lo: int | None, hi: int | None) -> int | str:
    if lo is not None and lo == hi:
        return lo
    return "..".join("?" if end is None else str(end) for end in (lo, hi))


def _ours(properties: list[tuple[str, object]]) -> list[tuple[str, object]]:
    return [p for p in properties if p[0] in _OURS]


def _replace(properties: list[tuple[str, object]], ours: list[tuple[str, object]]) -> None:
    others = [p for p in properties if p[0] not in _OURS]
    properties[:] = [*others, *ours]
