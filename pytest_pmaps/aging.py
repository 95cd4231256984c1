"""What else on this host clears Y, and whether it did between two moments.

DAMON, reclaim (with MGLRU or without) and migration clear it.  None of them says so, but each
leaves a trace that everybody may read: reclaim and migration are counted in /proc/vmstat, and
DAMON's thread has run, or has not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

__all__ = ["Aging", "Keeps", "Look", "between", "damon", "look", "merges", "mglru", "one_by_one"]

#: Tests put another tree here.
_ROOT = Path("/")
_MM = "sys/kernel/mm"
_KDAMONDS = "sys/kernel/mm/damon/admin/kdamonds"
_MODULES = ("damon_reclaim", "damon_lru_sort", "damon_stat")
_KTHREADD = 2

#: Counted whenever somebody looks for pages to reclaim; MGLRU's aging is part of that.
_RECLAIM = ("pgscan_", "pgsteal_", "pgrefill", "pgdemote_", "pageoutrun", "allocstall")
_MIGRATION = "pgmigrate_success"
_SPLITS, _COLLAPSES = "thp_split_pmd", "thp_collapse_alloc"

#: What DAMON may do to a region and leave Y noted; "pageout" and "cold" forget it.
_HARMLESS = (
    "stat",
    "willneed",
    "hugepage",
    "nohugepage",
    "lru_prio",
    "lru_deprio",
)


class Keeps(IntEnum):
    """What became of Y between two moments.

    ``NOTHING``: something may have cleared it without a trace.
    ``NOTED``: what cleared it noted so at the page, where smaps Referenced counts it.
    ``ALL``: nothing cleared it.
    """

    NOTHING = 0
    NOTED = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class Aging:
    """What became of Y, and why not all of it can be trusted, one line for each reason.

    ``collapsed``: huge pages were made of small ones and split, which makes all of them young.
    ``split``: huge pages were split.
    """

    keeps: Keeps
    reasons: tuple[str, ...]
    collapsed: bool
    split: bool


@dataclass(frozen=True, slots=True)
class _Thread:
    """A thread of DAMON: how often it was switched away from, and whether it runs."""

    switches: tuple[str, ...]
    runs: bool


@dataclass(frozen=True, slots=True)
class Look:
    """One moment: ``events`` of /proc/vmstat, DAMON's threads; None where they are not shown."""

    events: dict[str, int] | None
    threads: dict[int, _Thread] | None


def look() -> Look:
    """Look at what moves by itself."""
    return Look(_events(), _threads())


def between(before: Look, after: Look, pid: int) -> Aging:
    """What may have happened to Y of a process between two looks."""
    found = [*_reclaimed(before, after), *_monitored(before, after, pid)]
    return Aging(
        keeps=min((keeps for keeps, _ in found), default=Keeps.ALL),
        reasons=tuple(why for _, why in found),
        collapsed=_moved(before, after, _SPLITS) and _moved(before, after, _COLLAPSES),
        split=_moved(before, after, _SPLITS),
    )


# ---- reclaim and migration


def _events() -> dict[str, int] | None:
    pairs = (line.split() for line in _read("proc/vmstat").splitlines())
    events = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    return events if "pgfault" in events else None


def _moved(before: Look, after: Look, name: str) -> bool:
    if before.events is None or after.events is None:
        return True
    return before.events.get(name) != after.events.get(name)


def _reclaimed(before: Look, after: Look) -> Iterator[tuple[Keeps, str]]:
    if before.events is None or after.events is None:
        yield Keeps.NOTHING, "/proc/vmstat does not tell whether memory was reclaimed"
        return
    names = [name for name in before.events if name.startswith(_RECLAIM)]
    if not names or any(_moved(before, after, name) for name in names):
        who = "MGLRU" if mglru() else "this host"
        yield Keeps.NOTHING, f"{who} reclaimed memory meanwhile"
    if _moved(before, after, _MIGRATION):
        yield Keeps.NOTHING, "the kernel moved pages to other frames meanwhile"


def mglru() -> str:
    """``/sys/kernel/mm/lru_gen/enabled`` where MGLRU is on; else nothing."""
    enabled = _read(f"{_MM}/lru_gen/enabled")
    return enabled if enabled and int(enabled, 16) & 1 else ""


# ---- DAMON


def damon() -> str:
    """``on``, that it may be, or nothing."""
    threads = _threads()
    if threads is not None:
        return "on" if threads else ""
    if not (_ROOT / _MM).is_dir():
        return "may be on (its threads are hidden, and there is no /sys)"
    modules = {_read(f"sys/module/{name}/parameters/enabled") for name in _MODULES}
    states = list(_states())
    if "on" in states or "Y" in modules:
        return "on"
    return "may be on (only root can tell)" if None in states else ""


