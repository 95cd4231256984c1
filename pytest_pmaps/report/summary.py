"""What a run.json says, most important first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..counts import format_bytes
from .blocks import Block
from .run import Interval
from .runfile import Budget, Mapping, Process, RunFile, Session, Test
from .text import signed, span

__all__ = [
    "blocks",
    "budget_text",
    "finals",
    "head",
    "measured",
    "quantity",
    "seen",
    "subject",
    "trouble",
]

#: What a budget's verdict is to a reader.
_WORDS = {
    "exceeded": "exceeded",
    "undetermined": "undetermined",
    "missing": "nothing is recorded",
    "error": "could not be measured",
}


class Trouble(NamedTuple):
    """A line about a test; ``kind`` is footprint or undetermined."""

    test: Test
    kind: str
    text: str


def head(run: RunFile) -> list[str]:
    """What ran, where, and what came of it."""
    outcomes = Counter(test["outcome"] for test in run["tests"])
    told = ", ".join(f"{number:,} {outcome}" for outcome, number in outcomes.most_common())
    session = run["session"]
    number = len(run["tests"])
    tests = f"{number:,} test{'' if number == 1 else 's'} in this file{told and f': {told}'}"
    return [f"{tests}; exit status {session['exit_status']}", where(session)]


def where(session: Session) -> str:
    """What ran the tests, in one line."""
    system = f"Linux {session['kernel']} {session['machine']}"
    parts = [
        f"pytest {session['pytest']}, Python {session['python']}, {system}",
        f"{session['workers']} workers" if session["workers"] else "",
        f"environment {session['environment']}" if session["environment"] else "",
        f"baseline {session['baseline']}" if session["baseline"] else "",
    ]
    return "; ".join(part for part in parts if part)


def blocks(run: RunFile) -> list[Block]:
    """The whole report; blocks without rows have nothing to tell."""
    told = [(t.kind, (_test(t.test), t.text)) for test in finals(run["tests"])
            for t in trouble(test)]  # fmt: skip
    return [
        Block(
            "Failed for their footprint",
            ("test", "what"),
            [row for kind, row in told if kind == "footprint"],
            "red",
            wide=True,
        ),
        Block(
            "Undetermined",
            ("test", "what"),
            [row for kind, row in told if kind == "undetermined"],
            "yellow",
            wide=True,
        ),
        *measured(run),
    ]


def measured(run: RunFile) -> list[Block]:
    """What grew most, and what holds most, by test and by file."""
    pairs = [(test, process) for test in finals(run["tests"]) for process in seen(test)]
    return [_growth(pairs), _dirty(pairs), _files(pairs)]


def seen(test: Test) -> list[Process]:
    """What was measured, and what else was captured when the test failed."""
    own = {process["pid"] for process in test["measured"]}
    return [*test["measured"], *(p for p in test["dumped"] if p["pid"] not in own)]


def trouble(test: Test) -> Iterator[Trouble]:
    """A test's failures, and its budgets where none of these speaks of them; nothing of one that
    was expected to fail.
    """
    if test["outcome"] == "xfailed":
        return
    failures = [(kind, text) for _, kind, text in test["failures"] if kind]
    if test["outcome"] in ("failed", "error", "rerun"):
        yield from (Trouble(test, kind, text) for kind, text in failures)
    for budget in test["budgets"]:
        word = _WORDS.get(budget["verdict"])
        if word and not any(subject(budget) in text for _, text in failures):
            kind = "footprint" if budget["verdict"] == "exceeded" else "undetermined"
            yield Trouble(test, kind, budget_text(budget))


def subject(budget: Budget) -> str:
    """What a budget limits: its text without what is allowed, which holds no ``<=``."""
    return budget["budget"].rpartition(" <= ")[0] or budget["budget"]


def budget_text(budget: Budget) -> str:
    """A budget, and what came of it."""
    unit, limit = budget["unit"], budget["limit"]
    value = quantity(budget["value"], unit)
    parts = [f"{_WORDS.get(budget['verdict'], budget['verdict'])}: {value}"]
    if limit is not None and "baseline" in budget["budget"]:  # else its text says it
        parts.append(f"limit {quantity([limit, limit], unit)}")
    if budget["recorded"] is not None:
        parts.append(f"recorded {quantity([budget['recorded']] * 2, unit)}")
    if budget["note"]:
        parts.append(budget["note"])
    return f"{budget['budget']}: {', '.join(parts)}"


def quantity(interval: Interval, unit: str) -> str:
    """A number or what it lies between, all digits of it; ``?`` for an end that is not known."""
    ends = ["?" if end is None else _exactly(end, unit) for end in interval]
    return ends[0] if interval[0] == interval[1] else "..".join(ends)


def _exactly(number: int, unit: str) -> str:
    return format_bytes(number) if unit == "bytes" else f"{number:,}"


def finals(tests: Iterable[Test]) -> list[Test]:
    """The last attempt of each test; of one that ran on several workers, one of each."""
    last: dict[tuple[str, str], Test] = {}
    for test in tests:
        key = test["nodeid"], test["worker"]
        if key not in last or last[key]["attempt"] <= test["attempt"]:
            last[key] = test
    return list(last.values())


# ---- tables

_Pairs = list[tuple[Test, Process]]


def _test(test: Test) -> str:
    attempt = test["attempt"]
    return f"{test['nodeid']} (attempt {attempt})" if attempt > 1 else test["nodeid"]


def _process(process: Process) -> str:
    doubt = "" if process["verdict"] == "complete" else f", {process['verdict']}"
    return f"{process['comm']} {process['pid']}{doubt}"


def _growth(pairs: _Pairs) -> Block:
    names = ("rss_growth", "new_dirty")
    rows = [
        (
            _size(process, *names),
            [_test(test), _process(process), _most(process, *names), *_changes(process, *names)],
        )
        for test, process in pairs
        if _grew(process.get("rss_growth")) or _grew(process.get("new_dirty"))
    ]
    return Block("Most growth", ("test", "process", "most of it in", "rss growth", "new dirty"),
                 _largest(rows), names=3)  # fmt: skip


def _dirty(pairs: _Pairs) -> Block:
    rows = [
        (
            _size(process, "dirty", "rss"),
            [
                _test(test),
                _process(process),
                _most(process, "dirty"),
                span(*process["dirty"]),
                span(*process["rss"]),
            ],
        )
        for test, process in pairs
    ]
    return Block("Most dirty memory", ("test", "process", "most of it in", "dirty", "rss"),
                 _largest(rows), names=3)  # fmt: skip


def _files(pairs: _Pairs) -> Block:
    """Of each file the most that any test saw; processes name only what tells most of them."""
    found: dict[str, list[Mapping]] = {}
    for _, process in pairs:
        for mapping in process["mappings"]:
            found.setdefault(mapping["name"], []).append(mapping)
    columns = ("rss_growth", "new_dirty", "dirty")
    rows = []
    for name, mappings in found.items():
        most = [max((_size(m, c), _changes(m, c)[0]) for m in mappings) for c in columns]
        size = [number for sizes, _ in most for number in sizes]
        rows.append((size, [name, *(cell.removeprefix("+") if i == 2 else cell
                                    for i, (_, cell) in enumerate(most))]))  # fmt: skip
    return Block("Files, the most in any test", ("file", "rss growth", "new dirty", "dirty"),
                 _largest(rows))  # fmt: skip


def _grew(interval: Interval | None) -> bool:
    """Whether it did, or may have."""
    return interval is not None and (interval[1] is None or interval[1] > 0)


def _size(numbers: Process | Mapping, *names: str) -> list[int]:
    """To sort by: what is sure, then what may be."""
    intervals: list[Interval] = [numbers.get(name) or [0, 0] for name in names]  # type: ignore[misc]
    return [interval[end] or 0 for end in (0, 1) for interval in intervals]


def _changes(numbers: Process | Mapping, *names: str) -> list[str]:
    intervals: list[Interval | None] = [numbers.get(name) for name in names]  # type: ignore[misc]
    return ["-" if interval is None else signed(*interval) for interval in intervals]


def _most(process: Process, *names: str) -> str:
    largest = max(process["mappings"], key=lambda m: _size(m, *names), default=None)
    return largest["name"] if largest and any(_size(largest, *names)) else ""


def _largest(rows: list[tuple[list[int], list[str]]]) -> list[list[str]]:
    return [cells for _, cells in sorted(rows, key=lambda row: row[0], reverse=True)]
