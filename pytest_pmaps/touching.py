"""What a process touched between two moments, page by page or mapping by mapping: ``touched()``."""

from __future__ import annotations

import errno
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Literal, Self
from weakref import WeakSet

from . import aging
from ._native import Columns, Prepared, Request, TouchWatch, Window, cpu_time, probe
from .aging import Aging, Keeps, Look
from .cached import cached_property
from .capture import listener, pid_of
from .counts import Count
from .errors import AccessDenied, PmapsError, ProcessGone, Unsupported
from .extents import Edges, Extent, extent_of
from .metrics import Counted
from .model import Depth, Source
from .procfs import getpid
from .select import Selector
from .snapshots import Pages, Selection, Snapshot

__all__ = [
    "ToldTouched",
    "Touched",
    "TouchedMethod",
    "TouchedPages",
    "TouchedRange",
    "TouchedSelection",
    "touched",
]

# pm_touched_state
_TOUCHED, _CAME, _AROUND, _HUGE, _MADE, _UNSEEN, _CLEARED = range(2, 9)
_STALE, _GONE, _SWAPPED, _RACED, _LEFT_OUT = range(9, 14)

#: Y is set: smaps Referenced counts these.
_YOUNG = (_TOUCHED, _AROUND, _HUGE, _MADE)
#: As many of these at most as Referenced counts beyond the others.
_BOUNDED = (_UNSEEN, _CLEARED)

#: Why it is not known whether a page was touched, and what would help.
_WHY = {
    _AROUND: ("that came meanwhile, perhaps around another page's fault", "have it there before"),
    _HUGE: ("of huge pages, which have one Y for all", ""),
    _MADE: ("that the kernel replaced meanwhile (khugepaged, KSM)", ""),
    _UNSEEN: ("whose Y cannot be seen", "CAP_BPF and CAP_PERFMON show it: see 'pmaps doctor'"),
    _CLEARED: ("whose Y may have been cleared", ""),
    _STALE: (
        "that a TLB may have known from before",
        "flushing it takes its soft-dirty bits: touched(..., clear_soft_dirty=True)",
    ),
    _GONE: ("given back to the kernel meanwhile", ""),
    _SWAPPED: ("swapped out", ""),
    _RACED: ("that changed while they were captured", "end the window while it is idle"),
    _LEFT_OUT: ("whose Y was not cleared: hugetlb, or not what was asked for", ""),
}

# pm_touched_how
_STAYS, _NOTED, _FLUSHED, _SINGLE, _MERGES, _COLLAPSES, _ANON_ONLY, _FILE_ONLY = (
    1 << i for i in range(8)
)
# pm_flush
_FLUSH_NONE, _FLUSH_OURS, _FLUSH_SOFT_DIRTY = range(3)

Only = Literal["anon", "file"]
_WHICH = {None: 1, "anon": 2, "file": 3}  # what is written to clear_refs
_ONLY = {None: 0, "anon": _ANON_ONLY, "file": _FILE_ONLY}


class TouchedMethod(Enum):
    """How it was found out what was touched: page by page, or mapping by mapping."""

    PAGE_TABLES = "page tables"
    REFERENCED = "smaps Referenced"


@dataclass(frozen=True, slots=True)
class TouchedRange:
    """Pages that were touched; ``touched`` None: that may have been, ``why`` says why not known.

    ``index`` is the page index as the RFC defines it, ``address`` that of the first page.
    """

    index: int
    address: int
    count: int
    touched: bool | None
    why: str


class ToldTouched(Counted):
    """What a window says of some addresses."""

    _told: _Told

    def metric(self, name: str) -> Count:
        """``touched``, or a counter of the moment in which the window ended."""
        if name != "touched":
            return super().metric(name)
        return self._told.count(self.windows, self._labelled(name), self.note)

    @property
    def touched(self) -> Count:
        """Pages of memory touched in the window: read, written or executed."""
        return self.metric("touched")

    def touched_ranges(self, window: Window | None = None) -> Iterator[TouchedRange]:
        """The pages that were touched, and those that may have been, in address order; of all
        windows, or of one.
        """
        size = self.page_size
        for w in self.windows if window is None else (window,):
            m = self.columns.mapping(w.mapping)
            for start, end, state in self._told.watch.regions(w.start, w.end):
                if state < _TOUCHED:
                    continue
                yield TouchedRange(
                    index=m.index + (start - m.start) // size,
                    address=start,
                    count=(end - start) // size,
                    touched=None if self._told.is_open(state) else True,
                    why=self._told.why(state),
                )


