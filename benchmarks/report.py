"""What was measured, as JSON and as Markdown tables that fit a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from goals import FIGURES, SPEED, Goal
from rivals import COMPILED
from timing import Spread, Times

_OURS = ("totals", "mappings", "pages", "pte", "kpage", "full")
_OTHERS = {**COMPILED, "smaps-python": "py smaps", "psutil": "psutil", "python": "Python"}
_WIDTH = 96


@dataclass
class Speed:
    """One workload, and how long everybody took."""

    name: str
    label: str
    note: str
    times: Times
    calls: dict[str, int]


@dataclass
class Figure:
    """Something else than a time, with its goal if it has one."""

    name: str
    what: str
    value: float
    unit: str
    note: str = ""
    noise: float = 0.0  # nearer to its goal than this it is not judged


@dataclass
class Missing:
    """A target or row without figures, or one contender of it, and why."""

    what: str
    why: str
    who: str = ""


@dataclass
class Report:
    """A run of the benchmarks.  ``quick`` figures are never judged: sizes are too small."""

    environment: dict[str, object]
    quick: bool
    rounds: int
    speeds: list[Speed] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    failed: list[Missing] = field(default_factory=list)

    def met(self, goal: Goal | None, value: float | None, noise: float = 0.0) -> bool | None:
        """Whether a goal is met; None where there is none, or it cannot be judged."""
        if self.quick or goal is None or value is None or 0 < abs(value - goal.limit) <= noise:
            return None
        return goal.met(value)


# ---- JSON


def as_json(report: Report) -> dict[str, Any]:
    """All of it as plain values."""
    return {
        "environment": report.environment,
        "quick": report.quick,
        "rounds": report.rounds,
        "speed": [s for speed in report.speeds for s in _samples(report, speed)],
        "comparisons": [c for speed in report.speeds for c in _comparisons(report, speed)],
        "figures": [_figure(report, f) for f in report.figures],
        "missing": [asdict(one) for one in report.missing],
        "failed": [asdict(one) for one in report.failed],
    }


def _samples(report: Report, speed: Speed) -> Iterator[dict[str, Any]]:
    for name in speed.times.ns:
        ms, against = speed.times.ms(name), speed.times.ratio(name, "kpage")
        yield {
            "workload": speed.name,
            "label": speed.label,
            "note": speed.note,
            "contender": name,
            "cpu_ms": asdict(ms) if ms else None,
            "ratio_to_kpage": against.median if against else None,
            "system_calls": speed.calls.get(name),
        }


def _comparisons(report: Report, speed: Speed) -> Iterator[dict[str, Any]]:
    for what, goals in SPEED.items():
        ratio, goal = _compared(speed, what), goals.get(speed.name)
        yield {
            "workload": speed.name,
            "label": speed.label,
            "what": what,
            "ratio": asdict(ratio) if ratio else None,
            **_judged(report, goal, ratio.median if ratio else None),
        }


def _figure(report: Report, figure: Figure) -> dict[str, Any]:
    goal = FIGURES.get(figure.name)
    return asdict(figure) | _judged(report, goal, figure.value, figure.noise)


def _judged(
    report: Report, goal: Goal | None, value: float | None, noise: float = 0.0
) -> dict[str, Any]:
    asked = f"{goal.sense} {goal.limit:g}" if goal else None
    return {"goal": asked, "met": report.met(goal, value, noise)}


def _compared(speed: Speed, what: str) -> Spread | None:
    one, _, other = what.partition(" / ")
    return speed.times.ratio(one, other)


# ---- Markdown


def as_markdown(report: Report) -> str:
    """Tables and what is to be said about them."""
    parts = [_head(report)]
    if report.speeds:
        parts += [
            "CPU milliseconds of one capture, medians; by depth:",
            _times(report, {name: name for name in _OURS}),
            "The same by other means:",
            _times(report, _OTHERS),
            "Ratios of CPU times, medians of the rounds' ratios, and their goals:",
            _ratios(report),
        ]
    if report.figures:
        parts += ["Everything else:", _figures(report)]
    notes = [f"{s.label}: {s.note}" for s in report.speeds if s.note]
    parts += _list("Notes", notes)
    parts += _list("Not measured here", _lines(report.missing))
    parts += _list("Failed", _lines(report.failed))
    return "\n\n".join(parts) + "\n"


def _head(report: Report) -> str:
    env = report.environment
    seen = "page frames visible" if env["frames"] else "page frames hidden (no CAP_SYS_ADMIN)"
    words = (
        f"Linux {env['kernel']} {env['machine']}, {env['cpus']} CPUs, {env['memory_gib']} GiB, "
        f"Python {env['python']}, {'root' if env['root'] else 'not root'}, {seen}; "
        f"rounds: {report.rounds}"
    )
    if env["moving"]:
        words += f"; moving meanwhile: {', '.join(map(str, _sequence(env['moving'])))}"
    if report.quick:
        words += ". Quick: this shows that everything runs, and its figures mean nothing."
    return textwrap.fill(words, _WIDTH)


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


def _times(report: Report, names: Mapping[str, str]) -> str:
    shown = [name for name in names if any(name in s.times.ns for s in report.speeds)]
    rows = []
    for speed in report.speeds:
        spreads = [speed.times.ms(name) for name in shown]
        rows.append([speed.label, *("-" if s is None else _short(s.median) for s in spreads)])
    return _table(["CPU ms", *(names[name] for name in shown)], rows)


def _ratios(report: Report) -> str:
    rows = [[s.label, *(_ratio(report, s, what) for what in SPEED)] for s in report.speeds]
    return _table(["", *SPEED], rows)


def _ratio(report: Report, speed: Speed, what: str) -> str:
    ratio, goal = _compared(speed, what), SPEED[what].get(speed.name)
    if ratio is None:
        return "-"
    cell = _short(ratio.median)
    return f"{cell} {_mark(report, goal, ratio.median)}" if goal else cell


def _figures(report: Report) -> str:
    rows = []
    for figure in report.figures:
        goal = FIGURES.get(figure.name)
        cell = f"{_short(figure.value)} {figure.unit}".strip()
        mark = _mark(report, goal, figure.value, figure.noise)
        rows.append([figure.what, cell, mark, figure.note])
    return _table(["", "measured", "goal", ""], rows)


def _mark(report: Report, goal: Goal | None, value: float, noise: float = 0.0) -> str:
    if goal is None:
        return ""
    word = {True: "ok ", False: "MISS ", None: "? "}[report.met(goal, value, noise)]
    return f"{word}{goal}"


def _short(value: float) -> str:
    if value == int(value) and abs(value) >= 1000:
        return f"{int(value):,}"
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        (cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _lines(missing: Iterable[Missing]) -> list[str]:
    """A contender that is missing everywhere is told once."""
    lines: dict[tuple[str, str], list[str]] = {}
    for one in missing:
        who = _OTHERS.get(one.who, one.who)
        lines.setdefault((one.why, who), []).append(one.what)
    return [
        f"{who}, of {len(what)} targets: {why}" if who else f"{', '.join(what)}: {why}"
        for (why, who), what in lines.items()
    ]


def _list(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    wrapped = (
        textwrap.fill(item, _WIDTH, initial_indent="- ", subsequent_indent="  ") for item in items
    )
    return [f"{title}:", "\n".join(wrapped)]
