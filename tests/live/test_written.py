"""What this process writes in a window: exactly those pages, whoever writes them, as whoever."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import mmap
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.agreement import as_nobody, unprivileged_python
from oracle.writes import RANDOM, random_folder
from pytest_pmaps import (
    Fact,
    FootprintError,
    NoSuchMapping,
    Undetermined,
    Unsupported,
    Written,
    WrittenMethod,
    WrittenSelection,
    assert_at_most,
    snapshot,
    written,
)

PAGE = mmap.PAGESIZE
HUGE = 2 << 20
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
MADV_COLLAPSE, MADV_GUARD_INSTALL = 25, 102
MAP_FIXED, MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x10, 0x4000, 0x100000

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]


@pytest.fixture(scope="session", autouse=True)
def watchable() -> None:
    """These tests are of userfaultfd."""
    try:
        with written(of=bytearray(5)) as w:
            pass
    except Unsupported as exc:
        pytest.skip(str(exc))
    if w.method is not WrittenMethod.USERFAULTFD:
        pytest.skip(w.reasons[0])


def memory(pages: int, flags: int = PRIVATE, fd: int = -1) -> mmap.mmap:
    """Memory without huge pages."""
    made = mmap.mmap(fd, pages * PAGE, flags=flags)
    made.madvise(mmap.MADV_NOHUGEPAGE)
    return made


def address(buffer: object) -> int:
    """Of a writable buffer."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def told(w: Written, of: object) -> tuple[list[int], list[int]]:
    """Numbers of an object's pages that were written, and that may have been."""
    pages = w.of(of)
    first = pages.start // PAGE
    sure: list[int] = []
    open_: list[int] = []
    for r in pages.written_ranges():
        at = r.address // PAGE - first
        (sure if r.written else open_).extend(range(at, at + r.count))
    lo, hi = pages.written.bounds
    assert (lo, hi) == (len(sure), len(sure) + len(open_))
    return sure, open_


@contextlib.contextmanager
def asleep(work: Callable[[], object] = lambda: None) -> Iterator[int]:
    """A forked child that does some work and then waits until it is let go."""
    done, say = os.pipe()
    ask, let_go = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.close(let_go)
            work()
            os.write(say, b"+")
            os.read(ask, 1)
            code = 0
        os._exit(code)
    os.close(say)
    os.close(ask)
    try:
        assert os.read(done, 1) == b"+", "the child could not do it"
        yield pid
    finally:
        os.close(let_go)
        os.close(done)
        assert os.waitpid(pid, 0)[1] == 0


# ---- exactly those pages


