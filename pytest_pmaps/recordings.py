"""Recordings: all that the kernel said to one capture, to be captured from again elsewhere."""

from __future__ import annotations

import os
from importlib.metadata import version

from ._native import Columns, Request
from .capture import DepthName, Progress, depth_of, listener, pid_of
from .errors import FormatError, PmapsError
from .model import Depth
from .replacing import replacing
from .snapshots import Snapshot
from .stopping import capture_stopped

__all__ = ["record"]

#: It tells where things lie in a process that may still be running: for its owner to pass on.
_OWNER_ONLY = 0o600


def record(
    target: object,
    path: str | os.PathLike[str],
    *,
    depth: Depth | DepthName = Depth.FULL,
    counters: bool = True,
    progress: Progress | None = None,
    stop: bool = False,
    young: bool = False,
) -> Snapshot:
    """Capture a process as :func:`snapshot` does, and write all that the kernel said to a file.

    :func:`load` captures from the file once more: without the process, privileges or Linux of
    this version, with the same result, facts and their sources included.  What a recording
    holds, and what not, is in docs/recordings.md: names of files and addresses among it, memory
    and frame numbers not.  The file is replaced in one step and readable by its owner alone.

    ``depth``, ``counters``, ``progress``, ``stop`` and ``young`` are snapshot()'s, and part of the
    recording.

    Of a capture that fails because something does not read as expected the file is written, too.

    Raises what snapshot() raises, and OSError where the file cannot be written.
    """
    __tracebackhide__ = True
    pid = pid_of(target)
    request = Request(pid, depth_of(depth), counters, young=young, tick=progress or listener(pid))
    try:
        with replacing(path, _OWNER_ONLY) as file:
            captured = _captured(request, file.fileno(), stop)
    except OSError as exc:
        if exc.filename or isinstance(exc, PmapsError):
            raise
        raise type(exc)(exc.errno, exc.strerror, os.fspath(path)) from None
    if isinstance(captured, FormatError):
        raise FormatError(f"{captured.reason}; what was read is in {os.fspath(path)}")
    return Snapshot(captured)


def _captured(request: Request, fd: int, stop: bool) -> Columns | FormatError:
    writer = f"pytest-pmaps {version('pytest-pmaps')}"

    def capture(request: Request) -> Columns:
        return Columns.record(request, fd, writer)

    try:
        return capture_stopped(request, capture) if stop else capture(request)
    except FormatError as exc:  # what a report of it needs is in the file by now
        return exc
