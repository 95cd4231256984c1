"""The most that was resident: of a ``with`` block, ``peak()``, and of a process, ``peak_of()``.

The kernel keeps a high-water mark of each process, VmHWM, from counters that it adds up in batches,
CPU by CPU, so that it is off by as much as those hold back: a peak is an interval.  It is never
``ru_maxrss``, which begins at the peak of the parent.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import threading
from types import TracebackType
from typing import NamedTuple, NoReturn, Self

from .capture import pid_of
from .counts import Count, format_bytes
from .errors import AccessDenied, PmapsError, ProcessGone, Unsupported
from .hwm import Slack, slack
from .procfs import START, behind_comm, getpid

__all__ = ["Peak", "peak", "peak_of"]

# ---- what the kernel says of a process


class _Moment(NamedTuple):
    """In bytes; ``rss`` at least and at most: exact where smaps_rollup could be read."""

    hwm: int
    rss: tuple[int, int]
    slack: Slack


class _Process:
    """A process by descriptors of its files: a pid that is used again is never read."""

    def __init__(self, target: object) -> None:
        __tracebackhide__ = True
        if os.uname().sysname != "Linux":
            raise Unsupported(f"pytest-pmaps reads Linux's /proc, and this is {os.uname().sysname}")
        self.pid = pid_of(target) or getpid()
        self.who = "this process" if self.pid == getpid() else f"process {self.pid}"
        self._fds: list[int] = []
        try:
            self._status = self._open("status")
            self._rollup = self._open("smaps_rollup", True)
            self.key = (self.pid, self._start_time())
        except BaseException:
            self.close()
            raise

    def _open(self, name: str, may_fail: bool = False, flags: int = os.O_RDONLY) -> int:
        __tracebackhide__ = True
        try:
            fd = os.open(f"/proc/{self.pid}/{name}", flags | os.O_CLOEXEC)
        except OSError as exc:
            if may_fail:
                return -1
            self._refused(exc)
        self._fds.append(fd)
        return fd

    def _refused(self, exc: OSError) -> NoReturn:
        __tracebackhide__ = True
        if exc.errno in (errno.ENOENT, errno.ESRCH):
            raise ProcessGone(f"{self.who} does not exist, or has exited") from None
        if exc.errno in (errno.EACCES, errno.EPERM):
            raise AccessDenied(f"{self.who}: its files in /proc may not be read") from None
        raise PmapsError(f"{self.who}: {exc.strerror}") from None

    def _start_time(self) -> int:
        text = self._read(self._open("stat"))
        return int(behind_comm(text)[START])

    def _read(self, fd: int) -> str:
        __tracebackhide__ = True
        try:
            return os.pread(fd, 8192, 0).decode("utf-8", "replace")
        except OSError as exc:
            self._refused(exc)

    def look(self) -> _Moment:
        """What is resident, and then what was at most: in this order, for looking adds to it."""
        __tracebackhide__ = True
        exact = self._exact()
        text = self._read(self._status)
        found = dict(re.findall(r"^(VmHWM|VmRSS|Threads|State):\s+(\w+)", text, re.MULTILINE))
        if "VmHWM" not in found:
            gone = found.get("State") in ("Z", "X")
            why = "has exited and has no memory left" if gone else "has no memory of its own"
            raise ProcessGone(f"{self.who} {why}")
        rss, off = int(found["VmRSS"]) << 10, slack(int(found["Threads"]))
        about = (max(0, rss - off.less), rss + off.more)
        return _Moment(int(found["VmHWM"]) << 10, about if exact is None else (exact, exact), off)

    def _exact(self) -> int | None:
        """Rss added up page by page; None where we may not."""
        if self._rollup < 0:
            return None
        try:
            text = os.pread(self._rollup, 4096, 0).decode("ascii", "replace")
        except OSError:  # of another user, or gone: status says which
            return None
        found = re.search(r"^Rss:\s+(\d+) kB", text, re.MULTILINE)
        return int(found[1]) << 10 if found else None

    def reset(self) -> str:
        """Let VmHWM begin anew; why not, where it cannot."""
        fd = self._open("clear_refs", True, os.O_WRONLY)
        if fd < 0:
            return "clear_refs may not be written here"
        try:
            os.write(fd, b"5")
        except OSError as exc:
            return f"clear_refs: {exc.strerror}"
        finally:
            self._fds.remove(fd)
            os.close(fd)
        return ""

    def close(self) -> None:
        """Let go of its files."""
        while self._fds:
            os.close(self._fds.pop())


# ---- windows

#: Windows that are open, by process: what one resets, others have to be told before.
_open: dict[tuple[int, int], list[Peak]] = {}
_lock = threading.RLock()


def _forget() -> None:
    """In a forked child there is no window."""
    global _lock
    _open.clear()
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget)


class Peak:
    """The most that was resident in a ``with`` block; see :func:`peak`."""

    def __init__(self, target: object) -> None:
        self._target = target
        self._owner = getpid()
        self._process: _Process | None = None
        self._start: _Moment
        self._end: _Moment | None = None
        self._seen = 0  # the highest VmHWM in the window, as far as it was read
        self._last = 0  # VmHWM as it was read last
        self._before = 0
        self._slack = Slack(0, 0)
        self._no_reset = ""
        self._broken = False

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        if self._process is not None:
            raise ValueError("a window is for one with block: begin another one with peak()")
        process = _Process(self._target)
        try:
            with _lock:
                self._begin(process)
        except BaseException:
            process.close()
            raise
        self._process = process
        return self

    def _begin(self, process: _Process) -> None:
        __tracebackhide__ = True
        others = _open.get(process.key, [])
        before = process.look()
        for other in others:
            other._add(before)
        self._before = before.hwm
        self._no_reset = process.reset()
        self._start = process.look()
        for window in (self, *others):
            window._last = self._start.hwm
        self._add(self._start)
        _open.setdefault(process.key, []).append(self)

    def _add(self, now: _Moment) -> None:
        """VmHWM was read; it only falls when somebody resets it."""
        self._slack = max(self._slack, now.slack)
        self._broken |= now.hwm < self._last - self._slack.more
        self._last = now.hwm
        self._seen = max(self._seen, now.hwm)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        process = self._process
        if process is None:
            return
        try:
            if kind is None and getpid() == self._owner:
                with _lock:
                    end = process.look()
                    self._add(end)
                    self._end = end
        finally:
            with _lock:
                mine = _open.get(process.key, [])
                if self in mine:
                    mine.remove(self)
                if not mine:
                    _open.pop(process.key, None)
            process.close()

    # ---- what was found

    @property
    def rss(self) -> Count:
        """The most that was resident at any moment of the block."""
        __tracebackhide__ = True
        end = self._ended
        lo, hi = max(self._start.rss[0], end.rss[0]), self._seen + self._slack.more
        if not self._no_reset or self._seen > self._before + self._slack.more:
            lo = max(lo, self._seen - self._slack.less)
        return self._count(lo, None if self._broken else max(lo, hi), "peak rss")

    @property
    def growth(self) -> Count:
        """How far that is above what was resident when the block began; never below 0."""
        __tracebackhide__ = True
        top, (lo, hi) = self.rss.bytes.bounds, self._start.rss
        least = max(0, (top[0] or 0) - hi)
        most = None if top[1] is None else max(least, top[1] - lo)
        return self._count(least, most, "peak growth")

    @property
    def at_start(self) -> Count:
        """What was resident when the block began."""
        __tracebackhide__ = True
        _ = self._ended
        return self._count(*self._start.rss, "rss at the start")

    @property
    def at_end(self) -> Count:
        """What was resident when it ended."""
        __tracebackhide__ = True
        return self._count(*self._ended.rss, "rss at the end")

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the peak is an interval, a line for each reason."""
        __tracebackhide__ = True
        _ = self._ended
        lines = [_batched(self._slack)]
        if self._no_reset:
            lines.append(f"VmHWM could not be reset: {self._no_reset}")
        if self._broken:
            lines.append("somebody else reset VmHWM meanwhile: it may have been more")
        return tuple(lines)

    @property
    def _ended(self) -> _Moment:
        __tracebackhide__ = True
        if self._end is not None:
            return self._end
        if getpid() != self._owner:
            raise ValueError("this window is of the process that forked this one")
        raise ValueError("ask when the with block has ended: the window was not closed, or failed")

    def _count(self, lo: int, hi: int | None, label: str) -> Count:
        exact = lo == hi
        remedy = "" if exact else "; ".join(self.reasons)
        return Count(lo, hi, page_size=mmap.PAGESIZE, label=label, remedy=remedy)

    def __repr__(self) -> str:
        return "<Peak: not ended>" if self._end is None else f"<Peak: {self.rss}>"


