"""Pages of objects: in this process, in forks of it, and in no other."""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import mmap
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import (
    Fact,
    FootprintError,
    NoSuchMapping,
    Pages,
    Snapshot,
    assert_no_dirty,
    assert_unchanged,
    diff,
    dumps,
    load,
    loads,
    save,
    snapshot,
)

PAGE = mmap.PAGESIZE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def memory(pages: int, flags: int = PRIVATE) -> mmap.mmap:
    """Anonymous memory, page by page."""
    made = mmap.mmap(-1, pages * PAGE, flags=flags)
    made.madvise(mmap.MADV_NOHUGEPAGE)
    return made


def address(buffer: object) -> int:
    """Of a writable buffer."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def dirty_pages(pages: Pages) -> list[int]:
    """Numbers of the dirty ones, counted from the object's first page."""
    first = pages.start // PAGE
    return [
        r.address // PAGE - first + i
        for r in pages.ranges(Fact.DIRTY)
        for i in range(r.count)
        if r.fact(Fact.DIRTY)
    ]


@contextlib.contextmanager
def forked(work: Callable[[], object] = lambda: None) -> Iterator[int]:
    """A child that fork makes of this process; it does some work, and then waits."""
    done, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            work()
            os.write(say, b"+")
            while True:
                signal.pause()
        os._exit(1)
    os.close(say)
    try:
        assert os.read(done, 1) == b"+", "the child could not do it"
        yield pid
    finally:
        os.close(done)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# ---- in this process


