"""Options from the command line and the ini file, and the marker."""

from __future__ import annotations

import pytest
from plugin.shared import DIRTY, Run

FAILS = "def test_plain(): assert 0"
UNKNOWN = """
def test_unknown():
    assert loads(UNKNOWN)["libbar"].dirty == 0
"""


def test_report_from_command_line(run: Run) -> None:
    """--pmaps-report dumps the process of a failing test that captured nothing."""
    result = run(FAILS, "--pmaps-report", ".")
    result.stdout.re_match_lines(
        [
            r".*- pmaps -.*",
            r"this process: process \d+ \(.*\), now: rss .*",
            r"mapping +rss +pss +dirty +swap",
            r"total .*",
        ]
    )


def test_report_from_ini(run: Run, pytester: pytest.Pytester) -> None:
    """The same from the ini file."""
    pytester.makeini("[pytest]\npmaps_report = true")
    run(FAILS).stdout.fnmatch_lines(["*- pmaps -*", "*now: rss *"])


def test_report_of_workers(run: Run) -> None:
    """The same in workers of xdist."""
    run(FAILS, "--pmaps-report", "-n2").stdout.fnmatch_lines(["*- pmaps -*", "*now: rss *"])


def test_report_off_in_ini(run: Run, pytester: pytest.Pytester) -> None:
    """The command line wins over the ini file."""
    pytester.makeini("[pytest]\npmaps_report = false")
    run(FAILS).stdout.no_fnmatch_line("*- pmaps -*")
    run(FAILS, "--pmaps-report").stdout.fnmatch_lines(["*- pmaps -*"])


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "n2"])
def test_report_dir_from_command_line(
    run: Run, pytester: pytest.Pytester, workers: list[str]
) -> None:
    """Relative to where pytest was called; made when needed."""
    run(DIRTY, "--pmaps-report-dir=deep/here", *workers)
    assert (pytester.path / "deep" / "here" / "run.json").exists()
    assert len(list((pytester.path / "deep" / "here" / "maps").glob("*.pmaps"))) == 2


def test_report_dir_from_ini(run: Run, pytester: pytest.Pytester) -> None:
    """Relative to the ini file; the command line wins."""
    pytester.makeini("[pytest]\npmaps_report_dir = from_ini")
    run(DIRTY)
    assert (pytester.path / "from_ini" / "run.json").exists()
    run(DIRTY, "--pmaps-report-dir=from_cli")
    assert (pytester.path / "from_cli" / "run.json").exists()


def test_undetermined_from_command_line(run: Run) -> None:
    """error is the default; skip makes a skip of it."""
    run(UNKNOWN).assert_outcomes(failed=1)
    run(UNKNOWN, "--pmaps-undetermined=skip").assert_outcomes(skipped=1)


def test_undetermined_from_ini(run: Run, pytester: pytest.Pytester) -> None:
    """The same from the ini file; the command line wins."""
    pytester.makeini("[pytest]\npmaps_undetermined = skip")
    run(UNKNOWN).assert_outcomes(skipped=1)
    run(UNKNOWN, "--pmaps-undetermined=error").assert_outcomes(failed=1)


def test_undetermined_marker_wins(run: Run, pytester: pytest.Pytester) -> None:
    """The marker wins over both, the nearest one over the others."""
    pytester.makeini("[pytest]\npmaps_undetermined = error")
    text = """
pytestmark = pytest.mark.pmaps_undetermined("error")
@pytest.mark.pmaps_undetermined("skip")
def test_skips():
    assert loads(UNKNOWN)["libbar"].dirty == 0
def test_fails():
    assert loads(UNKNOWN)["libbar"].dirty == 0
"""
    run(text, "--pmaps-undetermined=error").assert_outcomes(skipped=1, failed=1)
    run(text, "--pmaps-undetermined=skip").assert_outcomes(skipped=1, failed=1)


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "n2"])
def test_bad_marker(run: Run, workers: list[str]) -> None:
    """A marker that cannot be read is an error of collection, with its reason."""
    result = run('@pytest.mark.pmaps_undetermined("pass")\ndef test_it(): pass', *workers)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*test_it.py::test_it: pmaps_undetermined takes 'error' or 'skip', not ('pass')"]
    )
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_bad_marker_on_unittest(run: Run) -> None:
    """Methods of a TestCase are collected elsewhere: they fail in their setup."""
    result = run(
        """
import unittest
class TestIt(unittest.TestCase):
    @pytest.mark.pmaps_undetermined()
    def test_it(self): pass
"""
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*pmaps_undetermined takes 'error' or 'skip', not ()"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("pmaps_undetermined = maybe", "*pmaps_undetermined is error or skip, not 'maybe'"),
        ("pmaps_report = perhaps", "*pmaps_report: *perhaps*"),
        ("pmaps_report_dir = test_it.py", "*pmaps_report_dir: *test_it.py is no folder"),
    ],
)
def test_bad_ini(run: Run, pytester: pytest.Pytester, line: str, reason: str) -> None:
    """A usage error: one line, exit status 4."""
    pytester.makeini(f"[pytest]\n{line}")
    result = run(FAILS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([reason])
    result.stderr.no_fnmatch_line("Traceback*")


def test_bad_command_line(run: Run) -> None:
    """The same for options."""
    assert run(FAILS, "--pmaps-undetermined=maybe").ret == pytest.ExitCode.USAGE_ERROR
    assert run(FAILS, "--pmaps-report-dir=test_it.py").ret == pytest.ExitCode.USAGE_ERROR


def test_header_only_where_asked(run: Run, pytester: pytest.Pytester) -> None:
    """One line in the header as soon as any option or ini is set, none before."""
    run(FAILS).stdout.no_fnmatch_line("pmaps: sees *")
    run(FAILS, "--pmaps-undetermined=error").stdout.fnmatch_lines(["pmaps: sees *"])
    pytester.makeini("[pytest]\npmaps_report = false")
    run(FAILS).stdout.fnmatch_lines(["pmaps: sees *"])


def test_declared(run: Run) -> None:
    """Everything is named after the project, and the marker is declared."""
    result = run(FAILS, "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.pmaps_undetermined(*"])
    result = run(FAILS, "--help")
    result.stdout.fnmatch_lines(["page maps of processes under test:", "  --pmaps-report *"])
