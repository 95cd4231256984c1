"""``pmaps show`` and ``pmaps doctor``."""

from __future__ import annotations

import json
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_pmaps import dumps, load, loads, snapshot
from pytest_pmaps.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def pid() -> Iterator[int]:
    """An idle process of ours."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"ready\n")
        process.stdin.flush()
        process.stdout.readline()
        yield process.pid


def shown(capsys: Capture, *args: object) -> str:
    """What a successful run prints."""
    assert main([str(a) for a in args]) == 0
    return capsys.readouterr().out


def test_show_is_the_rfc_text(capsys: Capture, pid: int):
    """Mapping lines byte for byte as in maps; and it reads back."""
    text = shown(capsys, "show", pid)
    lines = [line for line in text.splitlines() if "\t" not in line]
    assert lines == Path(f"/proc/{pid}/maps").read_text().splitlines()
    assert dumps(loads(text)) == text
    fields = [line.split("\t") for line in text.splitlines() if "\t" in line]
    assert {len(row) for row in fields} == {4}
    assert {len(row[2]) for row in fields} == {7}


def test_show_a_selection(capsys: Capture, pid: int):
    """Only the mappings that a selector means, and of a part only its pages."""
    text = shown(capsys, "show", pid, "[stack]")
    assert text.splitlines()[0].endswith("[stack]")
    assert sum("\t" not in line for line in text.splitlines()) == 1
    assert shown(capsys, "show", pid, "libc.text").count("libc.so.6") == 1


def test_show_addresses(capsys: Capture, pid: int):
    """As maps prints them, or with a length; all of them have to be mapped."""
    stack = next(line for line in maps(pid) if line.endswith("[stack]"))
    span = stack.split()[0]
    start, end = (int(address, 16) for address in span.split("-"))
    pages = (stack, int(snapshot(pid)["[stack]"].rss))
    for selector in (span, f"{start:#x}+{end - start}", f"{start:#x}+{(end - start) // 1024}KiB"):
        head, *ranges = shown(capsys, "show", pid, selector).splitlines()
        assert (head, sum(int(line.split("\t")[1]) for line in ranges)) == pages
    line, last = shown(capsys, "show", pid, f"{end - 1:#x}+1").splitlines()
    assert (line.split()[-1], last.split("\t")[1]) == ("[stack]", "1")
    assert shown(capsys, "show", "--summary", pid, span).count("[stack]") == 1
    assert [m.path for m in loads(shown(capsys, "show", "--json", pid, span)).mappings] == [
        "[stack]"
    ]
    for wrong, says in (
        (f"{end - 1:#x}+2", f"2 B at {end - 1:#x}: {end:#x}-{end + 4096:#x} not mapped"),
        (f"{end:x}-{start:x}", "no such addresses"),
        ("0x1000+1MB", "may be 1000s or 1024s"),
    ):
        assert main(["show", str(pid), wrong]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_show_takes_a_name_for_a_name(capsys: Capture, tmp_path: Path):
    """A file may be called what addresses look like."""
    odd = tmp_path / "10-20"
    odd.write_bytes(bytes(4096))
    with odd.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert shown(capsys, "show", os.getpid(), "10-20").startswith(
            next(line for line in maps(os.getpid()) if line.endswith("/10-20"))
        )


def maps(pid: int) -> list[str]:
    """The lines of maps."""
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


def test_show_json(capsys: Capture, pid: int, tmp_path: Path):
    """Everything, in a file that show and load() read again."""
    saved = tmp_path / "map.json"
    saved.write_text(shown(capsys, "show", "--json", pid))
    assert json.loads(saved.read_text())["format"] == "pytest-pmaps snapshot"
    assert load(saved).pid == pid
    assert shown(capsys, "show", saved) == dumps(load(saved))
    only = loads(shown(capsys, "show", "--json", saved, "[stack]"))
    assert [m.path for m in only.mappings] == ["[stack]"]


def test_show_summary_fits(capsys: Capture, pid: int, monkeypatch: pytest.MonkeyPatch):
    """A table within the terminal's width, with the total that the snapshot has."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys, "show", "--summary", pid).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["mapping", "rss", "pss", "dirty", "swap"]
    assert lines[-1].startswith("total")
    assert any(line.startswith("libc.so.6") for line in lines)


def test_record_and_show(capsys: Capture, pid: int, tmp_path: Path):
    """A recording shows as the process did, when that is gone, too."""
    file = tmp_path / "cat.rec"
    said = shown(capsys, "record", pid, file)
    assert re.fullmatch(rf"{re.escape(str(file))}: process {pid} \(cat\), \d+ KiB\n", said)
    assert shown(capsys, "show", file) == dumps(load(file))
    assert "cat" in shown(capsys, "show", "--summary", file)
    assert json.loads(shown(capsys, "show", "--json", file))["pid"] == pid
    assert not load(file).stopped_ns
    shown(capsys, "record", "--stop", pid, file)
    assert load(file).stopped_ns


