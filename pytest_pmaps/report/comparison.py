"""Two runs of the same tests, before a change and after it: what grew.

A number grew if its lowest after is beyond what its highest before allows, and did not if its
highest after is within what its lowest before allows.  All else is undecided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Protocol

from .benchmark import METRICS, whole
from .blocks import Block
from .run import Interval
from .runfile import RunFile, Session, Test
from .summary import finals, quantity, subject, where
from .text import signed, span

__all__ = ["Allowed", "Comparison", "Number", "Verdict", "blocks", "compare", "head", "judge"]


class Allowed(Protocol):
    """The most that may come of a number."""

    def __call__(self, before: int, /, unit: str) -> int:
        """``unit`` is bytes or number."""
        ...


class Verdict(Enum):
    """What became of a number."""

    GREW = "grew"
    SAME = "same"
    LESS = "less"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Number:
    """One number of one test, in both runs."""

    nodeid: str
    what: str
    unit: str
    base: Interval
    head: Interval
    verdict: Verdict

    @property
    def change(self) -> Interval:
        """By how much it grew."""
        (b0, b1), (h0, h1) = self.base, self.head
        return [
            None if h0 is None or b1 is None else h0 - b1,
            None if h1 is None or b0 is None else h1 - b0,
        ]


@dataclass(slots=True)
class Comparison:
    """All numbers that both runs have, what one alone has, and why tests were left out."""

    numbers: list[Number] = field(default_factory=list)
    only: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of(self, verdict: Verdict) -> list[Number]:
        """The numbers of a verdict, what changed most first; of about the same size, in the
        order of the tests: what one leaks, those behind it in the same process show as well.
        """
        found = [number for number in self.numbers if number.verdict is verdict]
        return sorted(found, key=lambda number: _weight(number.change), reverse=True)


def _weight(change: Interval) -> tuple[int, int]:
    lo, hi = ((end or 0).bit_length() for end in change)
    return min(lo, hi), max(lo, hi)


def compare(base: RunFile, head: RunFile, allowed: Allowed) -> Comparison:
    """Hold one run against another."""
    found = Comparison(notes=list(_differences(base["session"], head["session"])))
    before, after = (_numbered(finals(run["tests"])) for run in (base, head))
    for key in before | after:
        if key not in before or key not in after:
            found.only[key not in before].append(key[0])
        else:
            _add(found, before[key], after[key], allowed)
    return found


def _numbered(tests: Sequence[Test]) -> dict[tuple[str, int], Test]:
    """Tests that ran on several workers are told apart by their number: workers come and go."""
    seen: Counter[str] = Counter()
    told = {}
    for test in sorted(tests, key=lambda test: test["worker"]):
        seen[test["nodeid"]] += 1
        told[test["nodeid"], seen[test["nodeid"]]] = test
    return told


def _add(found: Comparison, base: Test, head: Test, allowed: Allowed) -> None:
    nodeid = head["nodeid"]
    cut = [name for name, test in (("base", base), ("head", head)) if not whole(test)]
    if cut:
        outcome = (base if "base" in cut else head)["outcome"]
        found.left_out.append((nodeid, f"{outcome} in {' and '.join(cut)}"))
        return
    before, after = _measured(base), _measured(head)
    for what in before | after:
        if what not in before or what not in after:
            found.only[what not in before].append(f"{nodeid}: {what}")
        else:
            (_, old), (unit, new) = before[what], after[what]
            most = partial(allowed, unit=unit)
            found.numbers.append(Number(nodeid, what, unit, old, new, judge(old, new, most)))


def _measured(test: Test) -> dict[str, tuple[str, Interval]]:
    """Unit and value of each number, by what it is of; pids differ from run to run."""
    told: dict[str, tuple[str, Interval]] = {}
    seen: Counter[str] = Counter()
    for process in test["measured"]:
        comm = process["comm"]
        seen[comm] += 1
        name = comm if seen[comm] == 1 else f"{comm} ({seen[comm]})"
        for metric in METRICS:
            told[f"{name} {metric}"] = "bytes", process[metric]  # type: ignore[literal-required]
    for budget in test["budgets"]:
        told[f"budget {subject(budget)}"] = budget["unit"], budget["value"]
    return told


def judge(base: Interval, head: Interval, allowed: Callable[[int], int]) -> Verdict:
    """What became of a number; ``allowed`` is the most that may come of what was before."""
    (b0, b1), (h0, h1) = base, head
    if b1 is not None and h0 is not None and h0 > allowed(b1):
        return Verdict.GREW
    if h1 is not None and b0 is not None:
        if b0 > allowed(h1):
            return Verdict.LESS
        if h1 <= allowed(b0):
            return Verdict.SAME
    return Verdict.UNDECIDED


def _differences(base: Session, head: Session) -> Iterator[str]:
    for key in ("python", "kernel", "machine", "page_size", "pytest", "workers", "environment"):
        before, after = base[key], head[key]
        if before != after:
            yield f"{key} differs: {before or 'none'} in base, {after or 'none'} in head"


# ---- for people


def head(found: Comparison, run: RunFile, tolerance: str) -> list[str]:
    """What was compared, and what came of it."""
    tests = len({number.nodeid for number in found.numbers})
    size = f"{len(found.numbers):,} numbers of {tests:,} test{'' if tests == 1 else 's'}"
    told = Counter(number.verdict for number in found.numbers)
    counts = ", ".join(f"{told[v]:,} {v.value}" for v in Verdict)
    return [
        f"{size}, tolerance {tolerance}: {counts}",
        where(run["session"]),
        *(f"note: {note}" for note in found.notes),
    ]


def blocks(found: Comparison) -> list[Block]:
    """The whole report."""
    return [
        _numbers("Grew", found.of(Verdict.GREW), "red"),
        _numbers("Undecided", found.of(Verdict.UNDECIDED), "yellow"),
        _numbers("Less", found.of(Verdict.LESS), "green"),
        Block("Not compared", ("test", "why"), found.left_out, wide=True),
        *(
            Block(f"Only in {name}", ("what",), [[only] for only in sorted(told)], wide=True)
            for name, told in zip(("base", "head"), found.only, strict=True)
        ),
    ]


def _numbers(title: str, numbers: Sequence[Number], colour: str) -> Block:
    rows = [
        [
            number.nodeid,
            number.what.removeprefix("budget "),
            _shown(number.base, number.unit),
            _shown(number.head, number.unit),
            _change(number),
        ]
        for number in numbers
    ]
    return Block(title, ("test", "what", "base", "head", "change"), rows, colour, names=2)


def _shown(value: Interval, unit: str) -> str:
    return span(*value) if unit == "bytes" else quantity(value, unit)


def _change(number: Number) -> str:
    if number.unit == "bytes":
        return signed(*number.change)
    text = quantity(number.change, number.unit)
    return f"+{text}" if (number.change[0] or 0) > 0 else text
