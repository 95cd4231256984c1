"""Walking a process of any size in bounded memory, piece by piece."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ._native import Columns, Request
from .capture import DepthName, depth_of, pid_of
from .counts import Count
from .errors import Cancelled, ProcessGone
from .model import METRICS, Depth
from .procfs import getpid
from .snapshots import Snapshot

__all__ = ["PIECE", "Stream", "StreamProgress", "stream"]

#: Pages of a piece: a GiB of 4 KiB pages, 10 to 40 MiB of the engine's memory while it is captured.
PIECE = 1 << 18

#: Called with pages done so far and an estimate of all; returns True to end the stream.
StreamProgress = Callable[[int, int], bool | None]


def stream(
    target: object = None,
    *,
    depth: Depth | DepthName = Depth.FULL,
    counters: bool = True,
    start: int = 0,
    pages: int = PIECE,
    metrics: tuple[str, ...] = (),
    progress: StreamProgress | None = None,
    young: bool = False,
) -> Stream:
    """Walk a process in address order, as snapshots of so many ``pages`` each at most.

    It begins at the address ``start``; ``next_address`` of an earlier stream goes on where that
    one ended.  ``metrics`` are added up on the way: ``stream.metric("dirty")``.  ``progress``
    is called every few milliseconds; where it returns True the stream ends there, and so it
    does with Ctrl-C: what was captured is kept, and ``stream.complete`` is False.  ``young`` is
    snapshot()'s.

    Raises what :func:`~pytest_pmaps.snapshot` raises, ValueError for a metric that is none.
    """
    __tracebackhide__ = True
    deep = depth_of(depth)
    if deep < Depth.PAGES:
        raise ValueError(f"a stream is of pages: depth is 'pages' or 'full', not {depth!r}")
    if not 1 <= pages < 1 << 63 or not 0 <= start < 1 << 64:
        raise ValueError("a stream begins at an address, and its pieces have a page at least")
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"{unknown[0]!r} is no metric; metrics are {', '.join(METRICS)}")
    request = Request(pid_of(target), deep, counters, max_pages=pages, young=young)
    return Stream(request, start, metrics, progress)


@dataclass(slots=True)
class _Sum:
    lo: int = 0
    hi: int | None = 0


class Stream:
    """Snapshots of one process, one after the other; see :func:`stream`.

    Each is of other addresses and of another moment, with a verdict of its own; all are of one
    program: a process that exits or replaces its program (exec) ends the stream with ProcessGone.
    It is walked once: every loop over it goes on where the last one was.
    """

    def __init__(
        self,
        request: Request,
        start: int,
        metrics: tuple[str, ...],
        progress: StreamProgress | None,
    ) -> None:
        page = os.sysconf("SC_PAGESIZE")
        self._request = request
        self._last = (1 << 64) - page
        self._sums = {name: _Sum() for name in metrics}
        self._progress = progress
        self._cancelled = False
        self._interrupted = False
        self._page_size = page
        #: Where the next piece begins; 0 when all has been walked.
        self.next_address = start // page * page
        #: Pieces and pages so far.
        self.pieces = 0
        self.pages = 0
        self._started = False

    @property
    def complete(self) -> bool:
        """Whether it got to the end."""
        return self._started and self.next_address == 0

    def cancel(self) -> None:
        """End it soon; from another thread, or from ``progress``."""
        self._cancelled = True

    def metric(self, name: str) -> Count:
        """What was counted up to now; without an upper end while the stream is not complete.

        ValueError for a metric that was not asked for.
        """
        if name not in self._sums:
            raise ValueError(f"{name!r} was not added up: stream(..., metrics=({name!r},))")
        total = self._sums[name]
        return Count(
            total.lo,
            total.hi if self.complete else None,
            page_size=self._page_size,
            label=name,
            remedy="" if self.complete else "walk the rest: the stream ended early",
        )

    def __iter__(self) -> Iterator[Snapshot]:
        with _Program(self._request.pid) as program:
            while not self.complete and not self._cancelled:
                piece = self._capture()
                if piece is None:
                    return
                program.check()
                self._add(piece)
                yield piece

    def _capture(self) -> Snapshot | None:
        extent = (self.next_address, self._last)
        request = self._request
        try:
            columns = Columns.capture(
                Request(
                    request.pid,
                    request.depth,
                    request.counters,
                    extents=(extent,),
                    max_pages=request.max_pages,
                    young=request.young,
                    tick=self._tick if self._listens else None,
                )
            )
        except Cancelled:
            return None
        return Snapshot(columns)

    @property
    def _listens(self) -> bool:
        """Of ourselves only if somebody wants to know: the call shows in the capture."""
        return self._progress is not None or self._request.pid not in (0, getpid())

    def _tick(self, done: int, total: int) -> bool:
        if self._progress is not None and self._progress(self.pages + done, self.pages + total):
            self._cancelled = True
        return self._cancelled

    def _add(self, piece: Snapshot) -> None:
        self._started = True
        self.pieces += 1
        self.pages += sum(piece.buffers()["count"])
        self.next_address = piece.next_address
        for name, total in self._sums.items():
            lo, hi = piece.metric(name).bytes.bounds
            total.lo += lo or 0
            total.hi = None if total.hi is None or hi is None else total.hi + hi


class _Program:
    """One program of one process: what was opened of it ends when it exits or execs."""

    def __init__(self, pid: int) -> None:
        self._name = "this process" if pid in (0, getpid()) else f"process {pid}"
        path = f"/proc/{pid or 'self'}/maps"
        try:
            self._maps = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._maps = -1  # the capture says what is wrong

    def __enter__(self) -> _Program:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._maps >= 0:
            os.close(self._maps)

    def check(self) -> None:
        """Raise ProcessGone where it is another program by now, or none."""
        __tracebackhide__ = True
        if self._maps >= 0 and not self._is_there():
            raise ProcessGone(
                f"{self._name} exited, or replaced its program (exec), while it was walked"
            )

    def _is_there(self) -> bool:
        try:
            return bool(os.pread(self._maps, 1, 0))
        except OSError:
            return False
