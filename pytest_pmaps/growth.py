"""A function that is called again and again holds no more memory: ``assert_no_growth()``.

As psutil's tests of its own C code do it: call it many times and measure; where memory grew, that
may have been a cache, an import or an arena, so call it more often.  Only growth that goes on, at
the rate at which it began, is a leak.
"""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from . import settling
from ._native import heap_bytes
from .capture import snapshot
from .counts import format_bytes, parse_amount
from .errors import FootprintError, undetermined
from .settling import Hook
from .snapshots import Snapshot

__all__ = ["assert_no_growth"]

#: Calls are made in at least so many rounds, each twice as long as the one before, until growth
#: is called a leak ...
_ROUNDS = 5
#: ... and in more, as long as they take no longer than that: large caches have to fill.
_LONGER_ROUNDS, _PATIENCE = 8, 1.0
#: ... and then in so many more, of half that length each.
_CONFIRMED = 3
#: So many rounds without growth are a pass, if anything shrank meanwhile, which may hide growth;
#: else two in a row are.
_WITHOUT = 4
#: Growth that goes on keeps its rate; what fills up does not.
_KEPT = 0.75
#: Bytes that a leak is let grow by in one round.
_MOST = 64 << 20
#: What a block of Python's allocator holds at least.
_BLOCK = 16


@dataclass(frozen=True, slots=True)
class _Witness:
    """One way to see growth.  As much as ``floor`` in the first full round is noise."""

    name: str
    unit: int  # what one of it holds at least, in bytes
    floor: int

    def noise(self, rounds: float, tolerance: int) -> float:
        """How much of it may grow in calls for so many rounds, with bytes that are allowed."""
        return max(self.floor * max(1.0, rounds), tolerance / self.unit)


_BLOCKS = _Witness("Python objects", _BLOCK, 16)
_HEAP = _Witness("of malloc", 1, 2048)


def _pages(metric: str) -> _Witness:
    return _Witness(f"of {metric} memory", 1, 2 * mmap.PAGESIZE)


class _Level(NamedTuple):
    """What is held at one moment: blocks, bytes of malloc, bytes of pages (at least, at most)."""

    blocks: int
    heap: int
    pages: int
    most: int | None


class _Round(NamedTuple):
    """Calls, and what grew in them at least and at most, by each witness."""

    calls: int
    grown: tuple[tuple[int, int | None], ...]


class _Meter:
    """Measures this process; what it holds itself is the same each time."""

    def __init__(self, metric: str, settled: bool | Hook) -> None:
        self.metric = metric
        self.witnesses = (_BLOCKS, _HEAP, _pages(metric))
        self._settled = settled
        self.last: Snapshot

    def read(self) -> _Level:
        """What is held now."""
        if self._settled is not False:
            settling.settle(None if self._settled is True else self._settled)
        # First what the capture's own objects would show in.
        blocks, heap = sys.getallocatedblocks(), heap_bytes() or 0
        self.last = snapshot(depth="mappings")
        count = self.last.metric(self.metric)
        if self.metric == "anonymous":  # what is swapped out is still held
            count = count + self.last.metric("swap")
        lo, hi = count.bytes.bounds
        self.last.forget()
        return _Level(blocks, heap, lo or 0, hi)


def _between(later: _Level, earlier: _Level) -> tuple[tuple[int, int | None], ...]:
    blocks, heap = later.blocks - earlier.blocks, later.heap - earlier.heap
    lo = 0 if earlier.most is None else later.pages - earlier.most
    hi = None if later.most is None else later.most - earlier.pages
    return (blocks, blocks), (heap, heap), (lo, hi)


