"""What a process touches in a window: exactly those pages, or an interval that holds them."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import mmap
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oracle import targets
from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import (
    FootprintError,
    NoSuchMapping,
    ProcessGone,
    Snapshot,
    Touched,
    TouchedMethod,
    TouchedSelection,
    Undetermined,
    assert_at_most,
    snapshot,
    touched,
)
from pytest_pmaps._native import Prepared, Request, TouchWatch, cpu_time, lib, probe

PAGE = mmap.PAGESIZE
HUGE = 2 << 20
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p


def memory(pages: int, flags: int = PRIVATE, fd: int = -1, *, there: bool = True) -> mmap.mmap:
    """Memory without huge pages, each page of it there."""
    made = mmap.mmap(fd, pages * PAGE, flags=flags)
    made.madvise(mmap.MADV_NOHUGEPAGE)
    if there:
        touch(made, range(pages))
    return made


def touch(made: mmap.mmap, pages: range | list[int]) -> None:
    """Write to some pages."""
    for i in pages:
        made[i * PAGE] = 1


def found(t: Touched, of: object) -> tuple[set[int], set[int]]:
    """Numbers of an object's pages that were touched, and that may have been."""
    pages = t.of(of)
    first = pages.start // PAGE
    sure: set[int] = set()
    open_: set[int] = set()
    for r in pages.touched_ranges():
        at = r.address // PAGE - first
        (sure if r.touched else open_).update(range(at, at + r.count))
    lo, hi = pages.touched.bounds
    assert lo == len(sure)
    assert hi is not None
    assert lo <= hi <= lo + len(open_)
    return sure, open_


def is_blamed_on_others(t: Touched) -> bool:
    """Whether something else on this host was at work in just these milliseconds."""
    return any("may have been cleared" in reason for reason in t.reasons)


def quiet(window: Callable[[], Touched], tries: int = 20) -> Touched:
    """A window in which nothing else cleared Y; DAMON sleeps between its samples."""
    for _ in range(tries):
        t = window()
        if not is_blamed_on_others(t):
            return t
        time.sleep(random.uniform(0.01, 0.2))
    pytest.skip(f"something clears Y all the time here: {t.reasons}")


@pytest.fixture(scope="session")
def sees_pages() -> None:
    """These need page tables."""
    with touched() as t:
        pass
    if t.method is not TouchedMethod.PAGE_TABLES:
        pytest.skip("page tables cannot be read here (pmaps doctor tells why)")


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """A collector that runs in a window looks at everything."""
    gc.disable()
    yield
    gc.enable()


# ---- exactly those pages


def kinds(folder: Path) -> dict[str, mmap.mmap]:
    """Memory of every kind, with all of its pages there."""
    (folder / "data").write_bytes(bytes(256 * PAGE))
    fd, memfd = os.open(folder / "data", os.O_RDWR), os.memfd_create("touched")
    os.truncate(memfd, 256 * PAGE)
    made = {
        "anonymous": memory(256),
        "private file": memory(256, mmap.MAP_PRIVATE, fd),
        "shared file": memory(256, mmap.MAP_SHARED, fd),
        "clean file": mmap.mmap(fd, 256 * PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ),
        "shmem": memory(256, mmap.MAP_SHARED, memfd),
        "shared anonymous": memory(256, SHARED),
    }
    made["clean file"][::PAGE]
    os.close(fd)
    os.close(memfd)
    return made


@pytest.mark.usefixtures("sees_pages")
@pytest.mark.parametrize("seed", range(4))
def test_random_pages(tmp_path: Path, seed: int):
    """Read or written, of every kind of memory: those, and no others."""
    rng = random.Random(seed)
    all_of = kinds(tmp_path)
    read = {name: rng.sample(range(256), rng.randrange(1, 90)) for name in all_of}
    written = {name: rng.sample(range(256), rng.randrange(1, 90)) for name in all_of}
    written["clean file"] = []

    def window() -> Touched:
        with touched() as t:
            for name, made in all_of.items():
                for i in read[name]:
                    made[i * PAGE + 7]
                touch(made, written[name])
        return t

    t = quiet(window)
    for name, made in all_of.items():
        sure, open_ = found(t, made)
        assert (name, sure, open_) == (name, {*read[name], *written[name]}, set())


