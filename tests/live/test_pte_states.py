"""Y and P of pages in states that were made so, page by page, and their sums against smaps."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oracle import ptebits, targets
from oracle.targets import Info
from pytest_pmaps import Fact, Kind, Snapshot, Source, snapshot


@pytest.fixture(scope="module", autouse=True)
def tables() -> None:
    """All of it needs page tables."""
    ptebits.require()


@pytest.fixture(scope="module")
def ptes(public: Path) -> Path:
    """The program that puts page table entries into states that it names."""
    return targets.build("ptes", public)


def whole(pid: int, captured: Snapshot) -> None:
    """Complete, everything adds up, and nothing disagrees: the target stands still."""
    assert captured.verdict.label == "complete", captured.verdict.reasons
    assert ptebits.disagreed(captured) == 0
    captured = ptebits.add_up(pid)
    for mapping in captured.mappings:
        if any(r.fact(Fact.NORMAL) for r in mapping.ranges()):
            assert Source.PTE in mapping.evidence(Fact.YOUNG), mapping
            assert Source.PTE in mapping.evidence(Fact.PTEDIRTY), mapping


def shallow(pid: int) -> Snapshot:
    """Page table entries and pagemap alone."""
    return ptebits.capture(pid, depth="pages")


@pytest.mark.parametrize("state", targets.ZOO_STATES)
def test_states_of_pages(zoo: Path, public: Path, state: str):
    """What other tests see of these through smaps and pagemap, through the entries."""

    @contextmanager
    def run() -> Iterator[Info]:
        with targets.running(zoo, state, public) as (_, info):
            yield {key: value for key, value in info.items() if key != "child"}

    assert ptebits.settle(run, checks=whole) > 0


@pytest.mark.parametrize("state", ptebits.PTE_STATES)
def test_states_of_entries(ptes: Path, public: Path, state: str):
    """Protected, moved, advised, populated, written by the kernel, forked, ..."""

    @contextmanager
    def run() -> Iterator[Info]:
        with targets.running(ptes, state, public) as (_, info):
            yield info

    assert ptebits.settle(run, checks=whole) > 0


@pytest.mark.parametrize("state", ["protect", "move", "advice", "populate", "kernel", "fork"])
def test_from_pages_alone(ptes: Path, public: Path, state: str):
    """``depth="pages"`` reads the same bits, with nothing to hold them against.  Of anonymous
    memory it does not tell the zero page from others, and so claims nothing.
    """

    @contextmanager
    def run() -> Iterator[Info]:
        with targets.running(ptes, state, public) as (_, info):
            yield info

    assert ptebits.settle(run, take=shallow) > 0


# ---- touched


@pytest.mark.parametrize("seed", range(4))
def test_random_subsets(ptes: Path, public: Path, seed: int):
    """After clear_refs, Y is set on what was read or written since, P where it was written."""

    @contextmanager
    def run() -> Iterator[Info]:
        with targets.running(ptes, "touched", public) as target:
            target.ask(str(seed + 100))  # not for the first time
            yield target.ask(str(seed))

    assert ptebits.settle(run) == 5 * 256


@pytest.mark.parametrize("which", [0, 1, 6, 15])
def test_huge_pages_touched(ptes: Path, public: Path, which: int):
    """One byte makes all of a huge page young."""

    @contextmanager
    def run() -> Iterator[Info]:
        with targets.running(ptes, "touched_huge", public) as target:
            yield target.ask(str(which))

    assert ptebits.settle(run, checks=whole) == 4 * 512


def test_untouched_stays_old(ptes: Path, public: Path):
    """Nothing of a sleeping target turns young, however often it is captured."""
    with targets.running(ptes, "touched", public) as target:
        areas = targets.areas(target.ask("7"))
        for _ in range(20):
            result = ptebits.judge(ptebits.capture(target.pid), areas)
            assert not result.wrong, result.wrong[:5]


def test_young_only_where_asked_for(ptes: Path, public: Path):
    """By default ranges do not break on Y, which moves by itself; P is known all the same."""
    with targets.running(ptes, "touched", public) as target:
        areas = targets.areas(target.ask("7"))
        plain, asked = snapshot(target.pid), ptebits.capture(target.pid)
    found = ptebits.by_page(plain, areas.values())
    for area in areas.values():
        must = ptebits.letters(area)[1]
        assert {found[address].letters[1] for address in area.addresses} == {must}
    normal = [bits for _, _, bits in ptebits.ranges_of(plain) if bits.normal]
    assert not any(bits.young for bits in normal)  # known only where Referenced is 0
    assert None not in {bits.ptedirty for bits in normal}
    assert len(plain.buffers()["page"]) < len(asked.buffers()["page"])


# ---- what a host has to be asked for


def test_swapped_in(zoo: Path, public: Path):
    """What was swapped out has no entry to speak of; read back it is clean."""
    with targets.swapfile(64), targets.running(zoo, "swap", public) as target:
        for command in ("pageout", "read"):
            info = target.ask(command)
            captured = ptebits.capture(target.pid)
            result = ptebits.judge(captured, targets.areas(info))
            assert not result.wrong, result.wrong[:5]
            whole(target.pid, captured)


def test_merged(zoo: Path, public: Path):
    """KSM makes the entries of what it merges clean."""
    with targets.ksm(), targets.running(zoo, "ksm", public) as (pid, info):
        targets.wait_merged(pid, 64)
        captured = ptebits.capture(pid)
        result = ptebits.judge(captured, targets.areas(info))
        assert not result.wrong, result.wrong[:5]
        whole(pid, captured)


HUGETLB = """
import ctypes, json, mmap, sys
size = int(sys.argv[1])
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000 | (size.bit_length() - 1) << 26
try:
    area = mmap.mmap(-1, size, flags=flags)