class TouchedSelection(ToldTouched, Selection):
    """Mappings of one file, or part of them, and what was touched there."""

    def __init__(self, told: _Told, of: Selection) -> None:
        super().__init__(of.snapshot, of.windows, of.label, of.part)
        self._told = told

    def parts(self) -> dict[str, Selection]:
        """Its ELF parts by name, in file order; empty where they are unknown or it has none."""
        found = super().parts().items()
        return {name: TouchedSelection(self._told, part) for name, part in found}

    def __repr__(self) -> str:
        return f"<{self.label or 'all'}: touched {self.touched}>"


class TouchedPages(ToldTouched, Pages):
    """The pages that an object lies in, and what was touched there; as :class:`Pages` else."""

    def __init__(self, told: _Told, of: Pages, extent: Extent, edges: Edges) -> None:
        super().__init__(of.snapshot, extent, of.windows, edges)
        self._told = told

    def _cut(self, start: int, end: int, label: str) -> Selection:
        return TouchedSelection(self._told, super()._cut(start, end, label))

    def __repr__(self) -> str:
        return f"<{self.label}: touched {self.touched}>"


# ---- what a window was told


class _Told:
    """All that the stretches of a window say together.

    ``referenced`` bounds what was touched of each mapping, in pages; None: nothing does.
    """

    def __init__(self, watch: TouchWatch) -> None:
        self.watch = watch
        self.reasons: dict[str, None] = {}
        self.referenced: dict[tuple[object, ...], int] | None = None
        self.bounded = True
        self.columns: Columns

    def add(self, begin: Columns, end: Columns, how: int, reasons: tuple[str, ...]) -> None:
        """One more stretch."""
        self.watch.add(begin, end, how)
        self.reasons |= dict.fromkeys(reasons)
        self.columns = end
        self.bounded &= how & (_NOTED | _FLUSHED) == _NOTED | _FLUSHED
        now = _referenced(end)
        was = self.referenced
        self.referenced = (
            now if was is None else {k: was[k] + n for k, n in now.items() if k in was}
        )

    def count(self, windows: tuple[Window, ...], label: str, note: str) -> Count:
        """Pages of the windows that were touched."""
        found, size, missed = self.watch.count(windows), self.columns.page_size, self._missed
        lo = found[_TOUCHED] + max(0, found[_CAME] - self.watch.moved)
        hi = found[_TOUCHED] + found[_CAME]
        hi += sum(found[state] for state in _WHY if state not in _BOUNDED)
        hi += sum(self._at_most(w) for w in windows)
        lo, hi = max(0, lo - missed), hi + missed
        whole = self.columns.complete or not windows
        return Count(
            lo * size,
            hi * size if whole else None,
            page_size=size,
            label=label,
            remedy=", ".join(self.explain(found)) if lo < hi else "",
            note=note,
        )

    def _at_most(self, window: Window) -> int:
        """How many pages of a window may have been touched though Y does not say so."""
        n = sum(self.watch.count((window,))[state] for state in _BOUNDED)
        m = self.columns.mapping(window.mapping)
        if not n or not self.bounded or self.referenced is None:
            return n
        found = self.watch.count((Window(window.mapping, m.start, m.end),))
        counted = sum(found[state] for state in _YOUNG) + max(0, found[_CAME] - self.watch.moved)
        referenced = self.referenced.get((m.start, m.end, m.inode, m.dev))
        return n if referenced is None else min(n, max(0, referenced - counted))

    @property
    def _missed(self) -> int:
        return self.columns.missed_pages

    def is_open(self, state: int) -> bool:
        """Whether a page in that state may have been touched, or may not."""
        return state in _WHY or (state == _CAME and self.watch.moved > 0)

    def why(self, state: int) -> str:
        """Why it is not known."""
        if state == _CAME and self.watch.moved:
            return "that came meanwhile, perhaps moved there"
        what = _WHY.get(state, ("", ""))[0]
        return f"{what} ({'; '.join(self.reasons)})" if state == _CLEARED and self.reasons else what

    def explain(self, found: tuple[int, ...]) -> Iterator[str]:
        """One short line for each reason why pages are open."""
        for state in (_CAME, *_WHY):
            n = min(found[state], self.watch.moved) if state == _CAME else found[state]
            if n:
                hint = _WHY.get(state, ("", ""))[1]
                pages = f"{n:,} page{'s' if n > 1 else ''} {self.why(state)}"
                yield pages + (f" ({hint})" if hint else "")
        if self._missed:
            yield f"{self._missed:,} pages missed, or met twice, as memory moved"