# Processors hold pages in their TLBs, and do not set Y of these again unless they are flushed.


@pytest.mark.usefixtures("sees_pages")
def test_what_was_in_use_just_before():
    """As near as it can be: between the two touches there is the clearing alone."""
    made, rounds, seen = memory(64), 40, 0
    fd = os.open("/proc/self/clear_refs", os.O_WRONLY)
    for _ in range(rounds):
        watch, end = TouchWatch(fd, 1, lib.PM_FLUSH_OURS), Prepared(Request(young=True))
        begin, call = watch.begin, end.call
        made[::PAGE]
        assert begin() == 0
        made[::PAGE]
        code = call()
        pages = Snapshot(end.finish(code)).of(made)
        seen += pages.metric("young").bounds[0] or 0
    os.close(fd)
    assert seen >= rounds * 64 - 2  # DAMON may take one


@pytest.mark.usefixtures("sees_pages")
def test_what_another_thread_uses_all_the_time():
    """On another processor, which is not asked."""
    made, stop, times = memory(64), threading.Event(), [0]

    def use() -> None:
        while not stop.is_set():
            zlib.crc32(made)  # without the interpreter's lock
            times[0] += 1

    thread = threading.Thread(target=use)
    thread.start()
    seen = []
    for _ in range(20):
        with touched() as t:
            until = times[0] + 3
            while times[0] < until:
                time.sleep(0.001)
        seen.append(found(t, made))
    stop.set()
    thread.join()
    for sure, open_ in seen:
        assert sure | open_ == set(range(64))
    assert sum(len(sure) for sure, _ in seen) >= 20 * 64 - 2


def runs(pid: int, ms: int) -> None:
    """Wait until a process has used so much CPU time."""
    until = (cpu_time(pid) or 0) + ms * 1_000_000
    while (cpu_time(pid) or until) < until:
        time.sleep(0.001)


@pytest.mark.usefixtures("sees_pages")
def test_what_another_process_uses_all_the_time():
    """It never stops."""
    with running() as child:
        child.say("spin")
        time.sleep(0.1)
        seen = []
        for _ in range(10):
            with touched(child.popen, clear_soft_dirty=True) as t:
                runs(child.popen.pid, 2)
            seen.append(found(t, child.memory))
    for sure, open_ in seen:
        assert sure | open_ == set(range(64))
    assert sum(len(sure) for sure, _ in seen) >= 10 * 64 - 10  # it runs while it is captured


@pytest.mark.usefixtures("sees_pages")
def test_an_empty_window():
    """Entering and leaving touch the interpreter and the engine, and no memory of others."""
    made = memory(64)

    def window() -> Touched:
        with touched() as t:
            pass
        return t

    t = quiet(window)
    assert t.of(made).touched == 0
    assert t.of(made).referenced == 0, "clearing clears all that Referenced counts"
    lo, hi = t.touched.bounds
    assert 0 < lo < 600
    assert lo <= hi
    assert t["_engine"].touched >= 1
    assert not [reason for reason in t.reasons if "huge" not in reason]


@pytest.mark.usefixtures("sees_pages")
def test_sums():
    """The whole is its mappings together, and the parts of a library are not more than it."""

    def window() -> Touched:
        with touched() as t:
            json.dumps({"a": [1, 2, 3]})
        return t

    t = quiet(window)
    each = [TouchedSelection(t._told, m).touched.bounds for m in t.snapshot.mappings]
    assert t.touched.bounds == (sum(lo for lo, _ in each), sum(hi for _, hi in each))
    ranges = list(t.touched_ranges())
    sure, all_ = sum(r.count for r in ranges if r.touched), sum(r.count for r in ranges)
    assert t.touched.bounds == (sure, all_)
    libc_all = t["libc"]
    assert libc_all.touched >= 1
    assert libc_all.parts()
    assert t["libc.text"].touched <= libc_all.touched
    assert sum(part.touched.bounds[0] for part in libc_all.parts().values()) >= 1
    assert t.snapshot.metric("young") <= t.touched.bounds[1]


# ---- what comes, goes, and is in between


@pytest.mark.usefixtures("sees_pages")
def test_memory_that_comes():
    """Anonymous memory comes page by page."""
    made = memory(64, there=False)

    def window() -> Touched:
        made.madvise(mmap.MADV_DONTNEED)
        with touched() as t:
            touch(made, [3, 4, 40])
        return t

    assert found(quiet(window), made) == ({3, 4, 40}, set())


