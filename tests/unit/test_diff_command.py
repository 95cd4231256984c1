"""``pmaps diff``: what changed between two saved maps."""

from __future__ import annotations

import dataclasses
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_pmaps import Snapshot, load, save, snapshot
from pytest_pmaps.cli import main
from pytest_pmaps.model import Fact, Kind
from pytest_pmaps.plain import PlainMapping, PlainRange, PlainSnapshot

MIB = 1 << 20
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """This process, before and after it wrote 4 MiB of shared memory."""
    folder = tmp_path_factory.mktemp("maps")
    with mmap.mmap(-1, 8 * MIB) as memory:
        save(snapshot(), folder / "before.json")
        for at in range(0, 4 * MIB, mmap.PAGESIZE):
            memory[at] = 1
        save(snapshot(), folder / "after.json")
    return folder / "before.json", folder / "after.json"


def diff(capsys: Capture, *args: object) -> tuple[int, str, str]:
    """Exit status, output, what went to standard error."""
    code = main(["diff", *map(str, args)])
    return code, *capsys.readouterr()


def test_nothing_changed(capsys: Capture, maps: tuple[Path, Path]) -> None:
    """Nothing is printed, as diff(1) has it."""
    assert diff(capsys, maps[0], maps[0]) == (0, "", "")


def test_what_changed(capsys: Capture, maps: tuple[Path, Path]) -> None:
    """What is newly dirty first, the total last, both ways round; it fits."""
    code, out, _ = diff(capsys, *maps)
    head, first, *_, last = out.splitlines()
    assert code == 1
    assert head.split()[0] == "mapping"
    assert head.endswith("new dirty")
    assert first.startswith("zero")
    assert first.endswith("+4 MiB")
    assert last.startswith("total")
    assert max(map(len, out.splitlines())) <= 80


def test_backwards(capsys: Capture, maps: tuple[Path, Path]) -> None:
    """What was captured later cannot come first, but another file may be meant so."""
    code, out, _ = diff(capsys, maps[1], maps[0])
    assert code == 1
    assert "-4 MiB" in next(line for line in out.splitlines() if line.startswith("zero"))


def test_other_processes(capsys: Capture, maps: tuple[Path, Path], tmp_path: Path) -> None:
    """Are compared, and it is said what new means then."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        cat.stdin.write(b"up\n")
        cat.stdin.flush()
        cat.stdout.readline()
        save(snapshot(cat), tmp_path / "cat.json")
    code, out, err = diff(capsys, maps[0], tmp_path / "cat.json")
    assert code == 1
    assert f" and cat {cat.pid} are different processes" in err
    assert "[heap]" in out


def test_what_is_not_known_may_differ(capsys: Capture, tmp_path: Path) -> None:
    """The proposal's text does not say what is dirty: two such maps are never called the same."""
    path = tmp_path / "a.pmaps"
    path.write_text("600000-604000 rw-p 00004000 fe:00 77 /lib/libfoo.so.1\n4\t4\tYR_U___\t1\n")
    code, out, err = diff(capsys, path, path)
    assert code == 1
    assert out.splitlines()[1].startswith("libfoo.so.1")
    assert err == "pmaps: note: nothing is known to differ, but what is not known may\n"


def changed(path: Path, target: Path, **values: object) -> Path:
    """A saved map with some of its fields changed."""
    plain = dataclasses.replace(load(path).to_plain(), **values)
    save(Snapshot.from_plain(plain), target)
    return target


def test_what_may_have_come(capsys: Capture, tmp_path: Path) -> None:
    """A page that may be dirty now, and was not, is told."""
    everything = (1 << len(Fact)) - 1
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, known in zip(paths, (everything, everything & ~(1 << Fact.DIRTY)), strict=True):
        page = PlainRange(0x600, 1, 1 << Fact.PRESENT | 1 << Fact.NORMAL, known, (1, 1))
        heap = PlainMapping(0x600000, 0x601000, "rw-p", name="[heap]", kind=Kind.ANON, index=0x600)
        heap.ranges = [page]
        save(Snapshot.from_plain(PlainSnapshot([heap])), path)
    code, out, err = diff(capsys, *paths)
    assert (code, out.splitlines()[1].split()) == (1, ["[heap]", "0", "0..4", "KiB", "0..4", "KiB"])
    assert "nothing is known to differ" in err


def test_what_is_open_already(maps: tuple[Path, Path], tmp_path: Path) -> None:
    """Pipes of a shell are read; a FIFO that nobody writes to is not waited for."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for script, code, says in (
        ('pmaps diff <(cat "$0") <(cat "$0")', 0, ""),
        ('cat "$0" | pmaps diff /dev/stdin "$0"', 0, ""),
        ('pmaps diff "$0" "$1"', 2, f"pmaps: {fifo}: not a regular file\n"),
    ):
        env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command = ["bash", "-c", script, maps[0], fifo]
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert (ran.returncode, ran.stdout, ran.stderr) == (code, "", says)


def test_trouble(capsys: Capture, maps: tuple[Path, Path], tmp_path: Path) -> None:
    """One line, exit status 2."""
    part = changed(maps[0], tmp_path / "part.json", partial=True)
    foreign = tmp_path / "foreign"
    foreign.write_text("hello\n")
    for other, says in (
        (part, "one of the snapshots does not list all mappings"),
        (foreign, f"{foreign}:1: neither a mapping"),
        (tmp_path / "none", "No such file"),
    ):
        code, out, err = diff(capsys, maps[0], other)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert says in err
