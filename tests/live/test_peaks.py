"""The most that was resident in a block: always within the interval, whatever happens meanwhile."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import Count, ProcessGone, Undetermined, peak, peak_of
from pytest_pmaps.hwm import slack

PAGE = mmap.PAGESIZE
MIB = 1 << 20


def width() -> int:
    """Of an interval, in bytes."""
    return sum(slack(len(os.listdir("/proc/self/task"))))


def resident() -> int:
    """Rss now, added up by the kernel page by page."""
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Rss:"))


@contextmanager
def held(size: int) -> Iterator[None]:
    """Pages of our own for a while."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, size, PAGE):
            memory[at] = 1
        yield


def spike(size: int) -> int:
    """Hold so much for a moment; what was resident then."""
    with held(size):
        return resident()


def holds(count: Count, size: int) -> bool:
    """Whether an interval has a number in it."""
    lo, hi = count.bytes.bounds
    return (lo or 0) <= size and (hi is None or size <= hi)


@pytest.mark.parametrize("size", [0, 1, 3, 8, 31, 32, 33, 64, 100, 500, 4000, 20_000])
def test_the_peak_lies_in_the_interval(size: int):
    """Small spikes too, which the kernel's batches may hide from it."""
    for _ in range(5):
        with peak() as p:
            top = spike(max(1, size) * PAGE) if size else resident()
        assert holds(p.rss, top)
        lo, hi = p.rss.bytes.bounds
        assert hi - lo <= width() + 8 * PAGE
        assert p.at_start.exact
        assert p.at_end.exact
        if size * PAGE > 2 * width():
            assert p.growth.bytes >= size * PAGE - width() - MIB
            assert p.rss > p.at_end


def test_it_is_of_the_block_alone():
    """What was before does not count: VmHWM is reset."""
    spike(64 * MIB)
    with peak() as p:
        spike(4 * MIB)
    assert p.growth <= "24 MiB"
    assert p.growth >= "1 MiB"


def test_nested():
    """The inner one does not take the outer one's peak away."""
    with peak() as outer:
        top = spike(64 * MIB)
        with peak() as inner:
            small = spike(8 * MIB)
            with peak() as innermost:
                pass
        with peak() as after:
            pass
    assert holds(outer.rss, top)
    assert outer.growth >= "60 MiB"
    assert holds(inner.rss, small)
    assert inner.growth <= "28 MiB"
    assert innermost.growth <= width() // PAGE + 8
    assert after.growth <= width() // PAGE + 8


def test_overlapping():
    """A window ends while another goes on, which it began before, or after."""
    first, second = peak(), peak()
    first.__enter__()
    spike(16 * MIB)
    second.__enter__()
    spike(48 * MIB)
    first.__exit__(None, None, None)
    spike(96 * MIB)
    second.__exit__(None, None, None)
    assert first.growth >= "40 MiB"
    assert first.growth <= "72 MiB"
    assert second.growth >= "90 MiB"


def test_in_threads():
    """They are of one process: each has the peak of both."""
    ready, go, done = threading.Event(), threading.Event(), threading.Event()
    found = []

    def window() -> None:
        with peak() as p:
            ready.set()
            go.wait(10)
        found.append(p)
        done.set()

    threading.Thread(target=window).start()
    ready.wait(10)
    with peak() as p:
        spike(32 * MIB)
    go.set()
    assert done.wait(10)
    for each in (p, *found):
        assert each.growth >= "28 MiB"


def test_a_reset_by_somebody_else_is_noticed():
    """What was lost is not claimed: no upper end."""
    with peak() as p:
        spike(64 * MIB)
        with peak():  # it is read here
            pass
        with held(64 * MIB), peak():
            pass
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    assert p.rss.bytes.bounds[1] is None
    assert any("somebody else" in reason for reason in p.reasons)
    assert p.growth >= "60 MiB"
    with pytest.raises(Undetermined, match="somebody else reset VmHWM"):
        assert p.rss <= "100 GiB"


def test_where_it_cannot_be_reset(monkeypatch: pytest.MonkeyPatch):
    """A new high is one all the same; below the old one it is between what is known."""
    real = os.open

    def refuse(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if str(path).endswith("clear_refs"):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *args, **kwargs)

    with peak():
        pass
    before = spike(40 * MIB)
    monkeypatch.setattr(os, "open", refuse)
    with peak() as low:
        small = spike(8 * MIB)
    with peak() as high:
        top = spike(90 * MIB)
    assert holds(low.rss, small)
    assert holds(low.rss, before)
    assert low.rss >= low.at_start
    assert any("could not be reset" in reason for reason in low.reasons)
    assert holds(high.rss, top)
    assert high.growth >= "80 MiB"


