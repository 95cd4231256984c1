"""Taking a snapshot of a process, however it is given."""

from __future__ import annotations

from typing import Any

from ._native import Columns, Request
from .errors import ProcessGone
from .snapshots import Snapshot
from .stopping import capture_stopped

__all__ = ["pid_of", "snapshot"]

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
    """Popen and asyncio keep ``returncode``, multiprocessing ``exitcode``: None while it runs."""
    return any(getattr(target, name, None) is not None for name in ("returncode", "exitcode"))


def _name(target: object) -> str:
    return f"the {type(target).__name__}"


def snapshot(target: object = None, *, stop: bool = False) -> Snapshot:
    """Capture the memory of a process: ``target`` is a pid, anything with a ``pid``
    (``subprocess.Popen``, ``psutil.Process``, ``multiprocessing.Process``, asyncio's process),
    or None for this process.

    Capturing our own process does not show in the result: the engine works in memory of its
    own, which is left out.

    ``stop`` holds another process still while it is captured, so that nothing in it moves; what
    that does to it is in docs/stopping.md.  Its ``stopped_ns`` says for how long.

    Raises ProcessGone (also for zombies and kernel threads, which have no memory),
    AccessDenied, Unsupported where the system has no page maps, TypeError for what is no target,
    PmapsError for one that would not stop.
    """
    __tracebackhide__ = True
    request = Request(pid_of(target))
    return Snapshot(capture_stopped(request) if stop else Columns.capture(request))
