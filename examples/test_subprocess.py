"""Another process: a worker under test."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_pmaps import Fact

WORKER = """
import sys
data = bytearray(8 << 20)
print("ready", flush=True)
sys.stdin.readline()
data[::4096] = b"x" * len(data[::4096])
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
    # bytearray(n) is zeroed memory from the kernel: nothing is resident until it is written.
    assert (after - before).new.dirty >= "7 MiB"
    assert all(r.fact(Fact.SWAPPED) is False for r in after["[heap]"].ranges())