def _referenced(columns: Columns) -> dict[tuple[object, ...], int]:
    """smaps Referenced of each mapping, in pages; read twice, the larger one."""
    size = columns.page_size
    return {
        (m.start, m.end, m.inode, m.dev): -(
            -max(m.before["referenced"], m.after["referenced"]) // size
        )
        for m in columns.mappings
        if "referenced" in m.before and "referenced" in m.after
    }


# ---- windows


_INTERRUPTED = "another window was interrupted while it began"

#: Windows that are open, by process: what one clears, others have to be told before.
_open: dict[tuple[int, int], WeakSet[Touched]] = {}
_lock = threading.RLock()


def _forget() -> None:
    """In a forked child there is no window."""
    global _lock
    _open.clear()
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget)


class Touched:
    """A window over what a process touches; see :func:`touched`.

    It begins with the ``with`` block, and can be asked when that has ended: ``t.touched`` of
    everything, ``t["libfoo"].touched`` and ``t.of(array).touched`` of some.
    """

    def __init__(self, target: object, only: Only | None, clear_soft_dirty: bool) -> None:
        if only not in _WHICH:
            raise ValueError(f"only 'anon' or 'file' mappings can be cleared apart, not {only!r}")
        self._target = target
        self._only = only
        self._clear_soft_dirty = clear_soft_dirty
        self._owner = getpid()
        self._process: _Process | None = None
        self._told: _Told
        self._begin: Columns
        #: Whether somebody has cleared what this window would have to be told.
        self._lost = False
        self._before: Look
        self._end: Callable[[], int]
        self._snapshot: Snapshot | None = None

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        if self._process is not None:
            raise ValueError("a window is for one with block: begin another one with touched()")
        process = self._process = _Process(self._target)
        try:
            self._start(process)
        except BaseException:
            self._close(process)
            self._process = None
            raise
        return self

    def _start(self, process: _Process) -> None:
        __tracebackhide__ = True
        self._flush = process.flush(self._clear_soft_dirty)
        watch = TouchWatch(process.clear_refs, _WHICH[self._only], self._flush)
        self._told = _Told(watch)
        self._ending = Prepared(_request(process.pid))
        self._end = self._ending.call
        with _lock:
            others = _open.setdefault(process.key, WeakSet())
            idle = process.idle() if others else None
            self._before = aging.look()
            asked = _request(process.pid) if others else _presence(process.pid)
            self._begin = Columns.capture(asked)
            untold = self._about_to_clear(others)
            code = watch.begin()
            if code:
                for other, lost in untold.items():
                    other._lost = lost
                raise _refused(process, -code)
            if others:  # else nothing more: what we touch from here on is touched
                ran = idle is None or idle != process.idle()
                self._tell(untold, aging.look(), ("it ran while another window began",) * ran)
            others.add(self)

    @staticmethod
    def _about_to_clear(others: WeakSet[Touched]) -> dict[Touched, bool]:
        """From here on until they are told, the others have lost what they knew: Ctrl-C may come
        between.  Gives which of them had lost it before.
        """
        untold = {other: other._lost for other in others}
        for other in untold:
            other._lost = True
        return untold

    def _tell(self, untold: dict[Touched, bool], after: Look, broken: tuple[str, ...]) -> None:
        """What this window has cleared, the others have been told before."""
        for other, lost in untold.items():
            other._add(self._begin, after, (*broken, *((_INTERRUPTED,) * lost)))
            other._begin, other._before, other._flush = self._begin, self._before, self._flush
            other._lost = False

    def _add(self, end: Columns, after: Look, broken: tuple[str, ...] = ()) -> None:
        assert self._process is not None
        aged = aging.between(self._before, after, self._process.pid)
        reasons = (*aged.reasons, *broken)
        keeps = Keeps.NOTHING if broken else aged.keeps
        self._told.add(self._begin, end, self._how(aged, keeps), reasons)

    def _how(self, aged: Aging, keeps: Keeps) -> int:
        known = {
            _STAYS: keeps is Keeps.ALL,
            _NOTED: keeps >= Keeps.NOTED,
            _FLUSHED: self._flush != _FLUSH_NONE,
            _SINGLE: aging.one_by_one() and not aged.split,
            _MERGES: aging.merges(),
            _COLLAPSES: aged.collapsed,
        }
        return _ONLY[self._only] + sum(bit for bit, holds in known.items() if holds)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._process is not None:
            try:
                code = self._end()  # first of all: what Python does before it, it touches
                self._finish(self._process, code)
            finally:
                self._close(self._process)
        elif self._process is not None:
            self._close(self._process)

    def _close(self, process: _Process) -> None:
        """Nobody tells it anything any more.  A forked child only lets go of its descriptors."""
        self._take_out(process)
        process.close()

    def _take_out(self, process: _Process) -> None:
        with _lock, suppress(KeyError):
            _open[process.key].remove(self)

    def _finish(self, process: _Process, code: int) -> None:
        __tracebackhide__ = True
        if getpid() != self._owner:
            return
        try:
            end = self._ending.finish(code)
        except ProcessGone:
            raise ProcessGone(f"process {process.pid} ended in the window") from None
        after = aging.look()
        if not process.is_same():
            raise ProcessGone(
                f"process {process.pid} replaced its program (exec) in the window, or ended"
            )
        with _lock:
            self._add(end, after, (_INTERRUPTED,) * self._lost)
            self._take_out(process)
            self._begin = end  # that of the beginning is not needed any more
        self._snapshot = Snapshot(end)
        del self._ending, self._end

    # ---- how it was done

    @property
    def method(self) -> TouchedMethod:
        """What tells: page tables page by page, or counters mapping by mapping."""
        seen = Source.PTE in self.snapshot.sources
        return TouchedMethod.PAGE_TABLES if seen else TouchedMethod.REFERENCED

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is not exact in it, one short line for each thing; empty where all is."""
        told = self._ended[0]
        return tuple(told.explain(told.watch.count(self.snapshot.windows)))

    # ---- what was touched

    @property
    def snapshot(self) -> Snapshot:
        """The process as it was captured when the window ended."""
        return self._ended[1]

    @property
    def touched(self) -> Count:
        """Pages touched, of all memory that is there at the end: the working set."""
        return self._all.touched

    def touched_ranges(self) -> Iterator[TouchedRange]:
        """The pages that were touched, and those that may have been, in address order."""
        return self._all.touched_ranges()

    def __getitem__(self, selector: Selector) -> TouchedSelection:
        """Mappings of one file, or a part of them, as ``snapshot[selector]`` selects them.

        Raises what that raises: NoSuchMapping, AmbiguousMapping, Undetermined.
        """
        __tracebackhide__ = True
        told, taken = self._ended
        return TouchedSelection(told, taken[selector])

    def select(self, selector: Selector) -> TouchedSelection:
        """Like ``t[selector]``, but takes the mappings of all files that match."""
        __tracebackhide__ = True
        told, taken = self._ended
        return TouchedSelection(told, taken.select(selector))

    def of(self, x: object, *, edges: Edges = "include") -> TouchedPages:
        """The pages that an object lies in, as :meth:`Snapshot.of` finds them; raises what that
        raises.
        """
        __tracebackhide__ = True
        told, taken = self._ended
        return TouchedPages(told, taken.of(x, edges=edges), extent_of(x), edges)

    @cached_property
    def _all(self) -> TouchedSelection:
        told, taken = self._ended
        return TouchedSelection(told, Selection(taken, taken.windows, ""))

    @property
    def _ended(self) -> tuple[_Told, Snapshot]:
        __tracebackhide__ = True
        if self._snapshot is not None:
            return self._told, self._snapshot
        if getpid() != self._owner:
            raise ValueError("this window is of the process that forked this one")
        raise ValueError("ask when the with block has ended: the window was not closed, or failed")

    def __repr__(self) -> str:
        if self._snapshot is None:
            return "<Touched: not ended>"
        return f"<Touched: {self.touched} by {self.method.value}>"


def touched(
    target: object = None, *, only: Only | None = None, clear_soft_dirty: bool = False
) -> Touched:
    """See which memory a process reads, writes or executes in a ``with`` block: its working set.

        with pytest_pmaps.touched() as t:
            serve_one_request()
        assert t["libfoo"].touched <= 12
        assert t.touched <= "4 MiB"

    ``target`` is as for :func:`snapshot`; None is this process.  The accessed bits (Y) of its pages
    are cleared when the block begins, and read when it ends: page by page where page tables can
    be read (docs/security.md), else mapping by mapping, as an upper end.

    ``only`` clears, and tells of, mappings without a file (``"anon"``) or with one (``"file"``)
    alone.
    ``clear_soft_dirty`` allows to clear the soft-dirty bits of another process, where the kernel
    has them: nothing else flushes its TLBs, without which what was in use before may be missed.

    Y is cleared by others too: DAMON, MGLRU, reclaim.  Where one may have been at work, the upper
    end of a count says so; docs/touched.md tells what is claimed when.  Windows may overlap.

    Entering raises ProcessGone, AccessDenied for another user's process, Unsupported where the
    kernel has no clear_refs; leaving raises ProcessGone where the process ended meanwhile, or
    replaced its program.
    """
    __tracebackhide__ = True
    return Touched(target, only, clear_soft_dirty)


# ---- the process


class _Process:
    """What is held of a process while a window is open: a descriptor to clear by, and one that
    knows whether it is still the same program.
    """

    def __init__(self, target: object) -> None:
        __tracebackhide__ = True
        pid = pid_of(target)
        self.ours = pid in (0, getpid())
        self.pid = getpid() if self.ours else pid
        listed = Columns.capture(Request(self.pid, Depth.MAPPINGS, counters=False))
        self.key = (self.pid, listed.start_time)
        folder = "/proc/self" if self.ours else f"/proc/{pid}"
        self._fds: list[int] = []
        try:
            for name, flags in (("clear_refs", os.O_WRONLY), ("pagemap", os.O_RDONLY)):
                self._fds.append(os.open(f"{folder}/{name}", flags | os.O_CLOEXEC))
        except OSError as exc:
            self.close()
            raise _refused(self, exc.errno or 0) from None
        self.clear_refs, self._pagemap = self._fds

    def flush(self, clear_soft_dirty: bool) -> int:
        """How its TLBs can be flushed."""
        if self.ours and platform.machine() == "x86_64":
            return _FLUSH_OURS
        return _FLUSH_SOFT_DIRTY if clear_soft_dirty or probe()["softdirty"] else _FLUSH_NONE

    def is_same(self) -> bool:
        """Whether it has the memory that it had: descriptors of what is gone read nothing."""
        with suppress(OSError):
            return len(os.pread(self._pagemap, 8, 0)) == 8
        return False

    def idle(self) -> object:
        """Equal where it did nothing between two calls, but for the thread that makes them; None
        where that is not known.
        """
        if not self.ours:
            return cpu_time(self.pid)
        others = {int(tid) for tid in os.listdir("/proc/self/task")} - {threading.get_native_id()}
        try:
            return {tid: time.clock_gettime_ns(_clock_of(tid)) for tid in others}
        except OSError:  # one has ended just now
            return None

    def close(self) -> None:
        """Let go of it."""
        while self._fds:
            os.close(self._fds.pop())


def _clock_of(tid: int) -> int:
    """The clock of a thread's CPU time, as the kernel numbers it (CPUCLOCK_PERTHREAD)."""
    return ~tid << 3 | 6


def _request(pid: int) -> Request:
    return Request(pid, young=True, tick=listener(pid))


def _presence(pid: int) -> Request:
    """What is there at the beginning: no counters, and no Y, which is about to be cleared."""
    return Request(pid, counters=False, tick=listener(pid))


def _refused(process: _Process, code: int) -> Exception:
    who = "this process" if process.ours else f"process {process.pid}"
    if code in (errno.EACCES, errno.EPERM):
        return AccessDenied(
            f"{who}: clear_refs may not be written: its owner, or root, may, where it has not made "
            "itself undumpable"
        )
    if code in (errno.ESRCH, errno.ENOENT) and not os.path.exists(f"/proc/{process.pid}"):
        return ProcessGone(f"{who} does not exist, or has exited")
    if code in (errno.ENOENT, errno.EINVAL):
        return Unsupported("this kernel has no clear_refs (CONFIG_PROC_PAGE_MONITOR, or a sandbox)")
    return PmapsError(f"{who}: clear_refs: {os.strerror(code)}")
