"""``pmaps merge``: the files of shards as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from unit.runs import test, write

from pytest_pmaps.baseline import Baseline, Recorded
from pytest_pmaps.cli import main
from pytest_pmaps.report import runfile

Capture = pytest.CaptureFixture[str]


def merged(*args: object) -> dict[str, Any]:
    """What a successful merge wrote."""
    assert main(["merge", *map(str, args)]) == 0
    return json.loads(Path(str(args[0])).read_text())


def test_union(tmp_path: Path, capsys: Capture) -> None:
    """All tests in the order of the files; what is told twice is told once."""
    one = write(tmp_path / "1.json", test(nodeid="a"), test(nodeid="b"))
    two = write(tmp_path / "2.json", test(nodeid="b"), test(nodeid="c", attempt=2))
    run = merged(tmp_path / "out.json", one, two)
    assert [t["nodeid"] for t in run["tests"]] == ["a", "b", "c"]
    assert run == runfile.load(tmp_path / "out.json")
    assert capsys.readouterr() == ("", "")


def test_what_ran_twice_is_kept_and_told(tmp_path: Path, capsys: Capture) -> None:
    """No result replaces another."""
    one = write(tmp_path / "1.json", test(nodeid="a"))
    two = write(tmp_path / "2.json", test(nodeid="a", outcome="failed"))
    run = merged(tmp_path / "out.json", one, two)
    assert [t["outcome"] for t in run["tests"]] == ["passed", "failed"]
    assert capsys.readouterr().err == "pmaps: note: a ran 2 times\n"


@pytest.mark.parametrize(
    ("statuses", "worst"), [([0, 1], 1), ([5, 0], 0), ([5, 5], 5), ([1, 3, 2], 3), ([1, 77], 77)]
)
def test_the_worst_exit_status_counts(tmp_path: Path, statuses: list[int], worst: int) -> None:
    """A shard without tests (5) spoils nothing."""
    paths = [write(tmp_path / f"{i}.json", exit_status=status) for i, status in enumerate(statuses)]
    assert merged(tmp_path / "out.json", *paths)["session"]["exit_status"] == worst


def test_sessions_that_differ(tmp_path: Path, capsys: Capture) -> None:
    """Both are told, and noted; once more changes nothing."""
    one = write(tmp_path / "1.json", kernel="6.1", workers=2, sources=["maps"], baseline="b.json")
    two = write(tmp_path / "2.json", kernel="6.12.8", sources=["maps", "pte"])
    run = merged(tmp_path / "out.json", one, two)
    session = run["session"]
    assert (session["kernel"], session["workers"]) == ("6.1 | 6.12.8", 2)
    assert (session["sources"], session["baseline"]) == (["maps", "pte"], "b.json")
    assert capsys.readouterr().err == "pmaps: note: kernel differs: 6.1, 6.12.8\n"
    assert merged(tmp_path / "out.json", tmp_path / "out.json", two) == run


def test_page_sizes_cannot_differ(tmp_path: Path, capsys: Capture) -> None:
    """Their numbers are of different things."""
    one, two = write(tmp_path / "1.json"), write(tmp_path / "2.json", page_size=16384)
    assert main(["merge", str(tmp_path / "out.json"), str(one), str(two)]) == 2
    assert "different page sizes" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_out_may_be_one_of_them(tmp_path: Path) -> None:
    """So that a result can grow."""
    one, two = write(tmp_path / "1.json", test(nodeid="a")), write(tmp_path / "2.json", test())
    assert len(merged(one, one, two)["tests"]) == 2


def test_a_forgotten_out_takes_no_shard(tmp_path: Path, capsys: Capture) -> None:
    """``pmaps merge shard*.json`` would lose the first."""
    one, two = write(tmp_path / "1.json", test(nodeid="a")), write(tmp_path / "2.json", test())
    before = one.read_bytes()
    assert main(["merge", str(one), str(two)]) == 2
    assert capsys.readouterr().err == (
        f"pmaps: {one} exists and is not merged; --force replaces it all the same\n"
    )
    assert one.read_bytes() == before
    assert len(merged(one, two, "--force")["tests"]) == 1


def test_maps_stay_where_they_are(tmp_path: Path) -> None:
    """Paths are relative to the file that tells them."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "c").mkdir(parents=True)
    one = write(tmp_path / "a" / "run.json", test(maps=["maps/x.pmaps"]))
    run = merged(tmp_path / "b" / "c" / "run.json", one)
    assert run["tests"][0]["maps"] == ["../../a/maps/x.pmaps"]


def test_all_of_one_kind(tmp_path: Path, capsys: Capture) -> None:
    """Each file says what it is; what is none is named, and nothing is written."""
    one = write(tmp_path / "1.json")
    other, out = tmp_path / "2.json", tmp_path / "out.json"
    for text, says in (
        ('{"format": "pytest-pmaps snapshot"}', " this is none of pytest-pmaps run"),
        ("[]", " this is none of"),
        ('{"format": "pytest-pmaps run"\n', "2: this is no JSON"),
        ('{"format": "pytest-pmaps run", "version": 3}', "1: a run of format version 3"),
    ):
        other.write_text(text)
        assert main(["merge", str(out), str(one), str(other)]) == 2
        error = capsys.readouterr().err
        assert f"{other}:{says}" in error
        assert error.count("\n") == 1
    assert main(["merge", str(out), str(one), str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"pmaps: {tmp_path / 'none'}: No such file or directory\n"
    assert sorted(tmp_path.iterdir()) == [one, other]


def recorded(path: Path, **values: int) -> Path:
    """A baseline with a value for each test."""
    baseline = Baseline()
    for nodeid, value in values.items():
        baseline.record("x86_64", nodeid, "dirty", Recorded(value))
    baseline.save(path)
    return path


def test_baselines(tmp_path: Path, capsys: Capture) -> None:
    """Two shards give what one run would have written; what they do not agree on is told."""
    one, two = recorded(tmp_path / "1", a=1, b=5), recorded(tmp_path / "2", b=7, c=3)
    out = tmp_path / "out"
    assert main(["merge", str(out), str(one), str(two)]) == 0
    values = {key[0]: found.value for _, key, found in Baseline.load(out)}
    assert values == {"a": 1, "b": 7, "c": 3}
    note = "pmaps: note: b: dirty: recorded as 5, 7; the largest is kept (x86_64)\n"
    assert capsys.readouterr().err == note


def test_baselines_that_were_one(tmp_path: Path, capsys: Capture) -> None:
    """With what they were, what one shard changed counts, also if it went down."""
    before = recorded(tmp_path / "0", a=9, b=9)
    one, two = recorded(tmp_path / "1", a=4, b=9), recorded(tmp_path / "2", a=9, b=5)
    assert main(["merge", str(one), str(one), str(two), "--base", str(before)]) == 0
    assert one.read_text() == recorded(tmp_path / "3", a=4, b=5).read_text()
    assert main(["merge", str(before), str(one), str(two), "--base", str(before)]) == 0
    assert before.read_text() == one.read_text()
    assert capsys.readouterr() == ("", "")


def test_kinds_do_not_mix(tmp_path: Path, capsys: Capture) -> None:
    """Nor have runs anything that they were before."""
    one, two, out = recorded(tmp_path / "1"), write(tmp_path / "2"), tmp_path / "out"
    for args, says in (
        ([one, two], f"{one} is a pytest-pmaps baseline, {two} is a pytest-pmaps run"),
        ([two, two, "--base", two], "--base is for baselines"),
    ):
        assert main(["merge", str(out), *map(str, args)]) == 2
        assert says in capsys.readouterr().err
    assert not out.exists()
