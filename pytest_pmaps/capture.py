"""Taking a snapshot of a process, however it is given."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from ._native import Columns, MappingInfo, Request
from .errors import ProcessGone
from .model import Depth
from .procfs import getpid
from .select import Entry, Selector, resolve
from .snapshots import Snapshot
from .stopping import capture_stopped

__all__ = ["DepthName", "Progress", "depth_of", "pid_of", "snapshot"]

DepthName = Literal["totals", "mappings", "pages", "full"]

#: Called with pages done and an estimate of all; returns True to cancel.
Progress = Callable[[int, int], bool | None]

_TARGETS = "a pid, an object with a pid (Popen, psutil.Process, multiprocessing.Process), or None"


def pid_of(target: object) -> int:
    """The pid of a target; 0 for this process.

    Raises TypeError for what has none, ProcessGone for a process that was not started or has
    been waited for already (its pid may be another's by now).
    """
    __tracebackhide__ = True
    if target is None:
        return 0
    if isinstance(target, int) and not isinstance(target, bool):
        return _checked(target)
    pid: Any = getattr(target, "pid", None)
    if callable(pid):
        pid = pid()
    if pid is None and hasattr(target, "pid"):
        raise ProcessGone(f"{_name(target)} has not been started: it has no pid")
    if not isinstance(pid, int) or isinstance(pid, bool):
        raise TypeError(f"a target is {_TARGETS}, not {type(target).__name__}")
    if _waited_for(target):
        raise ProcessGone(f"{_name(target)} (pid {pid}) has exited and been waited for")
    return _checked(pid)


def _checked(pid: int) -> int:
    __tracebackhide__ = True
    if pid <= 0 or pid >= 1 << 31:
        raise ProcessGone(f"no process has pid {pid}")
    return pid


def _waited_for(target: object) -> bool:
    """Popen and asyncio keep ``returncode``, multiprocessing ``exitcode``: None while it runs.
    psutil knows when its process was started, and whether another one has its pid by now.
    """
    if any(getattr(target, name, None) is not None for name in ("returncode", "exitcode")):
        return True
    is_same = getattr(target, "is_running", None)
    return callable(is_same) and hasattr(target, "create_time") and not is_same()


def _name(target: object) -> str:
    return f"the {type(target).__name__}"


def snapshot(
    target: object = None,
    *,
    depth: Depth | DepthName = Depth.FULL,
    counters: bool = True,
    select: Selector | None = None,
    window: tuple[int, int] | None = None,
    progress: Progress | None = None,
    stop: bool = False,
    young: bool = False,
) -> Snapshot:
    """Capture the memory of a process: ``target`` is a pid, anything with a ``pid``
    (``subprocess.Popen``, ``psutil.Process``, ``multiprocessing.Process``, asyncio's process),
    or None for this process.

    ``depth`` is what to pay for: ``"totals"``, ``"mappings"``, ``"pages"`` or ``"full"``, see
    :class:`~pytest_pmaps.Depth`.  What was not looked at is unknown, not absent.
    ``counters`` False leaves smaps and numa_maps alone, which hold up a large target for
    milliseconds; there is nothing then that the pages could be held against.
    ``select`` captures only the mappings of the files that a selector means, ``window`` only the
    addresses from its first up to its second (both in bytes, widened to whole pages).
    ``progress`` is called every few milliseconds with pages done and an estimate of all of them;
    where it returns True the capture ends with :class:`~pytest_pmaps.Cancelled`.

    Capturing our own process does not show in the result: the engine works in memory of its
    own, which is left out.

    ``stop`` holds another process still while it is captured, so that nothing in it moves; what
    that does to it is in docs/stopping.md.  Its ``stopped_ns`` says for how long.

    ``young`` asks for Y of each page, from its page table entry, where those can be read (CAP_BPF
    and CAP_PERFMON, see docs/security.md); ranges then break on it.  It moves by itself: DAMON,
    MGLRU and reclaim clear it.  Without it Y is known only where counters decide it.

    Raises ProcessGone (also for zombies and kernel threads, which have no memory, and for a
    process whose main thread has ended, of which the kernel shows none),
    AccessDenied, Unsupported where the system has no page maps, TypeError for what is no target,
    NoSuchMapping where ``select`` matches nothing, ValueError for other options that make no
    sense, PmapsError for what would not stop.
    """
    __tracebackhide__ = True
    pid, deep = pid_of(target), depth_of(depth)
    if select is not None and window is not None:
        raise ValueError("select or window: a capture is limited in one way")
    if not counters and deep is Depth.TOTALS:
        raise ValueError("totals are counters: there are none without")
    if deep is Depth.TOTALS and (select is not None or window is not None):
        raise ValueError("totals are of the whole process: select and window need another depth")
    request = Request(pid, deep, counters, young=young, tick=progress or listener(pid))
    if window is not None:
        request = replace(request, extents=(_whole_pages(window),))
    if select is not None:
        request = replace(request, extents=_extents_of(request, select))
    return Snapshot(capture_stopped(request) if stop else Columns.capture(request))


def depth_of(depth: Depth | str) -> Depth:
    """A depth by its name; ValueError for what is none."""
    if isinstance(depth, Depth):
        return depth
    names = {each.name.lower(): each for each in Depth}
    if depth not in names:
        raise ValueError(f"{depth!r} is no depth: they are {', '.join(names)}")
    return names[depth]


def _go_on(done: int, total: int) -> None:
    """Being called is enough: Python raises KeyboardInterrupt on the way."""


def listener(pid: int) -> Progress | None:
    """Lets Ctrl-C interrupt a capture.  Not of ourselves: the call would show in it."""
    main = threading.current_thread() is threading.main_thread()
    return _go_on if pid not in (0, getpid()) and main else None


def _whole_pages(window: tuple[int, int]) -> tuple[int, int]:
    __tracebackhide__ = True
    page, (start, end) = os.sysconf("SC_PAGESIZE"), window
    if not 0 <= start < end <= 1 << 64:
        raise ValueError(f"no window of addresses: {start:#x} to {end:#x}")
    return start // page * page, min(-(-end // page) * page, (1 << 64) - page)


def _extents_of(request: Request, selector: Selector) -> tuple[tuple[int, int], ...]:
    """Where the mappings lie that a selector means, and the bss of each, which is nameless and
    follows its file's last mapping.
    """
    __tracebackhide__ = True
    listed = replace(request, depth=Depth.MAPPINGS, counters=False)
    infos = Columns.capture(listed).mappings
    entries = [Entry(m.name, m.dev, m.inode, m.kind) for m in infos]
    chosen = set(resolve(selector, entries, many=True).indexes)
    behind = {i + 1 for i in chosen if _is_bss(infos, i + 1)}
    extents: list[tuple[int, int]] = []
    for i in sorted(chosen | behind):
        start, end = infos[i].start, infos[i].end
        if extents and extents[-1][1] == start:
            extents[-1] = (extents[-1][0], end)
        else:
            extents.append((start, end))
    return tuple(extents)


def _is_bss(infos: Sequence[MappingInfo], i: int) -> bool:
    if i >= len(infos):
        return False
    return not infos[i].name and infos[i - 1].end == infos[i].start and infos[i - 1].inode != 0
