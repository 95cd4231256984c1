"""What is told of tests, here and by workers of pytest-xdist."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

__all__ = ["RECORD", "Reports", "Told"]

#: The property of a report with which a watched test tells what it measured, as JSON.
RECORD = "pmaps_record"


class Told(NamedTuple):
    """A report, as far as it is of interest; ``text`` is its record."""

    nodeid: str
    when: str
    outcome: str
    text: object
    attempt: int
    worker: str
    location: tuple[str, int | None, str]


class Reports:
    """Reports of tests, from the first that is of interest on.

    Registered in the session's own process only, ``owner``, and not in workers.
    ``need`` is called when a record arrives: where it does, nobody may have asked for anything.
    """

    def __init__(self, owner: int, need: Callable[[], object]) -> None:
        self.owner = owner
        self.workers = 0
        self.told: list[Told] = []
        self._need = need

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test was reported."""
        if report.user_properties or self.told or report.outcome == "failed":
            self._look(report)

    def _look(self, report: pytest.TestReport) -> None:
        text = dict(report.user_properties).get(RECORD)
        if text is not None:
            self._need()
        elif not report.failed and not self.told:
            return  # nothing has been of interest yet
        # Kept as it is: a test's patches may be in place still, and reading it needs open().
        self.told.append(
            Told(
                report.nodeid,
                report.when,
                _outcome(report),
                text,
                getattr(report, "rerun", 0) + 1,
                getattr(report, "worker_id", ""),
                report.location,
            )
        )


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail") and not report.failed:
        return "xpassed" if report.passed else "xfailed"
    if report.failed:
        # "???" is what pytest-xdist says of a test in which a worker crashed.
        return "failed" if report.when in ("call", "???") else "error"
    return report.outcome if report.outcome in ("skipped", "rerun") else "passed"
