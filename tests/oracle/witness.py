"""Was what a capture says ever true?  ``mutator`` publishes what its pages are; this reads it.

A capture of a process that runs is held against every state that the process was in while the
capture lasted: each page that is not marked as changed must be as it was at one of these
moments, and where the capture says that nothing changed, all of them at one and the same.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from oracle.reader import PAGE
from pytest_pmaps import Fact, Snapshot, snapshot

REGIONS: Final = 4
PAGES: Final = 64
ALL: Final = (1 << PAGES) - 1
_RECORDS: Final = 1 << 14
_CHILDREN: Final = 1 << 10
_RECORD: Final = struct.Struct("8Q")
_CHILD: Final = struct.Struct("2Q")
_HEADER: Final = struct.Struct("4Q2I3Q")
_REGION: Final = struct.Struct("4Q")
_REGION_SIZE: Final = _REGION.size + _RECORDS * _RECORD.size + _CHILDREN * _CHILD.size
#: Beyond this many steps the ring may have been written over while it was read.
_MOST: Final = _RECORDS // 2


class Kind(enum.IntEnum):
    """What a region is made of."""

    ANON = 0
    ANON_TOO = 1
    FILE_COPY = 2
    SHMEM = 3


class Op(enum.IntEnum):
    """What a thread did."""

    START = 0
    MAP = 1
    UNMAP = 2
    PROTECT = 3
    WRITE = 4
    READ = 5
    DROP = 6
    FLICKER = 7
    FORK = 8


@dataclass(frozen=True, slots=True)
class State:
    """What the pages of a region are from ``end`` on, a bit a page; ``op`` led there.

    ``end`` is 0 while the step is being made.
    """

    begin: int
    end: int
    mapped: int
    readable: int
    writable: int
    written: int
    read: int
    op: Op

    def pages(self) -> tuple[int, ...]:
        """What there is to see of the pages."""
        return (self.mapped, self.readable, self.writable, self.written, self.read)


@dataclass(frozen=True, slots=True)
class Marks:
    """Where the counters stand."""

    quiet: int
    seqs: tuple[int, ...]
    forks: tuple[int, ...]
    at: int

    def settled(self) -> bool:
        """Whether no step is being made."""
        return not any(seq & 1 for seq in self.seqs)


class Overrun(Exception):
    """More steps than the rings hold: nothing can be said."""


class Board:
    """What one mutator publishes."""

    def __init__(self, fd: int) -> None:
        size = _HEADER.size + REGIONS * _REGION_SIZE
        self._memory = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        self._words = memoryview(self._memory).cast("Q")
        sizes = tuple(self._words[1:4])
        assert sizes == (size, _REGION_SIZE, _RECORD.size), sizes

    def _at(self, region: int) -> int:
        return _HEADER.size + region * _REGION_SIZE

    def start(self, region: int) -> int:
        """Address of a region's first page."""
        return self._words[self._at(region) // 8]

    def marks(self) -> Marks:
        """Where the counters stand now."""
        words, first = self._words, [self._at(r) // 8 for r in range(REGIONS)]
        return Marks(
            quiet=words[0],
            seqs=tuple(words[at + 2] for at in first),
            forks=tuple(words[at + 3] for at in first),
            at=time.time_ns(),
        )

    def states(self, region: int, before: Marks, after: Marks) -> list[State]:
        """The states that a region was in, oldest first; the last may be still to come."""
        base = self._at(region) + _REGION.size
        first = max(0, (before.seqs[region] + 1) // 2 - 1)
        last = (after.seqs[region] + 1) // 2
        raw = [
            _RECORD.unpack_from(self._memory, base + i % _RECORDS * _RECORD.size)
            for i in range(first, last)
        ]
        if self.marks().seqs[region] // 2 - first > _MOST:
            raise Overrun
        states = [State(*fields[:7], Op(fields[7])) for fields in raw]
        # A step that was being made at `before` has an older state in front of it.
        if before.seqs[region] & 1 and first > 0:
            older = _RECORD.unpack_from(self._memory, base + (first - 1) % _RECORDS * _RECORD.size)
            states.insert(0, State(*older[:7], Op(older[7])))
        return states

    def children_between(self, before: Marks, after: Marks) -> bool:
        """Whether any child was alive at any time in between."""
        for region in range(REGIONS):
            base = self._at(region) + _REGION.size + _RECORDS * _RECORD.size
            forks = after.forks[region]
            if forks & 1 or forks != before.forks[region]:
                return True
            if before.forks[region] & 1:
                return True
            if forks:
                at = base + (forks // 2 - 1) % _CHILDREN * _CHILD.size
                if _CHILD.unpack_from(self._memory, at)[1] >= before.at:
                    return True
        return False

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._memory.close()


# ---- what a capture claims ---------------------------------------------------------------------

_FACTS: Final = (
    Fact.PRESENT,
    Fact.NORMAL,
    Fact.ANON,
    Fact.ZERO,
    Fact.FILE,
    Fact.DIRTY,
    Fact.PTEDIRTY,
    Fact.YOUNG,
)


@dataclass(slots=True)
class Claims:
    """What a capture claims of the pages of a region: a bit a page, by fact."""

    covered: int = 0
    marked: int = 0  # raced: nothing is claimed of them
    readable: int = 0
    writable: int = 0
    vague: int = 0  # of mappings that changed, or outside of all while some may be missing
    loose: int = 0  # not listed, in mappings where listed ones may have come or gone
    known: dict[Fact, int] = field(default_factory=lambda: dict.fromkeys(_USED, 0))
    set: dict[Fact, int] = field(default_factory=lambda: dict.fromkeys(_USED, 0))


_USED: Final = (*_FACTS, Fact.EXCLUSIVE, Fact.SWAPPED)
_CHANGED: Final = 1 << 0


def _bits(lo: int, hi: int) -> int:
    return ((1 << hi) - 1) & ~((1 << lo) - 1) if hi > lo else 0


def claims_of(snapshot: Snapshot, start: int) -> Claims:
    """What it says of the 64 pages from ``start`` on."""
    columns, out = snapshot.columns, Claims()
    first, end = start // PAGE, start // PAGE + PAGES
    gaps = bool(columns.appeared or columns.missed_pages)
    raw = columns._columns
    for m in columns.mappings:
        lo, hi = max(m.start // PAGE, first), min(m.end // PAGE, end)
        if lo >= hi:
            gaps |= bool(m.trouble & _CHANGED)
            continue
        here = _bits(lo - first, hi - first)
        out.covered |= here
        out.readable |= here if m.perms[0] == "r" else 0
        out.writable |= here if m.perms[1] == "w" else 0
        out.vague |= here if m.trouble & _CHANGED else 0
        gaps |= bool(m.trouble & _CHANGED)
        listed = 0
        for r in range(m.first_range, m.first_range + m.n_ranges):
            a, n, known, is_set = raw.page[r], raw.count[r], raw.known[r], raw.set[r]
            pages = _bits(max(a, first) - first, min(a + n, end) - first)
            listed |= pages
            if is_set & known & 1 << Fact.RACED:
                out.marked |= pages
                continue
            for fact in _USED:
                if known >> fact & 1:
                    out.known[fact] |= pages
                    out.set[fact] |= pages if is_set >> fact & 1 else 0
        absent = here & ~listed
        if m.raced_pages:
            out.loose |= absent
        else:
            for fact in _USED:
                out.known[fact] |= absent
    if gaps:
        out.vague |= ALL & ~out.covered
    return out


def _truth(kind: Kind, s: State) -> dict[Fact, tuple[int, int]]:
    """By fact the pages for which it holds, and those for which that is known."""
    if kind is Kind.SHMEM:
        present, anon, zero, file, sure = s.written, 0, 0, s.written, ALL
    elif kind is Kind.FILE_COPY:
        # Reading one page of a file maps those around it, too.
        present, anon, zero, file, sure = s.written, s.written, 0, 0, s.written | ~s.read & ALL
    else:
        present, anon, file, sure = s.written | s.read, s.written, 0, ALL
        zero = s.read & ~s.written
    return {
        Fact.PRESENT: (present, sure),
        Fact.NORMAL: (present & ~zero, sure),
        Fact.ANON: (anon, ALL),
        Fact.ZERO: (zero, ALL),
        Fact.FILE: (file, sure),
        Fact.DIRTY: (s.written, ALL),
        # Whatever is done to a page that was written, and however often it is forked, it stays P.
        Fact.PTEDIRTY: (s.written, ALL),
        # What maps a page makes it young; others make it old at any time.
        Fact.YOUNG: (present, sure & ~present & ALL),
        Fact.SWAPPED: (0, ALL),
        Fact.EXCLUSIVE: (s.written, s.written | ~present & ALL if sure == ALL else s.written),
    }


def wrong(claims: Claims, kind: Kind, s: State, *, alone: bool) -> int:
    """Pages of which something is claimed that is not so in this state.

    ``alone``: no child shared pages at the time.
    """
    firm = ~claims.vague & ALL
    bad = (claims.covered ^ s.mapped) & firm
    both = claims.covered & s.mapped & firm
    bad |= ((claims.readable ^ s.readable) | (claims.writable ^ s.writable)) & both
    for fact, (true, sure) in _truth(kind, s).items():
        if fact is not Fact.EXCLUSIVE or alone:
            bad |= claims.known[fact] & sure & (claims.set[fact] ^ true)
    return bad & ~claims.marked


@dataclass(slots=True)
class Finding:
    """One capture, held against what was true meanwhile."""

    moved: bool  # a counter moved between its beginning and its end
    quiet: bool  # every thread slept, from before it to after it
    unraced: bool
    ok: bool  # complete, reconciled, unraced
    effective: bool = False  # ... and what there is to see of some page changed with it
    never: dict[str, int] = field(default_factory=dict)  # claims true at no moment, by region
    torn: bool = False  # each page was so once, but never all of them together
    children: bool = False
    ops: frozenset[Op] = frozenset()
    took: int = 0


def _windows(
    claims: Claims, kind: Kind, states: list[State], span: tuple[int, int], *, alone: bool
) -> tuple[int, list[tuple[int, int]]]:
    """Pages that were never as claimed, and the times at which all were."""
    bad = [wrong(claims, kind, s, alone=alone) for s in states]
    never, times = ALL, []
    for i, s in enumerate(states):
        never &= bad[i]
        began = s.end or span[1]
        ended = states[i + 1].begin if i + 1 < len(states) else span[1]
        if not bad[i]:
            times.append((began, max(ended, began)))
        if i and _passes(bad[i - 1], bad[i]):
            times.append((s.begin, began))
    clipped = [(max(a, span[0]), min(b, span[1])) for a, b in times]
    return never, [(a, b) for a, b in clipped if a <= b]


def _passes(old: int, new: int) -> bool:
    """Whether a step that goes from page to page upwards passes a state that fits."""
    first_bad_new = (new & -new).bit_length() - 1 if new else PAGES
    return old.bit_length() <= first_bad_new


def _meet(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> list[tuple[int, int]]:
    both = ((max(p, r), min(q, s)) for p, q in a for r, s in b)
    return [(p, q) for p, q in both if p <= q]


def judge(board: Board, snapshot: Snapshot, before: Marks, after: Marks) -> Finding:
    """Hold a capture against all that was true from before it to after it."""
    began = snapshot.columns.captured_ns
    span = (began if before.at <= began <= after.at else before.at, after.at)
    verdict, alone = snapshot.verdict, not board.children_between(before, after)
    found = Finding(
        moved=False,
        quiet=before.quiet == after.quiet and bool(before.quiet & 1),
        unraced=not verdict.raced and verdict.complete,
        ok=bool(verdict),
        children=not alone,
        took=span[1] - span[0],
    )
    meeting, ops = [span], set()
    for region in range(REGIONS):
        kind, states = Kind(region), board.states(region, before, after)
        # What was over when the capture began is its past; the last of it is its first state.
        past = sum(1 for s in states if s.end and s.end < span[0])
        states = [s for s in states[max(0, past - 1) :] if s.begin <= span[1]]
        steps = states[1:] if past else states
        ops |= {s.op for s in steps}
        found.moved |= bool(steps)
        found.effective |= any(s.pages() != states[0].pages() for s in steps)
        claims = claims_of(snapshot, board.start(region))
        never, times = _windows(claims, kind, states, span, alone=alone)
        if never:
            found.never[kind.name] = never
        meeting = _meet(meeting, times)
    found.ops = frozenset(ops)
    found.torn = not meeting
    return found


# ---- running it --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mutating:
    """A mutator that runs, and what it publishes."""

    process: subprocess.Popen[bytes]
    board: Board

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid


@contextmanager
def mutating(
    program: Path,
    *,
    seed: int = 1,
    pace: int = 100,
    busy: int = 5000,
    idle: int = 5000,
    forks: bool = True,
    ballast: int = 0,
) -> Iterator[Mutating]:
    """Run ``mutator``; times are microseconds, see its head."""
    board = os.memfd_create("board", 0)
    with tempfile.TemporaryFile() as file:
        file.write(b"m" * PAGE * PAGES)
        file.flush()
        words = (program, board, file.fileno(), seed, pace, busy, idle, int(forks), ballast)
        process = subprocess.Popen(
            [*map(str, words)],
            stdout=subprocess.PIPE,
            pass_fds=(board, file.fileno()),
            cwd="/",
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b'{"target": "mutator"')
        read = Board(board)
        try:
            yield Mutating(process, read)
        finally:
            read.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(board)


#: Microseconds: pace, busy, idle.  Steady work, a trickle, short bursts, a stream without rest.
LOADS: Final = ((50, 20000, 8000), (1000, 100000, 500), (5, 3000, 3000), (0, 1000, 2000))


def tally(
    program: Path, captures: int, take: Callable[[int], Snapshot] = snapshot, *, seed: int = 1
) -> dict[str, int]:
    """Capture a mutator so many times under every load, and count what was found."""
    count: Counter[str] = Counter()
    for i, (pace, busy, idle) in enumerate(LOADS):
        kwargs = {"pace": pace, "busy": busy, "idle": idle}
        with mutating(program, seed=seed * len(LOADS) + i, **kwargs) as target:
            for _ in range(captures // len(LOADS)):
                count.update(_one(target, take))
    return dict(count)


def _one(target: Mutating, take: Callable[[int], Snapshot]) -> Counter[str]:
    before = target.board.marks()
    captured = take(target.pid)
    after = target.board.marks()
    try:
        found = judge(target.board, captured, before, after)
    except Overrun:
        return Counter(overrun=1)
    if found.never or (found.unraced and found.torn):
        print(found, captured.verdict, file=sys.stderr)
    flags = {
        "captures": True,
        "unraced": found.unraced,
        "quiet": found.quiet,
        "quiet and good": found.quiet and found.ok,
        "still": not found.moved,
        "still and unraced": not found.moved and found.unraced,
        "moved": found.moved,
        "moved and unraced": found.moved and found.unraced,
        "pages moved": found.effective,
        "pages moved and unraced": found.effective and found.unraced,
        "never true": bool(found.never),
        "never true together": found.unraced and found.torn,
    }
    return Counter({name: int(flag) for name, flag in flags.items()})
