"""Whether two processes that were captured are one memory.

``vfork`` and ``clone(CLONE_VM)`` make a process of the same mm: what one has, both have, though
the kernel counts it as mapped once.
"""

from __future__ import annotations

from ._native import Columns, same_mm
from .procfs import START, read_text, stat_of

__all__ = ["Kin", "one_memory"]

#: Mappings of which a memory has one that stays where it is, and which end of it does.
_LANDMARKS = {"[stack]": 1, "[vdso]": 0}


class Kin:
    """What is known of processes that were captured together."""

    def __init__(self, same: dict[int, int], perhaps: dict[int, int]) -> None:
        """By pid: a number that those of one memory have in common, and those that may be."""
        self._same = same
        self._perhaps = perhaps

    def is_one(self, a: int, b: int) -> bool | None:
        """Whether two members are one memory; None where nobody says."""
        if self._same[a] == self._same[b]:
            return True
        return None if self._perhaps[a] == self._perhaps[b] else False


def one_memory(a: Columns, b: Columns) -> bool | None:
    """Whether two processes were one memory when they were captured; None where that is unknown.

    A group knows of its members.  Of others the kernel is asked now: those that are one memory
    were so since the later one was made, and those that are not may have ceased to be, by an
    exec().  Of processes that have ended, and in snapshots that were saved, there is what was
    captured: two memories mostly differ in where their stacks and vdsos lie, unless one was
    forked from the other.
    """
    if isinstance(a.kin, Kin) and a.kin is b.kin:
        return a.kin.is_one(a.pid, b.pid)
    if (a.pid, a.start_time) == (b.pid, b.start_time):
        return False  # it is not another process
    here, there = _landmarks(a), _landmarks(b)
    if any(here[name] != there[name] for name in here.keys() & there.keys()):
        return False
    if not (_is_there(a) and _is_there(b)):
        return None
    now = same_mm(a.pid, b.pid)
    if now is False and not (_goes_on(a, here) and _goes_on(b, there)):
        return None
    return now


def _landmarks(columns: Columns) -> dict[str, int]:
    return {
        m.name: (m.start, m.end)[_LANDMARKS[m.name]]
        for m in columns.mappings
        if m.name in _LANDMARKS
    }


def _is_there(columns: Columns) -> bool:
    fields = stat_of(columns.pid) if columns.pid > 0 else None
    return fields is not None and int(fields[START]) == columns.start_time


def _goes_on(columns: Columns, then: dict[str, int]) -> bool:
    """Whether it runs what it ran when it was captured."""
    now: dict[str, int] = {}
    for line in read_text(f"/proc/{columns.pid}/maps").splitlines():
        addresses, *_, name = line.split()
        if name in _LANDMARKS:
            now[name] = int(addresses.split("-")[_LANDMARKS[name]], 16)
    comm = read_text(f"/proc/{columns.pid}/comm").rstrip("\n")
    return bool(then) and now == then and comm == columns.comm
