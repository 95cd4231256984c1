"""Real captures, recorded and captured from once more."""

from __future__ import annotations

import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from oracle import reader, targets
from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import (
    AccessDenied,
    FormatError,
    ProcessGone,
    Snapshot,
    Source,
    jsonfile,
    load,
    loads,
    record,
)
from pytest_pmaps._native import Columns, Depth, Request

PAGE = os.sysconf("SC_PAGESIZE")
BLOCK = PAGE // 8  # frames that are numbered together
PFN = (1 << 55) - 1
PRESENT = 1 << 63


def everything(snapshot: Snapshot) -> str:
    """All of it, when it was taken included."""
    return jsonfile.dump(snapshot.to_plain())


CODE = """
import os, sys
from pytest_pmaps import jsonfile, load
os.write(1, jsonfile.dump(load(sys.argv[1]).to_plain()).encode("utf-8", "surrogateescape"))
"""


def loaded_elsewhere(file: Path) -> str:
    """All of it, as another process of ours loads it."""
    command = [sys.executable, "-P", "-c", CODE, str(file)]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()


# ---- a reader of the format, by docs/recordings.md alone


@dataclass
class Recording:
    """What a recording holds."""

    names: list[str]
    files: list[str]
    reads: list[tuple[str, int, bytes]]
    words: list[tuple[str, int, list[int]]]


def chunks(body: bytes) -> Iterator[int]:
    """The entries of one read."""
    at = 0
    while at < len(body):
        (head,) = struct.unpack_from("<I", body, at)
        n, run, at = head & 0x7FFFFFFF, head >> 31, at + 4
        kept = 1 if run else n
        values = struct.unpack_from(f"<{kept}Q", body, at)
        at += 8 * kept
        yield from values * n if run else values


def parse(data: bytes) -> Recording:
    """Read a recording."""
    assert data[:16] == b"\x89PMAPS-REC\r\n\x1a\n\x01\0"
    found, at, kinds = Recording([], [], [], []), 16, []
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        body, at = data[at + 8 : at + 8 + size], at + 8 + size
        kinds.append(kind)
        if kind == 1:
            extents = struct.unpack_from("<I", body, 36)[0]
            found.names = body[48 + 16 * extents : -1].decode().split("\0")
        elif kind == 2:
            found.files.append(body[12:].decode())
        elif kind in (3, 4):
            opened, _, offset = struct.unpack_from("<IIQ", body)
            if kind == 3:
                found.reads.append((found.files[opened], offset, body[16:]))
            else:
                found.words.append((found.files[opened], offset, list(chunks(body[16:]))))
    assert kinds[0] == 1
    assert kinds[-1] == 9
    assert struct.unpack_from("<Q", data, len(data) - 8)[0] == len(kinds)
    return found