@pytest.mark.usefixtures("sees_pages")
def test_the_zero_page_is_no_memory():
    """Reading what was never written brings nothing."""
    made = memory(64, there=False)

    def window() -> Touched:
        made.madvise(mmap.MADV_DONTNEED)
        with touched() as t:
            made[::PAGE]
        return t

    assert found(quiet(window), made) == (set(), set())


@pytest.mark.usefixtures("sees_pages")
def test_pages_mapped_around_a_fault(tmp_path: Path):
    """One read of a file maps up to 16 pages, and x86 marks all of them young: they may have been
    touched.  Of those that were there before, only the one that was.
    """
    (tmp_path / "data").write_bytes(os.urandom(64 * PAGE))
    with open(tmp_path / "data", "rb") as file:

        def window() -> tuple[Touched, mmap.mmap]:
            made = mmap.mmap(file.fileno(), 64 * PAGE, flags=mmap.MAP_PRIVATE, prot=1)
            with touched() as t:
                made[20 * PAGE]
            return t, made

        t, made = window()
    sure, open_ = found(t, made)
    assert sure == set()
    assert 20 in open_
    assert len(open_) > 1, "this kernel maps nothing around faults"
    assert any("around another page's fault" in reason for reason in t.reasons)

    def again() -> Touched:
        with touched() as t:
            made[20 * PAGE]
        return t

    assert found(quiet(again), made) == ({20}, set())


@pytest.mark.usefixtures("sees_pages")
def test_given_back():
    """It may have been touched before it was; what was never there is not asked for."""
    made = memory(64)

    def window() -> Touched:
        touch(made, range(64))
        with touched() as t:
            touch(made, [3])
            made.madvise(mmap.MADV_DONTNEED, 10 * PAGE, 4 * PAGE)
            touch(made, [11])
        return t

    t = quiet(window)
    assert found(t, made) == ({3, 11}, {10, 12, 13})
    assert any("given back" in reason for reason in t.reasons)


@pytest.mark.usefixtures("sees_pages")
def test_huge_pages():
    """One Y for 512 pages says that something of them was touched, not what."""
    large = mmap.mmap(-1, 4 * HUGE, flags=PRIVATE)
    large.madvise(mmap.MADV_HUGEPAGE)
    at = -ctypes.addressof(ctypes.c_char.from_buffer(large)) % HUGE
    for i in range(3):
        large[at + i * HUGE] = 1
    if snapshot().of(large).metric("huge") < 3 * 512:
        pytest.skip("no huge pages to be had here (THP is off, or memory is in pieces)")

    def window() -> Touched:
        with touched() as t:
            large[at + HUGE + 5] = 1
        return t

    t = quiet(window)
    pages = t.of(large)
    assert pages.touched.bounds == (0, 512)
    with pytest.raises(Undetermined, match="512 pages of huge pages, which have one Y for all"):
        assert pages.touched == 512


@pytest.mark.usefixtures("sees_pages")
def test_mappings_that_come_and_go():
    """What is not mapped at the end is not there to be asked; what came is."""
    size, none = ctypes.c_size_t(16 * PAGE), ctypes.c_long(0)
    going = ctypes.c_void_p(libc.mmap(None, size, 3, PRIVATE, -1, none))
    ctypes.memset(going, 1, 16 * PAGE)
    with touched() as t:
        coming = memory(16)
        ctypes.memset(going, 2, 16 * PAGE)
        libc.munmap(going, size)
    assert found(t, coming)[0] == set(range(16))
    assert going.value is not None
    address = going.value
    with contextlib.suppress(NoSuchMapping):  # or something new lies there
        assert not t.of((address, 16 * PAGE)).touched.exact


# ---- windows in windows


@pytest.mark.usefixtures("sees_pages")
def test_nested_windows():
    """Each knows what was touched in it, though the inner one clears what the outer one reads."""
    made = memory(64)

    def window() -> Touched:
        with touched() as outer:
            touch(made, [1])
            with touched() as inner:
                touch(made, [2])
                with touched() as innermost:
                    touch(made, [3])
            touch(made, [4])
            with touched() as last:
                touch(made, [5])
        if not any(map(is_blamed_on_others, (outer, inner, innermost, last))):
            assert found(innermost, made) == ({3}, set())
            assert found(inner, made) == ({2, 3}, set())
            assert found(last, made) == ({5}, set())
            assert found(outer, made) == ({1, 2, 3, 4, 5}, set())
        return outer if is_blamed_on_others(outer) else last

    quiet(window)


