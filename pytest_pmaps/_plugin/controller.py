"""Collects what all tests report, writes run.json, and sums up: once a session."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ..procfs import getpid
from .collected import OUTPUT

if TYPE_CHECKING:
    from ..report.run import Run
    from . import recording
    from .collected import Collected
    from .session import Session
    from .told import Reports

__all__ = ["Controller"]


class Controller:
    """Registered in the session's own process only, not in workers of pytest-xdist."""

    def __init__(
        self, config: pytest.Config, session: Session, reports: Reports, collected: Collected
    ) -> None:
        self.config = config
        self.session = session
        self.problems: list[str] = []
        self._reports = reports
        self._run: Run | None = None
        self._collected = collected
        #: Tests that were reported, and those of them that did not just pass.
        self._reported: set[str] = set()
        self._excused: set[str] = set()
        #: Workers of which it is not known whether they ran all that they found.
        self._workers = 0
        self._interrupted = False
        self._unwritten = ""
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
        self._workers += 1
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
        output = getattr(node, "workeroutput", {})
        path = output.get("pmaps_report_dir")
        if path:
            self.session.directory.tell(path)
        self._workers -= bool(output.get(OUTPUT))

    # ---- what ran

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test was reported, perhaps one that asks for nothing."""
        self._reported.add(report.nodeid)
        if report.outcome != "passed" or hasattr(report, "wasxfail"):
            self._excused.add(report.nodeid)

    def pytest_keyboard_interrupt(self) -> None:
        """Ctrl-C, or pytest.exit() with whatever exit status."""
        self._interrupted = True

    # ---- the end

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write run.json, if there is anything to say or it was asked for, and the baseline."""
        if self._is_fork or self.config.getoption("collectonly"):
            return
        self._write_baseline(session)
        self._write_run(int(session.exitstatus))

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
                judged=self._judged if self._ran_all(session) else None,
            )
        except (OSError, FormatError) as exc:
            self._unwritten = f"the baseline could not be written: {exc}"
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _ran_all(self, session: pytest.Session) -> bool:
        """Whether every test of the project ran, and this is sure."""
        config = self.config
        chosen = config.args_source is pytest.Config.ArgsSource.ARGS
        chosen |= config.invocation_params.dir != config.rootpath
        # --lf leaves tests out before they are collected, and nobody is told.
        chosen |= bool(config.getoption("lf", False))
        stopped = bool(session.shouldstop or session.shouldfail or self._interrupted)
        passed = session.exitstatus == pytest.ExitCode.OK and not session.testsfailed
        found = self._collected.all and not self._workers
        # As pytest.exit(returncode=0) in a worker.
        all_came = len(self._reported) >= session.testscollected
        return passed and found and all_came and not (chosen or stopped)

    def _judged(self, nodeid: str) -> bool:
        """Whether a test, or another one, would have asked for what is recorded of it: not if it
        was skipped here, and nobody knows where its file was not collected (--ignore, testpaths).
        """
        file = nodeid.partition("::")[0]
        if nodeid in self._excused:
            return False
        return file in self._files or not (self.config.rootpath / file).exists()

    @functools.cached_property
    def _files(self) -> set[str]:
        return {nodeid.partition("::")[0] for nodeid in self._reported}

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

    def pytest_unconfigure(self) -> None:
        """Say last, and however quiet pytest is, that a baseline is not what it should be."""
        if self._unwritten and not self._is_fork:
            sys.stderr.write(f"ERROR: {self._unwritten}\n")

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
