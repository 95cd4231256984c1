"""A baseline from its first recording on: when its file changes, and when never."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin.shared import PREAMBLE

#: Holds as much more as a file says, in bytes.
TESTS = """
import mmap, pathlib
kept = []
def grow(name):
    path = pathlib.Path(__file__).parent / name
    size = int(path.read_text()) if path.exists() else 0
    if size:
        kept.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE))
        kept[-1].madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, size, 4096):
            kept[-1][at] = 1

@pytest.mark.pmaps_budget("anonymous growth <= baseline + 5% + 64 KiB")
def test_one():
    grow("one")

@pytest.mark.pmaps_budget("anonymous growth <= baseline + 5% + 64 KiB")
def test_two():
    grow("two")

def test_without():
    pass
"""
KIB, MIB = 1 << 10, 1 << 20

Life = Callable[..., pytest.RunResult]


@pytest.fixture
def life(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Life:
    """Run the tests with a baseline: ``life(*options, one=bytes, two=bytes)``."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(test_it=PREAMBLE.replace("foo = ", "#") + TESTS)

    def run(*options: object, one: int = MIB, two: int = 2 * MIB) -> pytest.RunResult:
        (pytester.path / "one").write_text(str(one))
        (pytester.path / "two").write_text(str(two))
        given = ("--pmaps-baseline=base.json", "--basetemp=tmp", *options)
        return pytester.run(sys.executable, "-m", "pytest", *given)

    return run


@pytest.fixture
def file(pytester: pytest.Pytester) -> Path:
    """The baseline."""
    return pytester.path / "base.json"


def values(file: Path) -> dict[str, int]:
    """What it holds, by test, of the one environment that it has."""
    (tests,) = json.loads(file.read_text())["environments"].values()
    return {
        nodeid.rpartition("::")[2]: entry["anonymous growth"]["value"]
        for nodeid, entry in tests.items()
    }


def about(value: int) -> object:
    """So much, and what little else a test may add."""
    return pytest.approx(value, abs=32 * KIB)


def changed_lines(before: str, after: str) -> int:
    """How many lines differ of two texts with as many."""
    pairs = zip(before.splitlines(), after.splitlines(), strict=True)
    return sum(a != b for a, b in pairs)


