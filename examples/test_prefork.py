"""A pre-fork server in Python: what gc.freeze() saves, in pages that workers do not copy.

The collector writes into every object that it looks at.  A worker that collects once has copied
nearly all that it inherited; unless its parent took that out of the collector's sight.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_pmaps import Tree

SERVER = """
import gc, os, signal, sys
data = [[n] for n in range(200_000)]  # what all workers read
gc.collect()
if "freeze" in sys.argv:
    gc.disable()
    gc.freeze()
report, say = os.pipe()
ask, go = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        os.close(go)
        os.write(say, b"+")
        while os.read(ask, 1):
            gc.collect()
            os.write(say, b"+")
        os._exit(0)
def wait():
    for _ in range(2):
        os.read(report, 1)
wait()
print("up", flush=True)
for line in sys.stdin:
    for _ in range(2):
        os.write(go, b"+")
        os.read(report, 1)
    print("collected", flush=True)
"""


@contextmanager
def server(*options: str) -> Iterator[subprocess.Popen[str]]:
    """A server with two workers that serve, which here means: collect garbage."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", SERVER, *options]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.stdin.close()


def serve(process: subprocess.Popen[str]) -> None:
    """One request; workers take them in any order."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "collected\n"


def copied(pmaps, *options: str) -> tuple[Tree, int]:
    """The tree after a request, and pages that it made workers copy."""
    with server(*options) as process:
        before = pmaps.tree(process)
        serve(process)
        after = pmaps.tree(process)
        change = after - before
        grown = [change[child.pid].uss.pages.bounds[0] for child in after.children]
        return after, sum(grown)


def test_workers_copy_what_they_collect(pmaps):
    """200,000 lists: a collection writes to the header of each."""
    after, pages = copied(pmaps)
    assert len(after.children) == 2
    assert pages > 2000


def test_frozen_objects_stay_shared(pmaps):
    """The same request, behind gc.freeze(): nearly nothing is copied."""
    after, pages = copied(pmaps, "freeze")
    assert pages < 400
    if os.geteuid() != 0:
        pytest.skip("which pages are shared with whom shows with CAP_SYS_ADMIN only")
    for worker in after.children:
        # What it inherited is its parent's still.
        assert worker.shared_with(after.root) >= 0.7
