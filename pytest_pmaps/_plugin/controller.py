"""Collects what all tests report, writes run.json, and sums up: once a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ..procfs import getpid

if TYPE_CHECKING:
    from ..report.run import Run
    from . import recording
    from .session import Session
    from .told import Reports

__all__ = ["Controller"]


class Controller:
    """Registered in the session's own process only, not in workers of pytest-xdist."""

    def __init__(self, config: pytest.Config, session: Session, reports: Reports) -> None:
        self.config = config
        self.session = session
        self.problems: list[str] = []
        self._reports = reports
        self._run: Run | None = None
        self._deselected = False
        self._recording: recording.Outcome | None = None

    @property
    def run(self) -> Run:
        """What was reported so far."""
        from ..report.run import Run, TestDetails

        if self._run is None:
            self._run = Run({"pytest": pytest.__version__, "pytest_pmaps": _version()})
        while self._reports.told:
            told = self._reports.told.pop(0)
            found = None if told.text is None else TestDetails.loads(str(told.text))
            if found is not None and found.folder:
                self.session.directory.tell(found.folder)
            self._run.add(told.nodeid, told.when, told.outcome, found,
                          attempt=told.attempt, worker=told.worker,
                          location=told.location)  # fmt: skip
        self._run.workers = self._reports.workers
        self._run.baseline = baseline.name if (baseline := self.session.settings.baseline) else ""
        return self._run

    @property
    def _is_fork(self) -> bool:
        """Whether a test forked, and this is the child, which came out of the test: the session is
        not its own, and so the report is not.
        """
        return getpid() != self._reports.owner

    # ---- pytest-xdist

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where its maps go; it may start in another folder."""
        settings = self.session.settings
        for name, path in (
            ("pmaps_report_dir", settings.report_dir),
            ("pmaps_baseline", settings.baseline),
        ):
            if path is not None:
                node.workerinput[name] = str(path)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Learn where a worker's maps went; one that crashed does not say."""
        path = getattr(node, "workeroutput", {}).get("pmaps_report_dir")
        if path:
            self.session.directory.tell(path)

    def pytest_deselected(self) -> None:
        """Not all tests run: -k, -m, --lf, ..."""
        self._deselected = True

    # ---- the end

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write run.json, if there is anything to say or it was asked for, and the baseline."""
        if self._is_fork or self.config.getoption("collectonly"):
            return
        self._write_baseline(session)
        self._write_run(exitstatus)

    def _write_baseline(self, session: pytest.Session) -> None:
        settings = self.session.settings
        if settings.baseline is None or not self._reports.told:
            return
        from ..errors import FormatError
        from . import recording

        try:
            self._recording = recording.record(
                settings.baseline,
                self.run.all_entries,
                update=settings.update,
                whole=self._ran_all(session),
            )
        except (OSError, FormatError) as exc:
            self.problems.append(f"the baseline could not be written: {exc}")

    def _ran_all(self, session: pytest.Session) -> bool:
        """Whether every test of the project ran, as far as can be told."""
        chosen = self.config.args_source is pytest.Config.ArgsSource.ARGS
        # --lf leaves tests out before they are collected, and nobody is told.
        chosen |= bool(self.config.getoption("lf", False))
        stopped = bool(session.shouldstop or session.shouldfail or session.testsfailed)
        return not (self._deselected or chosen or stopped)

    def _write_run(self, exitstatus: int) -> None:
        settings = self.session.settings
        asked = settings.report or settings.report_dir is not None
        # Of what was reported, the baseline may have taken note already.
        if not (asked or self._reports.told or self._run is not None):
            return
        if not asked and not any(e.details.seen or e.details.budgets for e in self.run.entries):
            return
        from ..replacing import write_atomically

        try:
            folder = self.session.directory.made()
            write_atomically(folder / "run.json", self.run.dumps(str(folder), int(exitstatus)))
        except OSError as exc:
            self.problems.append(f"run.json could not be written: {exc}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was measured and what failed."""
        if not self._is_fork and (self._run is not None or self._reports.told):
            from . import terminal

            terminal.write(terminalreporter, self.run, self.session, self.problems, self._recording)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pytest-pmaps")
    except PackageNotFoundError:  # run from its source tree
        return ""
