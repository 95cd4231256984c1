"""Tests that fork, and runners that do: the report stays the parent's, and nobody hangs."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from plugin.shared import Run

from pytest_pmaps import load

FORKED = """
import os

import pytest
from _pytest.runner import runtestprotocol


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    '''Each test in a child of its own, as pytest-forked does it.'''
    reads, writes = os.pipe()
    hook, config = item.ihook, item.config
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    pid = os.fork()
    if not pid:
        os.close(reads)
        reports = runtestprotocol(item, log=False)
        import json

        told = [hook.pytest_report_to_serializable(config=config, report=r) for r in reports]
        with open(writes, "w") as file:
            json.dump(told, file)
        os._exit(0)
    import json

    os.close(writes)
    with open(reads) as file:
        told = json.load(file)
    os.waitpid(pid, 0)
    for data in told:
        report = hook.pytest_report_from_serializable(config=config, data=data)
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""


def told(folder: Path) -> dict:
    """run.json."""
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_a_child_that_ends(run: Run, folder: Path, workers: list[str]) -> None:
    """What it captured is its own; what the parent did is told as if there had been none."""
    result = run(
        textwrap.dedent("""
        import os

        def test_forks(pmaps_snapshot):
            before = pmaps_snapshot()
            pid = os.fork()
            if not pid:
                try:
                    mine = pmaps_snapshot()
                    assert mine.pid == os.getpid() != before.pid
                    assert (mine.rss > 0) and before.rss > 0  # inherited, and to be read
                    pmaps_snapshot(os.getppid())
                finally:
                    os._exit(7 if mine.pid == os.getpid() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            after = pmaps_snapshot()
            assert after.pid == before.pid
        """),
        "--pmaps-report",
        *workers,
    )
    result.assert_outcomes(passed=1)
    [test] = told(folder)["tests"]
    assert [len(test["measured"]), test["outcome"]] == [1, "passed"]


def test_a_child_that_comes_out_of_its_test(run: Run, folder: Path) -> None:
    """It goes on as if it were pytest, to the end of the session: it writes no report."""
    result = run(
        textwrap.dedent(f"""
        import os, pathlib

        RUN = pathlib.Path({str(folder / "run.json")!r})
        PID = os.getpid()

        def test_forks(pmaps_snapshot):
            pmaps_snapshot()
            pid = os.fork()
            if not pid:
                raise AssertionError("the child's own failure")
            os.waitpid(pid, 0)
            assert not RUN.exists()

        def test_after(pmaps_snapshot):
            assert pmaps_snapshot().pid == os.getpid()
            assert os.getpid() == PID
        """),
        "--pmaps-report",
        "-p",
        "no:cacheprovider",
    )
    assert result.ret == 0
    outcomes = [t["outcome"] for t in told(folder)["tests"]]
    assert outcomes == ["passed", "passed"]


def test_each_test_in_a_child(run: Run, folder: Path, pytester: pytest.Pytester) -> None:
    """As pytest-forked runs them: what a child saw arrives with its reports."""
    pytester.makeconftest(FORKED)
    result = run(
        textwrap.dedent("""
        def test_clean(pmaps_snapshot):
            pmaps_snapshot()

        def test_dirty(pmaps_snapshot):
            before = pmaps_snapshot()
            foo.foo_write(3)
            assert_no_dirty(pmaps_snapshot()["libfoo.data"], since=before)
        """),
    )
    result.assert_outcomes(passed=1, failed=1)
    tests = {t["nodeid"].rpartition("::")[2]: t for t in told(folder)["tests"]}
    assert tests["test_clean"]["outcome"] == "passed"
    failed = tests["test_dirty"]
    assert failed["headline"].startswith("libfoo.so.1 data: 1 ")
    assert failed["maps"]
    assert all("libfoo" in load(folder / path) for path in failed["maps"])
    result.stdout.fnmatch_lines(["*libfoo.so.1 data: * dirty page*"])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing(run: Run, folder: Path, method: str) -> None:
    """They run no pytest; they are captured, and do not hang."""
    result = run(
        textwrap.dedent(f"""
        import multiprocessing, os

        def work(n):
            from pytest_pmaps import snapshot
            return snapshot(depth="totals").pid, os.getpid()

        def test_pool(pmaps_snapshot):
            pmaps_snapshot()
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                for seen, real in pool.map(work, range(6)):
                    assert seen == real != os.getpid()
                for child in multiprocessing.active_children():
                    assert pmaps_snapshot(child).pid == child.pid
        """),
        "--pmaps-report",
    )
    result.assert_outcomes(passed=1)
    [test] = told(folder)["tests"]
    assert len(test["measured"]) == 3
