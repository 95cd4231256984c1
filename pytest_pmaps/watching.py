"""Watching a run: captures where the follower holds, at checkpoints, and from time to time.

All of it happens in one thread, while the thread of whoever asked waits for the program.
"""

from __future__ import annotations

import _thread
import mmap
import os
import re
import secrets
import select
import socket
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ._native import Columns, Request, same_mm
from .checkpoints import LONGEST
from .errors import PmapsError, ProcessGone
from .following import Event, Follower
from .launching import ADDR_NO_RANDOMIZE, privilege_lost
from .model import Depth
from .moments import TRACED, Child, Moment, Moments, Peak, returncode_of
from .procfs import PARENT, START, getpid, read_line, read_text, stat_of
from .snapshots import Snapshot
from .stopping import may_trace_all

__all__ = ["Listener", "Process", "Watch"]

_WAKE_EVERY = 500  # milliseconds: a follower that was stopped, and may hold something
_LOOK_EVERY = 0.005  # seconds, at VmHWM where nothing tells of the end
_ASLR = Path("/proc/sys/kernel/randomize_va_space")
_CREDENTIALS = struct.Struct("=iII")  # struct ucred
_LEAK_STATUSES = (1, 23)  # by which AddressSanitizer and LeakSanitizer end a program
_LEAK_NOTE = (
    "process {} ended with {}, and has LeakSanitizer, which does not work under ptrace: that may "
    "be why; LSAN_OPTIONS=detect_leaks=0 (ASAN_OPTIONS) or trace=False tell"
)
_PRIVILEGE_NOTE = (
    "process {} executed {}, which {}: being traced, it ran without its privilege; "
    "trace=False runs it as it is"
)
_NAME = "checkpoint"  # of the socket
_LONGEST_PATH = 100  # of it
_LONGEST_PAUSE = 3600.0  # seconds; poll() takes no more than weeks


@dataclass
class Process:
    """What is known of a process of the run."""

    pid: int
    ppid: int = 0
    args: tuple[str, ...] = ()
    returncode: int | None = None
    executed: bool = False
    moments: list[Moment] = field(default_factory=list)
    missed: dict[str, str] = field(default_factory=dict)
    peak: Peak = field(default_factory=Peak)

    def child(self, why_not: str) -> Child:
        """As whoever asked gets it."""
        return Child(
            pid=self.pid,
            ppid=self.ppid,
            args=self.args,
            returncode=self.returncode,
            at=Moments(self.moments, self.missed),
            moments=tuple(self.moments),
            peak_rss=self.peak.count(why_not),
        )


class Listener:
    """Where checkpoints ask: a socket in a folder of its own.

    Its name is known before it is made, so that it can be removed whatever interrupts that.
    """

    def __init__(self) -> None:
        name = f"pmaps-{secrets.token_hex(8)}"
        self._folder = os.path.join(tempfile.gettempdir(), name)
        if len(self._folder) > _LONGEST_PATH - len(_NAME):
            self._folder = os.path.join("/tmp", name)
        self.path = os.path.join(self._folder, _NAME)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._made: list[str] = []
        self._forgotten = weakref.finalize(self, _remove, self._made, getpid())

    def open(self) -> None:
        """Somebody may ask."""
        self._made.append(self._folder)
        try:
            os.mkdir(self._folder, 0o700)
        except FileExistsError:
            self._made.clear()  # it is another's
            raise
        os.chmod(self._folder, 0o711)  # the program may be another user's
        self.socket.bind(self.path)
        os.chmod(self.path, 0o666)
        self.socket.listen(64)
        self.socket.setblocking(False)

    def close(self) -> None:
        """Nobody is heard any more."""
        self.socket.close()
        _remove(self._made, getpid())
        self._forgotten.detach()


def _remove(folders: list[str], owner: int) -> None:
    """Not by a process that was forked meanwhile."""
    for folder in folders if getpid() == owner else ():
        try:
            _remove_one(folder)
        except BaseException:  # interrupted: there may be no other time
            _remove_one(folder)
            raise


def _remove_one(folder: str) -> None:
    # Not by shutil.rmtree(), which takes the exception of a signal's handler for an error.
    with suppress(OSError):
        os.unlink(os.path.join(folder, _NAME))
    with suppress(OSError):
        os.rmdir(folder)


