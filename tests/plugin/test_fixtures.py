"""The fixtures: where they work, and where they skip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from plugin.shared import Run


def test_every_scope(run: Run) -> None:
    """Fixtures of every scope and @given can use them."""
    result = run(
        """
from hypothesis import given, settings, strategies as st

@pytest.fixture(scope="session")
def of_session(pmaps_snapshot): return pmaps_snapshot()
@pytest.fixture(scope="module")
def of_module(pmaps): return pmaps.snapshot()
@pytest.fixture(scope="class")
def of_class(pmaps): return pmaps.snapshot()
@pytest.fixture
def of_test(pmaps): return pmaps.snapshot()

class TestIt:
    def test_it(self, of_session, of_module, of_class, of_test):
        delta = of_test - of_session
        assert delta.rss >= "-1 GiB"

@settings(deadline=None)
@given(st.integers())
def test_given(pmaps, number):
    assert pmaps.snapshot().rss > 0
"""
    )
    result.assert_outcomes(passed=2)


def test_a_run_is_in_the_report(run: Run) -> None:
    """What it captured of its program is kept; the program is gone, which is said."""
    result = run(
        """
def test_it(pmaps):
    result = pmaps.run(["sleep", "0"])
    assert result.at["exit"].anonymous == 0

def test_timeout(pmaps):
    pmaps.run(["sleep", "30"], timeout=0.2)
"""
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["*process * (sleep) since the test's first snapshot:*", "*TimeoutExpired*"]
    )
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_facade(run: Run) -> None:
    """``pmaps`` has the library's functions; what it loads and saves is the same."""
    result = run(
        """
def test_it(pmaps, tmp_path):
    before = pmaps.snapshot()
    pmaps.save(before, tmp_path / "m.json")
    again = pmaps.load(tmp_path / "m.json")
    assert pmaps.diff(again, before).new.dirty == 0
    pmaps.assert_no_dirty(before["libfoo.text"])
    pmaps.assert_at_most(before["libfoo"], "1 MiB", "rss")
    pmaps.assert_not_mapped(before, "libnotthere")
    pmaps.assert_unchanged(before["libfoo"], since=again)
    try:
        with pmaps.written(select="libfoo") as w:
            pass
        assert w["libfoo.text"].written == 0
    except pytest_pmaps.Unsupported:
        pass
    with pmaps.touched() as t:
        pass
    assert t.touched.bounds[1] > 0
    with subprocess.Popen(["sleep", "9"]) as child:
        assert pmaps.snapshot(child).pid == child.pid
        child.kill()
"""
    )
    result.assert_outcomes(passed=1)


