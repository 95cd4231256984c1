"""What captures say of budgets: a value for each, and a verdict.  Nothing here captures."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from .assertions import Evidence, fact_of
from .budget import Budget
from .counts import Count, Unit, format_bytes
from .errors import NoSuchMapping, PmapsError
from .groups import Totals
from .metrics import Counted
from .snapshots import Snapshot
from .trees import Tree

__all__ = ["Judgement", "Outcome", "State", "Value", "failed", "floor", "judge"]

#: ``absent``: an optional selector matches nothing.  ``missing``: nothing is recorded to compare
#: with.  ``error``: it could not be measured at all, and the message says why.
Outcome: TypeAlias = Literal[
    "passed", "exceeded", "undetermined", "absent", "missing", "recorded", "error"
]

_GLOB = re.compile(r"[*?]|\[[^]]*[-!]")
_RACED = "capture it again while it is idle: memory moved while it was captured"


class State(NamedTuple):
    """A target at one moment; ``peak`` and ``peak_growth`` are of the time until then."""

    snapshot: Snapshot
    tree: Tree | None = None
    peak: Count | None = None
    peak_growth: Count | None = None


class Value(NamedTuple):
    """What was measured: at least and at most, None where that is open; ``unit`` is ``"bytes"``
    or, of what is counted, ``"number"``.
    """

    lo: int | None
    hi: int | None
    unit: str = "bytes"
    page_size: int = 4096
    remedy: str = ""

    @classmethod
    def of(cls, count: Count) -> Value:
        """Of bytes."""
        return cls(*count.bytes.bounds, "bytes", count.page_size, count.remedy)

    def shown(self, *, in_pages: bool) -> str:
        """For people: ``1 page (4 KiB)`` or ``4 KiB``."""
        if self.unit == "bytes":
            unit: Unit = "pages" if in_pages else "bytes"
            return str(Count(self.lo, self.hi, unit=unit, page_size=self.page_size))
        if self.lo == self.hi and self.lo is not None:
            return f"{self.lo:,}"
        ends = ("?" if end is None else f"{end:,}" for end in (self.lo, self.hi))
        return "..".join(ends)


@dataclass(slots=True)
class Judgement:
    """A budget, what was measured, and what follows.

    ``limit`` is in the value's unit; ``recorded`` what a baseline holds, with ``spread``;
    ``samples`` all values that were measured, the last one last; ``evidence`` is for reports.
    """

    budget: Budget
    outcome: Outcome
    value: Value | None = None
    limit: int | None = None
    recorded: int | None = None
    spread: int | None = None
    note: str = ""
    samples: list[Value] = field(default_factory=list)
    evidence: Evidence | None = None
    error: PmapsError | None = None

    @property
    def story(self) -> str:
        """What is wrong, or what was found, in one line."""
        subject = self.budget.subject
        if self.outcome in ("error", "absent"):
            return f"{subject}: {self.note}"
        assert self.value is not None
        value = self._shown(self.value)
        line = f"{subject}: {value}, allowed {self._allowed}"
        if self.outcome == "missing":
            line = f"{subject}: {value}, and no baseline is recorded"
        if self.outcome == "undetermined":
            remedy = f": {self.value.remedy}" if self.value.remedy else ""
            line = f"{subject}: {value}; whether that is within {self._allowed} is undecided"
            line += remedy
        return f"{line}{self._samples}{f'; {self.note}' if self.note else ''}"

    def _shown(self, value: Value) -> str:
        limit = self.budget.limit
        return value.shown(in_pages=limit.unit == "pages" and not limit.baseline)

    @property
    def _samples(self) -> str:
        if len(self.samples) < 2:
            return ""
        shown = [self._shown(sample) for sample in self.samples]
        seen = f": {', '.join(shown)}" if len(set(shown)) > 1 else ""
        return f" (measured {len(shown)} times{seen})"

    @property
    def _allowed(self) -> str:
        limit = self.budget.limit
        if self.limit is None or not (limit.baseline or self.limit):
            return str(limit)
        if self.value is not None and self.value.unit == "number":
            shown = f"{self.limit:,}"
        elif limit.baseline or limit.unit == "bytes":
            # What is measured is whole KiB, and of a percentage no more is of interest.
            shown = format_bytes(self.limit // 1024 * 1024 or self.limit)
        else:
            return f"{limit} pages" if limit.amount != 1 else "1 page"
        if not limit.baseline or self.recorded is None:
            return shown
        recorded = f"{self.recorded:,}" if self.budget.counted else format_bytes(self.recorded)
        return f"{shown} ({str(limit).replace('baseline', f'baseline {recorded}')})"


def judge(
    budget: Budget,
    now: State,
    start: State | None = None,
    recorded: int | None = None,
    spread: int | None = None,
) -> Judgement:
    """Measure and compare; ``start`` is what growth is against, ``recorded`` the baseline."""
    try:
        value, evidence = _measured(budget, now, start)
    except NoSuchMapping as exc:
        return _nowhere(budget, now, exc)
    except PmapsError as exc:
        return failed(budget, exc)
    found = Judgement(budget, "passed", value, samples=[value], evidence=evidence)
    found.recorded, found.spread = recorded, spread
    if budget.limit.baseline and recorded is None:
        found.outcome = "missing" if value.hi is not None else "undetermined"
        return found
    found.limit = budget.limit.at(value.page_size, floor(budget, recorded or 0))
    if value.hi is None or value.hi > found.limit:
        above = value.lo is not None and value.lo > found.limit
        found.outcome = "exceeded" if above else "undetermined"
    return found


def floor(budget: Budget, recorded: int) -> int:
    """What a baseline stands for: a test that once gave memory back need not do so again."""
    return max(0, recorded) if budget.growth else recorded


def failed(budget: Budget, error: PmapsError) -> Judgement:
    """Of what could not be measured."""
    return Judgement(budget, "error", note=" ".join(str(error).split()), error=error)


def _nowhere(budget: Budget, now: State, exc: NoSuchMapping) -> Judgement:
    if exc.misspelt or not budget.optional:
        return failed(budget, exc)
    whole = _is_whole_tree(now.tree) if budget.of_tree else _is_whole(now.snapshot)
    if not whole:
        value = Value(0, None, remedy=_RACED)
        return Judgement(budget, "undetermined", value, samples=[value])
    return Judgement(budget, "absent", note="it is not mapped")


def _is_whole(snapshot: Snapshot) -> bool:
    """Whether what it does not list was not there."""
    columns = snapshot.columns
    return columns.complete and not (columns.appeared or columns.missed_pages)


# ---- values


def _measured(budget: Budget, now: State, start: State | None) -> tuple[Value, Evidence | None]:
    if budget.metric == "peak_rss":
        return _of_peak(now.peak_growth if budget.growth else now.peak)
    states = [now] if not budget.growth else [now, _started(start)]
    if budget.metric == "page_tables":
        return _difference([_page_tables(state.snapshot) for state in states]), None
    if budget.of_tree:
        return _difference(_of_trees(budget, [state.tree for state in states])), None
    picked = [_picked(budget, state.snapshot) for state in states]
    if all(each is None for each in picked):
        now.snapshot[budget.selector]  # says what is wrong with it
    if budget.metric == "mappings":
        values = [
            _mappings(each, state.snapshot) for each, state in zip(picked, states, strict=True)
        ]
        return _difference(values), None
    counts = [
        _count(budget, each, state.snapshot) for each, state in zip(picked, states, strict=True)
    ]
    since = states[1].snapshot if budget.growth else None
    evidence = Evidence(picked[0], fact_of(budget.metric), since) if picked[0] else None
    return _difference([Value.of(count) for count in counts]), evidence


def _started(start: State | None) -> State:
    if start is None:
        raise PmapsError("its start was not captured: it was not known yet when the test began")
    return start


def _of_peak(peak: Count | None) -> tuple[Value, None]:
    if peak is None:
        raise PmapsError("its peak was not watched")
    return Value.of(peak), None


def _page_tables(snapshot: Snapshot) -> Value:
    size = snapshot.status.get("vm_pte")
    remedy = "" if size is not None else "the kernel does not say VmPTE of this process"
    return Value(size, size, "bytes", snapshot.page_size, remedy)


def _of_trees(budget: Budget, trees: list[Tree | None]) -> list[Value]:
    found = [_of_tree(budget, tree) for tree in trees]
    if all(value is None for value in found) and trees[0] is not None:
        trees[0][budget.selector]  # says what is wrong with it
    return [
        value or Value(0, 0 if _is_whole_tree(tree) else None, remedy=_RACED)
        for value, tree in zip(found, trees, strict=True)
    ]


def _of_tree(budget: Budget, tree: Tree | None) -> Value | None:
    """None where no member has what is selected."""
    if tree is None:
        raise PmapsError("its tree was not captured")
    if budget.metric == "processes":
        open_end = tree.sum_rss.bytes.bounds[1] is None
        return Value(len(tree), None if open_end else len(tree), "number")
    totals: Totals = tree
    if budget.selector:
        many = _GLOB.search(budget.selector)
        try:
            totals = tree.select(budget.selector) if many else tree[budget.selector]
        except NoSuchMapping as exc:
            if exc.misspelt:
                raise
            return None
    count: Count = getattr(totals, budget.metric)
    return Value.of(count)


def _is_whole_tree(tree: Tree | None) -> bool:
    if tree is None or tree.sum_rss.bytes.bounds[1] is None:
        return False
    return all(_is_whole(snapshot) for snapshot in tree)


def _picked(budget: Budget, snapshot: Snapshot) -> Counted | None:
    """What is selected; a glob means all that it matches.  None where it matches nothing."""
    if not budget.selector:
        return snapshot
    many = _GLOB.search(budget.selector) and not budget.selector.startswith("[")
    try:
        return snapshot.select(budget.selector) if many else snapshot[budget.selector]
    except NoSuchMapping as exc:
        if exc.misspelt:
            raise
        return None


def _mappings(picked: Counted | None, snapshot: Snapshot) -> Value:
    number = 0 if picked is None else len(picked.windows)
    if _is_whole(snapshot):
        return Value(number, number, "number", 1)
    return Value(max(0, number - snapshot.columns.appeared), None, "number", 1, _RACED)


def _count(budget: Budget, picked: Counted | None, snapshot: Snapshot) -> Count:
    if picked is None:
        hi = 0 if _is_whole(snapshot) else None
        return Count(0, hi, page_size=snapshot.page_size, remedy="" if hi == 0 else _RACED)
    return picked.metric(budget.metric)


def _difference(values: list[Value]) -> Value:
    """The second taken from the first, where there are two."""
    if len(values) == 1:
        return values[0]
    now, then = values
    lo = None if now.lo is None or then.hi is None else now.lo - then.hi
    hi = None if now.hi is None or then.lo is None else now.hi - then.lo
    return Value(lo, hi, now.unit, now.page_size, now.remedy or then.remedy)
