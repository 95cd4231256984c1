"""The section at the end of pytest's output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..report.run import Run
    from .recording import Outcome
    from .session import Session

__all__ = ["write"]

_ROWS_SHOWN = (10, 100)
_UNUSED_SHOWN = 5


def write(
    reporter: pytest.TerminalReporter,
    run: Run,
    session: Session,
    troubles: list[str],
    recorded: Outcome | None,
) -> None:
    """Headlines of footprint failures always; with --pmaps-report also what was measured.

    ``-q`` leaves out the tables, ``-qq`` everything.
    """
    config, full = session.config, session.settings.report
    verbosity = config.get_verbosity()
    headlines = run.headlines(("footprint", "undetermined") if full else ("footprint",))
    tables = _tables(run, config, verbosity) if full and verbosity >= 0 else []
    problems = [*run.problems(), *(("", trouble) for trouble in troubles)]
    notes = [] if recorded is None else list(_recorded(recorded, session, verbosity))
    if verbosity <= -2 or config.getoption("no_summary", False):
        return
    if not (tables or headlines or problems or notes):
        return
    reporter.section("page maps")
    for line in tables:
        reporter.write_line(line)
    if tables and (headlines or problems or notes):
        reporter.write_line("")
    for nodeid, headline in headlines:
        reporter.write_line(nodeid)
        reporter.write_line(f"  {headline}", red=True)
    for nodeid, text in problems:
        reporter.write_line(f"{nodeid}: {text}" if nodeid else text, yellow=True)
    for line in notes:
        reporter.write_line(line)
    if session.directory.known and not troubles:
        reporter.write_line(f"run.json and maps: {session.directory.known}")


def _recorded(recorded: Outcome, session: Session, verbosity: int) -> Iterator[str]:
    """What became of the baseline."""
    path = session.settings.baseline
    if recorded.added or recorded.changed:
        yield f"{path}: {recorded.added} recorded, {recorded.changed} changed; commit it"
    if not recorded.unused:
        return
    limit = len(recorded.unused) if verbosity > 0 else _UNUSED_SHOWN
    yield f"{path}: {len(recorded.unused)} entries that no test asked for; remove their lines:"
    yield from (f"  {nodeid}: {subject}" for nodeid, subject in recorded.unused[:limit])
    if len(recorded.unused) > limit:
        yield f"  … {len(recorded.unused) - limit} more (-v shows all)"


def _tables(run: Run, config: pytest.Config, verbosity: int) -> list[str]:
    """What grew most and what holds most, by test and by file; [] where nothing was measured."""
    if not any(entry.details.seen for entry in run.entries):
        return []
    from ..report import blocks, runfile, summary

    writer = config.get_terminal_writer()
    told = summary.measured(runfile.loads(run.dumps("", 0)))
    lines = blocks.text_lines(
        [],
        told,
        lambda text, colour: writer.markup(text, **{colour: True}) if colour else text,
        writer.fullwidth,
        _ROWS_SHOWN[verbosity] if verbosity < len(_ROWS_SHOWN) else 0,
        "-v shows more, run.json all",
    )
    return list(lines)[1:]