def test_groups_are_kept_for_the_report(run: Run) -> None:
    """Each member, as if it had been captured by itself."""
    result = run(
        """
def test_it(pmaps):
    with subprocess.Popen(["sleep", "9"]) as child:
        workers = pmaps.group([child, None])
        child.kill()
    gone = pmaps.group([child, None], missing="skip")
    assert [m.over for m in gone.missing] == [True]
    assert workers.unique_rss <= "1 page"
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * assert 2 processes: unique_rss*, allowed <= 1 page",
            "process * (sleep), at the test's last snapshot: *",
            "process * (python*), now: *",
        ]
    )


def test_first_snapshot_is_warm(run: Run) -> None:
    """Loading the engine is not charged to the first test that measures."""
    result = run(
        """
def test_it(pmaps_snapshot):
    before = pmaps_snapshot()
    after = pmaps_snapshot()
    assert len(after.mappings) == len(before.mappings)
    assert (after - before).new.dirty <= "32 KiB"
"""
    )
    result.assert_outcomes(passed=1)


def test_wide_fixtures_are_told_only_to_their_users(run: Run) -> None:
    """A failing test shows what its own fixtures captured, not what others' did."""
    result = run(
        """
@pytest.fixture(scope="module")
def early(pmaps_snapshot): return pmaps_snapshot()

def test_uses(early):
    foo.foo_write(3)
    assert 0, "uses"
def test_does_not():
    assert 0, "does not"
"""
    )
    result.assert_outcomes(failed=2)
    sections = [line for line in result.stdout.lines if "- pmaps -" in line]
    assert len(sections) == 1
    result.stdout.re_match_lines(
        [".*AssertionError: uses", r"libfoo\.so\.1 +4 KiB.*", ".*AssertionError: does not"]
    )


def test_wide_fixture_in_teardown(run: Run, folder: Path) -> None:
    """What a module's fixture captures at its end is its own, too: nobody's snapshot is lost."""
    result = run(
        """
@pytest.fixture(scope="module")
def whole(pmaps_snapshot):
    before = pmaps_snapshot()
    yield
    assert_no_dirty(pmaps_snapshot()["libfoo.data"], since=before)

def test_one(whole): pass
def test_two(whole): foo.foo_write(3)
"""
    )
    # The test during whose teardown it happened captured nothing itself.
    (told,) = json.loads((folder / "run.json").read_text())["tests"]
    assert (told["outcome"], told["measured"]) == ("error", [])
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.re_match_lines(
        [
            r"E.*FootprintError: libfoo\.so\.1 data: 1 new dirty page.*",
            r"process .* since the test's first snapshot:",
            r"libfoo\.so\.1 +4 KiB .*",
        ]
    )


def test_at_most_two_snapshots_are_kept(run: Run) -> None:
    """However many a test takes, the first and the last are kept of each process."""
    result = run(
        """
import gc, weakref
def test_it(pmaps_snapshot):
    taken = [weakref.ref(pmaps_snapshot()) for _ in range(5)]
    gc.collect()
    assert [ref() is not None for ref in taken] == [True, False, False, False, True]
    test_it.taken = taken
def test_after():
    gc.collect()
    assert not any(ref() for ref in test_it.taken)
"""
    )
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("fixture", ["pmaps", "pmaps_snapshot"])
def test_unsupported_skips_with_the_reason(
    run: Run, pytester: pytest.Pytester, fixture: str
) -> None:
    """On another system tests are collected, and skipped for what the system lacks."""
    pytester.makeconftest(
        """
import pytest
from pytest_pmaps import _native
from pytest_pmaps.errors import Unsupported

def unsupported():
    raise Unsupported("pytest-pmaps reads Linux's /proc, and this is Plan9")

@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart():
    _native.require_engine = unsupported
"""
    )
    result = run(f"def test_it({fixture}): assert 0\ndef test_other(): pass", "-rs")
    result.assert_outcomes(skipped=1, passed=1)
    result.stdout.fnmatch_lines(["SKIPPED*reads Linux's /proc, and this is Plan9"])


def test_report_where_unsupported(run: Run, pytester: pytest.Pytester) -> None:
    """--pmaps-report there: failures stay what they are, and one line says why nothing shows."""
    pytester.makeconftest(
        """
import pytest
from pytest_pmaps import _native
from pytest_pmaps.errors import Unsupported

def unsupported():
    raise Unsupported("no page maps on Plan9")
_native.require_engine = unsupported
"""
    )
    result = run("def test_it(): assert 0, 'mine'", "--pmaps-report")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*mine*", "this process: no page maps on Plan9"])


def test_loads_nothing_heavy() -> None:
    """Importing the plugin loads neither engine, nor cffi, nor hypothesis."""
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import pytest_pmaps.plugin"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    names = {line.rpartition("|")[2].strip() for line in imported.splitlines()}
    assert "pytest_pmaps.plugin" in names
    heavy = ("_engine", "_native", "cffi", "hypothesis", "pytest_pmaps.report")
    assert not [name for name in names if any(word in name for word in heavy)]


def test_unused_it_stays_unloaded(run: Run, pytester: pytest.Pytester) -> None:
    """A whole session that does not use it, failing tests included, loads no engine."""
    pytester.makeconftest(
        """
import sys
def pytest_unconfigure():
    heavy = ("pytest_pmaps._", "pytest_pmaps.report", "_cffi_backend", "pytest_pmaps.counts")
    found = [m for m in sys.modules if m.startswith(heavy) and "_plugin" not in m]
    print("LOADED", sorted(found))
"""
    )
    pytester.makepyfile(test_plain="def test_ok(): pass\ndef test_bad(): assert 1 == 2")
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", "-s")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["LOADED [[]*"])
    assert "LOADED []" in result.outlines
