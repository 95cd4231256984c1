"""Correct where it is fast: the shapes of memory that the benchmarks measure, smaller, page by
page against the independent reader; and the large ones whole.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oracle import reader, targets
from oracle.agreement import agree, around, around_as, as_nobody
from oracle.reader import Unavailable
from pytest_pmaps import Snapshot, snapshot, stream

SOURCE = Path(__file__).parents[2] / "benchmarks" / "workloads.c"
MIB = 1 << 20

#: Shape, its size in the program's own terms, pages that it makes resident.
SHAPES = {
    "sequential": (["sequential", str(24 * MIB)], 24 * 256),
    "random": (["random", str(24 * MIB)], 24 * 256),
    "huge": (["huge", str(24 * MIB)], 24 * 256),
    "mappings": (["mappings", "3000"], 3000),
    "file": (["file", str(16 * MIB), "FILE"], 16 * 256),
}

#: Takes 12 MiB of huge pages apart in four ways, and forks over one of them.
SPLIT = """
import ctypes, json, mmap, os, sys, time
libc = ctypes.CDLL(None)
size = 24 << 20
m = mmap.mmap(-1, size, flags=34)
address = ctypes.addressof(ctypes.c_char.from_buffer(m))
start = -(-address // (2 << 20)) * (2 << 20)
def call(name, page, n, *more):
    at = ctypes.c_void_p(start + page * 4096)
    assert getattr(libc, name)(at, ctypes.c_size_t(n * 4096), *more) == 0
m.madvise(14)
m[::4096] = b"x" * (size // 4096)
call("mprotect", 512 + 100, 50, 1)          # in the middle
call("munmap", 1024 + 256, 8)               # a hole
call("madvise", 1536 + 10, 100, 4)          # MADV_DONTNEED
if os.fork() == 0:
    m[start - address + 2048 * 4096 :: 7 * 4096] = b"y" * len(
        m[start - address + 2048 * 4096 :: 7 * 4096])
    time.sleep(600)
time.sleep(0.5)
print(json.dumps({}), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def workloads(public: Path) -> Path:
    """The program that the benchmarks run."""
    path = public / "workloads"
    command = ["gcc", "-O2", "-D_GNU_SOURCE", "-pthread", "-o", str(path), str(SOURCE)]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        raise Unavailable("no C compiler (gcc) on this host") from None
    return path


@contextmanager
def running(program: Path, *args: str, user: list[str] | None = None) -> Iterator[int]:
    """A workload that is ready."""
    process = subprocess.Popen(
        [*(user or []), str(program), *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.startswith("cannot"):
            raise Unavailable(f"this host has no room for it: {line}")
        assert line == "ready\n"
        targets.wait_idle(process.pid)
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def pages(captured: Snapshot) -> int:
    """All that are listed."""
    return sum(captured.buffers()["count"])


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_as_root(workloads: Path, public: Path, shape: str, counters: bool):
    """Every decided fact is the reader's, however the pages were looked up."""
    reader.require_frames()
    args, resident = SHAPES[shape]
    args = [str(public / "file") if arg == "FILE" else arg for arg in args]
    with running(workloads, *args) as pid:
        captured, _ = agree(lambda: around(pid, lambda: snapshot(pid, counters=counters)))
        assert resident <= pages(captured)
        if counters:
            assert captured.verdict.label == "complete", captured.verdict.reasons
            assert captured.rss.bytes.bounds[0] >= resident * 4096


@pytest.mark.parametrize("shape", ["random", "huge", "mappings"])
def test_as_nobody(workloads: Path, public: Path, shape: str):
    """The same with frames hidden."""
    reader.require_frames()
    args, _ = SHAPES[shape]
    with running(workloads, *args, user=as_nobody()) as pid:
        agree(lambda: around_as(as_nobody(), pid))


@pytest.mark.parametrize("counters", [True, False])
def test_huge_pages_taken_apart(counters: bool):
    """By mprotect, a hole, MADV_DONTNEED, and copies after fork."""
    reader.require_frames()
    with targets.running("-c", SPLIT, python="/usr/bin/python3") as (pid, _):
        captured, _ = agree(lambda: around(pid, lambda: snapshot(pid, counters=counters)))
    assert pages(captured) > 5000


def test_a_tebibyte_with_scattered_pages(workloads: Path):
    """All of its pages and not one more, by PAGEMAP_SCAN; whole, and piece by piece."""
    with running(workloads, "sparse", str(1 << 40), "10000") as pid:
        captured = snapshot(pid)
        large = max(captured.mappings, key=lambda m: m.end - m.start)
        assert large.rss.bytes.bounds == (10_000 * 4096,) * 2
        assert sum(r.count for r in large.ranges()) == 10_000
        assert captured.verdict.label == "complete"
        walked = stream(pid, pages=3000, metrics=("rss",))
        assert sum(pages(piece) for piece in walked) == pages(captured)
        assert walked.metric("rss").bytes.bounds == captured.rss.bytes.bounds


def test_as_many_mappings_as_there_can_be(workloads: Path):
    """65,000, or what vm.max_map_count leaves: every one is listed, and adds up."""
    most = int(Path("/proc/sys/vm/max_map_count").read_text())
    count = min(65_000, most - 500)
    with running(workloads, "mappings", str(count)) as pid:
        captured = snapshot(pid)
        lines = Path(f"/proc/{pid}/maps").read_text().count("\n")
        assert len(captured.columns) == lines > count
        assert captured.verdict.label == "complete", captured.verdict.reasons
        assert captured.rss.bytes.bounds[0] >= count * 4096
