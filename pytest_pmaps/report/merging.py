"""Several runs as one: the shards of a job, each of which ran some of the tests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import PmapsError
from . import runfile
from .runfile import RunFile, Session, Test

__all__ = ["merge", "merge_files"]

#: pytest's own exit statuses from the best to the worst: a shard without tests (5) says nothing
#: of the others; 4 is a usage error, 2 an interruption, 3 an internal error.
_STATUSES = (5, 0, 1, 4, 2, 3)
#: How many tests that ran more than once are named.
_TWICE = 5
#: Between texts of sessions that differ.
_OR = " | "


def merge_files(out: str, paths: Sequence[str]) -> list[str]:
    """Merge files into one, which may be one of them; gives notes on what differs."""
    home = Path(out).absolute().parent
    runs = [_moved(runfile.load(path), Path(path).absolute().parent, home) for path in paths]
    merged, notes = merge(runs)
    runfile.save(merged, out)
    return notes


def _moved(run: RunFile, old: Path, new: Path) -> RunFile:
    """Maps are relative to their file, and stay where they are."""
    for test in run["tests"]:
        test["maps"] = [os.path.relpath(old / path, new) for path in test["maps"]]
    return run


def merge(runs: Sequence[RunFile]) -> tuple[RunFile, list[str]]:
    """All tests of all runs, what is told twice once, and notes on what differs.

    The worst exit status counts.  PmapsError for runs of different page sizes, whose numbers
    are of different things.
    """
    session, notes = _sessions([run["session"] for run in runs])
    tests: dict[tuple[str, int, str], list[Test]] = {}
    for test in (test for run in runs for test in run["tests"]):
        same = tests.setdefault((test["nodeid"], test["attempt"], test["worker"]), [])
        if test not in same:
            same.append(test)
    notes += _twice(tests)
    # What nobody knows of the first is kept, as in sessions.
    merged: RunFile = {
        **runs[0],
        "session": session,
        "tests": [test for same in tests.values() for test in same],
    }
    return merged, notes


def _twice(tests: dict[tuple[str, int, str], list[Test]]) -> list[str]:
    more = [f"{key[0]} ran {len(same)} times" for key, same in tests.items() if len(same) > 1]
    left = len(more) - _TWICE
    return more[:_TWICE] + ([f"{left:,} more tests ran more than once"] if left > 0 else [])


def _sessions(sessions: Sequence[Session]) -> tuple[Session, list[str]]:
    if len({session["page_size"] for session in sessions}) > 1:
        raise PmapsError("these are runs of different page sizes, which cannot be one")
    notes: list[str] = []
    merged: dict[str, Any] = {}
    for session in reversed(sessions):
        merged |= session
    for key, value in merged.items():
        if isinstance(value, str):
            words = _words(str(session[key]) for session in sessions)  # type: ignore[literal-required]
            if len(words) > 1:
                notes.append(f"{key} differs: {', '.join(words)}")
            merged[key] = _OR.join(words)
    merged["sources"] = _union(session["sources"] for session in sessions)
    merged["workers"] = max(session["workers"] for session in sessions)
    merged["exit_status"] = max((s["exit_status"] for s in sessions), key=_badness)
    return merged, notes  # type: ignore[return-value]


def _words(texts: Iterable[str]) -> list[str]:
    return _union(text.split(_OR) for text in texts)


def _union(lists: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(word for words in lists for word in words if word))


def _badness(status: int) -> int:
    return _STATUSES.index(status) if status in _STATUSES else len(_STATUSES)