@pytest.mark.parametrize("who", ["as we are", "nobody"])
@pytest.mark.parametrize("seed", range(2))
def test_ten_thousand_random_writes(public: Path, who: str, seed: int):
    """Own code, C, an extension and system calls, before and after a fork: no page too many, and
    none too few.
    """
    folder = random_folder(public)
    python = [sys.executable] if who == "as we are" else [*as_nobody(), unprivileged_python()]
    run = subprocess.run(
        [*python, "-P", "-c", RANDOM, str(folder), str(seed)],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert run.stderr == ""
    said = json.loads(run.stdout)
    assert said["method"] == "userfaultfd"
    assert said["uid"] == (65534 if who == "nobody" else os.geteuid())
    for name, (true, wrong, bounds) in said["kinds"].items():
        assert wrong == [], name
        assert bounds == [true, true], name
        assert true > 1000


OPS = st.lists(
    st.tuples(
        st.sampled_from(("write", "read", "into", "fork", "dontneed", "inner")),
        st.integers(0, 15),
    ),
    max_size=25,
)


@given(
    before=st.sets(st.integers(0, 15)),
    ops=OPS,
    shared=st.booleans(),
    huge=st.booleans(),
)
@settings(database=None, deadline=None, max_examples=150)
def test_whatever_happens_nothing_wrong_is_claimed(
    before: set[int], ops: list[tuple[str, int]], shared: bool, huge: bool
):
    """Writes, reads, forks, windows inside, and memory given back, in any order."""
    buffer = mmap.mmap(-1, 16 * PAGE, flags=SHARED if shared else PRIVATE)
    buffer.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    for page in before:
        buffer[page * PAGE] = 1
    wrote: set[int] = set()
    gave: set[int] = set()
    with Path("/dev/urandom").open("rb", buffering=0) as random, written(of=buffer) as w:
        for op, page in ops:
            at = page * PAGE
            if op == "write":
                buffer[at + 5] = 5
            elif op == "into":
                random.readinto(memoryview(buffer)[at : at + 3])
            elif op == "read":
                assert buffer[at] is not None
            elif op == "fork":
                with asleep(lambda at=at: buffer.__setitem__(at + 9, 1)):  # type: ignore[misc]
                    pass
            elif op == "dontneed":
                buffer.madvise(mmap.MADV_DONTNEED, at, PAGE)
                gave.add(page)
            else:
                with written(of=buffer) as inner:
                    buffer[at + 7] = 1
                assert page in told(inner, buffer)[0]
            if op in ("write", "into", "inner"):
                wrote.add(page)
    sure, open_ = (set(pages) for pages in told(w, buffer))
    assert sure <= wrote
    assert wrote <= sure | open_
    assert open_ <= gave  # what was not given back is decided


# ---- huge pages


def huge_memory(flags: int = PRIVATE, fd: int = -1) -> int:
    """Address of 4 MiB that begin where a huge page may, in a file too."""
    room = libc.mmap(None, 8 << 20, 0, PRIVATE, -1, 0)
    at = -(-room // HUGE) * HUGE
    assert libc.mmap(at, 2 * HUGE, 3, flags | MAP_FIXED, fd, 0) == at
    return int(at)


def poke(at: int, page: int) -> None:
    """Write one byte."""
    ctypes.memset(at + page * PAGE + 5, 1, 1)


def peek(at: int) -> int:
    """Read one byte."""
    return ctypes.c_ubyte.from_address(at).value


def test_huge_pages_are_told_page_by_page():
    """A written one, and the huge zero page."""
    at = huge_memory()
    libc.madvise(at, 2 * HUGE, mmap.MADV_HUGEPAGE)
    ctypes.memset(at, 1, HUGE)
    assert peek(at + HUGE) == 0
    most = snapshot().of((at, HUGE)).anon_huge_pages.bytes.bounds[1]
    if not most:
        pytest.skip("no huge pages to be had here (transparent_hugepage/enabled)")
    with written() as w:
        poke(at, 5)
        poke(at, 512 + 7)
    assert told(w, (at, 2 * HUGE)) == ([5, 512 + 7], [])
    with written() as w:  # given back, and filled with a new huge page by one write
        libc.madvise(at, HUGE, mmap.MADV_DONTNEED)
        poke(at, 9)
    sure, open_ = told(w, (at, HUGE))
    assert 9 in {*sure, *open_}
    assert set(sure) <= {9}
    with pytest.raises(Undetermined, match="given back"):
        assert w.of((at, HUGE)).written == 1


def test_huge_pages_of_shared_memory_are_told_page_by_page():
    """The kernel would note the first write to one for all of it."""
    fd = os.memfd_create("huge")
    os.truncate(fd, 2 * HUGE)
    at = huge_memory(mmap.MAP_SHARED, fd)
    ctypes.memset(at, 1, 2 * HUGE)
    if libc.madvise(at, HUGE, MADV_COLLAPSE):
        pytest.skip("shared memory takes no huge pages here (MADV_COLLAPSE)")
    assert sum(peek(at + i * PAGE) for i in range(512)) == 512
    assert snapshot().of((at, HUGE)).metric("huge") == 512
    with written() as w:
        poke(at, 5)
        assert sum(peek(at + i * PAGE) for i in range(512)) == 512
    assert told(w, (at, 2 * HUGE)) == ([5], [])


# ---- memory that comes and goes


def test_what_comes_meanwhile_is_new_and_not_known():
    """It counts in the upper end; what holds nothing does not count."""
    kept = []
    with written() as w:
        made = memory(64)
        kept.append(made)
        made[3 * PAGE] = 1
        assert made[5 * PAGE] == 0
    assert told(w, made) == ([], [3])
    assert w.of(made).new == 1
    assert w.of(made).written <= 1
    assert w.new >= 1
    with pytest.raises(Undetermined, match="1 page in memory that came meanwhile"):
        assert w.of(made).written == 1
    assert any("came meanwhile" in reason for reason in w.reasons)


def test_a_file_mapped_meanwhile_was_not_written_where_it_is_the_files(public: Path):
    """Pages of a private mapping that are not copied, by the kernel's word."""
    file = public / "fresh"
    file.write_bytes(bytes(8 * PAGE))
    with file.open("rb") as opened, written() as w:
        made = mmap.mmap(opened.fileno(), 8 * PAGE, flags=mmap.MAP_PRIVATE, prot=3)
        assert sum(made[i * PAGE] for i in range(8)) == 0
        made[2 * PAGE] = 1
    assert told(w, made) == ([], [2])


def test_what_moves_is_new():
    """mremap lets go of the watch."""
    at = libc.mmap(None, 8 * PAGE, 3, PRIVATE, -1, 0)
    ctypes.memset(at, 1, 4 * PAGE)
    with written() as w:
        moved = libc.mremap(at, 8 * PAGE, 64 << 20, 1)
        ctypes.memset(moved, 1, PAGE)
    sure, open_ = told(w, (moved, 8 * PAGE))
    assert sure == []
    assert open_ == [0, 1, 2, 3]
    libc.munmap(moved, 64 << 20)


def test_another_mapping_at_the_same_place():
    """What was written to the first is gone with it: none of it may be called unwritten."""
    at = libc.mmap(None, 8 * PAGE, 3, PRIVATE, -1, 0)
    ctypes.memset(at, 1, 8 * PAGE)
    with written() as w:
        ctypes.memset(at, 2, 2 * PAGE)
        assert libc.mmap(at, 8 * PAGE, 3, PRIVATE | MAP_FIXED, -1, 0) == at
        ctypes.memset(at + 4 * PAGE, 1, PAGE)
    assert told(w, (at, 8 * PAGE)) == ([], list(range(8)))
    assert w.of((at, 8 * PAGE)).new == 1
    libc.munmap(at, 8 * PAGE)


def test_an_object_that_is_freed_meanwhile():
    """Whoever asks about its addresses is not told that they were not written."""
    at = libc.mmap(None, 8 * PAGE, 3, PRIVATE, -1, 0)
    with written(of=(at, 8 * PAGE)) as w:
        ctypes.memset(at, 2, 6 * PAGE)
        libc.munmap(at, 4 * PAGE)
    assert w.written.bounds == (2, 6)
    assert w.reasons == ("4 pages not mapped any more (freed, or moved)",)
    with pytest.raises(NoSuchMapping):
        w.of((at, 8 * PAGE))
    libc.munmap(at + 4 * PAGE, 4 * PAGE)


def test_an_object_that_moves_meanwhile():
    """As realloc does with what is large: it is somewhere else, where nothing was watched."""
    at = libc.mmap(None, 8 * PAGE, 3, PRIVATE, -1, 0)
    other = libc.mmap(None, 8 * PAGE, 0, PRIVATE, -1, 0)
    ctypes.memset(at, 1, 8 * PAGE)
    with written(of=(at, 8 * PAGE)) as w:
        ctypes.memset(at, 2, 2 * PAGE)
        assert libc.mremap(at, 8 * PAGE, 8 * PAGE, 3, ctypes.c_void_p(other)) == other
    assert w.written.bounds == (0, 8)
    with pytest.raises(NoSuchMapping, match="only some addresses"):
        w.of((other, 8 * PAGE))
    libc.munmap(other, 8 * PAGE)


def far_memory(at: int, pages: int = 8) -> int:
    """Memory where nothing else is put when it is unmapped."""
    flags = PRIVATE | MAP_NORESERVE | MAP_FIXED_NOREPLACE
    assert libc.mmap(at, pages * PAGE, 3, flags, -1, 0) == at
    return at


def test_an_object_that_is_freed_and_comes_back_around_another_window():
    """What is read in between does not make it forget what went."""
    at = far_memory(1 << 33)
    ctypes.memset(at, 1, 8 * PAGE)
    with written(of=(at, 8 * PAGE)) as w:
        ctypes.memset(at, 2, 8 * PAGE)
        libc.munmap(at, 8 * PAGE)
        with written(of=bytearray(PAGE)):
            pass
        far_memory(at)
    assert w.written.bounds == (0, 8)
    assert w.reasons == ("8 pages of a mapping that took the place of another meanwhile",)
    libc.munmap(at, 8 * PAGE)


def test_a_huge_object_that_is_replaced():
    """Also where it was too empty to be watched page by page."""
    pages = (2 << 30) // PAGE
    at = far_memory(1 << 34, pages)
    with written(of=(at, pages * PAGE)) as w:
        ctypes.memset(at + (1 << 30), 1, PAGE)
        libc.munmap(at, pages * PAGE)
        far_memory(at, pages)
    assert w.of((at + (1 << 30), PAGE)).written.bounds == (0, 1)
    libc.munmap(at, pages * PAGE)


def test_what_is_not_mapped_cannot_be_watched():
    """An error at once, not an answer of 0 afterwards."""
    at = libc.mmap(None, 8 * PAGE, 3, PRIVATE, -1, 0)
    libc.munmap(at + 4 * PAGE, 4 * PAGE)
    for of in ((0x10000, PAGE), (at, 8 * PAGE)):
        with (
            pytest.raises(NoSuchMapping, match=r"not mapped.*when the window begins"),
            written(of=of),
        ):
            raise AssertionError("it began")
    libc.munmap(at, 4 * PAGE)


def test_a_part_of_a_library():
    """Only that is watched, so only that is counted and can be asked about."""
    with written(select="libc.text") as w:
        libc.getpid()
    assert w.written == w["libc.text"].written == 0
    assert w.snapshot["libc.text"].rss > 0
    for other in ("libc", "libc.data"):
        with pytest.raises(NoSuchMapping, match=r"not watched: this window is over .* text alone"):
            w[other]
    with written(select="libc.data") as w:
        # Its own counters, locks and lists are written all the time.
        libc.free(ctypes.c_void_p(libc.malloc(100_000)))
    assert w.written == w["libc.data"].written
    assert all(r.written is not None for r in w.written_ranges())


def test_too_many_open_files():
    """Said in these words; it is not the system that lacks something."""
    code = """
        import os, resource
        from pytest_pmaps import PmapsError, Unsupported, written
        with written():
            pass
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        said = []
        for free in range(3):
            try:
                with written(of=bytearray(8192)):
                    pass
            except PmapsError as exc:
                said.append(str(exc))
                assert not isinstance(exc, Unsupported), exc
            os.close(held.pop())
        assert said and all("too many open files" in text for text in said), said
        data = bytearray(8192)
        with written(of=data) as w:
            pass
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        try:
            w.of(data)
            raise SystemExit("it could be looked up")
        except PmapsError as exc:
            assert "Errno" not in str(exc) and "ulimit -n" in str(exc), exc
    """
    command = [sys.executable, "-P", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


def test_no_child_inherits_a_window():
    """Forked while other threads begin and end windows: it could write into our memory."""
    code = """
        import os, threading
        from pytest_pmaps import written
        over = threading.Event()
        def work():
            while not over.is_set():
                with written(of=bytearray(8192)):
                    pass
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        inherited = 0
        for _ in range(500):
            pid = os.fork()
            if pid == 0:
                links = []
                for fd in range(64):
                    try:
                        links.append(os.readlink(f"/proc/self/fd/{fd}"))
                    except OSError:
                        pass
                secret = ("userfault", "map", "clear_refs")
                os._exit(any(word in link for link in links for word in secret))
            inherited += os.waitpid(pid, 0)[1] != 0
        over.set()
        for thread in threads:
            thread.join()
        assert inherited == 0, inherited
    """
    command = [sys.executable, "-P", "-W", "ignore", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120)
    assert done.returncode == 0, done.stderr


def test_what_was_given_back_is_not_called_unwritten():
    """Whether refilled by reading, by nothing, or by writing."""
    data = memory(8)
    data[: 8 * PAGE] = b"x" * 8 * PAGE
    with written() as w:
        data[1 * PAGE] = 1
        data.madvise(mmap.MADV_DONTNEED, 1 * PAGE, 3 * PAGE)
        assert data[2 * PAGE] == 0
        data[3 * PAGE] = 1
    assert told(w, data) == ([3], [1, 2])


def test_guard_pages_are_never_written():
    """Installed before, or meanwhile."""
    data = memory(8)
    data[: 8 * PAGE] = b"x" * 8 * PAGE
    if libc.madvise(address(data) + PAGE, PAGE, MADV_GUARD_INSTALL):
        pytest.skip("no guard pages on this kernel (MADV_GUARD_INSTALL)")
    with written() as w:
        libc.madvise(address(data) + 3 * PAGE, PAGE, MADV_GUARD_INSTALL)
        data[5 * PAGE] = 1
    assert told(w, data) == ([5], [3])


def test_a_shared_mapping_that_cannot_be_written_was_not(public: Path):
    """Though the kernel would not watch it."""
    file = public / "readonly"
    file.write_bytes(bytes(8 * PAGE))
    with file.open("rb") as opened:
        data = mmap.mmap(opened.fileno(), 8 * PAGE, prot=mmap.PROT_READ)
        assert data[0] == 0
        with written() as w:
            pass
    assert w["readonly"].written == 0
    assert w.unwatched == ()


def test_the_whole_process_is_decided():
    """Nothing open where no memory came and went; and what Python does by itself is little."""
    data = memory(64)
    gc.collect()
    gc.disable()
    try:
        with written() as w:
            data[0] = 1
            data[9 * PAGE] = 1
    finally:
        gc.enable()
    lo, hi = w.written.bounds
    assert told(w, data) == ([0, 9], [])
    assert lo is not None
    assert hi is not None
    print("an empty window:", w.written)
    assert 2 <= lo <= hi <= 200
    assert w["libc.text"].written == 0
    assert w.unwatched == ()


def test_huge_empty_memory_costs_little():
    """64 GiB of address space: no page tables for it; what comes into it is new."""
    size = 64 << 30
    at = libc.mmap(None, size, 3, PRIVATE | MAP_NORESERVE, -1, 0)
    libc.madvise(at, size, mmap.MADV_NOHUGEPAGE)
    ctypes.memset(at + (1 << 30), 1, PAGE)
    before = snapshot().status["vm_pte"]
    began = time.monotonic()
    with written() as w:
        ctypes.memset(at + (1 << 30), 2, PAGE)
        ctypes.memset(at + (2 << 30), 2, PAGE)
    took = time.monotonic() - began
    assert snapshot().status["vm_pte"] - before < 48 << 20
    assert w.of((at + (1 << 30), HUGE)).written == 1
    assert told(w, (at + (2 << 30), PAGE)) == ([], [0])
    assert w.of((at, size)).written.bounds == (1, 2)
    assert took < 2
    libc.munmap(at, size)


# ---- windows in windows


def test_windows_in_windows():
    """Each knows what was written in it."""
    data = memory(16)
    data[: 16 * PAGE] = b"x" * 16 * PAGE
    with written() as outer:
        data[1 * PAGE] = 1
        with written(of=data) as inner:
            data[2 * PAGE] = 1
            data.madvise(mmap.MADV_DONTNEED, 5 * PAGE, PAGE)
            with written() as innermost:
                data[3 * PAGE] = 1
                data[1 * PAGE] = 1
            assert told(innermost, data) == ([1, 3], [])
        assert told(inner, data) == ([1, 2, 3], [5])
        data[4 * PAGE] = 1
    assert told(outer, data) == ([1, 2, 3, 4], [5])


def test_windows_may_overlap():
    """The first ends before the second does."""
    data = memory(16)
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        a = first.enter_context(written())
        data[1 * PAGE] = 1
        b = second.enter_context(written())
        data[2 * PAGE] = 1
        came = memory(4)
        first.close()
        data[3 * PAGE] = 1
        came[0] = 1
        second.close()
    assert told(a, data) == ([1, 2], [])
    assert told(b, data) == ([2, 3], [])
    assert told(b, came) == ([], [0])


def test_no_write_is_lost_where_windows_begin_and_end():
    """Another thread writes all the time, each page once."""
    pages = 6000
    data = memory(pages)
    array = np.frombuffer(data, dtype=np.uint8)
    began, enough, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        for page in range(pages):
            array[page * PAGE] = 1
            if page % 200 == 0:
                time.sleep(0.001)
            if page == pages // 2:
                enough.wait(60)  # a window takes long on some machines
        done.set()

    thread = threading.Thread(target=work)
    windows = 0
    parts: list[Written] = []
    with written() as outer:
        thread.start()
        began.wait()
        while not done.is_set():
            with written(of=data) as inner:
                time.sleep(0.0005)
            parts.append(inner)
            windows += 1
            if windows == 3:
                enough.set()
        thread.join()
    assert told(outer, data) == (list(range(pages)), [])
    found = [page for part in parts for page in told(part, data)[0]]
    assert len(found) == len(set(found))  # each write in one of them at most
    assert windows > 3


# ---- limited windows


def test_a_window_over_one_object():
    """Nothing else is watched, and asking for it is an error."""
    data, other = memory(64), memory(64)
    middle = memoryview(data)[10 * PAGE : 20 * PAGE]
    with written(of=middle) as w:
        data[12 * PAGE] = 1
        data[30 * PAGE] = 1
        other[0] = 1
    assert w.written == 1
    assert told(w, middle) == ([2], [])
    with pytest.raises(NoSuchMapping, match="not captured"):
        w.of(other)
    with pytest.raises(NoSuchMapping):
        w["libc"]


def test_a_window_over_one_file():
    """By the same selectors as snapshots."""
    with written(select="libc") as w:
        pass
    assert w["libc.text"].written == 0
    assert w["libc"].written <= 4
    assert isinstance(w.select("libc*"), WrittenSelection)
    with (
        pytest.raises(NoSuchMapping, match="no mapping matches 'libnothing'"),
        written(select="libnothing"),
    ):
        pass
    with pytest.raises(ValueError, match="select or of"):
        written(select="libc", of=b"x")


# ---- leaving no trace


def watching() -> list[int]:
    """Descriptors of userfaultfds that are open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            if "userfaultfd" in os.readlink(f"/proc/self/fd/{fd}"):
                found.append(int(fd))
    return found


def lines_around(at: int, length: int) -> list[str]:
    """Mappings that overlap some addresses, as smaps shows them, with their flags."""
    found: list[str] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = (int(g, 16) for g in head.groups())
            inside = start < at + length and at < end
        if inside and (head or line.startswith("VmFlags")):
            found.append(line)
    return found


@pytest.mark.parametrize("end", ["well", "with an exception"])
def test_nothing_is_left(end: str):
    """No descriptor, no flag, no mapping in pieces."""
    data = memory(64)
    at = address(data)
    limited = memoryview(data)[10 * PAGE : 20 * PAGE]
    before = lines_around(at, 64 * PAGE)
    for of in (limited, None):
        with contextlib.suppress(KeyError), written(of=of):
            assert watching()
            data[11 * PAGE] = 1
            data[40 * PAGE] = 1
            if end != "well":
                raise KeyError("from the block")
        assert lines_around(at, 64 * PAGE) == before
        assert not watching()
    assert " uw" not in Path("/proc/self/smaps").read_text()
    assert snapshot().count(Fact.UFFDWP) == 0


def test_a_window_that_failed_cannot_be_asked():
    """Nor one that is open, nor be used again."""
    w = written()
    with pytest.raises(ValueError, match="ask when the with block has ended"):
        _ = w.written
    with contextlib.suppress(KeyError), w:
        with pytest.raises(ValueError, match="has ended"):
            w["libc"]
        raise KeyError
    with pytest.raises(ValueError, match="has ended"):
        _ = w.written
    with pytest.raises(ValueError, match="for one with block"), w:
        pass


def test_an_abandoned_window_lets_go():
    """As a generator that is never finished leaves one."""
    w = written()
    w.__enter__()
    assert watching()
    del w
    gc.collect()
    assert not watching()


def test_a_forked_child_has_no_window():
    """Neither its descriptor nor its answers; and leaving the block there harms nobody."""
    data = memory(8)

    def child() -> None:
        assert not watching()
        w.__exit__(None, None, None)
        with pytest.raises(ValueError, match="of the process that forked"):
            _ = w.written
        with written(of=data) as own:
            data[7 * PAGE] = 1
        assert told(own, data) == ([7], [])

    with written() as w:
        data[1 * PAGE] = 1
        with asleep(child):
            data[2 * PAGE] = 1
    assert told(w, data) == ([1, 2], [])


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86-64")
def test_a_cloned_child_has_no_window():
    """Though no handler ran in it: its own window is not of its parent's memory."""
    data = memory(8)
    with written() as w:
        data[1 * PAGE] = 1
        pid = libc.syscall(56, 17, 0, 0, 0, 0)  # clone, SIGCHLD
        if pid == 0:
            right = False
            with contextlib.suppress(BaseException):
                with written(of=data) as own:
                    data[7 * PAGE] = 1
                right = told(own, data) == ([7], [])
            os._exit(0 if right else 1)
        assert os.waitpid(pid, 0)[1] == 0
        data[2 * PAGE] = 1
    assert told(w, data) == ([1, 2], [])


GROWING = """
import contextlib, sys
from pytest_pmaps import written

def heaps():
    with open("/proc/self/maps") as file:
        return sum("[heap]" in line for line in file)

with written():
    pass
before = heaps()
kept = []
for i in range(200):
    with written():
        kept.append([bytearray(5000) for _ in range(200)])
print(before, heaps())
"""


def test_a_heap_that_grows_in_windows_stays_in_one_piece():
    """200 windows, 200 MB: mappings would run out (vm.max_map_count) after some 65,000."""
    run = subprocess.run(
        [sys.executable, "-P", "-c", GROWING], capture_output=True, text=True, cwd="/"
    )
    assert run.stderr == ""
    before, after = (int(number) for number in run.stdout.split())
    if not before:
        pytest.skip("malloc has no heap of its own here ([heap] in maps)")
    assert after <= before + 20


END_OF_HEAP = """
import ctypes, mmap
from pytest_pmaps import written

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
libc.sbrk.argtypes = [ctypes.c_ssize_t]
end = -(-(libc.sbrk(64 * PAGE) + 64 * PAGE) // PAGE) * PAGE
with written(of=(end - PAGE, PAGE)) as w:
    ctypes.memset(end - 1, 1, 1)
print(w.written.bounds, w.new.bounds)
"""


def test_the_end_of_the_heap_can_be_asked_for():
    """Its last page is left out only where nobody wants to know."""
    run = subprocess.run(
        [sys.executable, "-P", "-c", END_OF_HEAP], capture_output=True, text=True, cwd="/"
    )
    assert run.stderr == ""
    assert run.stdout == "(1, 1) (0, 0)\n"


def test_a_snapshot_inside_a_window_is_as_any():
    """Protection does not show as anything else."""
    data = memory(64)
    data[: 8 * PAGE] = b"x" * 8 * PAGE
    with written():
        data[0] = 1
        taken = snapshot()
    assert taken.of(data).dirty == 8
    assert taken.of(data).rss == 8
    assert taken.of(data).swap == 0


def test_descriptors_closed_by_others_leave_it_unknown():
    """And a file that got the number stays open."""
    data = memory(8)
    data[: 8 * PAGE] = b"x" * 8 * PAGE
    with written() as w:
        (fd,) = watching()
        other = os.open("/dev/null", os.O_RDONLY)
        os.dup2(other, fd)
        data[3 * PAGE] = 1
    assert os.readlink(f"/proc/self/fd/{fd}") == "/dev/null"
    os.close(fd)
    os.close(other)
    sure, open_ = told(w, data)
    assert sure == []
    assert open_ == list(range(8))


# ---- others, and where it is not possible


@contextlib.contextmanager
def another_userfaultfd(at: int, length: int) -> Iterator[None]:
    """A userfaultfd that watches some addresses for its own purposes."""
    fd = libc.syscall(323, 0x80001)
    assert fd >= 0
    api = (ctypes.c_uint64 * 3)(0xAA, 0, 0)
    assert libc.ioctl(fd, ctypes.c_ulong(0xC018AA3F), api) == 0
    register = (ctypes.c_uint64 * 4)(at, length, 1, 0)
    assert libc.ioctl(fd, ctypes.c_ulong(0xC020AA00), register) == 0
    try:
        yield
    finally:
        os.close(fd)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86-64")
def test_memory_that_another_userfaultfd_watches_is_named():
    """Its pages are unknown, and it goes on."""
    data = memory(8)
    data[: 8 * PAGE] = b"x" * 8 * PAGE
    with another_userfaultfd(address(data), 8 * PAGE), written() as w:
        data[3 * PAGE] = 1
    assert told(w, data) == ([], list(range(8)))
    (found,) = w.unwatched
    assert (found.start, found.pages) == (address(data), 8)
    assert "another userfaultfd" in found.why
    assert any("another userfaultfd" in reason for reason in w.reasons)


IN_A_CHILD = textwrap.dedent("""
    import ctypes, os, struct, sys
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.argv[1] == "seccomp":
        allow, deny = (6, 0, 0, 0x7FFF0000), (6, 0, 0, 0x50000 | int(sys.argv[2]))
        code = b"".join(struct.pack("HBBI", *i) for i in [
            (0x20, 0, 0, 0), (0x15, 0, 1, 323), deny, allow])
        room = ctypes.create_string_buffer(code)
        program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(room)))
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
    else:
        assert libc.prctl(4, 0, 0, 0, 0) == 0
    import pytest_pmaps
    try:
        with pytest_pmaps.written() as w:
            pass
        print(w.method.value, *w.reasons)
    except pytest_pmaps.PmapsError as exc:
        print(type(exc).__name__, exc)
""")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86-64")
@pytest.mark.parametrize(("number", "word"), [(1, "seccomp"), (38, "CONFIG_USERFAULTFD")])
def test_where_userfaultfd_is_forbidden_soft_dirty_bits_tell_or_nothing(number: int, word: str):
    """As under docker: one line that names both."""
    run = subprocess.run(
        [sys.executable, "-P", "-c", IN_A_CHILD, "seccomp", str(number)],
        capture_output=True,
        text=True,
    )
    assert run.stderr == ""
    assert word in run.stdout
    assert run.stdout.count("\n") == 1
    if run.stdout.startswith("soft-dirty"):
        return
    assert run.stdout.startswith("Unsupported what is written cannot be seen here: ")
    assert "soft-dirty" in run.stdout


def test_an_undumpable_process_is_told_so():
    """Not root, whom nothing keeps from its pagemap."""
    run = subprocess.run(
        [*as_nobody(), unprivileged_python(), "-P", "-c", IN_A_CHILD, "undumpable"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert run.stderr == ""
    assert re.match(r"AccessDenied this process may not read its own ", run.stdout)


# ---- assertions


def test_assertions_take_it():
    """By the metric's name; the first line tells it all."""
    data = memory(64)
    with written() as w:
        data[3 * PAGE] = 1
        data[4 * PAGE] = 1
    assert w.of(data).written == "8 KiB"
    assert w.of(data).metric("written") == 2
    assert_at_most(w.of(data), "8 KiB", "written")
    with pytest.raises(FootprintError, match=r"2 written pages \(8 KiB\), allowed 1"):
        assert_at_most(w.of(data), 1, "written")
    with pytest.raises(ValueError, match="no metric"):
        w.of(data).metric("nonsense")
    part = memoryview(data)[3 * PAGE + 100 : 6 * PAGE]
    with pytest.raises(FootprintError, match="without its first page"):
        assert_at_most(w.of(part), 1, "written")
    assert w.of(part, edges="exclude").written == 1


def test_the_object_is_not_kept():
    """Or freeing it in the window would free nothing."""
    data = bytearray(8 << 20)
    before = sys.getrefcount(data)
    with written(of=data) as w:
        assert sys.getrefcount(data) == before
        data[0] = 1
    assert sys.getrefcount(data) == before
    assert w.of(data).written >= 1


def test_a_child_is_not_held_up_by_what_threads_were_doing():
    """Forked while one asks a window, it begins and asks a window of its own."""
    code = """
        import os, threading, time
        from pytest_pmaps import written
        data, over = bytearray(1 << 20), threading.Event()
        def ask():
            while not over.is_set():
                with written(of=data) as w:
                    data[1] = 1
                w.of(data).written
                w.written
        def child():
            with written(of=data) as w:
                data[1] = 1
            os._exit(0 if w.of(data).written >= 1 else 1)
        with written(of=data):
            pass
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        hung = 0
        for _ in range(120):
            time.sleep(0.003)
            pid, until = os.fork(), time.monotonic() + 20
            if pid == 0:
                child()
            while not (done := os.waitpid(pid, os.WNOHANG))[0]:
                if time.monotonic() > until:
                    os.kill(pid, 9)
                    hung += 1
                time.sleep(0.001)
            assert not os.WIFEXITED(done[1]) or os.WEXITSTATUS(done[1]) == 0
            if hung:
                break
        over.set()
        for thread in threads:
            thread.join()
        assert hung == 0
    """
    command = [sys.executable, "-P", "-W", "ignore", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120)
    assert done.returncode == 0, done.stderr