def real_frames(pid: int) -> dict[int, int]:
    """Frames by virtual page number, from the kernel."""
    frames = {}
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap:
        for line in maps:
            first, stop = (int(x, 16) // PAGE for x in line.split()[0].split("-"))
            if stop > 1 << 50:
                continue
            pagemap.seek(first * 8)
            entries = pagemap.read((stop - first) * 8)
            for i, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
                if entry & PRESENT and entry & PFN:
                    frames[first + i] = entry & PFN
    return frames


# ---- the same again


@pytest.mark.parametrize("state", targets.ZOO_STATES)
def test_states(zoo: Path, public: Path, tmp_path: Path, state: str):
    """Every byte of the snapshot, when the process is gone."""
    file = tmp_path / "zoo.rec"
    with targets.running(zoo, state, public) as (pid, _):
        live = record(pid, file)
    assert live.pid == pid
    assert everything(load(file)) == everything(live)


@pytest.mark.parametrize("depth", list(Depth))
@pytest.mark.parametrize("limit", ["all", "extents", "pages"])
def test_requests(zoo: Path, public: Path, tmp_path: Path, depth: Depth, limit: str):
    """Of any request."""
    file = tmp_path / "zoo.rec"
    with targets.running(zoo, "many", public) as (pid, _):
        request = Request(pid, depth)
        if limit == "extents":
            found = Columns.capture(Request(pid, Depth.MAPPINGS)).mappings[2:9:3]
            request = Request(pid, depth, extents=tuple((m.start, m.end) for m in found))
        elif limit == "pages":
            request = Request(pid, depth, max_pages=100)
        with open(file, "wb") as sink:
            live = Snapshot(Columns.record(request, sink.fileno(), "a test"))
    assert everything(load(file)) == everything(live)


def test_this_process(tmp_path: Path):
    """The engine's memory, which only this process knows, is left out then, too."""
    live = record(None, tmp_path / "self.rec")
    again = load(tmp_path / "self.rec")
    assert live.columns.self_capture
    assert live.columns._header.faults == 0  # of the recording itself are none
    assert everything(again) == everything(live)
    assert again.status == live.status
    assert loaded_elsewhere(tmp_path / "self.rec") == everything(live)


def test_a_child_of_this_process(tmp_path: Path):
    """It has inherited snapshots, which are left out by where they are."""
    kept = record(None, tmp_path / "self.rec")
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(w)
        os.read(r, 1)
        os._exit(0)
    os.close(r)
    try:
        live = record(pid, tmp_path / "child.rec")
    finally:
        os.close(w)
        os.waitpid(pid, 0)
    assert loaded_elsewhere(tmp_path / "child.rec") == everything(live)
    assert kept.pid == os.getpid()


def test_a_process_that_moves(public: Path, tmp_path: Path):
    """What was raced is raced in the same places."""
    program = targets.build("mover", public)
    raced = 0
    with targets.running(program, "4") as (pid, _):
        for i in range(20):
            live = record(pid, tmp_path / f"{i}.rec")
            raced += not live.verdict
            assert everything(load(tmp_path / f"{i}.rec")) == everything(live)
    if not raced:
        pytest.skip("nothing moved while it was captured")


def test_stopped(zoo: Path, public: Path, tmp_path: Path):
    """Nobody has to be stopped again."""
    with targets.running(zoo, "anon", public) as (pid, _):
        live = record(pid, tmp_path / "a.rec", stop=True)
    again = load(tmp_path / "a.rec")
    assert everything(again) == everything(live)
    assert again.stopped_ns == live.stopped_ns > 0


CROWD = """
import json, mmap
kept = []
for i in range(3000):
    kept.append(mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    kept[-1][0] = 1
    kept[-1].madvise(mmap.MADV_DONTFORK if i % 2 else mmap.MADV_NORMAL)
print(json.dumps({}), flush=True)
input()
"""


def test_many_mappings(tmp_path: Path):
    """More than a capture makes room for at first."""
    with targets.running("-c", CROWD, python=sys.executable) as (pid, _):
        live = record(pid, tmp_path / "a.rec")
    assert len(live.mappings) > 2000
    assert everything(load(tmp_path / "a.rec")) == everything(live)


BUSY = """
import json, mmap, threading
area = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
def churn():
    area.madvise(mmap.MADV_NOHUGEPAGE)
    while True:
        for at in range(0, len(area), 4096):
            area[at] = 1
        area.madvise(mmap.MADV_DONTNEED)
threading.Thread(target=churn, daemon=True).start()
print(json.dumps({}), flush=True)
input()
"""


def test_a_process_that_faults(tmp_path: Path):
    """What is not concluded of a busy process is not concluded from its recording."""
    command = [sys.executable, "-c", BUSY]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        faults = 0
        for i in range(20):
            live = record(process, tmp_path / f"{i}.rec")
            faults += live.columns._header.faults
            assert not (live.verdict and live.columns._header.faults)
            assert everything(load(tmp_path / f"{i}.rec")) == everything(live)
        assert faults > 0
        process.stdin.write(b"\n")
        process.stdin.close()


def test_threads(tmp_path: Path):
    """A process that maps and unmaps all the time, recorded from four threads at once."""
    with targets.idle(next(iter(targets.real_programs(tmp_path)))) as pid:
        wrong: list[str] = []

        def work(name: str) -> None:
            for i in range(5):
                file = tmp_path / f"{name}{i}.rec"
                if everything(record(pid, file)) != everything(load(file)):
                    wrong.append(str(file))

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# ---- without the system it was made on

ELSEWHERE = """
set -e
mount -t tmpfs none /proc
ls -A /proc | wc -l
exec {become} {python} -P -c '{code}' {file}
"""


def test_as_nobody_without_proc(zoo: Path, public: Path):
    """What root recorded, nobody captures from, where /proc is empty."""
    reader.require_frames()
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed")
    python, file = unprivileged_python(), public / "root.rec"
    with targets.running(zoo, "fork", public) as (pid, _):
        live = record(pid, file)
    assert Source.KPAGECOUNT in live.sources
    file.chmod(0o644)
    script = ELSEWHERE.format(become=" ".join(as_nobody()), python=python, code=CODE, file=file)
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", script]
    run = subprocess.run(command, capture_output=True, check=False, cwd="/")
    if b"mount" in run.stderr or b"unshare" in run.stderr:
        pytest.skip(f"no mount namespace here: {run.stderr.decode()}")
    assert run.stderr == b""
    entries, _, text = run.stdout.decode("utf-8", "surrogateescape").partition("\n")
    assert int(entries) == 0
    assert text == everything(live)


def test_recorded_by_nobody(zoo: Path, public: Path, tmp_path: Path):
    """Without frames there are none to hide, and the rest is the same."""
    reader.require_frames()
    python = unprivileged_python()
    code = "import sys; from pytest_pmaps import *; from pytest_pmaps import jsonfile; "
    code += "print(jsonfile.dump(record(int(sys.argv[1]), sys.argv[2]).to_plain()))"
    folder = public / "nobodys"
    folder.mkdir(exist_ok=True)
    os.chown(folder, targets.NOBODY, targets.NOBODY)
    with targets.running(zoo, "anon", public, uid=targets.NOBODY) as (pid, _):
        command = [*as_nobody(), python, "-P", "-c", code, str(pid), str(folder / "a.rec")]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    live = loads(run.stdout)
    assert Source.KPAGEFLAGS not in live.sources
    assert everything(load(folder / "a.rec")) == everything(live)
    words = parse((folder / "a.rec").read_bytes()).words
    assert words
    assert all(not entry & PFN for _, _, entries in words for entry in entries)


# ---- what is in it


def test_no_frame_numbers(zoo: Path, public: Path, tmp_path: Path):
    """Blocks are numbered as they are met; nothing of where they really are is left."""
    reader.require_frames()
    with targets.running(zoo, "many", public) as (pid, _):
        before = real_frames(pid)
        record(pid, tmp_path / "zoo.rec")
        after = real_frames(pid)
    real = {vpn: frame for vpn, frame in before.items() if after.get(vpn) == frame}
    assert len(real) > 300
    recording = parse((tmp_path / "zoo.rec").read_bytes())
    blocks: dict[int, int] = {}
    met: list[int] = []
    checked = 0
    for name, offset, entries in recording.words:
        if name != "pagemap":
            continue
        for vpn, entry in enumerate(entries, offset // 8):
            if not entry & PRESENT:
                assert entry & PFN == 0
            elif entry & PFN:
                block, place = divmod(entry & PFN, BLOCK)
                if block not in met:
                    met.append(block)
                if vpn in real:  # one to one, and the place within is kept
                    assert place == real[vpn] % BLOCK
                    assert blocks.setdefault(block, real[vpn] // BLOCK) == real[vpn] // BLOCK
                    checked += 1
    assert checked > 300
    assert met == list(range(1, len(met) + 1))
    assert len(set(blocks.values())) == len(blocks)
    indexes = [n for n, o, e in recording.words if n.startswith("/proc/kpage") for n in [o // 8]]
    assert indexes
    assert max(indexes) < (len(met) + 2) * BLOCK


def test_frames_are_looked_up_where_they_are(zoo: Path, public: Path, tmp_path: Path):
    """Flags and counts in it are those of the real frames behind the numbers."""
    reader.require_frames()
    with targets.running(zoo, "anon", public) as (pid, _):
        record(pid, tmp_path / "zoo.rec")
        real = real_frames(pid)
        recording = parse((tmp_path / "zoo.rec").read_bytes())
        counts = {
            offset // 8 + i: count
            for name, offset, entries in recording.words
            if name == "/proc/kpagecount"
            for i, count in enumerate(entries)
        }
        same = compared = 0
        with open("/proc/kpagecount", "rb", 0) as file:
            for name, offset, entries in recording.words:
                for vpn, entry in enumerate(entries, offset // 8):
                    if name != "pagemap" or vpn not in real or entry & PFN not in counts:
                        continue
                    file.seek(real[vpn] * 8)
                    compared += 1
                    same += counts[entry & PFN] == struct.unpack("<Q", file.read(8))[0]
    assert compared > 50
    assert same > 0.9 * compared  # pages of libraries are mapped and unmapped by others


def test_no_contents(tmp_path: Path):
    """Of a process: its name, not its memory, arguments, environment, or what it has read."""
    secret = tmp_path / "secret.txt"
    secret.write_text("correct horse battery staple " * 200)
    code = """
import mmap, os, sys
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
kept = mapped[:]
print("ready", flush=True)
sys.stdin.read()
"""
    env = {**os.environ, "TOKEN": "xyzzy-plugh"}
    command = [sys.executable, "-c", code, str(secret), "swordfish"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        record(process, tmp_path / "a.rec")
        process.stdin.close()
    data = (tmp_path / "a.rec").read_bytes()
    assert b"secret.txt" in data
    for word in (b"correct horse", b"swordfish", b"xyzzy-plugh"):
        assert word not in data
    recording = parse(data)
    assert recording.names[1:] == [os.uname().release, os.uname().machine]
    assert recording.names[0].startswith("pytest-pmaps ")
    status = next(text for name, _, text in recording.reads if name == "status")
    assert {line.split(b":")[0][:2] for line in status.splitlines()} <= {
        *(b"Na", b"St", b"Kt", b"Vm", b"Rs", b"Hu", b"Th", b"Co")
    }
    stat = next(text for name, _, text in recording.reads if name == "stat").decode()
    fields = stat.rpartition(")")[2].split()
    assert {i + 3 for i, field in enumerate(fields) if field != "0"} <= {3, 9, 10, 12, 20, 22}


def test_bytes_of_files_are_elf_headers(public: Path, tmp_path: Path):
    """The first bytes of an ELF file and its program headers; of another file zeros."""
    with targets.idle(next(iter(targets.real_programs(public)))) as pid:
        record(pid, tmp_path / "a.rec")
    recording = parse((tmp_path / "a.rec").read_bytes())
    known = {"stat", "status", "smaps", "smaps_rollup", "numa_maps", "maps", "/proc/meminfo"}
    shown = 0
    for name, offset, data in recording.reads:
        if name in known:
            continue
        path = Path("/", re.sub(r"\\012", "\n", name))
        if not data.strip(b"\0"):
            continue
        head = path.read_bytes()[:64]
        at, (size, number) = (
            struct.unpack_from("<Q", head, 32)[0],
            struct.unpack_from("<HH", head, 54),
        )
        assert head[:5] == b"\x7fELF\x02"
        for i, byte in enumerate(data, offset):
            assert not byte or i < 64 or at <= i < at + size * number, path
        shown += 1
    assert shown > 2


# ---- where it goes


def test_the_file_is_replaced_at_once_and_private(zoo: Path, public: Path, tmp_path: Path):
    """And of a failed capture nothing is left, nor of what was there before anything lost."""
    file = tmp_path / "a.rec"
    file.write_text("before")
    with targets.running(zoo, "anon", public) as (pid, _):
        pass
    with pytest.raises(ProcessGone):
        record(pid, file)
    assert [path.name for path in tmp_path.iterdir()] == ["a.rec"]
    assert file.read_text() == "before"
    with targets.running(zoo, "anon", public) as (pid, _):
        record(pid, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert load(file).pid == pid


def test_no_room(tmp_path: Path):
    """The file's name and what is wrong, no traceback, and nothing left of it."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limit[1]))

    code = "import sys; from pytest_pmaps.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(["sleep", "100"]) as process:
        time.sleep(0.1)
        file = tmp_path / "a.rec"
        command = [sys.executable, "-P", "-c", code, "record", str(process.pid), str(file)]
        run = subprocess.run(command, capture_output=True, text=True, preexec_fn=little)
        process.kill()
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == f"pmaps: {file}: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_not_over_a_device(tmp_path: Path):
    """Nothing takes the place of what is no file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        record(None, pipe)
    assert pipe.is_fifo()


# ---- broken


def test_broken_files(tmp_path: Path):
    """Named with the file."""
    file = tmp_path / "a.rec"
    record(None, file)
    data = file.read_bytes()
    for broken, why in (
        (data[:-1], "cut short or damaged"),
        (data[:5000], "cut short or damaged"),
        (data + b"\0", "cut short or damaged"),
        (data[:14] + b"\x07\x00" + data[16:], "format that this version does not read"),
    ):
        file.write_bytes(broken)
        with pytest.raises(FormatError, match=why) as caught:
            load(file)
        assert str(caught.value).startswith(str(file))
        assert "\n" not in str(caught.value)


def test_what_another_version_read(tmp_path: Path):
    """Something is missing: said as what it is."""
    file = tmp_path / "a.rec"
    record(None, file)
    file.write_bytes(file.read_bytes().replace(b"smaps_rollup", b"smaps_pullup"))
    with pytest.raises(FormatError, match=r"does not hold .*smaps_rollup.*made by pytest-pmaps"):
        load(file)


def test_a_refused_capture_is_refused_again(zoo: Path, public: Path, tmp_path: Path):
    """As the engine leaves it, what failed fails alike."""
    reader.require_frames()
    python = unprivileged_python()
    code = (
        "import sys\n"
        "from pytest_pmaps._native import Columns, Request\n"
        "try:\n"
        "    Columns.record(Request(int(sys.argv[1])), 1, 'a test')\n"
        "except PermissionError as exc:\n"
        "    print(exc, file=sys.stderr)\n"
    )
    file = tmp_path / "a.rec"
    with targets.running(zoo, "anon", public) as (pid, _), open(file, "wb") as sink:
        command = [*as_nobody(), python, "-P", "-c", code, str(pid)]
        subprocess.run(command, stdout=sink, stderr=subprocess.PIPE, check=True, cwd="/")
    with pytest.raises(AccessDenied, match="the recorded process"):
        load(file)
