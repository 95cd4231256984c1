"""run.json and the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plugin.shared import DIRTY, Run

import pytest_pmaps

MIXED = (
    DIRTY
    + """
def test_passes(pmaps_snapshot): assert pmaps_snapshot().rss > 0
def test_unmeasured(): pass
@pytest.mark.pmaps_undetermined("error")
def test_undetermined(): assert loads(UNKNOWN)["libbar"].dirty == 0
"""
)


def read(folder: Path) -> dict[str, Any]:
    """The session's run.json."""
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "n2"])
def test_content(run: Run, folder: Path, workers: list[str]) -> None:
    """What was measured and what failed, in bytes, with maps that can be read."""
    run(MIXED, *workers)
    content = read(folder)
    assert (content["format"], content["version"]) == ("pytest-pmaps run", 2)
    assert content["session"]["pytest"] == pytest.__version__
    assert content["session"]["page_size"] in (4096, 16384, 65536)
    assert "pagemap" in content["session"]["sources"]
    assert content["session"]["exit_status"] == 1
    tests = {test["nodeid"].partition("::")[2]: test for test in content["tests"]}
    assert set(tests) == {"test_dirty", "test_passes", "test_undetermined"}

    dirty = tests["test_dirty"]
    assert (dirty["outcome"], dirty["phase"], dirty["attempt"]) == ("failed", "call", 1)
    assert (dirty["kind"], dirty["headline"][:11]) == ("footprint", "libfoo.so.1")
    assert (dirty["worker"] in ("gw0", "gw1")) == bool(workers)
    (measured,) = dirty["measured"]
    lo, hi = measured["new_dirty"]
    assert 4096 <= lo <= hi
    assert measured["rss"][0] > 1 << 20
    assert measured["verdict"] == "complete"
    assert len(dirty["maps"]) == 2
    assert all("libfoo" in pytest_pmaps.load(folder / path) for path in dirty["maps"])

    assert tests["test_passes"]["outcome"] == "passed"
    assert tests["test_passes"]["maps"] == []
    assert "new_dirty" not in tests["test_passes"]["measured"][0]
    # It captured nothing, and nobody asked for the dump of every failing test.
    undetermined = tests["test_undetermined"]
    assert (undetermined["outcome"], undetermined["dumped"]) == ("failed", [])


def test_none_without_need(run: Run, folder: Path) -> None:
    """Where nothing was captured and nothing asked for, nothing is written."""
    run("def test_it(): assert 0")
    assert not folder.exists()


def test_asked_for_it_is_always_there(run: Run, pytester: pytest.Pytester) -> None:
    """With --pmaps-report-dir there is one, even of nothing; none for --collect-only."""
    run("def test_it(): pass", "--pmaps-report-dir=a")
    assert read(pytester.path / "a")["tests"] == []
    run("def test_it(): pass", "--pmaps-report-dir=b", "--collect-only")
    assert not (pytester.path / "b").exists()


def test_attempts(run: Run, folder: Path) -> None:
    """Each attempt is an entry of its own."""
    run(DIRTY.replace("foo_write(3)", "foo_write(next(pages))") + "\npages = iter([3, 4])",
        "--reruns=1")  # fmt: skip
    tests = read(folder)["tests"]
    assert [(test["attempt"], test["outcome"]) for test in tests] == [(1, "rerun"), (2, "failed")]


def test_crashed_worker(run: Run, folder: Path) -> None:
    """A worker that dies takes neither the other's results nor its own earlier ones along."""
    result = run(
        DIRTY + "\ndef test_dies(pmaps_snapshot):\n    pmaps_snapshot()\n    os._exit(3)\n",
        "-n1",
        "--max-worker-restart=1",
    )
    result.stdout.fnmatch_lines(["*crashed*"])
    tests = {test["nodeid"].partition("::")[2]: test for test in read(folder)["tests"]}
    assert tests["test_dirty"]["measured"]
    assert tests["test_dies"]["outcome"] == "failed"
    assert tests["test_dies"]["measured"] == []


