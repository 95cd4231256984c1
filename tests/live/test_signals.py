"""Signals, threads and captures: nothing is lost, nothing hangs, nobody waits for another."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oracle import targets
from oracle.reader import stopped
from pytest_pmaps import dumps, snapshot

LARGE = """
import mmap, sys
many = [mmap.mmap(-1, 1 << 16, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, i % 2 + 1 << 0 | 2)
        for i in range(500)]
for i, m in enumerate(many):
    m[:: 8192] = bytes(8)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def large() -> Iterator[int]:
    """A process whose capture takes some milliseconds."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", LARGE], stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        yield process.pid
        process.kill()


def own_blocks() -> int:
    """Bytes of snapshots that the engine holds: what is kept out of core dumps, and inherited."""
    total, size = 0, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "Size":
            size = int(value.split()[0]) * 1024
        elif key == "VmFlags" and "dd" in value.split() and "dc" not in value.split():
            total += size
    return total


class Ring(Exception):
    """What the alarm's handler raises."""


def ring(signum: int, frame: object) -> None:
    """A handler as Python's own for Ctrl-C: it raises wherever it is."""
    raise Ring


def test_a_handler_that_raises_leaves_nothing_behind(large: int):
    """Ctrl-C at any moment: no descriptor, no snapshot, no arena stays, and the next one works."""
    snapshot(large)
    gc.collect()
    files, blocks, rung = len(os.listdir("/proc/self/fd")), own_blocks(), 0
    previous = signal.signal(signal.SIGALRM, ring)
    try:
        for i in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + 0.00005 * (i % 100))
                snapshot(large)
            except Ring:
                rung += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    except Ring:
        rung += 1
    finally:
        signal.signal(signal.SIGALRM, previous)
    gc.collect()
    assert rung > 50
    assert len(os.listdir("/proc/self/fd")) == files
    assert own_blocks() <= blocks + (1 << 20)
    assert snapshot(large).verdict


def test_a_handler_that_returns_disturbs_nothing(large: int):
    """A thousand signals a second: captures are what they are without."""
    rang = itertools.count()
    previous = signal.signal(signal.SIGALRM, lambda *_: next(rang))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(30):
            snap = snapshot(large)
            assert snap.verdict.complete
            assert not snap.verdict.raced
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert next(rang) > 10


def test_other_threads_run_during_a_capture(large: int):
    """The GIL is released while the engine works."""
    stop, longest = threading.Event(), [0.0]

    def tick() -> None:
        last = time.perf_counter()
        while not stop.is_set():
            now = time.perf_counter()
            longest[0] = max(longest[0], now - last)
            last = now

    # With the GIL held, the other thread would stand still for each capture as a whole.
    counts = []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(5):
            n = 0
            done = pool.submit(snapshot, large)
            while not done.done():
                n += 1
            counts.append(n)
    print(counts)
    assert max(counts) > 100


def test_threads_capture_the_same(zoo: Path, public: Path):
    """Four at once, of one idle target: one result."""

    def text(pid: int) -> str:
        return dumps(snapshot(pid))

    with targets.running(zoo, "anon", public) as (pid, _), stopped(pid):
        for _ in range(10):
            with ThreadPoolExecutor(4) as pool:
                taken = set(pool.map(text, [pid] * 16))
            if len(taken) == 1:
                return
    # Shared pages are moved by others; more than one is a finding only where it stays.
    assert len(taken) == 1