def test_array_over_several_mappings():
    """Advice to use huge pages splits the mapping; written pages are found on both sides."""
    size = 64 << 20
    held = mmap.mmap(-1, size + (2 << 20), flags=PRIVATE)
    held.madvise(mmap.MADV_NOHUGEPAGE)
    held.madvise(mmap.MADV_HUGEPAGE, size // 2, 4 << 20)
    data = np.frombuffer(held, np.uint8, size, PAGE // 2)
    written = [1, 5000, 8191, 8192 + 1024, 16384]
    for page in written:
        data[page * PAGE - PAGE // 2] = 1
    found = snapshot().of(data)
    assert len(found.windows) >= 3
    assert [a.end == b.start for a, b in zip(found.windows, found.windows[1:], strict=False)]
    assert found.size == size // PAGE + 1
    assert dirty_pages(found) == written
    assert found.rss == len(written)
    assert [(e.place, e.bytes) for e in found.edges] == [("first", PAGE // 2), ("last", PAGE // 2)]
    assert dirty_pages(snapshot().of(data, edges="exclude")) == written[:-1]


def test_numpy_zeros_as_they_come():
    """64 MiB, wherever malloc and NumPy's own advice put them."""
    data = np.zeros(64 << 20, np.uint8)
    untouched = snapshot()
    assert untouched.of(data, edges="exclude").rss == 0
    data[:] = 1
    found = snapshot().of(data)
    assert found.dirty == found.size
    assert found.rss == found.size
    assert found.label == f"ndarray of 64 MiB at {data.ctypes.data:#x}"
    assert (snapshot() - untouched).of(data, edges="exclude").new.dirty >= (64 << 20) // PAGE - 1


def test_bytearray_that_grows():
    """What was not there before is new; what was dirty before is not."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests dirtied and freed would not be new
    data = bytearray(300 * PAGE)
    before = snapshot()
    data[7 * PAGE] = 1
    after = snapshot()
    assert (after - before).of(data).new.dirty == 0
    assert after.of(data).dirty == after.of(data).size
    data += bytes(3000 * PAGE)
    grown = snapshot()
    assert (grown - after).of(data, edges="exclude").new.dirty >= 2900
    with pytest.raises(NoSuchMapping, match="not mapped in this snapshot: captured before it was"):
        before.of(memory(1 << 15))


@pytest.mark.parametrize("written", [(), (0,), (3, 4, 5), (0, 31, 63), tuple(range(64))])
def test_exactly_the_written_pages(written: tuple[int, ...]):
    """Dirty, and new."""
    data = memory(64)
    before = snapshot()
    for page in written:
        data[page * PAGE + 17] = 1
    after = snapshot()
    assert dirty_pages(after.of(data)) == list(written)
    assert (after - before).of(data).new.dirty == len(written)
    assert (after - before).of(data).rss == len(written)
    part = memoryview(data)[4 * PAGE :]
    assert (after - before).of(part).new.dirty == sum(page >= 4 for page in written)
    if written:
        with pytest.raises(FootprintError, match=rf"mmap of 256 KiB at {address(data):#x}: "):
            assert_no_dirty(after.of(data), since=before)
    assert_no_dirty(snapshot().of(data), since=after)
    assert_unchanged(snapshot().of(data), since=after)


def test_neighbours_share_a_page():
    """A write beside the object fails with the reason, and passes with whole pages alone."""
    data = memory(8)
    ours = memoryview(data)[PAGE - 16 : 7 * PAGE]
    before = snapshot()
    data[0] = 1
    after = snapshot()
    with pytest.raises(FootprintError) as caught:
        assert_no_dirty(after.of(ours), since=before)
    assert str(caught.value) == (
        f"memoryview of 24,592 B at {address(data) + PAGE - 16:#x}: 1 new dirty page (4 KiB), "
        'allowed 0; without its first page (16 B of it) it would pass: edges="exclude"'
    )
    assert_no_dirty(after.of(ours, edges="exclude"), since=before)
    data[PAGE] = 1
    with pytest.raises(FootprintError, match=r"2 new dirty pages .*; not all its own: its first "):
        assert_no_dirty(snapshot().of(ours), since=before)


def test_small_objects():
    """ctypes, array, bytes, a NumPy scalar array: each in one page or two, and that is resident."""
    numbers = (ctypes.c_double * 4)(1.0)
    objects = (numbers, array.array("i", [1, 2]), b"some bytes", np.array(3), bytearray(b"x"))
    snap = snapshot()
    for given in objects:
        found = snap.of(given)
        assert found.size <= 2
        assert found.rss == found.size
        assert found.edges
    assert snap.of(numbers).start == ctypes.addressof(numbers)


def test_asking_touches_nothing():
    """Not one page comes in, neither of one block of memory nor of a strided array."""
    data = memory(4096)
    table = np.frombuffer(data, np.uint8).reshape(64, -1)
    snap = snapshot()
    for given in (data, table, table[::2, ::3], table.T):
        snap.of(given)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for given in (data, table, table[::2, ::3], table.T):
        snap.of(given)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults < 16  # the heap's own
    assert snapshot().of(data).rss == 0


def test_a_hole_is_named():
    """Never a pass over what is left."""
    libc = ctypes.CDLL(None)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    held = libc_mmap(libc, 0, 8 * PAGE)
    assert libc.munmap(held + 3 * PAGE, PAGE) == 0
    hole = f"{held + 3 * PAGE:#x}-{held + 4 * PAGE:#x}"
    with pytest.raises(NoSuchMapping, match=rf"32 KiB at {held:#x}: {hole} not mapped"):
        snapshot().of((held, 8 * PAGE))
    assert snapshot().of((held, 3 * PAGE)).size == 3
    assert libc.munmap(held, 8 * PAGE) == 0


def test_only_the_object_is_captured():
    """A window of its addresses is enough, and says nothing about what lies beside."""
    data = memory(64)
    data[9 * PAGE] = 1
    at = address(data)
    taken = snapshot(window=(at + 8 * PAGE, at + 16 * PAGE))
    part = memoryview(data)[8 * PAGE : 16 * PAGE]
    assert [r.address - at for r in taken.of(part).ranges(Fact.PRESENT)] == [9 * PAGE]
    with pytest.raises(NoSuchMapping, match=r"or not captured: only some addresses were captured"):
        taken.of(data)


def libc_mmap(libc: ctypes.CDLL, at: int, size: int, fd: int = -1, flags: int = PRIVATE) -> int:
    """mmap(2), which can be told where."""
    call = libc.mmap
    call.restype = ctypes.c_void_p
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    made = call(at, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
    assert made != ctypes.c_void_p(-1).value
    return int(made)


def test_saved_maps_of_this_process(tmp_path: Path):
    """They know whose they are: by process, or by where exec put the program at random."""
    data = memory(16)
    data[5 * PAGE] = 1
    taken = snapshot()
    save(taken, tmp_path / "map.json")
    assert dirty_pages(load(tmp_path / "map.json").of(data)) == [5]
    text = loads(dumps(taken))
    assert (text.pid, text.of(data).size) == (0, 16)


# ---- in forks of it

FORK = """
import json, mmap, os, signal, sys
from pytest_pmaps import Fact, snapshot
PAGE = 4096
private = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
private.madvise(mmap.MADV_NOHUGEPAGE)
file = open(sys.argv[1], "rb")
shared = mmap.mmap(file.fileno(), 32 * PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
for page in range(64):
    private[page * PAGE] = 1
read = sum(shared[page * PAGE] for page in range(32))
done, say = os.pipe()
pid = os.fork()
if pid == 0:
    for page in (3, 4, 60):
        private[page * PAGE] = 2
    read = sum(shared[page * PAGE] for page in range(32))
    shared[7 * PAGE] = 3
    os.write(say, b"+")
    while True:
        signal.pause()
os.read(done, 1)
try:
    ours, theirs = snapshot(), snapshot(pid)
    mine, its = ours.of(private), theirs.of(private)
    own = [r.address // PAGE - its.start // PAGE + i for r in its.ranges(Fact.EXCLUSIVE)
           for i in range(r.count) if r.fact(Fact.EXCLUSIVE)]
    print(json.dumps({
        "own": own, "shared": its.shared.bounds, "dirty": its.dirty.bounds,
        "common": mine.shared_with(theirs).pages.bounds,
        "common at": mine.shared_with(its).pages.bounds,
        "file": ours.of(shared).shared_with(theirs).pages.bounds,
        "file dirty": theirs.of(shared).dirty.bounds,
    }))
finally:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("who", ["as we are", "nobody"])
def test_same_addresses_in_a_forked_child(public: Path, who: str):
    """Of 64 pages it wrote 3: these are its own, the others still both of theirs.

    Which of private memory are the very same pages only frames tell; which are mapped once, and
    which of a file are the same, everybody is told.
    """
    file = public / "shared"
    file.write_bytes(bytes(32 * PAGE))
    python = [sys.executable] if who == "as we are" else [*as_nobody(), unprivileged_python()]
    run = subprocess.run(
        [*python, "-P", "-c", FORK, str(file)], capture_output=True, text=True, cwd="/"
    )
    assert run.stderr == ""
    said = json.loads(run.stdout)
    assert said["own"] == [3, 4, 60]
    assert said["shared"] == [61, 61]
    assert said["dirty"] == [64, 64]
    assert said["file"] == [31, 31]
    assert said["file dirty"] == [1, 1]
    frames = who == "as we are" and os.geteuid() == 0
    assert said["common"] == said["common at"] == ([61, 61] if frames else [0, 61])


def test_a_child_reads_its_parents_map():
    """The other way round, and in a child's child."""
    data = memory(8)
    data[2 * PAGE] = 1
    parent = snapshot()
    with forked(lambda: dirty_pages(parent.of(data)) == [2] or os._exit(1)):
        pass

    def inner() -> None:
        with forked() as pid:
            assert dirty_pages(snapshot(pid).of(data)) == [2]

    with forked(inner):
        pass


def test_what_a_child_maps_elsewhere_is_not_ours(tmp_path: Path):
    """At the object's addresses it may have another file, or nothing, by now."""
    data = memory(8)
    at = address(data)
    file = tmp_path / "file"
    file.write_bytes(bytes(8 * PAGE))

    def over() -> None:
        libc = ctypes.CDLL(None)
        with file.open("r+b") as other:
            fixed = mmap.MAP_SHARED | 0x10  # MAP_FIXED
            libc_mmap(libc, at + 5 * PAGE, PAGE, other.fileno(), fixed)

    with forked(over) as pid, pytest.raises(ValueError, match=rf"{pid} maps other memory at mmap"):
        snapshot(pid).of(data)

    def gone() -> None:
        libc = ctypes.CDLL(None)
        assert libc.munmap(ctypes.c_void_p(at + PAGE), ctypes.c_size_t(PAGE)) == 0

    with forked(gone) as pid:
        with pytest.raises(NoSuchMapping, match=f"{at + PAGE:#x}-{at + 2 * PAGE:#x} not mapped"):
            snapshot(pid).of(data)
        assert snapshot(pid).of(memoryview(data)[2 * PAGE :]).size == 6


# ---- in no other


@pytest.fixture
def other() -> Iterator[Snapshot]:
    """Of a program of its own: this very Python."""
    code = "print('ready', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        yield snapshot(process)
        process.stdin.close()


def test_an_object_means_nothing_in_another_program(other: Snapshot):
    """Not even where the program itself, which is not moved, maps the same at its address."""
    for given in (memory(4), b"x", np.zeros(10), np.zeros((9, 9))[::2]):
        with pytest.raises(ValueError, match=f"means nothing in process {other.pid}: it is no fo"):
            other.of(given)
    with pytest.raises(ValueError, match=r"give \(address, length\)$"):
        loads(dumps(other)).of(b"x")


def test_not_even_under_our_pid(other: Snapshot):
    """A pid is given again; with its start time it is a process's name."""
    plain = other.to_plain()
    plain.pid = os.getpid()
    with pytest.raises(ValueError, match="means nothing in process"):
        Snapshot.from_plain(plain).of(memory(4))


def test_changes_between_programs_are_asked_by_address(other: Snapshot):
    """On either side of the comparison."""
    ours = snapshot()
    for change in (diff(ours, other), diff(other, ours)):
        with pytest.raises(ValueError, match=f"means nothing in process {other.pid}"):
            change.of(b"x")


@pytest.mark.parametrize("lost", ["[vdso]", "[stack]", "ld"])
def test_a_fork_has_every_landmark(lost: str):
    """What a map does not show is no evidence."""
    data = memory(4)
    plain = snapshot().to_plain()
    plain.pid = 0
    assert Snapshot.from_plain(plain).of(data).size == 4
    kept = [m for m in plain.mappings if lost not in m.name.rpartition("/")[2].partition("-")[0]]
    assert len(kept) < len(plain.mappings)
    plain.mappings = kept
    with pytest.raises(ValueError, match="in the saved map's process: it is no fork of this one"):
        Snapshot.from_plain(plain).of(data)


def test_addresses_mean_something_in_all(other: Snapshot):
    """They are the process's own."""
    stack = other["[stack]"].mappings[0]
    found = other.of((stack.end - 100, 100))
    assert found.size == 1
    assert found.rss == 1
    assert found.label == f"100 B at {stack.end - 100:#x}"
    with pytest.raises(NoSuchMapping, match=r"not mapped in this snapshot$"):
        other.of((stack.end - 100, 101))


NOT_RANDOM = """
import os, signal, subprocess, sys
from pytest_pmaps import snapshot
data = bytearray(5000)
assert snapshot().of(data).rss == snapshot().of(data).size
pid = os.fork()
if pid == 0:
    while True:
        signal.pause()
try:
    snapshot(pid).of(data)
except ValueError as error:
    print(error)
finally:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


def test_without_randomisation_no_fork_is_known():
    """Every program lies where every other one does: nothing is claimed."""
    setarch = shutil.which("setarch")
    command = [str(setarch), "--addr-no-randomize"]
    if setarch is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("setarch cannot switch address randomisation off here")
    run = subprocess.run(
        [*command, sys.executable, "-P", "-c", NOT_RANDOM], capture_output=True, text=True
    )
    assert run.stderr == ""
    assert "addresses are not randomised here, so that no fork can be told" in run.stdout
    assert run.stdout.count("\n") == 1
