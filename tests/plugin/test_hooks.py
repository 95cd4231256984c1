"""Hooks with which other plugins add to the report."""

from __future__ import annotations

import pytest
from plugin.shared import Run

FAILS = "def test_it(pmaps_snapshot):\n    pmaps_snapshot()\n    assert 0"


def test_targets(run: Run, pytester: pytest.Pytester) -> None:
    """More processes, with and without a label; one that is gone is named."""
    pytester.makeconftest(
        """
import os, subprocess
gone = subprocess.Popen(["true"])
gone.wait()
def pytest_pmaps_targets(item):
    assert item.name == "test_it"
    return [("the parent", os.getppid()), gone, os.getppid()]
"""
    )
    result = run(FAILS)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"process \d+ \(.*\), now: rss .*",
            r"the parent: process \d+ \(.*\), now: rss .*",
            r"process \d+: the Popen \(pid \d+\) has exited and been waited for",
            r"process \d+ \(.*\), now: rss .*",
        ]
    )


def test_classify(run: Run, pytester: pytest.Pytester) -> None:
    """Mappings of one class share a row."""
    pytester.makeconftest(
        """
def pytest_pmaps_classify(mapping):
    return "(all memory without a file)" if not mapping.path.startswith("/") else None
"""
    )
    result = run(
        """
def test_it(pmaps_snapshot):
    pmaps_snapshot()
    test_it.kept = bytearray(b"x" * (4 << 20))
    foo.foo_write(3)
    pmaps_snapshot()
    assert 0
"""
    )
    result.stdout.re_match_lines(
        [r"\(all memory without a file\) +4.*", r"libfoo\.so\.1 +4 KiB .*"]
    )
    result.stdout.no_re_match_line(r"\[heap\] .*")


def test_sections(run: Run, pytester: pytest.Pytester) -> None:
    """Sections of one's own, made from the report's snapshots."""
    pytester.makeconftest(
        """
def pytest_pmaps_report_sections(item, report, snapshots):
    times = [s.columns.captured_ns for s in snapshots]
    assert times == sorted(times)
    return [("mine", f"{item.name} {report.when} {len(snapshots)}")]
"""
    )
    run(FAILS, "--show-capture=no").stdout.fnmatch_lines(["*- mine -*", "test_it call 2"])


@pytest.mark.parametrize(
    "hook",
    ["targets(item)", "classify(mapping)", "report_sections(item, report, snapshots)"],
)
def test_hooks_that_fail(run: Run, pytester: pytest.Pytester, hook: str) -> None:
    """Whatever a hook raises is one line; the test's failure and our section stay."""
    pytester.makeconftest(f"def pytest_pmaps_{hook}: raise ZeroDivisionError('on purpose')")
    result = run(FAILS)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E*assert 0", "*ZeroDivisionError: on purpose*", "*now: rss *"]
        if hook.startswith(("targets", "classify"))
        else ["E*assert 0", "*now: rss *", "*ZeroDivisionError: on purpose*"]
    )