def test_record_says_what_is_wrong(capsys: Capture, pid: int, tmp_path: Path):
    """One line, exit code 2, and no file."""
    file = tmp_path / "none" / "cat.rec"
    assert main(["record", str(pid), str(file)]) == 2
    assert capsys.readouterr().err == f"pmaps: {file}: No such file or directory\n"
    assert main(["record", "2147483647", str(tmp_path / "a.rec")]) == 2
    assert "process 2147483647 does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_show_a_broken_recording(capsys: Capture, pid: int, tmp_path: Path):
    """As of any file: its name, and what is wrong with it."""
    file = tmp_path / "cat.rec"
    shown(capsys, "record", pid, file)
    file.write_bytes(file.read_bytes()[:3000])
    assert main(["show", str(file)]) == 2
    assert capsys.readouterr().err == f"pmaps: {file}: the recording is cut short or damaged\n"


def test_show_says_when_a_selector_misses(capsys: Capture, pid: int):
    """With near matches, on stderr, exit code 2."""
    assert main(["show", str(pid), "libd"]) == 2
    assert "no mapping matches 'libd'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nothing"),
        ("hello\n", "foreign:1: "),
        ('{"format": "other"}', "format"),
        ("[1, 2", "foreign:1: "),
        ("\0", "foreign:1: "),
    ],
)
def test_show_refuses_foreign_files(capsys: Capture, tmp_path: Path, text: str, says: str):
    """One line that names the file and the place; no traceback."""
    foreign = tmp_path / "foreign"
    foreign.write_text(text)
    code = main(["show", str(foreign)])
    error = capsys.readouterr().err
    if text == "":
        assert code in (0, 2)  # an empty map is the map of a process without mappings
        return
    assert (code, error.count("\n")) == (2, 1)
    assert str(foreign) in error
    assert says in error


def test_show_survives_a_closed_pipe(pid: int):
    """``pmaps show PID | head`` ends quietly."""
    code = "from pytest_pmaps.cli import main; raise SystemExit(main())"
    command = f"'{sys.executable}' -P -c '{code}' show {os.getpid()} | head -1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert run.stderr == ""
    assert run.stdout.count("\n") == 1


def test_doctor_names_every_source(capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    """Each with what it decides; those that do not work with reason and remedy; 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, "doctor")
    for name in ("maps", "smaps", "numa_maps", "pagemap", "pfn", "kpageflags", "kpagecount", "pte"):
        assert name in text
    assert "To see more" in text
    assert "What moves by itself" in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("because ") == text.count("   no  ")


def test_snapshot_and_show_agree(capsys: Capture, pid: int):
    """The command line shows what the library sees, on an idle process."""
    count = sum(r.count for r in snapshot(pid).ranges() if r.listed)
    text = shown(capsys, "show", pid)
    assert sum(int(line.split("\t")[1]) for line in text.splitlines() if "\t" in line) == count


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--stream", "--json"], "--stream prints the whole map of a running process"),
        (["--stream", "--stop"], "--stream prints the whole map of a running process"),
        (["--start", "0"], "--start and --pages are for --stream"),
        (["--stream", "--depth", "mappings"], "--stream is of pages"),
        (["--pages", "10"], "--start and --pages are for --stream"),
    ],
)
def test_options_that_do_not_go_together(capsys: Capture, pid: int, options: list[str], why: str):
    """One line, and nothing was looked at."""
    assert main(["show", *options, str(pid)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pmaps: {why}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--start", "zz"],
        ["--start", "f" * 17],
        ["--pages", "0"],
        ["--pages", "9" * 20],
        ["--depth", "deep"],
    ],
)
def test_values_that_make_no_sense(capsys: Capture, pid: int, options: list[str]):
    """Argparse names the option and the value."""
    with pytest.raises(SystemExit) as ended:
        main(["show", "--stream", *options, str(pid)])
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_depth_and_stop(capsys: Capture, pid: int):
    """Less is looked at, and less is said; a process that stood still runs on."""
    assert main(["show", str(pid), "--depth", "mappings"]) == 0
    assert not re.search(r"^\d+\t", capsys.readouterr().out, re.M)
    assert main(["show", str(pid), "--json", "--stop", "--depth", "pages"]) == 0
    captured = loads(capsys.readouterr().out)
    assert captured.depth.name == "PAGES"
    assert captured.stopped_ns > 0
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "SR"


def test_a_stream_is_the_map(capsys: Capture, pid: int):
    """Piece by piece the same pages; a mapping that was cut has its line twice."""
    assert main(["show", str(pid), "--stream", "--pages", "100", "--depth", "pages"]) == 0
    pieces = capsys.readouterr().out
    assert main(["show", str(pid), "--depth", "pages"]) == 0
    whole = capsys.readouterr().out
    counts = [sum(int(n) for n in re.findall(r"^\d+\t(\d+)\t", t, re.M)) for t in (pieces, whole)]
    assert counts[0] == counts[1] > 100
