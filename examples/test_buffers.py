"""Which pages of a buffer a call brought in or wrote, and which a forked worker copied."""

from __future__ import annotations

import mmap
import os
import signal

import pytest

from pytest_pmaps import FootprintError, assert_no_dirty, assert_unchanged

PAGE = mmap.PAGESIZE


@pytest.fixture
def table():
    """64 pages of private memory, all of them written."""
    with mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(64):
            memory[page * PAGE] = 1
        yield memory


@pytest.fixture
def worker(table):
    """A fork that updates three rows, a page each, and waits."""
    done, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        for row in (3, 4, 60):
            table[row * PAGE] = 2
        os.write(say, b"+")
        while True:
            signal.pause()
    os.read(done, 1)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(done)
    os.close(say)


def test_reading_changes_nothing(pmaps_snapshot, table):
    """No page of the table comes, goes or becomes dirty, wherever malloc put it."""
    before = pmaps_snapshot()
    sum(table[::PAGE])
    assert_unchanged(pmaps_snapshot().of(table), since=before)


def test_worker_copies_what_it_writes(pmaps_snapshot, table, worker):
    """The same addresses in the child: three pages are its own, the others still shared."""
    child = pmaps_snapshot(worker)
    assert child.of(table).uss == 3
    assert child.of(table).shared == 61


def test_growth_of_an_array(pmaps_snapshot):
    """np.zeros brings nothing in; writing a tenth brings in a tenth."""
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros(64 << 20, dtype=numpy.uint8)
    before = pmaps_snapshot()
    array[: len(array) // 10] = 1
    change = pmaps_snapshot() - before
    # Where huge pages are given without asking, the last one reaches further.
    assert change.of(array, edges="exclude").new.dirty >= "6.25 MiB"
    assert change.of(array, edges="exclude").rss <= "9 MiB"


def test_a_neighbour_is_not_to_blame(pmaps_snapshot, table):
    """A record that begins in the middle of a page: the failure says whose page it is."""
    table.madvise(mmap.MADV_DONTNEED)
    table[0] = 7
    after = pmaps_snapshot()
    with memoryview(table)[PAGE // 2 : 3 * PAGE] as record:
        with pytest.raises(FootprintError, match=r"without its first page \(2 KiB of it\) it"):
            assert_no_dirty(after.of(record))
        assert_no_dirty(after.of(record, edges="exclude"))
