"""What a capture costs besides time: reads, memory, and what it does to who is looked at."""

from __future__ import annotations

import json
import mmap
import os
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import host
import ours
from host import HERE, Unavailable
from pytest_pmaps import Fact
from pytest_pmaps._native import Columns
from report import Figure
from rivals import Rivals
from targets import GIB, Launcher, Workload, comb, stall


def _in_child(*argv: object) -> dict[str, int]:
    command = [sys.executable, "-P", str(HERE / "in_child.py"), *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]}: {done.stderr.strip().splitlines()[-1]}")
    answer: dict[str, int] = json.loads(done.stdout)
    return answer


# ---- system calls


def calls(launcher: Launcher, others: Rivals, sequential: Workload) -> Iterator[Figure]:
    """Reads per GiB, by the kernel's own count; opening and scanning come to a few dozen."""
    what = "reads per GiB, {}, " + sequential.label
    with launcher.run(sequential) as target, others.of(target.pid) as compiled:
        gib = host.rollup(target.pid) / GIB
        with suppress(Unavailable):
            compiled.run("floor")
            fewest = round(compiled.calls["floor"] / gib)
            yield Figure("calls/floor", what.format("floor"), fewest, "", "frames as they lie")
        for tier in ("kpage", "full"):
            ours.columns(target.pid, tier)
            _reads()
            idle = -_reads() + _reads()
            before = _reads()
            ours.columns(target.pid, tier)
            made = _reads() - before - idle
            yield Figure(f"calls/{tier}", what.format(tier), round(made / gib), "")


def _reads() -> int:
    """How many reads this thread has made so far."""
    try:
        text = Path("/proc/thread-self/io").read_text()
    except OSError as exc:
        raise Unavailable(f"no count of reads (/proc/thread-self/io): {exc.strerror}") from None
    counts = dict(line.split(": ") for line in text.splitlines())
    return int(counts["syscr"])


# ---- memory


def peak(launcher: Launcher, workload: Workload) -> Iterator[Figure]:
    """Peak of the process that captures, at the deepest, per page that is present."""
    with launcher.run(workload) as target:
        found = _in_child("peak", target.pid)
        rss = host.rollup(target.pid) // os.sysconf("SC_PAGESIZE")
    most = f"{found['bytes'] / 2**20:.1f} MiB"
    yield Figure(
        f"memory/peak/{workload.name}",
        f"peak per page, {target.label}",
        round(found["bytes"] / found["present"], 1),
        "B",
        most,
    )
    if workload.name in ("mappings-65000", "sparse"):
        whole = "" if found["complete"] else "says so itself"
        # The zero page is present and not in Rss; none of these targets has one of its own.
        missing = max(rss - found["present"], 0)
        yield Figure(
            f"memory/missing/{workload.name}", f"missing of {target.label}", missing, "pages", whole
        )


def kept(launcher: Launcher, sequential: Workload, quick: bool) -> Iterator[Figure]:
    """What a snapshot keeps for each page range more: one of many against one of few."""
    with launcher.run(sequential) as target:
        few = _in_child("kept", target.pid)
    with launcher.run(comb(quick)) as target:
        many = _in_child("kept", target.pid)
    ranges = many["ranges"] - few["ranges"]
    each = (many["bytes"] - few["bytes"]) / ranges
    yield Figure("memory/kept", "kept per page range", round(each, 1), "B", f"{ranges:,} ranges")


# ---- what the target notices


def stalls(launcher: Launcher, rounds: int, quick: bool) -> Iterator[Figure]:
    """The longest mmap, first touch or munmap of a target, by what is done to it meanwhile."""
    path = launcher.folder / "published"
    path.write_bytes(bytes(mmap.PAGESIZE))
    with (
        path.open("r+b") as f,
        mmap.mmap(f.fileno(), mmap.PAGESIZE) as published,
        launcher.run(stall(quick, path)) as target,
    ):
        took = _seconds(lambda: ours.columns(target.pid, "full"))
        jobs: dict[str, Callable[[], object]] = {
            "none": lambda: time.sleep(took),
            "kpage": lambda: ours.columns(target.pid, "kpage"),
            "full": lambda: ours.columns(target.pid, "full"),
        }
        seen: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(rounds):
            for name, job in jobs.items():
                published[:8] = bytes(8)
                job()
                seen[name].append(struct.unpack("=Q", published[:8])[0] / 1e6)
    said = {"none": "no capture", "kpage": "counters off", "full": "counters on"}
    for name, longest in seen.items():
        what = f"longest stall, {target.label}, {said[name]}"
        note = f"worst of {len(longest)}: {max(longest):.2f}"
        yield Figure(f"stall/{name}", what, statistics.median(longest), "ms", note)


def _seconds(job: Callable[[], object]) -> float:
    start = time.monotonic()
    job()
    return time.monotonic() - start


def observer() -> Iterator[Figure]:
    """What capturing oneself adds to oneself, as the next capture shows it."""
    found = _in_child("observer")
    note = f"by the first one: {found['first']}"
    what = "pages added by a 2nd self-capture"
    yield Figure("observer", what, found["second"], "pages", note)


def windows(rounds: int, quick: bool) -> Iterator[Figure]:
    """What ``written()`` costs whoever writes: the first write to each page, less a bare one."""
    pages = (64 if quick else 512) << 8
    runs = [_in_child("windows", pages) for _ in range(rounds)]
    for state, note in (("populated", "they are there"), ("empty", "and are brought in")):
        bare, watched = (
            statistics.median(run[f"{state}_{how}"] / pages for run in runs)
            for how in ("bare", "watched")
        )
        extra = statistics.median(
            (run[f"{state}_watched"] - run[f"{state}_bare"]) / pages for run in runs
        )
        what = f"watching adds to the first write to a page, {state}"
        said = f"{note}: {watched:.0f} for {bare:.0f}"
        yield Figure(f"written/{state}", what, round(extra), "ns", said)
    per_gib = statistics.median(run["window"] / (pages * mmap.PAGESIZE / GIB) for run in runs)
    yield Figure("written/window", "a window over empty memory", per_gib / 1e6, "ms/GiB")


def idle(launcher: Launcher, workload: Workload) -> Iterator[Figure]:
    """Two captures in a row of a target that does nothing."""
    with launcher.run(workload) as target:
        first, second = ours.columns(target.pid), ours.columns(target.pid)
        rss = host.rollup(target.pid) // first.page_size
    a, b = _private(first), _private(second)
    differ = max(_pages(a - b), _pages(b - a))
    what = f"idle, differing, {target.label}"
    yield Figure("idle/pages", what, differ, "pages", f"of {_pages(b):,} private")
    pages = _counted(second, Fact.NORMAL)
    what = f"idle, off from Rss, {target.label}"
    yield Figure("idle/rss", what, abs(pages - rss), "pages", f"of {rss:,}")


def _private(columns: Columns) -> set[tuple[int, ...]]:
    """The page ranges that nobody else maps, with all that is said of them."""
    names = ("page", "count", "set", "known", "mapcount_lo", "mapcount_hi")
    buffers = columns.buffers()
    exclusive = 1 << Fact.EXCLUSIVE
    return {row for row in zip(*(buffers[n] for n in names), strict=True) if row[2] & exclusive}


def _pages(ranges: set[tuple[int, ...]]) -> int:
    return sum(count for _, count, *_ in ranges)


def _counted(columns: Columns, fact: Fact) -> int:
    buffers = columns.buffers()
    pairs = zip(buffers["count"], buffers["set"], strict=True)
    return sum(count for count, bits in pairs if bits >> fact & 1)
