"""With frames visible, every decided fact equals the independent reader's."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from oracle import reader, targets
from oracle.agreement import agree, around
from pytest_pmaps import Fact, Mapping, Snapshot, snapshot

COUNTED = (
    ("rss", Fact.NORMAL),
    ("anonymous", Fact.ANON),
    ("referenced", Fact.TOUCHED),
    ("lazy_free", Fact.LAZYFREE),
    ("ksm", Fact.KSM),
)


def reconciliation(mapping: Mapping) -> list[str]:
    """Where pages and smaps counters exclude each other."""
    wrong = []
    for name, fact in COUNTED:
        counter, pages = mapping.metric(name).bytes.bounds, mapping.count(fact).bytes.bounds
        # LazyFree is a lower bound: the kernel batches it.
        high = pages[1] if name != "lazy_free" else max(pages[1], counter[1])
        if counter[0] > high or counter[1] < (pages[0] if name != "lazy_free" else 0):
            wrong.append(f"{mapping.label} {mapping.start:x}: {name} {counter}, pages {pages}")
    return wrong


def check(pid: int, info: targets.Info | None = None) -> Snapshot:
    """No contradiction, nothing raced, and everything adds up."""
    captured, _ = agree(lambda: around(pid, lambda: snapshot(pid)), info)
    assert [line for m in captured.mappings for line in reconciliation(m)] == []
    assert captured.verdict.label == "complete", captured.verdict.reasons
    return captured


@pytest.mark.parametrize("state", targets.ZOO_STATES)
def test_constructed_states(zoo: Path, public: Path, state: str):
    """Pages in states that the target made; P and our dirty by how they were made."""
    reader.require_frames()
    with targets.running(zoo, state, public) as (pid, info):
        check(pid, info)


@pytest.mark.parametrize("name", targets.PROGRAM_NAMES)
def test_real_programs(public: Path, name: str):
    """Idle programs as they come."""
    reader.require_frames()
    found = {program.name: program for program in targets.real_programs(public)}
    if name not in found:
        pytest.skip(f"{name} is not installed here")
    with targets.idle(found[name]) as pid:
        check(pid)


def test_all_flags_are_decided(zoo: Path, public: Path):
    """With frames R A U D W, mapcount, and dirty of private memory leave nothing open."""
    reader.require_frames()
    with targets.running(zoo, "anon", public) as (pid, _):
        captured = snapshot(pid)
    for fact in (Fact.REFERENCED, Fact.ACTIVE, Fact.UPTODATE, Fact.PAGEDIRTY, Fact.WRITEBACK):
        open_ranges = [r for r in captured.ranges() if r.fact(fact) is None]
        assert open_ranges == [], fact.name
    assert captured["[stack]"].dirty.exact


def test_hugetlb_is_listed_and_marked(zoo: Path, public: Path):
    """A hugetlb mapping has no ranges, as in the RFC, and its dirty pages are not called zero."""
    with targets.reserved_hugepages(3), targets.running(zoo, "hugetlb", public) as (pid, info):
        captured = snapshot(pid)
        area = next(iter(targets.areas(info).values()))
        mapping = next(m for m in captured.mappings if m.start <= area.start < m.end)
        assert mapping.kind.name == "HUGETLB"
        assert list(mapping.ranges()) == []
        assert mapping.dirty.bounds[1] > 0


def test_swapped_copies_stay_dirty(zoo: Path, public: Path):
    """Private copies that were swapped out are dirty still; guard pages are not swap."""
    reader.require_frames()
    with targets.swapfile(64), targets.running(zoo, "swap", public) as target:
        pid, info = target.pid, target.ask("pageout")
        captured = check(pid, info)
        assert captured.swap > 0
        swapped = [r for r in captured.ranges() if r.fact(Fact.SWAPPED)]
        assert {r.fact(Fact.DIRTY) for r in swapped} == {True}


def test_merged_pages(zoo: Path, public: Path):
    """KSM's pages are marked, and their mapcounts are right."""
    reader.require_frames()
    with targets.ksm(), targets.running(zoo, "ksm", public) as (pid, info):
        targets.wait_merged(pid, 1)
        agree(lambda: around(pid, lambda: snapshot(pid)), info)


def test_200_captures_of_an_idle_process(zoo: Path, public: Path):
    """All of them complete and unraced, whatever the rest of the host does."""
    with targets.running(zoo, "anon", public) as (pid, _):
        verdicts = {snapshot(pid).verdict.label for _ in range(200)}
    assert verdicts == {"complete"}


def test_capturing_ourselves_adds_nothing():
    """Neither arena nor kept snapshots show, and the second capture adds no page."""
    snapshot()
    kept = [snapshot() for _ in range(8)]
    added = [(b - a).anonymous.bounds[1] for a, b in itertools.pairwise(kept[2:])]
    assert min(added) == 0
    assert sum(added) <= 4
    assert kept[-1].verdict.label == "complete", kept[-1].verdict.reasons


SPARSE = """
import ctypes, json, mmap, random, sys
size = 1 << 40
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # MAP_NORESERVE
memory.madvise(mmap.MADV_NOHUGEPAGE)  # or each page takes 2 MiB where they are always given
chance = random.Random(1)
pages = sorted({chance.randrange(size >> 12) for _ in range(10_000)})
for page in pages:
    memory[page << 12] = 1
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print(json.dumps({"start": start, "pages": pages}), flush=True)
sys.stdin.read()
"""


def test_a_tebibyte_with_scattered_pages():
    """Exactly the pages that were written, each once, though PAGEMAP_SCAN finds them."""
    with targets.running("-c", SPARSE, python=sys.executable) as (pid, info):
        captured = snapshot(pid)
    first = info["start"] >> 12
    window = next(m for m in captured.mappings if m.start <= info["start"] < m.end)
    found = [r.address // 4096 - first + i for r in window.ranges() for i in range(r.count)]
    assert [page for page in found if page >= 0] == info["pages"]
    assert captured.verdict.label == "complete", captured.verdict.reasons
