"""SQLite, zlib and NumPy, as they come."""

from __future__ import annotations

import sqlite3
import zlib

import pytest

from pytest_pmaps import NoSuchMapping, assert_no_dirty


def text_of(snapshot, *names):
    """The code of the first of these files that is mapped; it may be linked in statically."""
    for name in names:
        try:
            return snapshot[f"{name}.text"]
        except NoSuchMapping:
            continue
    pytest.skip(f"{' or '.join(names)} is not a library of its own here")


def test_sqlite_in_memory_costs_what_it_stores(pmaps_snapshot):
    """10,000 rows of 100 bytes: about a MiB, and not one page of SQLite's code."""
    connection = sqlite3.connect(":memory:")
    connection.execute("create table t (x text)")
    before = pmaps_snapshot()
    connection.executemany("insert into t values (?)", (("x" * 100,) for _ in range(10_000)))
    after = pmaps_snapshot()
    assert (after - before).new.dirty <= "4 MiB"
    assert_no_dirty(text_of(after, "libsqlite3", "_sqlite3"))


def test_zlib_gives_its_window_back(pmaps_snapshot):
    """Compressing keeps no more than a little once the compressor is gone."""
    data = bytes(range(256)) * 4096
    zlib.compress(data)
    before = pmaps_snapshot()
    for _ in range(20):
        zlib.compress(data)
    after = pmaps_snapshot()
    assert (after - before).anonymous <= "1 MiB"


def test_numpy_zeros_are_not_resident(pmaps_snapshot):
    """np.zeros asks for memory; touching it is what costs."""
    numpy = pytest.importorskip("numpy")
    before = pmaps_snapshot()
    array = numpy.zeros(32 << 20, dtype=numpy.uint8)
    untouched = pmaps_snapshot()
    array[::4096] = 1
    touched = pmaps_snapshot()
    assert (untouched - before).rss <= "1 MiB"
    assert (touched - untouched).rss >= "30 MiB"
