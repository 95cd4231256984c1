"""One workload: everybody captures it, interleaved."""

from __future__ import annotations

from functools import partial

import ours
import rivals
from report import Speed
from rivals import COMPILED, Compiled, Rivals
from targets import Launcher, Workload
from timing import Contender, race, timed


def measure(workload: Workload, launcher: Launcher, others: Rivals, rounds: int) -> Speed:
    """Start a target, and race.  Raises Unavailable where the host has no room for it."""
    with launcher.run(workload) as target, others.of(target.pid) as compiled:
        times = race(_contenders(target.pid, compiled, workload.small), rounds)
        return Speed(workload.name, target.label, target.note, times, compiled.calls)


def _contenders(pid: int, compiled: Compiled, small: bool) -> dict[str, Contender]:
    found = {tier: timed(partial(ours.capture, pid, tier)) for tier in ours.TIERS}
    found["pte"] = partial(ours.tables_ns, pid)
    found |= {name: partial(compiled.run, name) for name in COMPILED}
    found["smaps-python"] = timed(partial(rivals.read_smaps, pid))
    found["psutil"] = timed(partial(rivals.memory_maps, pid))
    if small:
        found["python"] = timed(partial(rivals.pure_python, pid))
    return found
