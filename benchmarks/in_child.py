"""What can only be measured in a fresh process: ``in_child.py JOB [NUMBER]``.

Prints one line of JSON.
"""

from __future__ import annotations

import gc
import json
import mmap
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH keeps it out

import host
import ours
from pytest_pmaps import Fact
from pytest_pmaps._native import Columns, Window, WriteWatch, buffer_span


def count(columns: Columns, fact: Fact) -> int:
    """Pages of all mappings for which a fact holds."""
    windows = [Window(i, m.start, m.end) for i, m in enumerate(columns.mappings)]
    found = columns.count(windows)[fact]
    if found.lo != found.hi:
        raise SystemExit(f"{fact.name} is not known of every page")
    return found.lo


def status(name: str) -> int:
    """A counter of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise SystemExit(f"no {name} in /proc/self/status")


def peak(pid: int) -> dict[str, int]:
    """How much larger this process became at most while it captured another."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = status("VmRSS")
    columns = ours.columns(pid)
    most = status("VmHWM")
    return {
        "bytes": most - before,
        "present": count(columns, Fact.PRESENT),
        "mappings": len(columns),
        "ranges": columns.n_ranges,
        "complete": columns.complete,
    }


def kept(pid: int) -> dict[str, int]:
    """How much larger this process is while it holds a snapshot."""
    ours.columns(pid)  # what the engine keeps for its next capture is not the snapshot's
    gc.collect()
    before = host.rollup("self")
    columns = ours.columns(pid)
    after = host.rollup("self")
    return {"bytes": after - before, "ranges": columns.n_ranges}


def observer() -> dict[str, int]:
    """What capturing oneself adds to oneself, as the next capture shows it."""
    taken = [ours.columns(0) for _ in range(3)]
    anonymous = [count(columns, Fact.ANON) for columns in taken]
    return {
        "first": anonymous[1] - anonymous[0],  # of all in this process
        "second": anonymous[2] - anonymous[1],
        "mappings": len(taken[2]) - len(taken[1]),
    }


def windows(pages: int) -> dict[str, int]:
    """What a first write to a page costs, watched and not, and what a window costs by itself."""
    found: dict[str, int] = {}
    for state in ("populated", "empty"):
        for watched in (False, True):
            name = f"{state}_{'watched' if watched else 'bare'}"
            found[name] = _first_writes(pages, state == "populated", watched)
    with mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE) as data:
        data.madvise(mmap.MADV_NOHUGEPAGE)
        began = time.thread_time_ns()
        window = WriteWatch(((at := buffer_span(data)[0], at + len(data)),))
        window.begin()
        window.end()
        found["window"] = time.thread_time_ns() - began
    return found


def _first_writes(pages: int, populated: bool, watched: bool) -> int:
    """CPU nanoseconds to write a byte to each page, by one call of C."""
    size = pages * mmap.PAGESIZE
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE) as data:
        data.madvise(mmap.MADV_NOHUGEPAGE)
        view = memoryview(data)[:: mmap.PAGESIZE]
        source = memoryview(bytes(pages))
        if populated:
            view[:] = source
        at = buffer_span(data)[0]
        window = WriteWatch(((at, at + size),))
        if watched and window.begin() < 0:
            raise SystemExit("no windows here (see 'pytest_pmaps.written')")
        began = time.thread_time_ns()
        view[:] = source
        took = time.thread_time_ns() - began
        if watched:
            window.end()
        view.release()
    return took


def main() -> None:
    """Do what is asked."""
    what, *rest = sys.argv[1:]
    jobs: dict[str, Callable[..., dict[str, int]]] = {
        "peak": peak,
        "kept": kept,
        "observer": observer,
        "windows": windows,
    }
    json.dump(jobs[what](*map(int, rest)), sys.stdout)
    print()


if __name__ == "__main__":
    main()