class _Trial:
    """The rounds of one function."""

    def __init__(
        self, fn: Callable[[], object], meter: _Meter, calls: int, tolerance: int, timeout: float
    ) -> None:
        self.fn = fn
        self.meter = meter
        self.calls = calls
        self.tolerance = tolerance
        self.timeout = timeout
        self.began = time.monotonic()
        self.spent = 0.0  # in calls
        self.rounds: list[_Round] = []
        self.first: Snapshot
        self.level: _Level

    def run(self, warmup: int) -> None:
        """Until it is decided."""
        __tracebackhide__ = True
        self.level, n = self._warm_up(warmup)
        self.first = self.meter.last
        while True:
            self._measure(n)
            if self._passes():
                return
            if (leaking := self._leaks()) and self._confirmed(leaking):
                raise FootprintError(self._story(leaking))
            n = self._next(self.rounds[-1])

    def _measure(self, n: int) -> None:
        """A round of so many calls."""
        __tracebackhide__ = True
        self._call(n)
        now = self.meter.read()
        self.rounds.append(_Round(n, _between(now, self.level)))
        self.level = now

    def _confirmed(self, leaking: list[int]) -> bool:
        """Whether it goes on in shorter rounds: a table that doubles each time it is full grows in
        step with rounds that do, and may be full for good.
        """
        __tracebackhide__ = True
        last = self.rounds[-1]
        for _ in range(_CONFIRMED):
            self._measure(max(1, last.calls // 2))
            if not all(self._grew(w, self.rounds[-1]) for w in leaking):
                return False
        return True

    def _warm_up(self, warmup: int) -> tuple[_Level, int]:
        """Let caches fill and modules load, those of this module too; gives how many calls to
        begin with.
        """
        __tracebackhide__ = True
        self._call(warmup - warmup // 2)
        before = self.meter.read()
        self.first = self.meter.last  # as many snapshots are held from here on as later
        before = self.meter.read()
        self._call(warmup // 2)
        level = self.meter.read()
        if warmup < 2:
            return level, self.calls
        begun = _Round(warmup // 2, _between(level, before))
        return level, min(self.calls, self._next(begun))

    def _call(self, n: int) -> None:
        __tracebackhide__ = True
        fn, began = self.fn, time.monotonic()
        deadline = self.began + self.timeout
        for _ in range(n):
            if time.monotonic() > deadline:
                raise undetermined(self._too_slow())
            fn()
        self.spent += time.monotonic() - began

    def _next(self, done: _Round) -> int:
        """Twice as many calls, as long as a leak would not fill the host's memory."""
        rate = max((grown[1] or 0) for grown in done.grown[1:]) / done.calls
        wanted = max(2 * done.calls, self.calls)
        return wanted if rate <= 0 else max(1, min(wanted, int(_MOST / rate)))

    # ---- what it means

    def _passes(self) -> bool:
        """Nothing grows."""
        still = [done for done in self.rounds if self._still(done)]
        return len(still) >= _WITHOUT or (
            still[-2:] == self.rounds[-2:]
            and len(still) > 1
            and not any(map(self._shrank, still[-2:]))
        )

    def _still(self, done: _Round) -> bool:
        """Nothing grew in a round that was long enough to say so."""
        if done.calls < self.calls:
            return False
        return all(self._at_most(w, done) <= 0 for w in range(len(done.grown)))

    def _shrank(self, done: _Round) -> bool:
        return any(lo < -self._noise(w, done) for w, (lo, _) in enumerate(done.grown))

    def _at_most(self, w: int, done: _Round) -> float:
        """How much beyond noise a round may have grown by."""
        hi = done.grown[w][1]
        return float("inf") if hi is None else hi - self._noise(w, done)

    def _grew(self, w: int, done: _Round) -> bool:
        return done.grown[w][0] > self._noise(w, done)

    def _noise(self, w: int, done: _Round) -> float:
        rounds = done.calls / self.calls
        return self.meter.witnesses[w].noise(rounds, done.calls * self.tolerance)

    def _leaks(self) -> list[int]:
        """The witnesses that saw growth that goes on."""
        last = self.rounds[-1]
        longer = self.spent < _PATIENCE and self._next(last) >= 2 * last.calls
        need = _LONGER_ROUNDS if longer else _ROUNDS
        return [w for w in range(len(last.grown)) if self._goes_on(w, need)]

    def _goes_on(self, w: int, need: int) -> bool:
        recent = self.rounds[-need:]
        if len(recent) < need or not all(self._grew(w, r) for r in recent):
            return False
        rate = sum(r.grown[w][0] for r in recent) / sum(r.calls for r in recent)
        return recent[-1].grown[w][0] / recent[-1].calls >= _KEPT * rate

    # ---- words

    def _story(self, leaking: list[int]) -> str:
        rates = " and ".join(self._rate(w) for w in leaking)
        where = _where(self.first, self.meter.last, self.meter.metric)
        calls = sum(r.calls for r in self.rounds)
        text = f"{_name(self.fn)} grows with every call: {rates} a call"
        return f"{text}, in {calls:,} calls and {len(self.rounds)} rounds; {where}"

    def _rate(self, w: int) -> str:
        recent = self.rounds[-_ROUNDS:]
        rate = sum(r.grown[w][0] for r in recent) / sum(r.calls for r in recent)
        witness = self.meter.witnesses[w]
        if witness is _BLOCKS:
            return f"{rate:.3g} Python object{'' if f'{rate:.3g}' == '1' else 's'}"
        return f"{_about(rate)} {witness.name}"

    def _too_slow(self) -> str:
        text = f"{_name(self.fn)}: {self.timeout:g} s were not enough to say whether it grows"
        if not self.rounds:
            return f"{text}: {self.calls} calls take longer; give fewer (calls=), or more time"
        grown = [
            w for w in range(len(self.rounds[-1].grown)) if self._at_most(w, self.rounds[-1]) > 0
        ]
        if not grown:
            return f"{text}; it did not in the last {self.rounds[-1].calls:,} calls"
        seen = " and ".join(self._rate(w) for w in grown)
        return f"{text}; so far {seen} a call, not at one rate: a cache that fills? (warmup=)"


def _name(fn: object) -> str:
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return f"{name.rpartition('<locals>.')[2]}()"


def _about(size: float) -> str:
    """An average, in three digits."""
    for unit in ("B", "KiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} MiB" if size < 1000 else f"{size:,.0f} MiB"


def _where(earlier: Snapshot, later: Snapshot, metric: str) -> str:
    """The mappings that grew most."""
    grown = {
        name: size - _sizes(earlier, metric).get(name, 0)
        for name, size in _sizes(later, metric).items()
    }
    most = sorted(grown.items(), key=lambda item: -item[1])[:3]
    told = ", ".join(f"{name} +{format_bytes(size)}" for name, size in most if size > 0)
    return told or "no mapping has more pages yet"


def _sizes(snapshot: Snapshot, metric: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for m in snapshot.mappings:
        lo, _ = m.metric(metric).bytes.bounds
        found[m.label] = found.get(m.label, 0) + (lo or 0)
    return found


def assert_no_growth(
    fn: Callable[[], object],
    *,
    calls: int = 100,
    warmup: int = 10,
    tolerance: int | str = 0,
    settle: bool | Hook = True,
    metric: str = "anonymous",
    timeout: float = 60.0,
) -> None:
    """Calling ``fn()`` again and again does not make this process hold more memory.

    It is called ``warmup`` times, then in rounds of ``calls``, twice as many, four times as many
    and so on, and what is held is measured after each: blocks of Python's allocator, bytes that
    malloc has handed out (glibc), and pages of ``metric`` (``"anonymous"``: with what is swapped
    out; or ``"rss"``, ``"uss"``, ... of a snapshot).  Two rounds in a row without growth are a
    pass, or any four where something shrank, which may hide growth.  Five rounds with growth at one
    rate are a failure, eight while all calls took less than a second, if three shorter ones say
    the same: what grows and then no more
    is a cache, a module or an arena, and passes.

    As little as 16 blocks, 2 KiB of malloc or two pages in ``calls`` calls counts as no growth, so
    that more calls see smaller leaks.  ``tolerance`` allows so many bytes a call.  ``settle`` runs
    :func:`~pytest_pmaps.settle` before measuring, with a hook if it is one; False does not.

    Raises FootprintError, whose first line says what grows by how much and where; Undetermined
    where ``timeout`` seconds do not decide it; whatever ``fn`` raises; Unsupported, AccessDenied
    as :func:`~pytest_pmaps.snapshot`; ValueError and FormatError for options that make no sense.
    """
    __tracebackhide__ = True
    if not callable(fn):
        raise TypeError(f"growth is of a function to call, not of {type(fn).__name__}")
    if calls < 1 or warmup < 0 or timeout <= 0:
        raise ValueError("calls and timeout are above 0, warmup is not below")
    allowed = parse_amount(tolerance) if isinstance(tolerance, str) else tolerance
    if allowed < 0:
        raise ValueError(f"a tolerance is not below 0: {tolerance}")
    _Trial(fn, _Meter(metric, settle), calls, allowed, timeout).run(warmup)
