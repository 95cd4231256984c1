"""Keeps the baseline: what passing tests measured, written once, by the session's own process."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..baseline import Baseline, moved
from ..budget import Budget, parse_budget
from ..judging import floor

if TYPE_CHECKING:
    from pathlib import Path

    from ..report.run import Entry

__all__ = ["Outcome", "record"]


class Outcome(NamedTuple):
    """What became of a baseline: entries that were new, and that moved, and that nobody used."""

    added: int
    changed: int
    unused: list[tuple[str, str]]


class _Measured(NamedTuple):
    nodeid: str
    environment: str
    budget: Budget
    value: int
    is_new: bool


def record(
    path: Path,
    entries: Iterable[Entry],
    *,
    update: bool,
    judged: Callable[[str], bool] | None,
) -> Outcome:
    """Bring a baseline up to date; the file is touched only where something changed.

    Entries move under ``update`` alone, and only of tests that passed; ``judged`` says of which
    tests what was not used is of no use, None: of none.  Raises OSError and FormatError.
    """
    baseline = Baseline.load(path, missing_ok=True)
    final = _final(entries)
    added = changed = 0
    for measured in _highest(final):
        key = (measured.environment, measured.nodeid, measured.budget.subject)
        known = baseline.find(*key)
        if not (measured.is_new if known is None else update):
            continue
        recorded = 0 if known is None else known.value
        tolerance = measured.budget.limit.tolerance(mmap.PAGESIZE, recorded)
        now = moved(known, measured.value, tolerance)
        added += known is None
        changed += known is not None and now != known
        baseline.record(*key, now)
    if added or changed:
        baseline.save(path)
    unused = [] if judged is None else [it for it in _unused(baseline, final) if judged(it[0])]
    return Outcome(added, changed, unused)


def _final(entries: Iterable[Entry]) -> list[Entry]:
    """The last attempt of each test, on each worker that ran it (``--dist each``)."""
    return list({(entry.nodeid, entry.details.worker): entry for entry in entries}.values())


def _highest(entries: Sequence[Entry]) -> list[_Measured]:
    """What passing tests measured; of several workers the most, as of several shards."""
    found: dict[tuple[str, str, str], _Measured] = {}
    for each in _measured(entries):
        key = (each.environment, each.nodeid, each.budget.subject)
        if key not in found or found[key].value < each.value:
            found[key] = each
    return list(found.values())


def _measured(entries: Sequence[Entry]) -> Iterator[_Measured]:
    # After one that is to run again, another worker may have, if this one crashed.
    blocked = {e.nodeid for e in entries if e.outcome not in ("passed", "rerun")}
    for entry in entries:
        if entry.outcome != "passed" or entry.nodeid in blocked:
            continue
        for row in entry.details.budgets:
            most = row["value"][1]
            if row["verdict"] in ("passed", "recorded") and most is not None:
                budget = parse_budget(row["budget"])
                if budget.limit.baseline:
                    most = floor(budget, most)
                    is_new = row["verdict"] == "recorded"
                    yield _Measured(entry.nodeid, entry.details.environment, budget, most, is_new)


def _unused(baseline: Baseline, entries: list[Entry]) -> list[tuple[str, str]]:
    """Entries that no test asked for, in an environment of which some test did."""
    rows: dict[str, set[tuple[str, str]]] = {}
    for entry in entries:
        asked: list[dict[str, Any]] = entry.details.budgets
        used = rows.setdefault(entry.details.environment, set())
        used |= {(entry.nodeid, parse_budget(row["budget"]).subject) for row in asked}
    return [
        found
        for environment, used in rows.items()
        if environment
        for found in baseline.unused(environment, used)
    ]
