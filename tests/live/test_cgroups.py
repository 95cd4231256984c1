"""The cgroup that this process is in, if there is one of v2 that accounts memory."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest

from pytest_pmaps import Cgroup, ProcessGone, Unsupported, cgroup, snapshot


def ours() -> Cgroup:
    """Ours; skips, and says why, where there is none."""
    try:
        return cgroup()
    except Unsupported as exc:
        pytest.skip(str(exc))


def test_it_is_charged_for_us():
    """For our anonymous memory at least, and we are in it."""
    found = ours()
    assert os.getpid() in found.processes
    assert found.current >= found.stat["anon"] // mmap.PAGESIZE // 2
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(bytes(64 << 20))
        assert cgroup().current - found.current >= "48 MiB"
        assert snapshot().anonymous >= "64 MiB"


def test_the_most_in_a_block():
    """Of the block alone, though it was more before."""
    found = ours()

    def spike(size: int) -> None:
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.write(bytes(size))

    spike(128 << 20)
    try:
        with found.watch() as w:
            spike(16 << 20)
    except Unsupported as exc:
        pytest.skip(str(exc))
    assert w.peak - found.current <= "64 MiB"
    assert w.peak - found.current >= "12 MiB"


def test_why_not_in_one_line():
    """As the command line shows it."""
    code = (
        "from pytest_pmaps import *\ntry: print(cgroup().path)\nexcept Unsupported as e: print(e)"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert len(run.stdout.splitlines()) == 1
    assert not run.stderr


def test_processes_that_are_gone():
    """Say so."""
    with pytest.raises(ProcessGone):
        cgroup(1 << 30)
    with pytest.raises(ProcessGone):
        cgroup((1 << 31) - 2)
    with pytest.raises(TypeError):
        cgroup("init")
