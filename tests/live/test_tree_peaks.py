"""The most that a tree held in a block: what samples saw, and never called more than that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import ProcessGone, Undetermined, tree_peak

MIB = 1 << 20

#: Forks as many children as it is told, each with so many MiB of its own, and lets them go.
SERVER = """
import mmap, os, signal, sys
def child(size):
    memory = mmap.mmap(-1, size << 20, flags=mmap.MAP_PRIVATE)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 1
    os.write(ready, b".")
    signal.pause()
print("ready", flush=True)
for line in sys.stdin:
    sizes = [int(size) for size in line.split()]
    r, ready = os.pipe()
    pids = []
    for size in sizes:
        pids.append(os.fork())
        if not pids[-1]:
            child(size)
    for _ in pids:
        os.read(r, 1)
    print("held", flush=True)
    sys.stdin.readline()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print("gone", flush=True)
"""


class Server:
    """It, told by lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def say(self, line: str) -> str:
        """What it answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def server() -> Iterator[Server]:
    """One that runs, and nothing of it afterwards."""
    command = [sys.executable, "-P", "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, process_group=0, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield Server(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_samples(window, more: int) -> None:
    """Until so many more were taken."""
    wanted = window.samples + more
    tick = threading.Event()
    for _ in range(2000):
        if window.samples >= wanted:
            return
        tick.wait(0.01)
    raise AssertionError("no samples are taken")


def test_children_together():
    """Two children at a time held 30 MiB, others 20: together it was those two and the server."""
    with server() as one, tree_peak(one, every=0.01) as p:
        for sizes in ("20", "10 20", "8 8"):
            assert one.say(sizes) == "held"
            wait_for_samples(p, 2)
            assert one.say("") == "gone"
    lo, hi = p.sampled.bytes.bounds
    assert 30 * MIB <= lo <= hi <= 30 * MIB + 20 * MIB
    assert len(p.tree) == 3
    assert p.tree.unique_rss.bytes.bounds[0] == lo


def test_more_is_not_claimed():
    """At least what was seen; at most is open, and says why."""
    with server() as one, tree_peak(one, every=0.01) as p:
        one.say("20")
        wait_for_samples(p, 2)
    assert p.rss >= "20 MiB"
    assert p.rss >= p.sampled
    with pytest.raises(Undetermined, match="in between is not known"):
        assert p.rss <= "1 GiB"
    assert "in between" in p.reasons[0]


def test_a_spike_between_samples_is_not_seen():
    """Nor said not to have been."""
    with server() as one, tree_peak(one, every=1000) as p:
        assert one.say("30") == "held"
        assert one.say("") == "gone"
    assert p.samples == 2
    assert p.sampled <= "30 MiB"
    with pytest.raises(Undetermined):
        assert p.rss <= "30 MiB"


def test_it_ends_in_the_block():
    """What was seen until then stays, and the end is told."""
    with server() as one, tree_peak(one, every=0.01) as p:
        one.say("20")
        wait_for_samples(p, 2)
        os.killpg(one.pid, signal.SIGKILL)
        one.process.wait()
    assert p.sampled >= "20 MiB"
    assert any("ended in the block" in reason for reason in p.reasons)


def test_no_thread_is_left():
    """Also where the block fails; nothing can be asked then."""
    with server() as one:
        with pytest.raises(KeyError), tree_peak(one) as p:
            raise KeyError
        assert not [t for t in threading.enumerate() if t.name == "pmaps-tree-peak"]
        assert "in 1 samples" in repr(p)


def test_asking_too_soon_or_wrongly():
    """Is an error, and no number."""
    with pytest.raises(ValueError, match="every"):
        tree_peak(every=0)
    with server() as one:
        with tree_peak(one) as p, pytest.raises(ValueError, match="ended"):
            _ = p.sampled
        with pytest.raises(ValueError, match="one with block"), p:
            pass
    with pytest.raises(ProcessGone), tree_peak(one.pid):
        pass


def test_in_a_forked_child():
    """The window is its parent's; leaving it there ends nothing and waits for nobody."""
    with server() as one, tree_peak(one, every=0.01) as p:
        pid = os.fork()
        if not pid:
            p.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        wait_for_samples(p, 2)
    assert p.sampled >= "1 MiB"


def test_as_nobody():
    """Without privileges it is an interval, with the truth in it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become nobody")
    code = f"""
import os, signal, subprocess, sys
from pytest_pmaps import tree_peak
pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
server = [sys.executable, "-c", {SERVER!r}]
with subprocess.Popen(server, process_group=0, **pipes) as process:
    process.stdout.readline()
    with tree_peak(process, every=0.01) as p:
        print("20", file=process.stdin, flush=True)
        process.stdout.readline()
    os.killpg(process.pid, signal.SIGKILL)
lo, hi = p.sampled.bytes.bounds
print(lo >= 20 << 20, hi <= 60 << 20)
"""
    command = [*as_nobody()[:-1], unprivileged_python(), "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.stdout == "True True\n", done.stderr
