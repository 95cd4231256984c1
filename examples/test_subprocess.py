"""Another process: a worker under test."""

from __future__ import annotations

import subprocess
import sys

import pytest

WORKER = """
import mmap, sys
data = mmap.mmap(-1, 8 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print("ready", flush=True)
sys.stdin.readline()
for i in range(0, len(data), 4096):
    data[i] = 1
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def worker():
    """A child that waits, works, waits."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", WORKER], stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        yield process
        process.stdin.close()


def test_worker_grows_by_its_buffer(pmaps_snapshot, worker):
    """What the child does is measured from outside, without its help."""
    before = pmaps_snapshot(worker)
    worker.stdin.write(b"\n")
    worker.stdin.flush()
    worker.stdout.readline()
    after = pmaps_snapshot(worker)
    assert after.rss <= "64 MiB"
    assert (after - before).new.dirty >= "8 MiB"
    assert (after - before)["[heap]"].new.dirty <= "256 KiB"
