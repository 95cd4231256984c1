"""Holding a target still while it is captured, through ``pmaps-tracer``.

The tracer is a process of its own.  Whoever traces a process is told of its stops by wait(),
so tracing from here would make ``Popen.wait()`` return while the child lives.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import starmap
from pathlib import Path

from ._native import Columns, NotStopped, Request, tracer_path
from .errors import AccessDenied, PmapsError, Unsupported
from .procfs import behind_comm, getpid, read_line, read_text

__all__ = [
    "Program",
    "capture_stopped",
    "may_trace_all",
    "tracer",
    "why_denied",
]

_CAP_SYS_PTRACE = 19
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")

#: Until the tracer must have let go and ended; it takes microseconds.
_PATIENCE = 5.0


def capture_stopped(
    request: Request, capture: Callable[[Request], Columns] = Columns.capture
) -> Columns:
    """Capture a process that stands still meanwhile; ``request`` is without a stopper.

    Raises, on top of what any capture does, AccessDenied where it may not be traced, Unsupported
    where nothing may, and PmapsError where it would not stop, or did not stay stopped.
    """
    __tracebackhide__ = True
    with tracer(request.pid) as (pid, stopper):
        try:
            columns = capture(replace(request, stopper=stopper))
        except NotStopped as exc:
            raise _explained(request.pid, exc.code, pid) from None
    if not columns.stopped_ns:
        raise PmapsError(
            f"process {request.pid} went on before it was captured: its tracer has ended, or "
            "let go because this process was stopped itself"
        )
    return columns


@contextmanager
def tracer(pid: int) -> Iterator[tuple[int, int]]:
    """A tracer for a process, its pid and the descriptor by which the engine talks to it.

    At the end, whatever happened, the target runs and the tracer has ended.
    """
    __tracebackhide__ = True
    if pid in (0, getpid()):
        raise PmapsError(_OURSELVES)
    program = Program("tracer", socket.SOCK_STREAM)
    try:
        program.start(tracer_path(), str(pid))
        yield program.pid, program.channel.fileno()
    finally:
        program.close()


class Program:
    """One of our programs that trace, and the socket to it.

    It is made before there is anything to be lost: whoever may be interrupted at any time, by the
    exception of a signal handler, sees to it that it is closed, and starts it then.
    """

    def __init__(self, what: str, kind: socket.SocketKind) -> None:
        self._what = what
        self._kind = kind
        self._ours: socket.socket | None = None
        self._pids: list[int] = []
        self._closing = threading.Lock()
        self._forgotten = weakref.finalize(self, _abandon, self._pids, getpid())

    @property
    def pid(self) -> int:
        """Its process."""
        return self._pids[0]

    @property
    def channel(self) -> socket.socket:
        """Our end."""
        assert self._ours is not None
        return self._ours

    def start(self, path: str, *args: str) -> None:
        """Run it; Unsupported where that cannot be."""
        __tracebackhide__ = True
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, self._kind)
        with theirs:
            try:
                # In one go: between a call and keeping what it gave, a signal's handler may run.
                self._pids.extend(starmap(_spawning(path, *args, stdin=theirs.fileno()), [()]))
            except OSError as exc:
                reason = f"the {self._what}, {path}, cannot be run: {exc.strerror}"
                raise Unsupported(reason) from None

    def close(self) -> None:
        """It has let go of everything, and has ended."""
        with self._closing:
            if self._ours:
                with self._ours:
                    self._end(self._ours)
            self._forgotten.detach()

    def _end(self, ours: socket.socket) -> None:
        if self._pids:
            try:
                _end_program(self._pids[0], ours)
            finally:
                self._pids.clear()  # it may be another's now


def _abandon(pids: list[int], owner: int) -> None:
    """What an interruption kept from being closed.  A process that was forked meanwhile has it,
    too, and it is none of its children.
    """
    if pids and getpid() == owner:
        _kill(pids.pop())


def _spawning(path: str, *args: str, stdin: int) -> Callable[[], int]:
    """What starts one of our programs.  Not through subprocess, which tests patch; and fork()
    would make all of our memory shared, which is what others measure.
    """
    null = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_WRONLY, 0) for n in (1, 2)]
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), *null]
    # Until it has turned its back on the terminal.
    held_back = [signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP]
    argv = [path, *args]
    return partial(os.posix_spawn, path, argv, {}, file_actions=actions, setsigmask=held_back)


def _end_program(child: int, ours: socket.socket) -> None:
    """Tell one of our programs to let go, and wait for its end; for that of no other child."""
    try:
        with suppress(OSError):
            # Not only close(): a process that was forked meanwhile may have the socket, too.
            ours.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + _PATIENCE
        _wait_for_hangup(ours)
        while not _reaped(child, os.WNOHANG):
            if time.monotonic() > deadline:
                _kill(child)
                return
            time.sleep(0.0001)
    except BaseException:
        _kill(child)
        raise


def _kill(child: int) -> None:
    if not _reaped(child, os.WNOHANG):
        os.kill(child, signal.SIGKILL)  # not reaped, so the pid is its own still
        _reaped(child, 0)


def _wait_for_hangup(ours: socket.socket) -> None:
    """Its end closes when it ends, a moment before it can be waited for."""
    poll = select.poll()
    poll.register(ours, 0)
    poll.poll(_PATIENCE * 1000)


def _reaped(child: int, options: int) -> bool:
    try:
        return os.waitpid(child, options)[0] == child
    except ChildProcessError:  # somebody here waits for every child there is
        return True


# ---- why not

_OURSELVES = (
    "stop=True is for other processes: this one cannot stand still while it captures itself"
)


def _explained(pid: int, code: int, own_tracer: int) -> PmapsError:
    who = f"process {pid}"
    if code == errno.EDEADLK:
        return PmapsError(_OURSELVES)
    if code == errno.EPERM:
        return AccessDenied(f"{who} may not be stopped: {why_denied(pid, own_tracer)}")
    if code == errno.ENOSYS:
        return Unsupported(
            "ptrace is forbidden here (a sandbox, or a seccomp filter): no stop=True"
        )
    if code == errno.ETIMEDOUT:
        return PmapsError(f"{who} did not stop within 2 s, and goes on: {_why_not_in_time(pid)}")
    if code == errno.EPIPE:
        return PmapsError(f"{who} was not stopped: its tracer was killed")
    return PmapsError(f"{who} was not stopped: {os.strerror(code)}")


def why_denied(pid: int, own_tracer: int) -> str:
    """Why the kernel lets nobody trace a process, where it said no."""
    other = _traced_by(pid) - {0, own_tracer}
    if other:
        names = " and ".join(f"process {n} ({_comm(n)})" for n in sorted(other))
        return f"{names} traces it already; only one can"
    scope = read_line(_YAMA)
    if scope in _SCOPES and not may_trace_all():
        return f"{_YAMA} is {scope}: {_SCOPES[scope]}"
    return "a security module or a container's profile forbids it (AppArmor, SELinux, seccomp)"


_PRIVILEGE = "run as root or with CAP_SYS_PTRACE (docker: --cap-add SYS_PTRACE)"
_SCOPES = {
    "1": f"{_PRIVILEGE}, or let the target call prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY)",
    "2": _PRIVILEGE,
    "3": "nothing may be traced until this host is started anew",
}


def _traced_by(pid: int) -> set[int]:
    """The tracers of its threads."""
    lines = [line for task in _tasks(pid) for line in read_line(task / "status").splitlines()]
    return {int(line.split()[1]) for line in lines if line.startswith("TracerPid:")}


def _why_not_in_time(pid: int) -> str:
    stuck = [f"{task.name} ({_comm(int(task.name))})" for task in _tasks(pid) if _is_stuck(task)]
    if not stuck:
        return "threads came faster than they could be stopped, or got no time to run"
    named = ", ".join(stuck[:3]) + (", …" if len(stuck) > 3 else "")
    return f"in uninterruptible sleep (a disk, or vfork() until its child has exec'ed): {named}"


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _is_stuck(task: Path) -> bool:
    return behind_comm(read_text(task / "stat"))[:1] == ["D"]


def may_trace_all() -> bool:
    """Whether this process has CAP_SYS_PTRACE."""
    lines = read_line(Path("/proc/self/status")).splitlines()
    (effective,) = (int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return bool(effective >> _CAP_SYS_PTRACE & 1)


def _comm(pid: int) -> str:
    return read_line(Path(f"/proc/{pid}/comm"))
