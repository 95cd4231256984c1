"""``run.json`` read back: checked, of any version so far, and with what later ones may add.

run.schema.json says the same for other programs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from copy import copy
from typing import Any, Literal, NotRequired, TypedDict, cast

from ..jsontext import (
    Wrong,
    any_object,
    checked_format,
    integer,
    kind_of,
    list_of,
    read,
    shown,
)
from ..reading import naming, utf8, whole
from ..replacing import write_atomically
from .run import FORMAT, OUTCOMES, VERSION, Interval

__all__ = ["ORIGINS", "VERDICTS", "Budget", "Mapping", "Process", "RunFile", "Session", "Test",
           "dumps", "load", "loads", "save"]  # fmt: skip

#: Where a budget was asked for.
ORIGINS = ("marker", "command line", "ini", "test")
#: What came of a budget.
VERDICTS = ("passed", "exceeded", "undetermined", "missing", "recorded", "absent", "error")

_Read = Callable[[object], Any]


class Mapping(TypedDict):
    """What the mappings of one name hold, and by how much that grew, in bytes."""

    name: str
    rss: Interval
    dirty: Interval
    rss_growth: NotRequired[Interval]
    new_dirty: NotRequired[Interval]


class Process(TypedDict):
    """What one process held, in bytes; growth where it was captured twice."""

    pid: int
    comm: str
    verdict: str
    rss: Interval
    pss: NotRequired[Interval]
    uss: NotRequired[Interval]
    anonymous: Interval
    dirty: Interval
    swap: NotRequired[Interval]
    new_dirty: NotRequired[Interval]
    rss_growth: NotRequired[Interval]
    mappings: list[Mapping]


class Budget(TypedDict):
    """What came of one budget; ``value``, ``limit`` and the others are numbers of ``unit``."""

    budget: str
    origin: str
    verdict: str
    value: Interval
    limit: int | None
    unit: Literal["bytes", "number"]
    samples: list[Interval]
    recorded: int | None
    spread: int | None
    note: str


class Test(TypedDict):
    """One attempt of one test."""

    nodeid: str
    file: str
    line: int | None
    outcome: str
    attempt: int
    worker: str
    phase: str
    kind: str
    headline: str
    failures: list[list[str]]
    maps: list[str]
    problems: list[str]
    measured: list[Process]
    dumped: list[Process]
    budgets: list[Budget]


class Session(TypedDict):
    """What ran the tests, and where."""

    python: str
    kernel: str
    machine: str
    page_size: int
    sources: list[str]
    pytest: str
    pytest_pmaps: str
    exit_status: int
    environment: str
    baseline: str
    workers: int


class RunFile(TypedDict):
    """All of a run.json, as its latest version has it."""

    format: str
    version: int
    session: Session
    tests: list[Test]


def load(path: str | os.PathLike[str]) -> RunFile:
    """Read a run.json; FormatError names the file and the line of what is wrong with it, OSError
    says why it cannot be read.

    What an older version does not have is filled in; what nobody knows is kept.
    """
    data = whole(path, opened=True)
    with naming(path):
        return loads(utf8(data))


def loads(text: str) -> RunFile:
    """Read the text of a run.json; FormatError names the line of what is wrong with it."""
    return read(text, _run)


def dumps(run: RunFile) -> str:
    """The text of a run.json."""
    return json.dumps(run, indent=1)


def save(run: RunFile, path: str | os.PathLike[str]) -> None:
    """Write it, atomically: a reader never sees half a file."""
    write_atomically(path, dumps(run))


# ---- readers


def _run(value: object) -> RunFile:
    record = checked_format(value, FORMAT, VERSION)
    found = _record({"session": _session, "tests": list_of(_test)})(record)
    return cast("RunFile", {"format": FORMAT, "version": VERSION, **found})


def _record(
    need: dict[str, _Read],
    may: dict[str, tuple[_Read, object]] | None = None,
    intervals: Iterable[str] = (),
) -> _Read:
    """Reads objects: what has to be there, what else may be (with what it is where it is not),
    intervals that may be, and whatever nobody knows as it is.
    """

    def read_record(value: object) -> dict[str, Any]:
        fields = any_object(value)
        found: dict[str, Any] = {}
        for key, of in need.items():
            if key not in fields:
                raise Wrong(f'"{key}" is missing')
            found[key] = _at(key, of, fields[key])
        for key, (of, default) in (may or {}).items():
            found[key] = _at(key, of, fields[key]) if key in fields else copy(default)
        for key in intervals:
            if key in fields:
                found[key] = _at(key, _interval, fields[key])
        return found | {key: item for key, item in fields.items() if key not in found}

    return read_record


def _at(key: str, of: _Read, value: object) -> Any:
    try:
        return of(value)
    except Wrong as wrong:
        raise wrong.under(key) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong(f"a string belongs here, not {kind_of(value)}")
    return value


def _one_of(*words: str) -> _Read:
    def read_word(value: object) -> str:
        if value not in words:
            raise Wrong(f"{shown(value)} is none of {', '.join(map(repr, words))}")
        return str(value)

    return read_word


_NUMBER = integer(1 << 63, -(1 << 63))
_POSITIVE = integer(1 << 63, 1)
_COUNT = integer(1 << 63)


def _or_null(of: _Read) -> _Read:
    return lambda value: None if value is None else of(value)


def _interval(value: object) -> Interval:
    ends: Interval = list_of(_or_null(_NUMBER))(value)
    if len(ends) != 2:
        raise Wrong("an interval is its two ends")
    lo, hi = ends
    if lo is not None and hi is not None and lo > hi:
        raise Wrong("an interval has its lower end first")
    return ends


def _failure(value: object) -> list[str]:
    words = list_of(_text)(value)
    if len(words) != 3:
        raise Wrong("a failure is its phase, kind and headline")
    return words


_GROWTH = ("rss_growth", "new_dirty")
_mapping = _record({"name": _text, "rss": _interval, "dirty": _interval}, intervals=_GROWTH)
_process = _record(
    {"pid": _COUNT, "comm": _text, "verdict": _text}
    | dict.fromkeys(("rss", "anonymous", "dirty"), _interval),
    {"mappings": (list_of(_mapping), [])},
    ("pss", "uss", "swap", *_GROWTH),
)
_budget = _record(
    {
        "budget": _text,
        "origin": _one_of(*ORIGINS),
        "verdict": _one_of(*VERDICTS),
        "value": _interval,
        "limit": _or_null(_NUMBER),
        "unit": _one_of("bytes", "number"),
    },
    {
        "samples": (list_of(_interval), []),
        "recorded": (_or_null(_NUMBER), None),
        "spread": (_or_null(_COUNT), None),
        "note": (_text, ""),
    },
)
_test = _record(
    {
        "nodeid": _text,
        "outcome": _one_of(*OUTCOMES),
        "attempt": _POSITIVE,
        "worker": _text,
        "phase": _text,
        "kind": _one_of("", "footprint", "undetermined"),
        "headline": _text,
        "failures": list_of(_failure),
        "maps": list_of(_text),
        "problems": list_of(_text),
        "measured": list_of(_process),
        "dumped": list_of(_process),
    },
    {
        "file": (_text, ""),
        "line": (_or_null(_POSITIVE), None),
        "budgets": (list_of(_budget), []),
    },
)
_session = _record(
    {
        "python": _text,
        "kernel": _text,
        "machine": _text,
        "page_size": _POSITIVE,
        "sources": list_of(_text),
        "pytest": _text,
        "pytest_pmaps": _text,
        "exit_status": _NUMBER,
    },
    {"environment": (_text, ""), "baseline": (_text, ""), "workers": (_COUNT, 0)},
)
