"""Numbers for github-action-benchmark, as its tool ``customSmallerIsBetter`` reads them.

A list of ``{"name", "unit", "value"}`` and perhaps ``"range"`` and ``"extra"``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..select import printable
from .run import Interval
from .runfile import RunFile, Session, Test
from .summary import finals, quantity, subject

__all__ = ["METRICS", "benchmark", "whole"]

#: What is worth a chart of a process: pss moves with what other processes do.
METRICS = ("rss", "anonymous", "dirty")


def benchmark(run: RunFile) -> list[dict[str, Any]]:
    """The entries, in the file's order, each name once.

    Where only an upper end is known it is told under a name that says so; where none is,
    nothing.  Tests that did not run to their end are left out.
    """
    told: dict[str, dict[str, Any]] = {}
    extra = _extra(run["session"])
    for test in finals(run["tests"]):
        if whole(test):
            for name, unit, interval, spread in _numbers(test):
                entry = _entry(name, unit, interval, extra)
                if entry and spread:
                    entry["range"] = f"± {spread}"
                if entry:
                    entry["name"] = _unique(entry["name"], told)
                    told[entry["name"]] = entry
    return list(told.values())


def whole(test: Test) -> bool:
    """Whether its numbers are of the whole test: it passed, or only its footprint failed."""
    return test["outcome"] in ("passed", "xpassed") or (
        test["outcome"] == "failed" and test["kind"] == "footprint"
    )


def _numbers(test: Test) -> Iterator[tuple[str, str, Interval, int | None]]:
    for process in test["measured"]:
        for metric in METRICS:
            name = f"{test['nodeid']}: {process['comm']} {metric}"
            yield name, "bytes", process[metric], None  # type: ignore[literal-required]
    for budget in test["budgets"]:
        name = f"{test['nodeid']}: budget {subject(budget)}"
        yield name, budget["unit"], budget["value"], budget["spread"]


def _entry(name: str, unit: str, interval: Interval, extra: str) -> dict[str, Any] | None:
    lo, hi = interval
    if hi is None:
        return None
    name = printable(name)
    if lo != hi:
        name, extra = f"{name} (upper end)", f"{quantity(interval, unit)}; {extra}"
    return {"name": name, "unit": unit, "value": hi, "extra": extra}


def _extra(session: Session) -> str:
    text = f"Python {session['python']}, Linux {session['kernel']} {session['machine']}"
    return printable(text)


def _unique(name: str, taken: dict[str, dict[str, Any]]) -> str:
    number, shown = 1, name
    while shown in taken:
        number += 1
        shown = f"{name} ({number})"
    return shown