@pytest.mark.usefixtures("sees_pages")
def test_overlapping_windows():
    """The first one may end before the second."""
    made = memory(64)

    def window() -> Touched:
        first, second = touched(), touched()
        with contextlib.ExitStack() as stack:
            first.__enter__()
            touch(made, [1])
            stack.enter_context(second)
            touch(made, [2])
            first.__exit__(None, None, None)
            touch(made, [3])
        if not is_blamed_on_others(first):
            assert found(first, made) == ({1, 2}, set())
            assert found(second, made)[0] == {2, 3}
        return first

    quiet(window)


@pytest.mark.usefixtures("sees_pages")
@pytest.mark.parametrize("busy", [True, False])
def test_a_window_begins_while_threads_run(busy: bool):
    """What they touch between reading and clearing, no one sees: not for the outer window.
    Of those that sleep there is nothing to be seen.
    """
    made, stop = memory(64), threading.Event()

    def work() -> None:
        while not stop.wait(0 if busy else None):
            pass

    thread = threading.Thread(target=work)
    thread.start()

    def window() -> tuple[Touched, Touched]:
        with touched() as outer, touched() as inner:
            touch(made, [2])
        return outer, inner

    outer, inner = window()
    for _ in range(20 if not busy else 0):
        if not is_blamed_on_others(outer):
            break
        time.sleep(0.05)
        outer, inner = window()
    stop.set()
    thread.join()
    sure, open_ = found(outer, made)
    assert sure == {2}
    if busy:
        assert open_ == set(range(64)) - {2}
    assert busy == any("it ran while another window began" in reason for reason in outer.reasons)
    assert not any("another window" in reason for reason in inner.reasons)


# ---- other processes


CHILD = """
import ctypes, json, mmap, os, sys, zlib
P = mmap.PAGESIZE
m = mmap.mmap(-1, 64 * P, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(mmap.MADV_NOHUGEPAGE)
m[::P] = b"1" * 64
print(ctypes.addressof(ctypes.c_char.from_buffer(m)), flush=True)
for line in sys.stdin:
    if line.startswith("exec"):
        os.execv("/bin/sleep", ["sleep", "60"])
    if line.startswith("exit"):
        break
    while line.startswith("spin"):
        zlib.crc32(m)
    for page in json.loads(line):
        m[page * P] = 2
    print("done", flush=True)
"""


class Child:
    """A process that touches what it is told to."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        assert popen.stdout is not None
        self.at = int(popen.stdout.readline())

    @property
    def memory(self) -> tuple[int, int]:
        """Address and length."""
        return self.at, 64 * PAGE

    def say(self, line: str) -> None:
        """And do not wait."""
        assert self.popen.stdin is not None
        print(line, file=self.popen.stdin, flush=True)

    def touch(self, *pages: int) -> None:
        """And wait until it is done."""
        assert self.popen.stdout is not None
        self.say(json.dumps(pages))
        assert self.popen.stdout.readline() == "done\n"


@contextlib.contextmanager
def running(*prefix: str, python: str = sys.executable) -> Iterator[Child]:
    """A child, ended at the end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*prefix, python, "-I", "-c", CHILD], **pipes) as popen:
        try:
            yield Child(popen)
        finally:
            popen.kill()


@pytest.mark.usefixtures("sees_pages")
def test_another_process():
    """Exactly, too; and what was in use when the window began is seen again."""
    with running() as child:

        def window() -> Touched:
            child.touch(*range(64))
            with touched(child.popen, clear_soft_dirty=True) as t:
                child.touch(1, 5, 60)
            return t

        t = quiet(window)
        assert found(t, child.memory) == ({1, 5, 60}, set())
        assert t.snapshot.pid == child.popen.pid
        hot = quiet(lambda: _all_again(child))
        assert found(hot, child.memory) == (set(range(64)), set())