except OSError as exc:
    print(json.dumps({"unavailable": f"MAP_HUGETLB: {exc}"}))
    sys.exit()
area[5] = 1
start = ctypes.addressof(ctypes.c_char.from_buffer(area))
print(json.dumps({"start": start, "areas": []}), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kb", [2048, 1 << 20])
def test_nothing_is_claimed_of_hugetlb(kb: int):
    """The RFC lists no such pages; that their entries lie in higher tables disturbs nothing."""
    pool = Path(f"/sys/kernel/mm/hugepages/hugepages-{kb}kB/nr_hugepages")
    with targets.setting(pool, pool.read_text().strip() if pool.exists() else 0) as before:
        pool.write_text(str(int(before) + 1))
        if not int(pool.with_name("free_hugepages").read_text()):
            pytest.skip(f"no huge page of {kb} kB could be reserved: memory is fragmented or small")
        with targets.running("-c", HUGETLB, str(kb << 10), python=sys.executable) as (pid, info):
            captured = ptebits.capture(pid)
            mapping = next(m for m in captured.mappings if m.start == info["start"])
            assert mapping.kind is Kind.HUGETLB
            assert list(mapping.ranges()) == []
            assert mapping.evidence(Fact.PTEDIRTY) == mapping.evidence(Fact.YOUNG) == ()
            whole(pid, captured)


# ---- mappings of the kernel's own


def test_vdso_and_vvar(ptes: Path, public: Path):
    """[vdso] is code of the kernel, never dirty; [vvar] has no page of the RFC's."""
    with targets.running(ptes, "protect", public) as (pid, _):
        captured = ptebits.capture(pid)
    by_path = {m.path: m for m in captured.mappings}
    assert "[vdso]" in by_path
    pages = [r for r in by_path["[vdso]"].ranges() if r.fact(Fact.NORMAL)]
    assert pages
    assert {(r.fact(Fact.PTEDIRTY), r.fact(Fact.YOUNG) is None) for r in pages} == {(False, False)}
    for path, mapping in by_path.items():
        if path.startswith("[vvar"):
            assert not any(r.fact(Fact.NORMAL) for r in mapping.ranges())
            assert not any(r.fact(Fact.PTEDIRTY) for r in mapping.ranges())


def test_a_mistake_would_be_found(ptes: Path, public: Path):
    """Areas said to be what they are not: the checks above can fail."""
    with targets.running(ptes, "advice", public) as (pid, info):
        captured = ptebits.capture(pid)
        for area in info["areas"]:
            for wrong in ("__", "_P", "Y_", "YP", "--"):
                if (wrong[0], area["state"][0]) in (("Y", "_"), ("_", "_")) and (
                    wrong[1] == area["state"][1]
                ):
                    continue  # as it is, or as others may make it
                if wrong == area["state"]:
                    continue
                lie = targets.areas({"areas": [area | {"state": wrong}]})
                assert ptebits.judge(captured, lie).wrong, (area, wrong)
