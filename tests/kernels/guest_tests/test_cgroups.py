"""A cgroup of version 2 that accounts memory, made here: what it is charged for, and its peaks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_pmaps import Unsupported, cgroup

ROOT = Path("/sys/fs/cgroup")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make cgroups")

CHILD = """
import mmap, sys
print("ready", flush=True)
for line in sys.stdin:
    memory = mmap.mmap(-1, int(line), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, int(line), 4096):
        memory[at] = 1
    memory.close()
    print("done", flush=True)
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process in a cgroup of its own, that holds what it is told to for a moment."""
    (ROOT / "cgroup.subtree_control").write_text("+memory")
    folder = ROOT / "ours"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        (folder / "cgroup.procs").write_text(str(process.pid))
        yield process
        process.stdin.close()
        process.wait(30)
    folder.rmdir()


def spike(process: subprocess.Popen[str], size: int) -> None:
    """Hold so much, and let go of it."""
    process.stdin.write(f"{size}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_the_root_has_no_numbers():
    """We are in it."""
    with pytest.raises(Unsupported, match="the root cgroup has no numbers"):
        cgroup()


def test_what_it_is_charged_for(child: subprocess.Popen[str]):
    """What came after it moved there, and the most of it."""
    before = cgroup(child)
    assert before.path == str(ROOT / "ours")
    assert before.processes == (child.pid,)
    spike(child, 64 << 20)
    after = cgroup(child)
    assert after.peak is not None
    assert after.peak - before.current >= "62 MiB"
    assert after.current - before.current <= "8 MiB"
    assert after.stat["anon"] < 16 << 20
    assert set(after.stat) >= {"anon", "file", "shmem"}


def test_the_most_in_a_block(child: subprocess.Popen[str]):
    """Reset for us alone; before Linux 6.12 it cannot be."""
    spike(child, 96 << 20)
    found = cgroup(child)
    if not os.stat(f"{found.path}/memory.peak").st_mode & 0o222:
        with pytest.raises(Unsupported, match=r"takes Linux 6\.12"), found.watch():
            pass
        return
    with found.watch() as outer:
        with found.watch() as inner:
            spike(child, 16 << 20)
        spike(child, 48 << 20)
    assert inner.peak - found.current >= "14 MiB"
    assert inner.peak - found.current <= "28 MiB"
    assert outer.peak - found.current >= "46 MiB"
    assert outer.peak - found.current <= "60 MiB"
    assert found.peak >= "96 MiB"


def test_without_the_controller(child: subprocess.Popen[str]):
    """It is named, and where it is switched on."""
    below = ROOT / "ours" / "below"
    below.mkdir()
    try:
        (below / "cgroup.procs").write_text(str(child.pid))
        with pytest.raises(Unsupported, match=r"memory controller is off .*subtree_control"):
            cgroup(child)
    finally:
        (ROOT / "ours" / "cgroup.procs").write_text(str(child.pid))
        below.rmdir()