def test_expected_failures_and_errors(run: Run, folder: Path) -> None:
    """Outcomes are pytest's own."""
    run(
        """
@pytest.fixture
def late(pmaps_snapshot):
    yield
    assert_not_mapped(pmaps_snapshot(), "libfoo")
def test_error(late): pass
@pytest.mark.xfail
def test_xfail(pmaps_snapshot): assert pmaps_snapshot().rss == 0
@pytest.mark.xfail
def test_xpass(pmaps_snapshot): assert pmaps_snapshot().rss > 0
def test_skip(pmaps_snapshot): pmaps_snapshot(); pytest.skip()
"""
    )
    told = [
        (t["nodeid"].partition("::")[2], t["outcome"], t["phase"]) for t in read(folder)["tests"]
    ]
    assert told == [
        ("test_error", "error", "teardown"),
        ("test_xfail", "xfailed", "call"),
        ("test_xpass", "xpassed", "call"),
        ("test_skip", "skipped", "call"),
    ]


def test_summary_has_a_table(run: Run) -> None:
    """--pmaps-report ends with what was measured, then the headlines, then where it all is."""
    result = run(MIXED, "--pmaps-report", "-W", "error")
    result.stdout.re_match_lines(
        [
            r"=+ page maps =+",
            r"Most growth",
            r"test +process +most of it in +rss growth +new dirty",
            r"test_it\.py::test_dirty .* \+4 KiB",
            r"Most dirty memory",
            r"test +process +most of it in +dirty +rss",
            r"test_it\.py::test_.* \d.* MiB",
            r"Files, the most in any test",
            r"file +rss growth +new dirty +dirty",
            r"libfoo\.so\.1 .*",
            r"test_it\.py::test_dirty",
            r"  libfoo\.so\.1 data: 1 new dirty page \(4 KiB\), allowed 0",
            r"test_it\.py::test_undetermined",
            r"  libbar\.so\.1: dirty is .*",
            r"run\.json and maps: .*",
            r"=+ short test summary info =+",
        ],
        consecutive=False,
    )


def test_summary_of_workers_comes_once(run: Run) -> None:
    """Under xdist the controller alone sums up."""
    result = run(MIXED, "--pmaps-report", "-n2")
    assert sum("= page maps =" in line for line in result.stdout.lines) == 1


@pytest.mark.parametrize(
    ("flags", "table", "headline"),
    [(["-q"], False, True), (["-qq"], False, False), (["--no-summary"], False, False)],
)
def test_summary_can_be_quiet(run: Run, flags: list[str], table: bool, headline: bool) -> None:
    """-q leaves out the table, -qq and --no-summary everything."""
    lines = run(DIRTY, "--pmaps-report", *flags).stdout.lines
    assert any(line.startswith("test ") and "new dirty" in line for line in lines) == table
    assert any(line.startswith("  libfoo.so.1 data: 1 new") for line in lines) == headline


def test_summary_has_no_colour_where_none_is_wanted(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR and the width of the terminal hold here too."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "70")
    result = run(MIXED, "--pmaps-report")
    assert "\x1b" not in result.stdout.str()
    lines = result.stdout.lines
    at = next(i for i, line in enumerate(lines) if line.startswith("test ") and "process" in line)
    assert all(len(line) <= 70 for line in lines[at : at + 3])


def test_long_tables_are_cut(run: Run) -> None:
    """10 rows, all at -vv; run.json has all."""
    text = """
@pytest.mark.parametrize("n", range(23))
def test_it(pmaps_snapshot, n): pmaps_snapshot()
"""
    run(text, "--pmaps-report").stdout.fnmatch_lines(["… 13 more (-v shows more, run.json all)"])
    run(text, "--pmaps-report", "-vv").stdout.no_fnmatch_line("… *more (-v*")
