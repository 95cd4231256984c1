"""Memory that only a descriptor keeps: each file once, with what it holds."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import AccessDenied, Held, ProcessGone, held, snapshot

PAGE = mmap.PAGESIZE


def of(fd: int, target: object = None) -> Held:
    """What is said of a descriptor."""
    [found] = [h for h in held(target) if fd in h.fds]
    return found


@pytest.fixture
def memfd() -> Iterator[int]:
    """Eight pages and a hole."""
    fd = os.memfd_create("holder")
    os.ftruncate(fd, 1 << 20)
    os.pwrite(fd, b"1" * (8 * PAGE), 16 * PAGE)
    yield fd
    os.close(fd)


def test_a_memfd_that_nobody_maps(memfd: int):
    """It is in no snapshot, and is here, exactly."""
    found = of(memfd)
    assert (found.name, found.fds, found.mapped) == ("/memfd:holder", (memfd,), 0)
    assert found.bytes == 8
    assert "memfd:holder" not in snapshot()
    assert found.inode == os.fstat(memfd).st_ino


def test_each_file_once(memfd: int):
    """Two descriptors, and a third by /proc, are one file."""
    twice, again = os.dup(memfd), os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
    try:
        assert of(again).fds == tuple(sorted((memfd, twice, again)))
    finally:
        os.close(twice)
        os.close(again)


def test_what_is_mapped_of_it(memfd: int):
    """Parts of the file, those that are mapped twice counted once."""
    with (
        mmap.mmap(memfd, 4 * PAGE, offset=16 * PAGE),
        mmap.mmap(memfd, 4 * PAGE, offset=18 * PAGE),
        mmap.mmap(memfd, PAGE),
    ):
        assert of(memfd).mapped == 7 * PAGE
        assert of(memfd).bytes == 8
    assert of(memfd).mapped == 0


def test_deleted_files_of_tmpfs(tmp_path):
    """Those in /dev/shm are memory, those on disk are not, nor are those with a name."""
    if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("the temporary folder is in /dev/shm")
    fds = [os.open(folder, os.O_TMPFILE | os.O_RDWR) for folder in ("/dev/shm", tmp_path)]
    name = f"/dev/shm/pmaps-test-held-{os.getpid()}"
    named = os.open(name, os.O_CREAT | os.O_RDWR | os.O_EXCL)
    try:
        for fd in (*fds, named):
            os.write(fd, b"1" * 3 * PAGE)
        known = {fd: h for h in held() for fd in h.fds}
        assert known[fds[0]].bytes == 3
        assert fds[1] not in known
        assert named not in known
        os.unlink(name)
        assert of(named).bytes == 3
        assert of(named).name == name
    finally:
        for fd in (*fds, named):
            os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def test_the_largest_comes_first(memfd: int):
    """As in a table."""
    large = os.memfd_create("large")
    try:
        os.pwrite(large, b"1" * (80 * PAGE), 0)
        sizes = [h.bytes.bytes.bounds[1] for h in held()]
        assert sizes == sorted(sizes, reverse=True)
        assert sum((h.bytes for h in held()), start=0) >= 88
    finally:
        os.close(large)


HOLDER = """
import os, sys
fd = os.memfd_create("child's")
os.write(fd, b"1" * 40960)
print(fd, flush=True)
sys.stdin.read()
"""


def test_of_another_process(memfd: int):
    """A child's, and what it inherited."""
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[memfd]
    ) as child:
        fd = int(child.stdout.readline())
        assert of(fd, child).name == "/memfd:child's"
        assert of(fd, child).bytes == 10
        assert of(memfd, child).inode == of(memfd).inode
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessGone, AccessDenied):
            assert held(child.pid) == ()
    with pytest.raises(ProcessGone):
        held(child)
    with pytest.raises(ProcessGone):
        held(1 << 30)


def test_of_somebody_elses_process():
    """AccessDenied, in one line; one's own are seen without privilege."""
    python = unprivileged_python()
    code = (
        "import os, sys\n"
        "from pytest_pmaps import AccessDenied, held\n"
        "fd = os.memfd_create('x'); os.write(fd, b'1')\n"
        "print(held()[0].bytes == 1)\n"
        "try: held(int(sys.argv[1]))\n"
        "except AccessDenied as exc: print(exc)\n"
    )
    command = [*as_nobody(), python, "-P", "-c", code, str(os.getpid())]
    run = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    first, second = run.stdout.splitlines()
    assert first == "True"
    assert "its descriptors may not be looked at" in second


def test_no_descriptor_is_left(memfd: int):
    """Of ours."""
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        held()
    assert os.listdir("/proc/self/fd") == before
