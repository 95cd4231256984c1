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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ._native import Columns, NotStopped, Request, tracer_path
from .errors import AccessDenied, PmapsError, Unsupported
from .procfs import behind_comm, read_line, read_text

__all__ = [
    "capture_stopped",
    "end_program",
    "may_trace_all",
    "start_program",
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
    if pid in (0, os.getpid()):
        raise PmapsError(_OURSELVES)
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            child = start_program("tracer", tracer_path(), str(pid), stdin=theirs.fileno())
        try:
            yield child, ours.fileno()
        finally:
            end_program(child, ours)
    finally:
        ours.close()


def start_program(what: str, path: str, *args: str, stdin: int) -> int:
    """Start one of our programs.  Not through subprocess, which tests patch; and fork() would
    make all of our memory shared, which is what others measure.
    """
    __tracebackhide__ = True
    null = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_WRONLY, 0) for n in (1, 2)]
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), *null]
    # Until it has turned its back on the terminal.
    held_back = [signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP]
    try:
        return os.posix_spawn(path, [path, *args], {}, file_actions=actions, setsigmask=held_back)
    except OSError as exc:
        raise Unsupported(f"the {what}, {path}, cannot be run: {exc.strerror}") from None


def end_program(child: int, ours: socket.socket) -> None:
    """Tell one of our programs to let go, and wait for its end; for that of no other child."""
    with suppress(OSError):
        # Not only close(): a process that was forked meanwhile may have the socket, too.
        ours.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + _PATIENCE
    _wait_for_hangup(ours)
    while not _reaped(child, os.WNOHANG):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)  # not reaped, so the pid is its own still
            _reaped(child, 0)
            return
        time.sleep(0.0001)


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