def test_a_fork_has_no_window():
    """It says so, and the parent's goes on."""
    with peak() as p:
        pid = os.fork()
        if not pid:
            try:
                p.__exit__(None, None, None)
                try:
                    _ = p.rss
                except ValueError as exc:
                    os._exit(0 if "forked this one" in str(exc) else 2)
            finally:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        spike(16 * MIB)
    assert p.growth >= "12 MiB"


def test_asking_too_soon_or_twice():
    """Errors in one line; an exception in the block goes its way."""
    with peak() as p, pytest.raises(ValueError, match="has ended"):
        _ = p.rss
    with pytest.raises(ValueError, match="one with block"):
        p.__enter__()
    failed = peak()
    with pytest.raises(ZeroDivisionError), failed:
        _ = 1 // 0
    with pytest.raises(ValueError, match="was not closed, or failed"):
        _ = failed.growth


def test_no_descriptor_is_left():
    """Of windows that end, and of those that fail."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with peak() as p:
            pass
        peak_of()
        with pytest.raises(ProcessGone):
            peak_of(1 << 30)
    assert p.at_start.exact
    assert len(os.listdir("/proc/self/fd")) == before


# ---- other processes

CHILD = """
import mmap, sys
def resident():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(l.split()[1]) << 10 for l in lines if l.startswith("Rss:"))
print("ready", flush=True)
for line in sys.stdin:
    memory = mmap.mmap(-1, int(line), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, int(line), 4096):
        memory[at] = 1
    top = resident()
    memory.close()
    print(top, flush=True)
"""


@contextmanager
def child(*prefix: str, python: str = sys.executable) -> Iterator[subprocess.Popen[str]]:
    """It holds what it is told to, for a moment."""
    command = [*prefix, python, "-c", CHILD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


def ask(process: subprocess.Popen[str], size: int) -> int:
    """What was resident."""
    process.stdin.write(f"{size}\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def test_of_a_child():
    """In a window, and ever; not our own peak, which ru_maxrss would begin at."""
    with held(200 * MIB), child() as process:
        ever = ask(process, 24 * MIB)
        with peak(process) as p:
            top = ask(process, 6 * MIB)
        assert holds(p.rss, top)
        assert p.growth <= "20 MiB"
        now = peak_of(process)
        assert not holds(now, ever)  # it was reset
        assert holds(peak_of(process), top)
        assert now <= "100 MiB"


def test_of_a_child_that_ends():
    """Its peak is lost, which is said."""
    with child() as process:
        window = peak(process)
        window.__enter__()
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessGone, match="has exited"):
            window.__exit__(None, None, None)
        with pytest.raises(ProcessGone):
            peak_of(process.pid)


def test_of_somebody_elses_process():
    """As nobody: VmHWM of root's can be read, no more; its own can be reset."""
    python = unprivileged_python()
    code = (
        "import sys; from pytest_pmaps import peak, peak_of\n"
        "print(peak_of(int(sys.argv[1])).bytes.bounds[0] > 0)\n"
        "with peak(int(sys.argv[1])) as p: pass\n"
        "print(p.reasons[1])\n"
        "with peak() as p: x = bytearray(b'1' * 30_000_000); del x\n"
        "print(p.growth >= '20 MiB', len(p.reasons))\n"
    )
    command = [*as_nobody(), python, "-P", "-c", code, str(os.getpid())]
    run = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    assert run.stdout.splitlines() == [
        "True",
        "VmHWM could not be reset: clear_refs may not be written here",
        "True 1",
    ]


def test_kernel_threads_have_none():
    """Nor do targets that are none."""
    if os.path.exists("/proc/2/status") and not os.readlink("/proc/self").startswith("2"):
        with open("/proc/2/status") as file:
            if "kthreadd" in file.read():
                with pytest.raises(ProcessGone, match="no memory of its own"):
                    peak_of(2)
    with pytest.raises(TypeError), peak("init"):
        pass


def test_in_shared_and_file_memory():
    """Each kind has a counter of its own."""
    with peak() as p, mmap.mmap(-1, 24 * MIB) as memory:
        for at in range(0, 24 * MIB, PAGE):
            memory[at] = 1
        top = resident()
    assert holds(p.rss, top)
    assert p.growth >= "20 MiB"


def test_many_faults_on_every_cpu():
    """Threads pinned here and there leave each CPU's batch half full."""
    cpus = sorted(os.sched_getaffinity(0))

    def touch(cpu: int, pages: int, both: threading.Barrier) -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        with held(pages * PAGE):
            both.wait(10)
            both.wait(10)

    for pages in (5, 20, 31, 45):
        both = threading.Barrier(len(cpus) + 1)
        threads = [threading.Thread(target=touch, args=(cpu, pages, both)) for cpu in cpus]
        with peak() as p:
            for thread in threads:
                thread.start()
            both.wait(10)
            top = resident()
            both.wait(10)
            for thread in threads:
                thread.join()
        assert holds(p.rss, top)