def _states() -> Iterator[str | None]:
    """Of each kdamond of sysfs; None where only root may ask."""
    for kdamond in sorted((_ROOT / _KDAMONDS).glob("[0-9]*")):
        try:
            yield (kdamond / "state").read_text().strip()
        except OSError:
            yield None


def _threads() -> dict[int, _Thread] | None:
    """DAMON's threads by pid; None where kernel threads are hidden (pid namespace, hidepid)."""
    if _read(f"proc/{_KTHREADD}/comm") != "kthreadd":
        return None
    found = {}
    for pid in _kernel_threads():
        if _read(f"proc/{pid}/comm").startswith("kdamond"):
            found[pid] = _thread(pid)
    return found


def _kernel_threads() -> Iterator[int]:
    children = _read(f"proc/{_KTHREADD}/task/{_KTHREADD}/children")  # CONFIG_PROC_CHILDREN
    yield from map(int, children.split() or filter(str.isdigit, os.listdir(_ROOT / "proc")))


def _thread(pid: int) -> _Thread:
    lines = _read(f"proc/{pid}/status").splitlines()
    values = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    switches = tuple(value for key, value in values.items() if key.endswith("ctxt_switches"))
    # What cannot be read any more, or does not sleep, may have done anything.
    return _Thread(
        switches, not switches or not values.get("State", "").startswith(("S", "D", "I"))
    )


def _monitored(before: Look, after: Look, pid: int) -> Iterator[tuple[Keeps, str]]:
    if before.threads is None or after.threads is None:
        if state := damon():
            yield Keeps.NOTHING, "DAMON is on" if state == "on" else f"DAMON {state}"
        return
    ran = before.threads != after.threads or any(t.runs for t in after.threads.values())
    if ran:
        yield from _what_damon_does({*before.threads, *after.threads}, pid)


def _what_damon_does(threads: set[int], pid: int) -> Iterator[tuple[Keeps, str]]:
    """Of threads that ran meanwhile."""
    try:
        looks = [_what_one_does(kdamond, pid) for kdamond in (_ROOT / _KDAMONDS).glob("[0-9]*")]
        known = {thread for thread, _ in looks}
    except (OSError, ValueError):
        yield Keeps.NOTHING, "DAMON was at work (only root can tell what it does)"
        return
    if not threads <= known:
        yield Keeps.NOTHING, "DAMON was at work, started by the kernel or one of its modules"
    for thread, does in looks:
        if thread in threads and does is not None:
            yield does


def _what_one_does(kdamond: Path, pid: int) -> tuple[int, tuple[Keeps, str] | None]:
    """The thread of a kdamond, and what it does to Y of a process; OSError where that is root's
    to know.
    """
    thread = int((kdamond / "pid").read_text())
    contexts = sorted((kdamond / "contexts").glob("[0-9]*"))
    ours = [context for context in contexts if _looks_at(context, pid)]
    actions = [path.read_text().strip() for c in ours for path in c.glob("schemes/[0-9]*/action")]
    bad = sorted({action for action in actions if action not in _HARMLESS})
    if not ours:
        return thread, None
    if bad:
        return thread, (Keeps.NOTHING, f"DAMON was at work ({', '.join(bad)})")
    return thread, (Keeps.NOTED, "DAMON was at work")


def _looks_at(context: Path, pid: int) -> bool:
    """Physical memory is everybody's."""
    if (context / "operations").read_text().strip() == "paddr":
        return True
    targets = context.glob("targets/[0-9]*/pid_target")
    return any(int(path.read_text()) == pid for path in targets)


# ---- pages that the kernel replaces


def merges() -> bool:
    """Whether KSM is at work: merged pages come out young."""
    return _read(f"{_MM}/ksm/run") == "1"


def one_by_one() -> bool:
    """Whether a fault in anonymous memory brings one page, or a huge one: no sizes between."""
    folder = _ROOT / _MM / "transparent_hugepage"
    everywhere = _chosen(_read(f"{_MM}/transparent_hugepage/enabled")) != "never"
    huge = _read(f"{_MM}/transparent_hugepage/hpage_pmd_size")
    for path in folder.glob("hugepages-*kB/enabled"):
        size = int(path.parent.name.removeprefix("hugepages-").removesuffix("kB")) << 10
        chosen = _chosen(_read(path))
        if str(size) != huge and (chosen in ("always", "madvise") or
                                  (chosen == "inherit" and everywhere)):  # fmt: skip
            return False
    return True


def _chosen(text: str) -> str:
    """``always [madvise] never`` → ``madvise``."""
    return text.partition("[")[2].partition("]")[0]


def _read(path: str | Path) -> str:
    with suppress(OSError):
        return (_ROOT / path).read_text(encoding="utf-8", errors="replace").strip()
    return ""
