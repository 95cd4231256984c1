"""What was not seen neither passes nor fails; it can be made a skip, wherever it arises."""

from __future__ import annotations

import pytest
from plugin.shared import Run, needs_subtests

SKIP = "--pmaps-undetermined=skip"


def test_error_says_what_is_missing(run: Run) -> None:
    """An Undetermined of its own, not an assertion that failed."""
    result = run('def test_it(): assert loads(UNKNOWN)["libbar"].dirty == 0', "-rf")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"E .*Undetermined: libbar\.so\.1: dirty is 0\.\.2 pages.*"])
    result.stdout.no_fnmatch_line("*FootprintError*")


def test_skips_wherever_it_arises(run: Run) -> None:
    """In tests, fixtures, unittest, @given, assertions: skipped with the reason."""
    result = run(
        """
import unittest
from hypothesis import given, settings, strategies as st

def unknown():
    assert loads(UNKNOWN)["libbar"].dirty == 0

def test_plain(): unknown()
def test_assertion(): assert_no_dirty(loads(UNKNOWN)["libbar"])
@pytest.fixture
def broken(): unknown()
def test_fixture(broken): pass
@pytest.fixture(scope="module")
def wide(): unknown()
def test_wide(wide): pass
class TestCase(unittest.TestCase):
    def test_method(self): unknown()
@settings(deadline=None)
@given(st.integers())
def test_given(number): unknown()
""",
        SKIP,
        "-rs",
    )
    result.assert_outcomes(skipped=6)
    result.stdout.fnmatch_lines(["SKIPPED*dirty is 0..2 pages*"])


@needs_subtests
def test_skips_in_subtests(run: Run) -> None:
    """A subtest skips alone."""
    result = run(
        """
def test_it(subtests):
    for text in (UNKNOWN, UNKNOWN.replace("??????", "Y____")):
        with subtests.test(): assert loads(UNKNOWN)["libbar"].dirty == 0
    with subtests.test(): pass
""",
        SKIP,
        "-v",
    )
    result.stdout.fnmatch_lines(["*SUBSKIPPED*", "*SUBSKIPPED*", "*SUBPASSED*"])
    assert result.ret == 0


def test_skip_is_no_falsifying_example(run: Run) -> None:
    """Hypothesis lets the skip through and shows no example."""
    result = run(
        """
from hypothesis import given, settings, strategies as st
@settings(deadline=None)
@given(st.integers())
def test_given(number): assert loads(UNKNOWN)["libbar"].dirty == 0
""",
        SKIP,
    )
    result.assert_outcomes(skipped=1)
    result.stdout.no_fnmatch_line("*Falsifying*")


def test_footprint_failures_are_not_skipped(run: Run) -> None:
    """Skip concerns only what is undetermined."""
    result = run(
        "def test_it(): assert_not_mapped(loads(UNKNOWN), 'libbar')\n"
        "def test_undetermined(): assert_no_dirty(loads(UNKNOWN)['libbar'])",
        SKIP,
    )
    result.assert_outcomes(failed=1, skipped=1)


def test_xfail(run: Run) -> None:
    """Plain xfail takes any exception for the expected failure; with raises= it does not."""
    result = run(
        """
@pytest.mark.xfail
def test_plain(): assert loads(UNKNOWN)["libbar"].dirty == 0
@pytest.mark.xfail(raises=FootprintError)
def test_narrow(): assert loads(UNKNOWN)["libbar"].dirty == 0
@pytest.mark.xfail(raises=AssertionError)
def test_wider(): assert loads(UNKNOWN)["libbar"].dirty == 0
"""
    )
    result.assert_outcomes(xfailed=1, failed=2)


def test_policy_ends_with_the_test(run: Run, pytester: pytest.Pytester) -> None:
    """One test's marker leaks neither into the next nor into what runs between tests."""
    pytester.makeconftest(
        """
from pytest_pmaps.errors import undetermined_policy
def pytest_runtest_logreport(report):
    print("BETWEEN", undetermined_policy.get())
"""
    )
    result = run(
        """
@pytest.mark.pmaps_undetermined("skip")
def test_skips(): assert loads(UNKNOWN)["libbar"].dirty == 0
def test_fails(): assert loads(UNKNOWN)["libbar"].dirty == 0
""",
        "-s",
    )
    result.assert_outcomes(skipped=1, failed=1)
    result.stdout.fnmatch_lines(["*BETWEEN None"])
    result.stdout.no_fnmatch_line("*BETWEEN <*")


def test_skip_points_at_the_test(run: Run) -> None:
    """The skip's place is the test's line, not one of ours."""
    result = run('def test_it(): assert loads(UNKNOWN)["libbar"].dirty == 0', SKIP, "-rs")
    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] test_it.py:*: libbar.so.1: dirty *"])
