"""Y and P of processes that do not hold still: what is claimed was true, or at least possible.

``PMAPS_TORTURE`` is how many captures each test takes; 100,000 take half an hour.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from oracle import ptebits, targets, witness
from oracle.reader import PAGE
from oracle.targets import Area
from pytest_pmaps import Fact, PmapsError, Snapshot, Source

CAPTURES = int(os.environ.get("PMAPS_TORTURE", "400"))


@pytest.fixture(scope="module", autouse=True)
def tables() -> Iterator[None]:
    """All of it needs page tables, and none of it may disturb the kernel."""
    ptebits.require()
    with ptebits.quiet_kernel():
        yield


# ---- held against what the target publishes


@pytest.fixture(scope="module")
def mutator(public: Path) -> Path:
    """The program that changes its memory all the time, and publishes how it is."""
    return targets.build("mutator", public)


def check_published(take: Callable[[int], Snapshot], mutator: Path, captures: int) -> None:
    """Nothing false was claimed, and something was."""
    claimed: Counter[str] = Counter()

    def look(pid: int) -> Snapshot:
        captured = take(pid)
        claimed["of page tables"] += Source.PTE in captured.sources
        claimed["disagreed"] += ptebits.disagreed(captured)
        for _, count, bits in ptebits.ranges_of(captured):
            if bits.normal and not bits.raced:
                claimed["normal"] += count
                claimed["P known"] += count * (bits.ptedirty is not None)
                claimed["Y known"] += count * (bits.young is not None)
        return captured

    count = witness.tally(mutator, captures, look, seed=11)
    print(count, dict(claimed))
    assert count["never true"] == count["never true together"] == 0
    assert count["moved"] > captures / 10
    assert claimed["of page tables"] >= captures // 4 * 4
    assert claimed["P known"] > 0.9 * claimed["normal"]
    assert claimed["Y known"] > 0.9 * claimed["normal"]


def test_what_is_claimed_was_true(mutator: Path):
    """Mapped, unmapped, protected, written, read, dropped and forked by four threads."""
    check_published(ptebits.capture, mutator, CAPTURES)


def test_while_it_stands_still(mutator: Path):
    """Stopped in the middle of whatever it was doing."""
    check_published(partial(ptebits.capture, stop=True), mutator, CAPTURES // 4)


# ---- held against what is so at every moment


@pytest.fixture(scope="module")
def churn(public: Path) -> Path:
    """The program whose memory is never still, and of which something is always true."""
    return targets.build("churn", public)


@dataclass
class Tally:
    """What captures claimed of an area."""

    wrong: list[str] = field(default_factory=list)
    pages: int = 0
    claimed: int = 0
    raced: int = 0

    def look(self, area: Area, address: int, bits: ptebits.Bits, anon: bool | None) -> None:
        """One page of one capture."""
        self.raced += bits.raced
        if bits.raced or not bits.normal:
            return
        self.pages += 1
        young, dirty = bits.letters
        self.claimed += dirty != "?"
        must = area.state
        if must == "xx":
            must = "??" if anon is None else "?P" if anon else "?_"
        if (must[0], young) == ("_", "Y") or {must[1], dirty} == {"P", "_"}:
            self.wrong.append(f"{area.name} {address - area.start:x}: {bits}, anonymous: {anon}")


def pages_of(captured: Snapshot) -> Iterator[tuple[int, ptebits.Bits, bool | None]]:
    """Every page, its bits, and whether it is anonymous."""
    buffers = captured.buffers()
    rows = zip(ptebits.ranges_of(captured), buffers["set"], buffers["known"], strict=True)
    for (start, count, bits), is_set, known in rows:
        anon = bool(is_set >> Fact.ANON & 1) if known >> Fact.ANON & 1 else None
        for address in range(start, start + count * PAGE, PAGE):
            yield address, bits, anon


def judge(captured: Snapshot, areas: dict[str, Area], tallies: dict[str, Tally]) -> None:
    """Hold every page of a capture against what is always so."""
    owner = {page: area for area in areas.values() for page in area.addresses}
    for address, bits, anon in pages_of(captured):
        area = owner.get(address)
        if area is not None:
            tallies[area.name].look(area, address, bits, anon)


WAYS: tuple[dict[str, Any], ...] = ({}, {"depth": "pages"}, {"stop": True}, {"counters": False})


@pytest.mark.parametrize("forks", [False, True])
def test_what_is_claimed_was_possible(churn: Path, forks: bool):
    """Windows that never hold a clean page, or never a dirty one, in whatever way they are looked
    at; and memory that nobody touches, in a process that forks.
    """
    disagreed = complete = restless = 0
    with targets.running(churn, tempfile.gettempdir(), str(int(forks))) as (pid, info):
        areas = targets.areas(info)
        tallies = {name: Tally() for name in areas}
        for i in range(CAPTURES):
            try:
                captured = ptebits.capture(pid, **WAYS[i % len(WAYS)])
            except PmapsError as exc:  # on a busy machine its threads get no time to stop
                if "did not stop within" not in str(exc):
                    raise
                restless += 1
                continue
            judge(captured, areas, tallies)
            disagreed += ptebits.disagreed(captured)
            complete += captured.verdict.label == "complete"
    for name, tally in tallies.items():
        print(f"  {name}: {tally.claimed} of {tally.pages}, {tally.raced} raced")
    print(f"  {disagreed} disagreed, {complete} of {CAPTURES} complete, {restless} restless")
    assert restless <= CAPTURES // 100
    assert not (wrong := [line for tally in tallies.values() for line in tally.wrong]), wrong[:9]
    # Nothing is proved by a reader that never says anything.
    for name, tally in tallies.items():
        assert tally.claimed > 0, name
        assert tally.claimed > 0.9 * tally.pages, name


def test_a_false_claim_would_be_found(churn: Path):
    """P turned round: the checks above can fail."""
    with targets.running(churn, tempfile.gettempdir(), "0") as (pid, info):
        areas = targets.areas(info)
        plain = ptebits.capture(pid, stop=True).to_plain()
    for mapping in plain.mappings:
        mapping.ranges = [
            replace(r, set_bits=r.set_bits ^ 1 << Fact.PTEDIRTY) for r in mapping.ranges
        ]
    tallies = {name: Tally() for name in areas}
    judge(Snapshot.from_plain(plain), areas, tallies)
    assert [name for name, tally in tallies.items() if tally.claimed and not tally.wrong] == []
    assert sum(tally.claimed > 0 for tally in tallies.values()) > 7
