"""The section at the end of pytest's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..report.run import Run
    from .session import Session

__all__ = ["write"]

_ROWS_SHOWN = (20, 200)


def write(reporter: pytest.TerminalReporter, run: Run, session: Session, problem: str) -> None:
    """Headlines of footprint failures always; with --pmaps-report also what was measured.

    ``-q`` leaves out the table, ``-qq`` everything.
    """
    config, full = session.config, session.settings.report
    verbosity = config.get_verbosity()
    headlines = run.headlines(("footprint", "undetermined") if full else ("footprint",))
    table = _table(run, config, verbosity) if full and verbosity >= 0 else []
    problems = [*run.problems(), *([("", problem)] if problem else [])]
    if verbosity <= -2 or config.getoption("no_summary", False):
        return
    if not (table or headlines or problems):
        return
    reporter.section("page maps")
    for line in table:
        reporter.write_line(line)
    for nodeid, headline in headlines:
        reporter.write_line(nodeid)
        reporter.write_line(f"  {headline}", red=True)
    for nodeid, text in problems:
        reporter.write_line(f"{nodeid}: {text}" if nodeid else text, yellow=True)
    if session.directory.known and not problem:
        reporter.write_line(f"run.json and maps: {session.directory.known}")


def _table(run: Run, config: pytest.Config, verbosity: int) -> list[str]:
    width = config.get_terminal_writer().fullwidth
    return run.table(width, _ROWS_SHOWN[verbosity] if verbosity < len(_ROWS_SHOWN) else None)
