"""CPU times that can be compared: interleaved, in random order, paired round by round.

Wall times double when neighbours are busy.  CPU times drift by 5 to 10 %, and what was measured
in the same round drifts together: so ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from host import Unavailable

#: CPU time after which a contender sits out, once it has been measured three times.
PATIENCE_NS = 8_000_000_000
_ENOUGH = 3

Contender = Callable[[], int]  # runs once; nanoseconds of CPU time


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float
    n: int


def spread(values: list[float]) -> Spread:
    """Of at least one value."""
    if len(values) < 3:
        low, high = min(values), max(values)
    else:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(statistics.median(values), low, high, len(values))


@dataclass
class Times:
    """Nanoseconds by contender and round, and who could not take part."""

    ns: dict[str, dict[int, int]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def ms(self, name: str) -> Spread | None:
        """Milliseconds of one."""
        taken = self.ns.get(name)
        return spread([t / 1e6 for t in taken.values()]) if taken else None

    def ratio(self, one: str, other: str) -> Spread | None:
        """``one`` over ``other``, from the rounds that have both."""
        a, b = self.ns.get(one, {}), self.ns.get(other, {})
        pairs = [a[r] / b[r] for r in a if b.get(r)]
        return spread(pairs) if pairs else None


def timed(call: Callable[[], object]) -> Contender:
    """A Python call as a contender.  Dropping its result is part of its cost."""

    def run() -> int:
        start = time.thread_time_ns()
        call()
        return time.thread_time_ns() - start

    return run


def race(contenders: Mapping[str, Contender], rounds: int, warm_up: bool = True) -> Times:
    """Let each run once to warm up, then in so many rounds, each in another order."""
    times, order = Times(), random.Random(2007)
    running = {}
    for name, run in contenders.items():
        try:
            if warm_up:
                run()
        except Unavailable as exc:
            times.missing[name] = str(exc)
        else:
            running[name] = run
            times.ns[name] = {}
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            names = [name for name in running if not _tired(times.ns[name])]
            for name in order.sample(names, len(names)):
                times.ns[name][i] = running[name]()
            gc.collect()
    finally:
        gc.enable()
    return times


def _tired(taken: Mapping[int, int]) -> bool:
    return len(taken) >= _ENOUGH and sum(taken.values()) > PATIENCE_NS