def _all_again(child: Child) -> Touched:
    child.touch(*range(64))
    with touched(child.popen, clear_soft_dirty=True) as t:
        child.touch(*range(64))
    return t


@pytest.mark.usefixtures("sees_pages")
def test_another_process_keeps_its_soft_dirty_bits():
    """Where the kernel has them, and nobody allows to clear them, its TLBs stay as they are: what
    does not look touched may have been.
    """
    with running() as child:
        child.touch(*range(64))
        with touched(child.popen) as t:
            child.touch(1, 5, 60)
        sure, open_ = found(t, child.memory)
        assert sure | open_ >= {1, 5, 60}
        if probe()["softdirty"]:
            assert sure <= {1, 5, 60}
            return
        assert sure | open_ == set(range(64))
        assert t.snapshot.of(child.memory).metric("soft_dirty") == 64
        with pytest.raises(Undetermined, match=r"touched\(..., clear_soft_dirty=True\)"):
            assert t.of(child.memory).touched <= 3


@pytest.mark.usefixtures("sees_pages")
def test_nested_windows_of_another_process():
    """It slept while the inner one began: nothing of it is lost."""
    with running() as child:

        def window() -> Touched:
            with touched(child.popen, clear_soft_dirty=True) as outer:
                child.touch(1)
                time.sleep(0.02)  # until it waits
                with touched(child.popen.pid, clear_soft_dirty=True) as inner:
                    child.touch(2)
            if not is_blamed_on_others(outer):
                assert found(outer, child.memory)[0] == {1, 2}
                assert found(inner, child.memory)[0] == {2}
            return outer

        quiet(window)


def ends(child: Child, t: Touched, exc: BaseException | None = None) -> None:
    """In the window, which may fail by itself."""
    with t:
        child.say("exit")
        child.popen.wait()
        if exc:
            raise exc


def executes(child: Child) -> None:
    """Another program in the window."""
    exe = f"/proc/{child.popen.pid}/exe"
    was = os.readlink(exe)
    with touched(child.popen):
        child.say("exec")
        while os.readlink(exe) == was:
            time.sleep(0.01)


def test_a_process_that_ends():
    """Then there is nothing to be asked; the block's own exceptions come first."""
    with running() as child:
        t = touched(child.popen.pid)
        with pytest.raises(ProcessGone, match=rf"^process {child.popen.pid} ended in the window$"):
            ends(child, t)
        with pytest.raises(ValueError, match="was not closed, or failed"):
            _ = t.touched
    with running() as child, pytest.raises(KeyError):
        ends(child, touched(child.popen), KeyError())


def test_a_process_that_executes_another_program():
    """It has other memory, with the same pid and start time."""
    with (
        running() as child,
        pytest.raises(ProcessGone, match=r"replaced its program \(exec\) in the window"),
    ):
        executes(child)


def test_no_such_process():
    """As a snapshot says it."""
    with subprocess.Popen(["true"]) as popen:
        popen.wait()
    with pytest.raises(ProcessGone), touched(popen):
        pass
    with pytest.raises(ProcessGone), touched(popen.pid):
        pass


def test_a_forked_child_has_no_window():
    """It cannot ask, and leaving the block there harms nobody; its touches are its own."""
    made = memory(64)
    said, say = os.pipe()
    with touched() as t:
        touch(made, [1])
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                touch(made, [7])
                t.__exit__(None, None, None)
                try:
                    _ = t.touched
                except ValueError as exc:
                    os.write(say, str(exc).encode())
                with touched() as own:
                    touch(made, [9])
                sure, open_ = found(own, made)
                os.write(say, b" ok" if 9 in sure | open_ else b" not")
            os._exit(0)
        os.waitpid(pid, 0)
    assert os.read(said, 999) == b"this window is of the process that forked this one ok"
    sure, open_ = found(t, made)
    assert sure | open_ >= {1}
    assert 7 not in sure | open_ or is_blamed_on_others(t) or not sure
    os.close(said)
    os.close(say)


# ---- as whom


