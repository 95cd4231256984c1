"""Y and P of idle processes as they come: nothing disagrees, everything adds up.

``PMAPS_PTE_PAGES`` is how many present pages they have together, at least; three million take a
minute and 4 GiB.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oracle import ptebits, targets
from oracle.reader import PAGE

PAGES = int(os.environ.get("PMAPS_PTE_PAGES", "300000"))
AT_LEAST = 10


@pytest.fixture(scope="module", autouse=True)
def tables() -> None:
    """All of it needs page tables."""
    ptebits.require()


def share(of_a_hundred: int) -> int:
    """So many hundredths of all pages, in bytes; whole huge pages."""
    huge = 2 << 20
    return max(1, PAGES * PAGE * of_a_hundred // 100 // huge) * huge


WRITER = """
import json, mmap, os, sys
size = int(sys.argv[1])
small, huge = mmap.mmap(-1, size // 2, flags=34), mmap.mmap(-1, size // 2, flags=34)
small.madvise(15)
huge.madvise(14)
for area in small, huge:
    for at in range(0, len(area), 4096):
        area[at] = 1
print(json.dumps({"pids": [os.getpid()], "areas": []}), flush=True)
sys.stdin.read()
"""

FAMILY = """
import json, mmap, os, sys
size, children = int(sys.argv[1]), 4
area = mmap.mmap(-1, size, flags=34)
area.madvise(15)
pages = size // 4096
for at in range(0, size, 4096):
    area[at] = 1
life, keep = os.pipe()
ready, tell = os.pipe()
pids = []
for number in range(children):
    pid = os.fork()
    if not pid:
        os.close(keep)
        part = range(number * 4096, size, 16 * 4096)
        for at in part:
            area[at] = 2  # copied
        seen = sum(area[at] for at in range((number + 8) * 4096, size, 16 * 4096))
        os.write(tell, b"x")
        os.read(life, 1)
        os._exit(0)
    pids.append(pid)
for _ in pids:
    os.read(ready, 1)
for at in range(6 * 4096, size, 16 * 4096):
    area[at] = 3  # of the parent's own again
print(json.dumps({"pids": [os.getpid(), *pids], "areas": []}), flush=True)
sys.stdin.read()
os.close(keep)
for pid in pids:
    os.waitpid(pid, 0)
"""

MAPPERS = """
import json, mmap, os, sys, tempfile
size, children = int(sys.argv[1]), 4
with tempfile.TemporaryFile(dir=sys.argv[2]) as file:
    file.truncate(size)
    ways = [
        dict(flags=mmap.MAP_SHARED, prot=mmap.PROT_READ),
        dict(flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE),
        dict(flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ),
        dict(flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE),
    ]
    life, keep = os.pipe()
    ready, tell = os.pipe()
    pids = []
    for number in range(children):
        pid = os.fork()
        if not pid:
            os.close(keep)
            way = ways[number % 4]
            area = mmap.mmap(file.fileno(), size, **way)
            seen = sum(area[at] for at in range(0, size, 4096))
            if way["prot"] & mmap.PROT_WRITE:
                for at in range(number * 4096, size, 64 * 4096):
                    area[at] = 1
                # A page that is mapped with 511 others takes them along when it is copied.
                seen = sum(area[at] for at in range(0, size, 4096))
            os.write(tell, b"x")
            os.read(life, 1)
            os._exit(0)
        pids.append(pid)
    for _ in pids:
        os.read(ready, 1)
    os.fsync(file.fileno())  # or the kernel does so while it is looked at
    print(json.dumps({"pids": [os.getpid(), *pids], "areas": []}), flush=True)
    sys.stdin.read()
    os.close(keep)
    for pid in pids:
        os.waitpid(pid, 0)
"""


@contextmanager
def processes(name: str, public: Path) -> Iterator[list[int]]:
    """Start some idle processes."""
    made = {
        "writer": (WRITER, share(10)),
        "family": (FAMILY, share(4)),
        "mappers": (MAPPERS, share(20)),
    }
    if name in made:
        code, size = made[name]
        arguments = (str(size), public)
        with targets.running("-c", code, *arguments, python=sys.executable) as (_, info):
            for pid in info["pids"]:
                targets.wait_idle(pid, quiet=0.1)
            yield info["pids"]
        return
    program = next(p for p in targets.real_programs(public) if p.name == name)
    with targets.idle(program) as pid:
        yield [pid]


def check(pid: int) -> int:
    """Nothing disagrees and everything adds up; gives the pages that the RFC lists."""
    for _ in range(8):
        captured = ptebits.capture(pid)
        # Expected of a process that runs, and of no other.
        assert captured.verdict.raced or ptebits.disagreed(captured) == 0
        if captured.verdict.label == "complete":
            break
    assert captured.verdict.label == "complete", captured.verdict.reasons
    captured = ptebits.add_up(pid)
    assert ptebits.disagreed(captured) == 0
    return sum(count for _, count, bits in ptebits.ranges_of(captured) if bits.normal)


def test_millions_of_pages(public: Path):
    """At least ten processes, and ``PMAPS_PTE_PAGES`` pages; none of them wrong."""
    names = [program.name for program in targets.real_programs(public)]
    seen: dict[str, list[int]] = {}
    for name in ("writer", "family", "mappers", *names):
        try:
            with processes(name, public) as pids:
                seen[name] = [check(pid) for pid in pids]
        except targets.Unavailable:
            continue  # does not stay
    for name, pages in seen.items():
        print(f"  {name}: {', '.join(f'{n:,}' for n in pages)}")
    total = sum(sum(pages) for pages in seen.values())
    print(f"  {sum(map(len, seen.values()))} processes, {total:,} pages")
    assert sum(map(len, seen.values())) >= AT_LEAST
    assert total >= PAGES
