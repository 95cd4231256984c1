"""A run.json to change for a test."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

KIB = 1024
MIB = 1024 * KIB

_PROCESS = {
    "pid": 4711,
    "comm": "python",
    "verdict": "complete",
    "rss": [40 * MIB, 40 * MIB],
    "pss": [38 * MIB, 38 * MIB + 100],
    "uss": [37 * MIB, 37 * MIB],
    "anonymous": [30 * MIB, 30 * MIB],
    "dirty": [31 * MIB, 31 * MIB],
    "swap": [0, 0],
    "new_dirty": [12 * KIB, 12 * KIB],
    "rss_growth": [8 * KIB, 8 * KIB],
    "mappings": [
        {
            "name": "libfoo.so.1",
            "rss": [400 * KIB, 400 * KIB],
            "dirty": [12 * KIB, 12 * KIB],
            "rss_growth": [8 * KIB, 8 * KIB],
            "new_dirty": [12 * KIB, 12 * KIB],
        }
    ],
}
_TEST = {
    "nodeid": "tests/test_foo.py::test_clean",
    "file": "tests/test_foo.py",
    "line": 7,
    "outcome": "passed",
    "attempt": 1,
    "worker": "",
    "phase": "call",
    "kind": "",
    "headline": "",
    "maps": [],
    "problems": [],
    "failures": [],
    "measured": [_PROCESS],
    "dumped": [],
    "budgets": [],
}
_SESSION = {
    "python": "3.11.2",
    "kernel": "6.12.8",
    "machine": "x86_64",
    "page_size": 4096,
    "sources": ["maps", "pagemap"],
    "pytest": "9.2.0",
    "pytest_pmaps": "0.1.0",
    "environment": "",
    "baseline": "",
    "workers": 0,
    "exit_status": 0,
}


def process(**changes: Any) -> dict[str, Any]:
    """A process that was measured."""
    return copy.deepcopy(_PROCESS) | changes


def test(**changes: Any) -> dict[str, Any]:
    """A test that passed, with one process."""
    return copy.deepcopy(_TEST) | changes


test.__test__ = False  # type: ignore[attr-defined]


def failed(headline: str, kind: str = "footprint", **changes: Any) -> dict[str, Any]:
    """A test that failed for its footprint."""
    failures = [["call", kind, headline]]
    return test(outcome="failed", kind=kind, headline=headline, failures=failures) | changes


def budget(**changes: Any) -> dict[str, Any]:
    """What came of a budget that was kept."""
    return {
        "budget": "anonymous growth <= 64 KiB",
        "origin": "marker",
        "verdict": "passed",
        "value": [8 * KIB, 8 * KIB],
        "limit": 64 * KIB,
        "unit": "bytes",
        "samples": [],
        "recorded": None,
        "spread": None,
        "note": "",
    } | changes


def write(path: Path, *tests: dict[str, Any], **session: Any) -> Path:
    """A run.json of these tests."""
    run = {
        "format": "pytest-pmaps run",
        "version": 2,
        "session": _SESSION | session,
        "tests": list(tests),
    }
    path.write_text(json.dumps(run, indent=1))
    return path