AS_NOBODY = """
import ctypes, json, mmap, os, subprocess, sys, time, gc
import pytest_pmaps as p
gc.disable()
P = mmap.PAGESIZE
def memory():
    m = mmap.mmap(-1, 64 * P, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    m.madvise(mmap.MADV_NOHUGEPAGE)
    m[::P] = b"1" * 64
    return m
some, none, new = memory(), mmap.mmap(-1, 64 * P), None
with open(p.__file__, "rb") as f:
    apart = mmap.mmap(f.fileno(), 0, prot=1)
apart[0]
out = {"uid": os.getuid()}
for attempt in range(30):
    with p.touched() as t:
        some[3 * P], some[9 * P]
    if not any("cleared" in r or "DAMON" in r for r in t.reasons):
        break
    time.sleep(0.1)
out["method"] = t.method.value
out["reasons"] = t.reasons
out["some"] = t.of(some).touched.bounds
out["apart"] = t.of(apart).touched.bounds
out["all"] = t.touched.bounds
try:
    with p.touched(int(sys.argv[1])):
        pass
except p.AccessDenied as exc:
    out["denied"] = str(exc)
with p.touched() as t:
    new = memory()
out["new"] = t.of(new).touched.bounds
child = subprocess.Popen([sys.executable, "-I", "-c", sys.argv[2]], stdin=-1, stdout=-1, text=True)
at = int(child.stdout.readline())
for attempt in range(30):
    with p.touched(child, clear_soft_dirty=True) as t:
        print("[1, 2]", file=child.stdin, flush=True)
        child.stdout.readline()
    if not any("cleared" in r or "DAMON" in r for r in t.reasons):
        break
    time.sleep(0.1)
out["child"] = t.of((at, 64 * P)).touched.bounds
child.kill()
child.wait()
try:
    with p.touched(child.pid):
        pass
except p.ProcessGone as exc:
    out["gone"] = str(exc)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def nobody() -> dict[str, object]:
    """What nobody sees of itself, of its child, and of us."""
    done = subprocess.run(
        [*as_nobody(), unprivileged_python(), "-P", "-c", AS_NOBODY, str(os.getpid()), CHILD],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def test_as_nobody(nobody: dict[str, object]):
    """Mapping by mapping: an upper end of each, of what is there and was not touched 0."""
    assert nobody["uid"] == targets.NOBODY
    assert nobody["method"] == "smaps Referenced"
    if any("DAMON" in reason for reason in nobody["reasons"]):  # type: ignore[attr-defined]
        pytest.skip(f"something clears Y all the time here: {nobody['reasons']}")
    assert nobody["some"] == [0, 2]
    assert nobody["apart"] == [0, 0]
    lo, hi = nobody["all"]  # type: ignore[misc]
    assert lo <= 2 < hi < 1000
    assert nobody["child"] == [0, 2]


def test_as_nobody_new_memory_counts(nobody: dict[str, object]):
    """What came anonymously came by faults; as much as went elsewhere may have been moved."""
    lo, hi = nobody["new"]  # type: ignore[misc]
    assert hi == 64
    assert 32 <= lo <= 64


def test_as_nobody_of_others(nobody: dict[str, object]):
    """One line, and what would help; a process that is gone is gone."""
    assert nobody["denied"] == (
        f"process {os.getpid()}: maps may not be read: its owner, or CAP_SYS_PTRACE, may "
        "look at a process that has not made itself undumpable (see 'pmaps doctor')"
    )
    assert "has exited" in nobody["gone"] or "exited" in nobody["gone"]  # type: ignore[operator]


# ---- what is said


@pytest.mark.usefixtures("sees_pages")
def test_where_damon_was_at_work():
    """What is young was touched, and the rest may have been: it says who may have cleared it."""
    if not any(
        comm.read_text().startswith("kdamond") for comm in Path("/proc").glob("[0-9]*/comm")
    ):
        pytest.skip("no DAMON here")
    made = memory(64)
    for _ in range(10):
        with touched() as t:
            touch(made, [3])
            time.sleep(0.6)
        if t.reasons:
            break
    else:
        pytest.skip("DAMON samples more seldom than every 6 seconds")
    sure, open_ = found(t, made)
    assert sure | open_ >= {3}
    assert any("DAMON was at work" in reason for reason in t.reasons)
    pages = t.of(made)
    if pages.touched.bounds == (1, 1):
        return  # Referenced counts one page: what was cleared was not of this
    with pytest.raises(Undetermined, match="DAMON was at work"):
        assert pages.touched <= 1
    assert pages.touched <= 64


@pytest.mark.usefixtures("sees_pages")
def test_what_is_asked_for_alone(tmp_path: Path):
    """Y of the other mappings is left as it is, and says nothing of the window."""
    all_of = kinds(tmp_path)

    def window(only: str) -> Touched:
        with touched(only=only) as t:  # type: ignore[arg-type]
            for made in all_of.values():
                made[5 * PAGE]
        return t

    t = quiet(lambda: window("anon"))
    assert found(t, all_of["anonymous"]) == ({5}, set())
    for name in ("clean file", "shared file", "shmem", "shared anonymous"):
        sure, open_ = found(t, all_of[name])
        assert (sure, 5 in open_) == (set(), True)
    t = quiet(lambda: window("file"))
    for name in ("clean file", "shared file", "shmem", "private file", "shared anonymous"):
        assert found(t, all_of[name]) == ({5}, set())
    assert found(t, all_of["anonymous"])[1] == set(range(256))
    with pytest.raises(ValueError, match="'anon' or 'file'"):
        touched(only="heap")  # type: ignore[arg-type]


def test_asked_at_the_wrong_time():
    """Before the block ends, and of a block that failed, there are no answers."""
    t = touched()
    with pytest.raises(ValueError, match="ask when the with block has ended"):
        _ = t.touched
    assert repr(t) == "<Touched: not ended>"
    with contextlib.suppress(KeyError), t:
        raise KeyError
    with pytest.raises(ValueError, match="ask when the with block has ended"):
        t.of(b"123")
    with pytest.raises(ValueError, match="one with block"), t:
        pass


def test_descriptors_are_closed():
    """Whatever happened in the block."""
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with touched():
            pass
        with contextlib.suppress(KeyError), touched():
            raise KeyError
        with contextlib.suppress(ProcessGone), touched(2**22 - 1):
            pass
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("sees_pages")
def test_a_failure_names_the_pages():
    """As other assertions do."""
    made = memory(64)

    def window() -> Touched:
        with touched() as t:
            touch(made, [1, 2, 3])
        return t

    t = quiet(window)
    assert_at_most(t.of(made), 3, "touched")
    with pytest.raises(FootprintError, match=r"mmap of 256 KiB at .*: 3 touched pages \(12 KiB\)"):
        assert_at_most(t.of(made), "8 KiB", "touched")
    assert repr(t.of(made)).endswith("touched 3 pages (12 KiB)>")
    assert repr(t).endswith("by page tables>")
    with pytest.raises(NoSuchMapping):
        t["libnotthere"]


def test_an_undumpable_process():
    """Not even its own."""
    code = (
        "import ctypes, pytest_pmaps as p; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n"
        "try:\n with p.touched(): pass\n"
        "except p.AccessDenied as exc: print(exc)"
    )
    argv = [*as_nobody(), unprivileged_python(), "-P", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.count("\n") == 1
    assert "undumpable" in done.stdout


def test_a_kernel_thread():
    """It has no memory."""
    if Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("kernel threads are hidden here")
    with pytest.raises(ProcessGone, match="kernel thread"), touched(2):
        pass


# ---- interrupted, in threads


def test_a_window_that_is_interrupted_while_it_begins():
    """It may have cleared what the one around it would have said: that is open then, never 0."""
    code = """
        import ctypes, mmap, random, signal, time
        from pytest_pmaps import touched
        page, n = mmap.PAGESIZE, 64
        memory = mmap.mmap(-1, n * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory[: n * page] = b"x" * n * page
        where = (ctypes.addressof(ctypes.c_char.from_buffer(memory)), n * page)
        def stop(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, stop)
        chance, interrupted, wrong = random.Random(1), 0, []
        end = time.monotonic() + 4
        while time.monotonic() < end:
            with touched() as outer:
                for at in range(0, n * page, page):
                    memory[at]
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0005 + chance.random() * 0.015)
                    with touched():
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupted += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            count = outer.of(where).touched
            if count.bounds[1] < n:
                wrong.append((count.bounds, outer.reasons))
        assert interrupted >= 5, interrupted
        assert not wrong, wrong[0]
    """
    command = [sys.executable, "-P", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_windows_in_threads():
    """They end while others begin, and each has an answer."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(15):
                with touched() as window:
                    pass
                assert window.touched.bounds[0] is not None
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
