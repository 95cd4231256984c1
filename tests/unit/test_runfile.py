"""Reading run.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_pmaps import FormatError
from pytest_pmaps.report import runfile

#: As the first version wrote it.
OLD = """\
{"format": "pytest-pmaps run", "version": 1,
 "session": {"python": "3.11.2", "kernel": "6.12.8", "machine": "x86_64", "page_size": 4096,
             "sources": ["maps"], "pytest": "9.2.0", "pytest_pmaps": "0.1.0", "exit_status": 1},
 "tests": [{"nodeid": "test_foo.py::test_clean", "outcome": "failed", "attempt": 1,
            "worker": "gw0", "phase": "call", "kind": "footprint", "headline": "dirty",
            "failures": [["call", "footprint", "dirty"]], "maps": [], "problems": [],
            "measured": [{"pid": 4711, "comm": "pytest", "verdict": "complete",
                          "rss": [8, 8], "pss": [4, 5], "uss": [4, 4], "anonymous": [4, 4],
                          "dirty": [4, null], "swap": [0, 0]}],
            "dumped": []}]}
"""


def test_version_1_reads_as_the_present_one(tmp_path: Path) -> None:
    """With nothing where it said nothing, and no end where it had none."""
    path = tmp_path / "run.json"
    path.write_text(OLD)
    run = runfile.load(path)
    (test,) = run["tests"]
    assert run["version"] == 2
    assert (run["session"]["environment"], run["session"]["workers"]) == ("", 0)
    assert (test["file"], test["line"], test["budgets"]) == ("", None, [])
    assert test["measured"][0]["mappings"] == []
    assert test["measured"][0]["dirty"] == [4, None]
    assert "new_dirty" not in test["measured"][0]


def test_what_a_later_program_added_is_kept() -> None:
    """Properties may come without a new version."""
    value = json.loads(OLD)
    value["session"]["host"] = value["tests"][0]["mood"] = {"a": [1]}
    run = json.loads(runfile.dumps(runfile.loads(json.dumps(value))))
    assert run["session"]["host"] == run["tests"][0]["mood"] == {"a": [1]}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"version": 1', '"version": 3', "line 1: a run of format version 3; this pytest-pmaps"),
        ("pytest-pmaps run", "other", "line 1: this is JSON, but no pytest-pmaps run"),
        ('"page_size": 4096', '"page_size": 0', "line 2: 0 is out of range"),
        ('"attempt": 1', '"attempt": "1"', "line 4: a whole number belongs here, not a string"),
        ('"attempt": 1', '"attempt": 0', "line 4: 0 is out of range"),
        ('"outcome": "failed"', '"outcome": "bad"', "line 4: \"bad\" is none of 'passed', "),
        ('"call", "footprint", "dirty"', '"call"', "line 6: a failure is its phase, kind and"),
        ("[4, null]", "[4]", "line 9: an interval is its two ends"),
        ("[4, 5]", "[5, 4]", "line 8: an interval has its lower end first"),
        ("[8, 8]", "[8, 8.5]", "line 8: a whole number belongs here"),
        ('"pid": 4711, ', "", 'line 7: "pid" is missing'),
        ("}]}\n", "", "line 10: this is no JSON"),
    ],
)
def test_trouble_has_a_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    """File and line."""
    path = tmp_path / "run.json"
    assert old in OLD
    path.write_text(OLD.replace(old, new, 1))
    with pytest.raises(FormatError) as caught:
        runfile.load(path)
    place, reason = says.removeprefix("line ").split(": ", 1)
    assert str(caught.value).startswith(f"{path}:{place}: {reason}")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A recording, say."""
    path = tmp_path / "run.json"
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(FormatError, match=r"run\.json:1: this is no text"):
        runfile.load(path)
