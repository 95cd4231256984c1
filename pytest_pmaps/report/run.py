"""``run.json``, the one artefact of a session, and its summary for the terminal.

docs/reports.md describes it for people, run.schema.json for programs, runfile.py reads it.
"""

from __future__ import annotations

import json
import os
import platform
import resource
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

# Bound here: a test may have replaced json's own while its report is made.
_dumps, _loads = json.dumps, json.loads

__all__ = ["FORMAT", "OUTCOMES", "VERSION", "Entry", "Interval", "Run", "TestDetails"]

FORMAT = "pytest-pmaps run"
VERSION = 2

#: From the best to the worst that a test's phases can give.
OUTCOMES = ("passed", "skipped", "xfailed", "xpassed", "rerun", "error", "failed")
_FAILED = ("failed", "error")

Interval = list[int | None]


@dataclass(slots=True)
class TestDetails:
    """What one attempt of one test adds; builtin values only, since it travels as JSON.

    ``phase`` is the one that failed, else ``call``.
    ``kind`` is ``footprint`` or ``undetermined`` where the test failed for that.
    ``failures`` are all of them as ``[phase, kind, headline]``; the first such one is told above.
    ``folder`` is where ``maps`` lie.
    ``budgets`` are verdicts on budgets, as run.schema.json has them.
    """

    attempt: int = 1
    worker: str = ""
    phase: str = "call"
    kind: str = ""
    headline: str = ""
    folder: str = ""
    maps: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    failures: list[list[str]] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    dumped: list[dict[str, Any]] = field(default_factory=list)
    budgets: list[dict[str, Any]] = field(default_factory=list)
    environment: str = ""

    # Not a test class, whatever pytest thinks of its name.
    __test__ = False

    @property
    def seen(self) -> list[dict[str, Any]]:
        """What was measured, and what else was dumped when the test failed."""
        own = {numbers["pid"] for numbers in self.measured}
        return [*self.measured, *(n for n in self.dumped if n["pid"] not in own)]

    def dumps(self) -> str:
        """As JSON in one line."""
        return _dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> TestDetails:
        """Read what dumps() wrote."""
        return cls(**_loads(text))


@dataclass(slots=True)
class Entry:
    """One attempt of one test, as far as its phases have been reported.

    ``file`` is relative as in node ids, ``line`` counts from 1.
    """

    nodeid: str
    file: str = ""
    line: int | None = None
    outcome: str = "passed"
    details: TestDetails = field(default_factory=TestDetails)

    def add(self, phase: str, outcome: str, details: TestDetails | None) -> None:
        """Another phase was reported; the worst outcome stays, the latest details count."""
        if OUTCOMES.index(outcome) > OUTCOMES.index(self.outcome):
            self.outcome = outcome
        if details is not None:
            self.details = details
        elif outcome in _FAILED:
            self.details.phase = phase

    @property
    def failed(self) -> bool:
        """Whether the test failed in the end."""
        return self.outcome in _FAILED

    @property
    def told(self) -> bool:
        """Whether run.json lists it."""
        measured = self.details.measured or self.details.budgets
        return self.failed or self.outcome == "rerun" or bool(measured)

    def as_json(self, folder: str) -> dict[str, Any]:
        """One of the ``tests`` in a run.json in this folder."""
        fields = asdict(self.details)
        home = fields.pop("folder")
        del fields["environment"]
        # Workers without pytest's temporary folder have one each.
        fields["maps"] = [
            os.path.relpath(os.path.join(home, path), folder) for path in fields["maps"]
        ]
        for numbers in (*fields["measured"], *fields["dumped"]):
            del numbers["page_size"], numbers["sources"]
        place = {"file": self.file, "line": self.line}
        return {"nodeid": self.nodeid, **place, "outcome": self.outcome, **fields}


class Run:
    """All of one session.

    ``baseline`` is the name of a file, ``""`` where there is none; ``workers`` are those of
    pytest-xdist, 0 without.
    """

    def __init__(self, versions: dict[str, str]) -> None:
        self.baseline = ""
        self.workers = 0
        self._versions = versions
        self._entries: dict[tuple[str, int, str], Entry] = {}

    def add(self, nodeid: str, phase: str, outcome: str, details: TestDetails | None,
            attempt: int = 1, worker: str = "",
            location: tuple[str, int | None, str] = ("", None, "")) -> None:  # fmt: skip
        """A phase of a test was reported; ``attempt`` and ``worker`` where details say none.

        ``location`` is pytest's: file, line from 0, and name.
        """
        if details is not None:
            attempt, worker = details.attempt, details.worker
        key = (nodeid, attempt, worker)
        if key not in self._entries:
            nothing = TestDetails(attempt=attempt, worker=worker)
            file, line, _ = location
            line = None if line is None else line + 1
            self._entries[key] = Entry(nodeid, file.replace(os.sep, "/"), line, details=nothing)
        self._entries[key].add(phase, outcome, details)

    @property
    def entries(self) -> list[Entry]:
        """The tests that are told of, in the order in which they were first reported."""
        return [entry for entry in self._entries.values() if entry.told]

    @property
    def all_entries(self) -> list[Entry]:
        """All tests, in the order in which they were first reported."""
        return list(self._entries.values())

    def dumps(self, folder: str, exit_status: int) -> str:
        """The text of a run.json in this folder."""
        return _dumps(
            {
                "format": FORMAT,
                "version": VERSION,
                "session": {**self._session(), "exit_status": exit_status},
                "tests": [entry.as_json(folder) for entry in self.entries],
            },
            indent=1,
        )

    def _session(self) -> dict[str, Any]:
        keys = (entry.details.environment for entry in self._entries.values())
        seen = {source: None for m in self._measured() for source in m["sources"]}
        return {
            "python": platform.python_version(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "page_size": next((m["page_size"] for m in self._measured()), resource.getpagesize()),
            "sources": list(seen),
            **self._versions,
            "environment": next((key for key in keys if key), ""),
            "baseline": self.baseline,
            "workers": self.workers,
        }

    def _measured(self) -> Iterator[dict[str, Any]]:
        for entry in self.entries:
            yield from entry.details.seen

    # ---- for people

    def headlines(self, kinds: Iterable[str]) -> list[tuple[str, str]]:
        """Pairs of node id and headline of what failed for its footprint."""
        wanted = tuple(kinds)
        return [
            (entry.nodeid, headline)
            for entry in self.entries
            for _, kind, headline in entry.details.failures
            if entry.failed and kind in wanted
        ]

    def problems(self) -> list[tuple[str, str]]:
        """Pairs of node id and what went wrong in reporting on it."""
        return [(e.nodeid, problem) for e in self.entries for problem in e.details.problems]