class Watch:
    """The thread, and what it found."""

    def __init__(
        self,
        *,
        at: tuple[str, ...],
        every: float | None,
        depth: Depth,
        sample_depth: Depth,
        follower: Follower | None,
        listener: Listener,
    ) -> None:
        self._at = at
        self._every = every
        self._depth, self._sample_depth = depth, sample_depth
        self._follower: Follower | None = follower
        self._listener = listener
        self._ours, self._theirs = socket.socketpair()
        self._turn = threading.Lock()
        self._running = self._ended = False
        self._finished = threading.Event()
        self._failed: BaseException | None = None
        self._asking: dict[int, socket.socket] = {}
        self._over = False
        self.root = Process(0)
        self.processes: list[Process] = []
        self._alive: dict[int, Process] = {}
        self.checkpoints: list[Moment] = []
        self.moments: list[Moment] = []
        self.samples: list[Moment] = []
        self.notes: list[str] = []
        self.aslr: bool | None = None
        self._start_time: int | None = None
        self._held: dict[int, tuple[Process, Moment | None]] = {}

    # ---- for whoever asked

    def begin(self, pid: int, personality: int | None) -> None:
        """Watch a process that is about to become the program."""
        self.root = Process(pid, getpid())
        self._alive[pid] = self.root
        self._start_time = _start_time_of(pid)
        self.aslr = _aslr(personality)
        self._began = time.monotonic()
        # Not a threading.Thread, whose start() and join() lose count when they are interrupted.
        _thread.start_new_thread(self._serve, ())

    def end(self) -> None:
        """The program has ended, or is to: what is left is let go."""
        with self._turn:
            self._ended = True
        with suppress(OSError):
            # Which wakes it; not only close(): a process forked meanwhile may have it, too.
            self._ours.shutdown(socket.SHUT_RDWR)
        if self._running:
            self._finished.wait()
        self._ours.close()
        self._theirs.close()
        for asking in self._asking.values():
            asking.close()
        for process in self._alive.values():
            if process is not self.root:
                process.missed.setdefault("exit", "it ran on when the run was over")

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        __tracebackhide__ = True
        if self._failed:
            raise self._failed

    # ---- the thread

    def _serve(self) -> None:
        with self._turn:  # whoever began it may have been interrupted, and not know that it runs
            if self._ended:
                return
            self._running = True
        try:
            while self._wait():
                pass
            self._hear_the_rest()
        except BaseException as exc:  # raised again by end()
            self._failed = exc
        finally:
            # Nothing is left held by us, whatever happened.
            if self._follower:
                self._follower.close()
            self._finished.set()

    def _wait(self) -> bool:
        """Wait for something, and do it; False: it is over."""
        poll = select.poll()
        handlers: dict[int, Callable[[], object]] = {}
        if self._follower:
            handlers[self._follower.fileno()] = self._hear_follower
        handlers[self._listener.socket.fileno()] = self._accept
        for fd in self._asking:
            handlers[fd] = lambda fd=fd: self._asked(fd)  # type: ignore[misc]  # a default binds it
        for fd in (self._theirs.fileno(), *handlers):
            poll.register(fd, select.POLLIN)
        ready = dict(poll.poll(self._pause()))
        if not ready and self._follower:
            self._follower.wake()
        for fd, handler in handlers.items():
            if fd in ready:
                handler()
        self._tick()
        return self._theirs.fileno() not in ready

    def _hear_the_rest(self) -> None:
        """What was told before the program ended."""
        while self._follower and _is_readable(self._follower.fileno()):
            self._hear_follower()

    def _pause(self) -> float | None:
        """Milliseconds until the next look."""
        if self._over or not (self._every or not self._follower):
            return _WAKE_EVERY if self._follower else None
        elapsed = time.monotonic() - self._began
        step = self._every or _LOOK_EVERY
        return min(step - elapsed % step, _LONGEST_PAUSE) * 1000

    _ticks = 0

    def _tick(self) -> None:
        """Look from time to time, if that was asked for and it is time."""
        step = self._every or (None if self._follower else _LOOK_EVERY)
        if not step or self._over:
            return
        ticks = int(self._seconds() / step)
        if ticks <= self._ticks:
            return
        self._ticks = ticks
        try:
            if not self._is_root_alive():
                self._over = True  # it has been waited for
                return
        except OSError:  # too many open files: the next time, perhaps
            return
        if not self._has_begun():
            return
        self._look(self.root, final=False)
        if self._every:
            self._sample()

    def _has_begun(self) -> bool:
        """Whether it is the program already, and not what starts it."""
        if not self.root.executed and not self._follower:
            try:
                executable = os.readlink(f"/proc/{self.root.pid}/exe")
            except OSError:  # not ours to read, so not our own
                executable = ""
            self.root.executed = os.path.basename(executable) != "pmaps-launch"
        return self.root.executed

    def _sample(self) -> None:
        moment = self._capture(self.root, "sample", self._sample_depth)
        if moment.snapshot and moment.snapshot.columns.start_time != self._start_time:
            self._over = True
        elif moment.snapshot is not None or not self._over:
            self.samples.append(moment)

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    # ---- capturing

    def _capture(
        self, process: Process, name: str, depth: Depth, *, held: bool = False, thread: int = 0
    ) -> Moment:
        seconds = self._seconds()
        try:
            request = Request(process.pid, depth, held=held, thread=thread)
            snapshot = Snapshot(Columns.capture(request))
        except ProcessGone as exc:
            if name == "sample":
                self._over = True
            return Moment(process.pid, name, seconds, None, str(exc))
        except PmapsError as exc:
            return Moment(process.pid, name, seconds, None, str(exc))
        process.peak.least = max(process.peak.least, snapshot.rss.bytes.bounds[0] or 0)
        return Moment(process.pid, name, seconds, snapshot)

    def _keep(self, process: Process, moment: Moment) -> None:
        process.moments.append(moment)
        self.moments.append(moment)

    def _look(self, process: Process, *, final: bool, thread: int = 0) -> None:
        path = f"/proc/{process.pid}/task/{thread}" if thread else f"/proc/{process.pid}"
        process.peak.look(read_text(f"{path}/status"), final=final)

    # ---- the follower

    def _hear_follower(self) -> None:
        assert self._follower is not None
        event = self._follower.hear()
        if event is None:
            self._lost()
            return
        if event.what == "l":
            self._late(event)
            return
        process = self._alive.get(event.pid)
        if process is None and event.what == "f":
            process = Process(event.pid, event.other, _args_of(event.pid))
            self._alive[event.pid] = process
            self.processes.append(process)
        if process is None:
            self._follower.let_go(event)
            return
        {
            "e": self._executed,
            "x": self._exiting,
            "d": self._died,
        }.get(event.what, _nothing)(process, event)

    def _lost(self) -> None:
        """The follower was killed: nothing more is seen, and all goes on."""
        if self._follower:
            self._follower.close()
            self._follower = None
        for process in self._alive.values():
            for name in self._at:
                process.missed.setdefault(name, "the follower was killed")
        self.notes.append("the follower was killed: what came after that was not seen")

    def _executed(self, process: Process, event: Event) -> None:
        assert self._follower is not None
        process.executed = True
        process.peak = Peak()
        process.args = _args_of(process.pid)
        if process is self.root:
            with suppress(ValueError):
                self.aslr = _aslr(int(read_text(f"/proc/{process.pid}/personality"), 16))
        if not may_trace_all() and (kind := privilege_lost(process.pid)):
            self.notes.append(_PRIVILEGE_NOTE.format(process.pid, _name_of(process), kind))
        moment = None
        if "exec" in self._at:
            moment = self._capture(process, "exec", self._depth, held=True)
        self._let_go(process, event, moment)

    def _exiting(self, process: Process, event: Event) -> None:
        assert self._follower is not None
        moment = None
        if process is self.root and not process.executed:
            process.missed["exit"] = "it ended before it became the program"
        elif self._has_anothers_memory(process):
            process.missed["exit"] = f"it ended in the memory of process {process.ppid}, as vfork()"
        else:
            self._look(process, final=True, thread=event.other)
        if "exit" in self._at and "exit" not in process.missed:
            still = not event.late
            moment = self._capture(process, "exit", self._depth, held=still, thread=event.other)
        process.returncode = returncode_of(event.value)
        if process.returncode in _LEAK_STATUSES and _has_leak_sanitizer(process.pid):
            self.notes.append(_LEAK_NOTE.format(process.pid, process.returncode))
        self._let_go(process, event, moment)
        self._alive.pop(process.pid, None)
        if process is self.root:
            self._over = True
        if event.late:
            self.notes.append(
                f"process {process.pid} was captured at its exit while {event.late} of its "
                "threads were not on their way out yet"
            )

    def _let_go(self, process: Process, event: Event, moment: Moment | None) -> None:
        """Let it go on, and keep what was captured until now."""
        assert self._follower is not None
        held = self._follower.let_go(event)
        if moment and not held:
            moment = replace(moment, snapshot=None, reason="the follower was killed meanwhile")
        if not held:
            process.peak.final = False
        self._held[event.hold] = (process, moment)
        if moment:
            self._keep(process, moment)

    @staticmethod
    def _has_anothers_memory(process: Process) -> bool:
        if process.executed or process.ppid in (0, getpid()):
            return False
        return same_mm(process.pid, process.ppid) is True

    def _died(self, process: Process, event: Event) -> None:
        process.returncode = returncode_of(event.value)
        process.missed["exit"] = "it was killed in the middle of a stop, and did not come by"
        self._alive.pop(process.pid, None)
        if process is self.root:
            self._over = True

    def _late(self, event: Event) -> None:
        """It went on before it was captured, and what was captured may be of any moment."""
        why = "that took too long, or this process was stopped meanwhile"
        reason = f"process {event.pid} was let go before it was captured: {why}"
        if event.value:
            reason = f"process {event.pid} was killed while it was captured"
        self.notes.append(reason)
        if event.hold not in self._held:
            return
        process, moment = self._held[event.hold]
        process.peak = Peak()
        if moment is None:
            return
        missed = replace(moment, snapshot=None, reason=reason)
        for moments in (process.moments, self.moments):
            moments[:] = [missed if each is moment else each for each in moments]

    # ---- checkpoints

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            asking, _ = self._listener.socket.accept()
            asking.setblocking(False)
            self._asking[asking.fileno()] = asking

    def _asked(self, fd: int) -> None:
        with self._asking.pop(fd) as asking:
            try:
                name = asking.recv(LONGEST).decode("utf-8", "replace")
            except OSError:
                return
            if not name:
                return
            raw = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid: int = _CREDENTIALS.unpack(raw)[0]
            done = self._checkpoint(asking, pid, name)
            with suppress(OSError):
                asking.send(b"y" if done else b"n", socket.MSG_NOSIGNAL)

    def _checkpoint(self, asking: socket.socket, pid: int, name: str) -> bool:
        if name in TRACED:
            self.notes.append(f"process {pid} calls a checkpoint {name!r}: that is a moment's name")
            return False
        if not self._is_ours(pid):
            reason = f"process {pid} asked, which is none of the run's, or no longer known as one"
            self.checkpoints.append(Moment(pid, name, self._seconds(), None, reason))
            self.moments.append(self.checkpoints[-1])
            return False
        process = self._alive.get(pid) or Process(pid)
        self._look(process, final=False)
        moment = self._capture(process, name, self._depth)
        if _has_hung_up(asking):
            # Its pid may be another's by now.
            reason = f"process {pid} ended, or lost patience, while it was captured"
            moment = replace(moment, snapshot=None, reason=reason)
        self._keep(process, moment)
        self.checkpoints.append(moment)
        return moment.snapshot is not None

    def _is_ours(self, pid: int) -> bool:
        """The program or a descendant; of an orphaned one only the follower knows."""
        for _ in range(1000):
            if pid in self._alive and (pid != self.root.pid or self._is_root_alive()):
                return True
            if pid <= 1 or pid == getpid():
                return False
            fields = stat_of(pid)
            if fields is None:
                return False
            pid = int(fields[PARENT])
        return False

    def _is_root_alive(self) -> bool:
        return _start_time_of(self.root.pid) == self._start_time


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _has_hung_up(asking: socket.socket) -> bool:
    poll = select.poll()
    poll.register(asking, 0)
    return bool(poll.poll(0))


def _has_leak_sanitizer(pid: int) -> bool:
    """As a library, or in the program itself."""
    if re.search(r"/lib(clang_rt\.)?[al]san[^/]*$", read_text(f"/proc/{pid}/maps"), re.MULTILINE):
        return True
    with (
        suppress(OSError, ValueError),
        open(f"/proc/{pid}/exe", "rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as program,
    ):
        return program.find(b"LeakSanitizer does not work under ptrace") >= 0
    return False


def _nothing(process: Process, event: Event) -> None:
    pass


def _args_of(pid: int) -> tuple[str, ...]:
    return tuple(read_text(f"/proc/{pid}/cmdline").split("\0")[:-1])


def _name_of(process: Process) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/{process.pid}/exe")
    return process.args[0] if process.args else "a program"


def _start_time_of(pid: int) -> int | None:
    fields = stat_of(pid)
    return int(fields[START]) if fields else None


def _aslr(personality: int | None) -> bool | None:
    here = read_line(_ASLR)
    if here == "0" or (personality is not None and personality & ADDR_NO_RANDOMIZE):
        return False
    return None if personality is None or not here else True
