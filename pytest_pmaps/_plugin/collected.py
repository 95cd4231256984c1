"""Notes whether all tests that were found are to run: in the session's process and in workers."""

from __future__ import annotations

import pytest

__all__ = ["OUTPUT", "Collected"]

#: Under this name a worker of pytest-xdist tells it.
OUTPUT = "pmaps_all_collected"


class Collected:
    """Counts, for not everybody who takes tests out of a run (-k, -m, a shard) says so."""

    def __init__(self) -> None:
        self.all = True
        self._found = 0

    def pytest_itemcollected(self) -> None:
        """A test was found."""
        self._found += 1

    def pytest_deselected(self) -> None:
        """Tests were taken out."""
        self.all = False

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module may skip itself, with all tests that are in it."""
        self.all &= report.passed

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """These are to run."""
        self.all &= len(session.items) >= self._found
        output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[OUTPUT] = self.all