def test_a_life(life: Life, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded, unchanged, a little more, too much, updated, of another environment."""
    result = life()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*base.json: 2 recorded, 0 changed; commit it"])
    assert values(file) == {"test_one": about(MIB), "test_two": about(2 * MIB)}
    recorded, stamp = file.read_bytes(), file.stat().st_mtime_ns

    for more in (0, 100):  # unchanged, byte for byte
        life(one=MIB + more).assert_outcomes(passed=3)
        assert (file.read_bytes(), file.stat().st_mtime_ns) == (recorded, stamp)

    result = life(one=2 * MIB)
    result.assert_outcomes(passed=2, failed=1)
    assert result.ret == 1
    result.stdout.re_match_lines(
        [r"anonymous growth: \d.*B, allowed 1,1\d\d KiB \(baseline .* \+ 5% \+ 64 KiB\) \(meas.*"]
    )
    assert file.read_bytes() == recorded

    result = life("--pmaps-update", one=2 * MIB)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["pmaps: *; baseline base.json, updated"])
    result.stdout.fnmatch_lines(["*base.json: 0 recorded, 1 changed; commit it"])
    assert values(file) == {"test_one": about(2 * MIB), "test_two": about(2 * MIB)}
    assert changed_lines(recorded.decode(), file.read_text()) == 1

    theirs = file.read_text().replace("cpython-3.", "cpython-2.")
    file.write_text(theirs)
    result = life("--pmaps-missing=fail")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        ["*no baseline is recorded; one is for another environment (python: cpython-3.*"]
    )
    assert file.read_text() == theirs


@pytest.mark.parametrize(
    ("environ", "options", "outcomes", "written"),
    [
        ({"CI": "true"}, [], {"passed": 1, "failed": 2}, False),
        ({"CI": "0"}, [], {"passed": 1, "failed": 2}, False),
        ({"BUILD_NUMBER": "7"}, [], {"passed": 1, "failed": 2}, False),
        ({"CI": "", "BUILD_NUMBER": ""}, [], {"passed": 3}, True),
        ({"CI": "true"}, ["--pmaps-missing=record"], {"passed": 3}, True),
        ({"CI": "true"}, ["--pmaps-update"], {"passed": 3}, True),
        ({}, [], {"passed": 3}, True),
        ({}, ["--pmaps-missing=fail"], {"passed": 1, "failed": 2}, False),
        ({}, ["--pmaps-missing=pass"], {"passed": 3}, False),
    ],
)
def test_nothing_recorded_yet(
    life: Life, file: Path, monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str], options: list[str], outcomes: dict[str, int], written: bool,
) -> None:  # fmt: skip
    """Fails where pytest knows that this is CI, else is recorded; or as it is said."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    result = life(*options)
    result.assert_outcomes(**outcomes)
    assert file.exists() is written


def test_only_what_passed_is_recorded(life: Life, file: Path, pytester: pytest.Pytester) -> None:
    """Any other failure blocks a test's entry, in its teardown too, and of another budget."""
    pytester.makepyfile(
        test_other=PREAMBLE.replace("foo = ", "#")
        + """
budget = pytest.mark.pmaps_budget("anonymous growth <= baseline + 64 KiB")

@budget
def test_passes():
    pass

@budget
def test_fails():
    assert False

@budget
@pytest.mark.pmaps_budget("mappings <= 1")
def test_too_much():
    pass

@pytest.fixture
def broken():
    yield
    assert False

@budget
def test_teardown(broken):
    pass

@budget
@pytest.mark.xfail(strict=False)
def test_expected():
    pass
"""
    )
    life("--pmaps-update", "test_other.py")
    assert set(values(file)) == {"test_passes"}


def test_runs_of_some_tests_move_nothing_else(life: Life, file: Path) -> None:
    """Whatever is deselected stays as it is."""
    life()
    before = file.read_text()
    life("--pmaps-update", "-k", "one", one=3 * MIB, two=5 * MIB)
    assert values(file) == {"test_one": about(3 * MIB), "test_two": about(2 * MIB)}
    assert changed_lines(before, file.read_text()) == 1
    before = file.read_text()
    life("-k", "one", one=8 * MIB).assert_outcomes(failed=1, deselected=2)
    life("--lf", "--pmaps-update", one=8 * MIB, two=9 * MIB).assert_outcomes(passed=1)
    assert values(file) == {"test_one": about(8 * MIB), "test_two": about(2 * MIB)}
    assert changed_lines(before, file.read_text()) == 1


def test_what_nobody_asked_for(life: Life, file: Path) -> None:
    """Is told by a run of all tests, and by no other; nothing is removed."""
    life()
    text = file.read_text().replace("test_it.py::test_two", "test_it.py::test_gone")
    file.write_text(text)
    life("--pmaps-missing=pass").stdout.fnmatch_lines(
        ["*base.json: 1 entries that no test asked for; remove their lines:",
         "  test_it.py::test_gone: anonymous growth"]
    )  # fmt: skip
    for options in (["-k", "one"], ["test_it.py"], ["--deselect=test_it.py::test_one"]):
        said = life("--pmaps-missing=pass", *options).stdout.str()
        assert "no test asked for" not in said
    assert "no test asked for" not in life("--pmaps-missing=fail").stdout.str()
    assert "no test asked for" not in life("--pmaps-missing=pass", "--lf").stdout.str()
    assert "test_gone" in file.read_text()


ALL = "*base.json: 1 entries that no test asked for; remove their lines:"

#: Tests that do not ask for their baseline here.
QUIET = """
pytestmark = pytest.mark.pmaps_budget("anonymous growth <= baseline + 64 KiB")

@pytest.mark.skipif("not pathlib.Path(__file__).with_name('all').exists()")
def test_skipped():
    pass

def test_expected():
    if not (pathlib.Path(__file__).parent / "all").exists():
        pytest.xfail("today")
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_what_only_some_runs_ask_for(
    life: Life, file: Path, pytester: pytest.Pytester, workers: list[str]
) -> None:
    """Nobody is told to remove what a run of all tests, here or elsewhere, would ask for."""
    pytester.makeini("[pytest]\n")
    for name in ("sub/test_deep.py", "test_quiet.py"):
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(PREAMBLE.replace("foo = ", "#") + "import pathlib\n" + QUIET)
        (path.parent / "all").touch()
    life(*workers).assert_outcomes(passed=7)
    (pytester.path / "all").unlink()
    said = life(*workers)
    said.assert_outcomes(passed=5, skipped=1, xfailed=1)
    assert "no test asked for" not in said.stdout.str()

    text = file.read_text()
    file.write_text(text.replace("test_it.py::test_two", "test_it.py::test_gone"))
    life(*workers, "--pmaps-missing=pass").stdout.fnmatch_lines([ALL])
    for options in (
        ["-k", "not deep"],
        ["--deselect=test_it.py::test_one"],
        ["--rootdir", pytester.path, "sub", "test_it.py", "test_quiet.py"],
    ):
        said = life(*workers, "--pmaps-missing=pass", *options)
        assert "no test asked for" not in said.stdout.str(), options
    file.write_text(text)
    for options in (["--ignore=sub"], ["--ignore-glob=*/test_d*"], ["-o", "testpaths=sub"]):
        said = life(*workers, *options)
        assert (said.ret, "no test asked for" in said.stdout.str()) == (0, False), options
    (pytester.path / "sub" / "test_deep.py").unlink()
    said = life(*workers)
    said.stdout.fnmatch_lines(["*base.json: 2 entries that no test asked for; remove their lines:"])


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_what_a_plugin_took_out(
    life: Life, file: Path, pytester: pytest.Pytester, workers: list[str]
) -> None:
    """Shards may tell nobody that there are others."""
    life(*workers)
    pytester.makeconftest("def pytest_collection_modifyitems(items): del items[1]")
    result = life(*workers)
    result.assert_outcomes(passed=2)
    assert "no test asked for" not in result.stdout.str()


@pytest.mark.parametrize("ends", ["pytest.exit('', 0)", "raise KeyboardInterrupt"])
@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_what_an_interruption_left(
    life: Life, file: Path, pytester: pytest.Pytester, ends: str, workers: list[str]
) -> None:
    """Is no sign that nobody asks for it."""
    life(*workers)
    path = pytester.path / "test_it.py"
    text = path.read_text()
    path.write_text(text.replace('grow("two")', f"time.sleep(1); {ends}") + "\nimport time\n")
    result = life(*workers)
    assert "1 passed" in result.stdout.str() or "2 passed" in result.stdout.str()
    assert "no test asked for" not in result.stdout.str()


def test_called_from_below(life: Life, file: Path, pytester: pytest.Pytester) -> None:
    """Only what lies there is run."""
    pytester.makeini("[pytest]\npmaps_baseline = base.json\n")
    life()
    (pytester.path / "sub").mkdir()
    (pytester.path / "sub" / "test_deep.py").write_text(
        "import pytest\n"
        "@pytest.mark.pmaps_budget('anonymous growth <= baseline + 64 KiB')\n"
        "def test_deep(): pass\n"
    )
    (pytester.path / "test_it.py").unlink()  # all the same
    run = [sys.executable, "-m", "pytest", "--basetemp", pytester.path / "tmp"]
    said = {
        folder: subprocess.run(run, cwd=folder, capture_output=True, text=True, check=True).stdout
        for folder in (pytester.path / "sub", pytester.path)
    }
    assert ["no test asked for" in out for out in said.values()] == [False, True]


def test_each_worker(life: Life, file: Path, pytester: pytest.Pytester) -> None:
    """A test that fails on one of several workers keeps its entry, whoever reports last; of one
    that passes on all, the most is recorded.
    """
    each = ["--dist=each", "--tx=2*popen"]
    life(*each).assert_outcomes(passed=6)
    assert values(file) == {"test_one": about(MIB), "test_two": about(2 * MIB)}
    path = pytester.path / "test_it.py"
    path.write_text(
        path.read_text()
        .replace('grow("one")', 'grow("one"); first = os.environ["PYTEST_XDIST_WORKER"] == "gw0"\n'
                 "    time.sleep(not first); assert not first")
        .replace('grow("two")', 'grow("two" + os.environ["PYTEST_XDIST_WORKER"])')
        + "\nimport time\n"
    )  # fmt: skip
    before = file.read_text()
    for name, size in (("twogw0", 5 * MIB), ("twogw1", 4 * MIB)):
        (pytester.path / name).write_text(str(size))
    life(*each, "--pmaps-update", one=4 * MIB).assert_outcomes(passed=5, failed=1)
    assert values(file) == {"test_one": about(MIB), "test_two": about(5 * MIB)}
    assert changed_lines(before, file.read_text()) == 1


@pytest.mark.parametrize("options", [[], ["-qq"], ["--no-summary"], ["-n", "2"], ["-s"]])
def test_a_file_that_cannot_be_written(
    life: Life, file: Path, pytester: pytest.Pytester, options: list[str]
) -> None:
    """Is told last, however quiet pytest is, and fails the session."""
    path = pytester.path / "test_it.py"
    path.write_text(
        path.read_text() + "\n    pathlib.Path(__file__).with_name('base.json').mkdir()"
    )
    result = life(*options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    told = "ERROR: the baseline could not be written: *Is a directory: *base.json*"
    result.stderr.fnmatch_lines([told])


def test_a_file_that_can_be_seen_not_to_be_written(
    life: Life, file: Path, pytester: pytest.Pytester
) -> None:
    """Is a usage error before any test runs, if it is to be updated."""
    file.write_text('{"format": "pytest-pmaps baseline", "version": 1, "environments": {}}')
    file.chmod(0o444)
    fifo = pytester.path / "fifo"
    os.mkfifo(fifo)
    for path, reason in (
        (file, "Permission denied"),
        (pytester.path / "none" / "base.json", "No such file or directory"),
        (fifo, "not a regular file"),
    ):
        for workers in ([], ["-n", "2"]):
            result = life("--pmaps-update", f"--pmaps-baseline={path}", *workers)
            assert result.ret == pytest.ExitCode.USAGE_ERROR
            result.stderr.fnmatch_lines([f"ERROR: pmaps_baseline: *{reason}: *"])
    result = life(f"--pmaps-baseline={fifo}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: pmaps_baseline: *not a regular file: *fifo*"])


def test_workers(life: Life, file: Path) -> None:
    """The controller alone writes; workers have an environment of their own, for xdist shows."""
    life("-n", "2").assert_outcomes(passed=3)
    assert set(values(file)) == {"test_one", "test_two"}
    before = file.read_text()
    assert "xdist=yes" in before
    life("-n", "2", two=5 * MIB).assert_outcomes(passed=2, failed=1)
    assert file.read_text() == before
    life("-n", "2", "--pmaps-update", two=5 * MIB).assert_outcomes(passed=3)
    assert changed_lines(before, file.read_text()) == 1


def test_a_file_that_does_not_read(life: Life, file: Path) -> None:
    """Is an error before any test runs, and is left as it is."""
    for text in ("{", '{"format": "else"}', "<<<<<<< HEAD\n"):
        file.write_text(text)
        for workers in ([], ["-n", "2"]):
            result = life(*workers)
            assert result.ret == pytest.ExitCode.USAGE_ERROR
            result.stderr.fnmatch_lines(["ERROR: pmaps_baseline: *base.json*"])
            assert file.read_text() == text


def test_options_that_make_no_sense(pytester: pytest.Pytester) -> None:
    """Are usage errors."""
    pytester.makepyfile("def test_it(): pass")
    assert pytester.runpytest("--pmaps-update").ret == pytest.ExitCode.USAGE_ERROR
    (pytester.path / "folder").mkdir()
    result = pytester.runpytest("--pmaps-baseline=folder")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_from_the_ini_file(life: Life, pytester: pytest.Pytester) -> None:
    """All of it; the file is relative to the ini file, wherever pytest is called."""
    pytester.makeini(
        "[pytest]\npmaps_baseline = deep/base.json\npmaps_missing = fail\npmaps_update = false"
    )
    (pytester.path / "deep").mkdir()
    run = [sys.executable, "-m", "pytest", "--basetemp", pytester.path / "tmp", ".."]
    cwd = pytester.path / "deep"
    assert subprocess.run(run, cwd=cwd, capture_output=True).returncode == 1
    pytester.makeini("[pytest]\npmaps_baseline = deep/base.json\npmaps_update = true")
    assert subprocess.run(run, cwd=cwd, capture_output=True).returncode == 0
    assert set(values(cwd / "base.json")) == {"test_one", "test_two"}


def test_a_gate_tighter_than_its_noise(life: Life, file: Path) -> None:
    """Is told, for it will fail though nothing changed."""
    life()
    entry = '"spread": 0'
    assert entry in file.read_text()
    file.write_text(file.read_text().replace(entry, f'"spread": {MIB}'))
    result = life()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*values have spread by 1,048,576 bytes, and * are allowed: *"])


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_killed_at_any_time(
    life: Life, file: Path, pytester: pytest.Pytester, workers: list[str]
) -> None:
    """The file is the old one or the new one, whole."""
    life(*workers)
    old = file.read_text()
    sizes = iter(range(3, 100))
    command = [sys.executable, "-m", "pytest", "--pmaps-baseline=base.json", "--basetemp=tmp"]
    for n in range(int(os.environ.get("PMAPS_KILLS", "3"))):
        (pytester.path / "one").write_text(str(next(sizes) * MIB))
        with subprocess.Popen(
            [*command, "--pmaps-update", *workers], stdout=subprocess.DEVNULL, process_group=0
        ) as process:
            time.sleep(0.3 + 0.31 * n)
            os.killpg(process.pid, signal.SIGKILL)
        assert set(values(file)) == {"test_one", "test_two"}
        assert len(file.read_text().splitlines()) == len(old.splitlines())
    assert [path.name for path in pytester.path.glob("*base.json*")] == ["base.json"]


def test_what_shrank_is_no_gain(life: Life, file: Path) -> None:
    """Growth below 0 is recorded by what a test happened to find; none is not more than that."""
    life()
    text = file.read_text()
    (tests,) = json.loads(text)["environments"].values()
    value = tests["test_it.py::test_one"]["anonymous growth"]["value"]
    file.write_text(text.replace(f'"value": {value},', '"value": -442368,'))
    life(one=0).assert_outcomes(passed=3)
    life(one=MIB).assert_outcomes(passed=2, failed=1)
    life("--pmaps-update", one=0).assert_outcomes(passed=3)
    assert values(file)["test_one"] >= 0


def test_an_interval_is_recorded_by_its_upper_end(
    life: Life, file: Path, pytester: pytest.Pytester
) -> None:
    """Also where it lies across what is allowed."""
    pytester.makepyfile(
        test_peak=PREAMBLE.replace("foo = ", "#")
        + """
@pytest.mark.pmaps_budget("peak_rss growth <= baseline")
def test_peak(): bytearray(int(os.environ.get("PEAK", "0")) << 20)
"""
    )
    options = ["test_peak.py", "--pmaps-budget=mappings <= 100000"]
    text = (pytester.path / "test_peak.py").read_text()
    (pytester.path / "test_peak.py").write_text(text.replace("<= baseline", "<= baseline + 4 KiB"))
    life(*options).assert_outcomes(passed=1)
    (tests,) = json.loads(file.read_text())["environments"].values()
    entry = tests["test_peak.py::test_peak"]["peak_rss growth"]
    lower = file.read_text().replace(f'"value": {entry["value"]}', f'"value": {4 * KIB}')
    file.write_text(lower)
    life(*options).assert_outcomes(failed=1)
    life("--pmaps-update", *options).assert_outcomes(passed=1)
    assert file.read_text() != lower
