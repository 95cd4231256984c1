"""run.json of real sessions: what its schema says, and what ``pmaps`` makes of it."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from plugin.shared import DIRTY, Run

from pytest_pmaps.cli import main
from pytest_pmaps.report import runfile

SCHEMA = json.loads(resources.files("pytest_pmaps.report").joinpath("run.schema.json").read_text())

MIXED = (
    DIRTY
    + """
def test_passes(pmaps_snapshot):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as child:
        pmaps_snapshot(child)
        child.kill()
    pmaps_snapshot()
    assert pmaps_snapshot().rss > 0


class TestIt:
    @pytest.mark.parametrize("x", ["a|b"])
    def test_undetermined(self, x): assert loads(UNKNOWN)["libbar"].dirty == 0

def test_plain(): assert 0
"""
)

Capture = pytest.CaptureFixture[str]


def checked(folder: Path) -> dict[str, Any]:
    """The session's run.json, which is valid and reads back as it is."""
    text = (folder / "run.json").read_text()
    value: dict[str, Any] = json.loads(text)
    jsonschema.Draft202012Validator(SCHEMA).validate(value)
    assert runfile.load(folder / "run.json") == value
    return value


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_valid(run: Run, folder: Path, workers: int) -> None:
    """With places, workers, and the files that tell most."""
    run(MIXED, "--pmaps-report", *([f"-n{workers}"] if workers else []))
    content = checked(folder)
    session = content["session"]
    assert session["workers"] == workers
    assert (session["environment"], session["baseline"]) == ("", "")
    tests = {test["nodeid"].rpartition("::")[2]: test for test in content["tests"]}
    assert set(tests) == {"test_dirty", "test_passes", "test_undetermined[a|b]", "test_plain"}

    source = Path("test_it.py").read_text().splitlines()
    for name, test in tests.items():
        assert (test["file"], test["budgets"]) == ("test_it.py", [])
        place = source[test["line"] - 1]
        assert name.partition("[")[0] in place or "parametrize" in place

    (dirty,) = tests["test_dirty"]["measured"]
    rows = dirty["mappings"]
    assert 1 <= len(rows) <= 10
    (foo,) = [row for row in rows if row["name"] == "libfoo.so.1"]
    assert foo["new_dirty"] == [4096, 4096]
    assert all(row.keys() == foo.keys() for row in rows)
    assert all(row["new_dirty"][1] <= row["dirty"][1] for row in rows)
    growth = [row["rss_growth"][0] for row in rows]
    assert growth == sorted(growth, reverse=True)

    child, own = sorted(tests["test_passes"]["measured"], key=lambda p: "new_dirty" in p)
    assert own["mappings"][0].keys() == foo.keys()
    assert child["mappings"][0].keys() == {"name", "rss", "dirty"}
    dirtiest = [row["dirty"][0] for row in child["mappings"]]
    assert dirtiest == sorted(dirtiest, reverse=True)


def test_attempts_and_crashes_are_valid(run: Run, folder: Path) -> None:
    """What no test reported itself has its place, too."""
    text = "\ndef test_dies(pmaps_snapshot):\n    pmaps_snapshot()\n    os._exit(3)\n"
    run(DIRTY + text, "-n1", "--reruns=1", "--max-worker-restart=2")
    content = checked(folder)
    assert {test["file"] for test in content["tests"]} == {"test_it.py"}
    assert content["session"]["workers"] == 1


def test_reports(run: Run, folder: Path, capsys: Capture) -> None:
    """Every form can be made of it."""
    run(MIXED, "--pmaps-report")
    capsys.readouterr()
    path = str(folder / "run.json")
    shown = {}
    for form in ("", "--markdown", "--annotations", "--benchmark"):
        assert main(["report", path, *filter(None, [form])]) == 0
        shown[form] = capsys.readouterr().out
    assert "test_it.py::test_dirty\n  libfoo.so.1 data: 1 new dirty page" in shown[""]
    assert "<code>libfoo.so.1 data: 1 new dirty page" in shown["--markdown"]
    errors = shown["--annotations"].splitlines()
    line = next(test["line"] for test in checked(folder)["tests"] if "dirty" in test["nodeid"])
    assert errors[0].startswith(
        f"::error file=test_it.py,line={line},title=Memory footprint%3A test_dirty::libfoo.so.1"
    )
    assert len(errors) == 2  # of test_plain, pytest says all that there is
    names = [entry["name"] for entry in json.loads(shown["--benchmark"])]
    assert any(name.startswith("test_it.py::test_passes: ") for name in names)
    assert len(set(names)) == len(names)


BUDGETS = """
LEAK = []
@pytest.mark.pmaps_budget("anonymous growth <= 64 KiB", "dirty <= baseline + 1%")
def test_leaks(): LEAK.append(bytearray(1 << 22))
@pytest.mark.pmaps_budget("anonymous growth <= 8 MiB")
def test_keeps(): LEAK.append(bytearray(1 << 22))
"""


def test_budgets(run: Run, folder: Path, capsys: Capture) -> None:
    """What came of them is valid, told, and has a chart; the breach is told once."""
    run(BUDGETS, "--pmaps-baseline=base.json")
    content = checked(folder)
    leaks, keeps = content["tests"]
    assert [row["verdict"] for row in leaks["budgets"]] == ["exceeded", "recorded"]
    assert keeps["budgets"][0]["origin"] == "marker"
    assert content["session"]["baseline"] == "base.json"
    assert content["session"]["environment"] != ""
    capsys.readouterr()
    path = str(folder / "run.json")
    assert main(["report", path]) == 0
    assert capsys.readouterr().out.count("test_it.py::test_leaks\n  anonymous growth") == 1
    assert main(["report", path, "--annotations"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("::error file=test_it.py,line=")
    assert main(["report", path, "--benchmark"]) == 0
    names = {entry["name"] for entry in json.loads(capsys.readouterr().out)}
    assert "test_it.py::test_keeps: budget anonymous growth" in names
    assert main(["compare", path, path]) == 0


def test_compare_and_merge(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """A leak between two sessions is found; the unchanged one is the same."""
    text = """
import mmap
def test_it():
    code = "import sys; x = bytearray(int(sys.argv[1])); print(); input()"
    command = [sys.executable, "-c", code, os.environ["SIZE"]]
    with subprocess.Popen(command, stdin=-1, stdout=-1) as child:
        child.stdout.readline()
        PMAPS(child)
        child.kill()
@pytest.fixture(autouse=True)
def _pmaps(pmaps_snapshot):
    global PMAPS
    PMAPS = pmaps_snapshot
"""
    for name, size in (("base", 1000), ("same", 1000), ("head", 1 << 20)):
        monkeypatch.setenv("SIZE", str(size))
        run(text, f"--pmaps-report-dir={name}")
    capsys.readouterr()
    paths = {name: f"{name}/run.json" for name in ("base", "same", "head")}
    assert main(["compare", paths["base"], paths["same"]]) == 0
    assert "3 same" in capsys.readouterr().out
    assert main(["compare", paths["base"], paths["head"]]) == 1
    assert "\nGrew\ntest " in capsys.readouterr().out

    assert main(["merge", "all.json", paths["base"], paths["head"]]) == 0
    merged = runfile.load("all.json")
    assert [test["nodeid"] for test in merged["tests"]] == ["test_it.py::test_it"] * 2