def _batched(off: Slack) -> str:
    less, more = map(format_bytes, off)
    much = f"{more} either way" if less == more else f"{less} too much, or {more} too little,"
    return f"the kernel counts in batches: up to {much} here"


def peak(target: object = None) -> Peak:
    """See the most that was resident in a ``with`` block, of this process or another.

        with pytest_pmaps.peak() as p:
            work()
        assert p.rss <= "64 MiB"
        assert p.growth <= "10 MiB"

    From VmHWM, which is reset (``clear_refs``); windows may be nested and may overlap, in threads
    too.  It counts what the kernel calls RSS, of all threads, hugetlb memory apart.  The kernel
    counts in batches: ``p.rss`` is an interval, ``p.reasons`` says why; docs/peaks.md how wide.

    Entering raises ProcessGone, AccessDenied, Unsupported, TypeError for what is no target;
    leaving raises ProcessGone where the target ended in the block.
    """
    __tracebackhide__ = True
    return Peak(target)


def peak_of(target: object = None) -> Count:
    """The most that was ever resident of a process, since it began its program (exec) or since
    somebody reset it: VmHWM, as the interval that it is.

    Raises ProcessGone, AccessDenied, Unsupported, TypeError for what is no target.
    """
    __tracebackhide__ = True
    process = _Process(target)
    try:
        now = process.look()
    finally:
        process.close()
    lo = max(0, now.rss[0], now.hwm - now.slack.less)
    return Count(
        lo,
        max(lo, now.hwm + now.slack.more),
        page_size=mmap.PAGESIZE,
        label="peak rss",
        remedy=_batched(now.slack),
    )
