"""Starting a program that is to be followed, as subprocess would start it.

``subprocess`` makes the process, with all that it has to offer, and ``pmaps-launch`` runs in it
until somebody follows; then it becomes the program.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, NamedTuple, TypeAlias, TypedDict

from ._native import program_path
from .errors import AccessDenied, PmapsError
from .procfs import read_text

__all__ = ["Args", "Command", "Environment", "Launched", "Options", "pinned", "readable"]

Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Args: TypeAlias = Path | Sequence[Path]
Environment: TypeAlias = Mapping[str, str] | Mapping[bytes, bytes]
File: TypeAlias = int | IO[Any] | None

_WORD = struct.Struct("=c3xi")  # struct word of launch.c
_PATIENCE = 30.0  # for a program that has nothing to do but to say that it is there
ADDR_NO_RANDOMIZE = 0x0040000
_SCRIPTS = 5  # that the kernel goes through, each the interpreter of the one before
_FIRST_LINE = 256  # bytes that it looks at


class Options(TypedDict, total=False):
    """What is passed on to ``subprocess.Popen`` as it is."""

    bufsize: int
    stdin: File
    stdout: File
    stderr: File
    text: bool | None
    universal_newlines: bool | None
    encoding: str | None
    errors: str | None
    cwd: Path | None
    user: str | int | None
    group: str | int | None
    extra_groups: Iterable[str | int] | None
    umask: int
    start_new_session: bool
    process_group: int | None
    pass_fds: Collection[int]
    close_fds: bool
    restore_signals: bool
    pipesize: int
    preexec_fn: Callable[[], Any] | None


class Command(NamedTuple):
    """What to execute: the arguments from the program's name on, and where it may be."""

    argv: list[Path]
    program: Path
    candidates: list[bytes]

    @classmethod
    def of(
        cls, args: Args, shell: bool, executable: Path | None, env: Environment | None
    ) -> Command:
        """As subprocess understands them."""
        given: list[Path]
        if isinstance(args, (str, bytes, os.PathLike)):
            given = [args]
        else:
            given = list(args)
        if shell:
            given = [executable or "/bin/sh", "-c", *given]
        if not given:
            raise ValueError("no program to run: args is empty")
        program = executable or given[0]
        name = os.fsencode(program)
        folders = [
            os.fsencode(folder)
            for folder in os.get_exec_path(None if env is None else readable(env))
        ]
        where = [name] if os.path.dirname(name) else [os.path.join(f, name) for f in folders]
        return cls(given, program, where)


def readable(env: Environment) -> dict[str, str]:
    """An environment in text, in which a variable cannot be there twice."""
    return {os.fsdecode(key): os.fsdecode(value) for key, value in env.items()}


class Launched:
    """A process that waits to become the program, from before it is started."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._started: subprocess.Popen[Any] | None = None
        self._control: socket.socket | None = None
        self.personality: int | None = None

    @property
    def process(self) -> subprocess.Popen[Any]:
        """Once it is started."""
        assert self._started is not None
        return self._started

    def start(self, env: Environment, how: str, tracer: int, options: Options) -> None:
        """Start ``pmaps-launch`` for the command, and wait until it is there.

        ``how``: ``"a"`` for no randomised addresses, ``"t"`` for no transparent huge pages.
        """
        __tracebackhide__ = True
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # By descriptor: the user that the process becomes may not reach the folder.
        with theirs, open(program_path("pmaps-launch"), "rb", buffering=0) as own:
            fds = (theirs.fileno(), own.fileno())
            self._started = _popen(self._command, fds, env, how, tracer, options)
        self._started.args = self._command.argv  # what a TimeoutExpired names
        self._control.settimeout(_PATIENCE)
        self.personality = self._ready()

    def go(self) -> None:
        """Become the program, if it can be executed."""
        assert self._control is not None
        with suppress(OSError):  # it was killed
            self._control.send(b"g", socket.MSG_NOSIGNAL)

    def check(self) -> None:
        """It has ended: raises what subprocess does where the program could not be executed.

        Only now is it asked: that its end of the socket closes tells nothing, since a process
        that was forked meanwhile may have it, too.
        """
        __tracebackhide__ = True
        assert self._control is not None
        self._control.setblocking(False)
        try:
            said = self._hear()
        except BlockingIOError:
            return
        if said:
            code = said[1]
            raise OSError(code, os.strerror(code), self._command.program)

    def kill(self) -> None:
        """End it, unless it has."""
        if self._started:
            self._started.kill()

    def reap(self) -> None:
        """Nobody holds it, so it ends: nothing of it is left."""
        if self._control:
            self._control.close()  # where it waits for a word still, it ends now
        self.kill()  # which may have been interrupted
        if self._started:
            with self._started:
                pass

    def _ready(self) -> int | None:
        """Wait for it, and give the personality that the program starts with."""
        said = self._hear()
        if said is None or said[0] != b"r":
            self.kill()
            self.reap()
            raise PmapsError(
                f"the program was not started: pmaps-launch ended with {self.process.returncode}"
            )
        return said[1] if said[1] >= 0 else None

    def _hear(self) -> tuple[bytes, int] | None:
        assert self._control is not None
        try:
            got = self._control.recv(_WORD.size)
        except ConnectionError:  # it was killed with a word unread
            return None
        return _WORD.unpack(got) if len(got) == _WORD.size else None


def _popen(
    command: Command,
    fds: tuple[int, int],
    env: Environment,
    how: str,
    tracer: int,
    options: Options,
) -> subprocess.Popen[Any]:
    __tracebackhide__ = True
    argv: list[Path] = ["pmaps-launch", *map(str, fds), str(tracer), how or "-"]
    argv += [str(len(command.candidates)), *command.candidates, *command.argv]
    own = f"/proc/self/fd/{fds[1]}"
    # Which of its many forms it is depends on options that are not known here.
    rest: dict[str, Any] = {**options, **_keeping(fds, options)}
    try:
        return subprocess.Popen(argv, executable=own, env=env, **rest)
    except OSError as exc:
        if exc.filename == own:  # too many arguments, say: it is the program that has them
            raise OSError(exc.errno, exc.strerror, command.program) from None
        raise


def _keeping(fds: tuple[int, ...], options: Options) -> Options:
    """Have two more descriptors passed on."""
    passed = tuple(options.get("pass_fds", ()))
    if options.get("close_fds", True) or passed:
        return {"pass_fds": (*passed, *fds)}
    for fd in fds:
        os.set_inheritable(fd, True)
    return {}


# ---- what does not go together with being traced


def check_privilege(command: Command, cwd: Path | None, *, may_trace_all: bool) -> None:
    """Refuse a program that would lose its privilege by being traced."""
    __tracebackhide__ = True
    for candidate in () if may_trace_all else command.candidates:
        folder = os.fsencode(cwd or b"")
        path = os.path.join(folder, candidate)
        if os.access(path, os.X_OK):
            executed = _interpreter(path, folder)
            kind = _privilege(executed)
            if kind:
                name = os.fsdecode(candidate)
                if executed != path:
                    name += f" is run by {os.fsdecode(executed)}, which"
                raise AccessDenied(
                    f"{name} {kind}: traced it would run without its privilege; "
                    "trace=False runs it as it is, without the moments exec and exit"
                )
            return


def _interpreter(path: bytes, folder: bytes) -> bytes:
    """What the kernel executes for a script, which may be another; whose ids and capabilities it
    ignores.
    """
    with suppress(OSError):
        for _ in range(_SCRIPTS):
            with open(path, "rb") as file:
                first = file.read(_FIRST_LINE).partition(b"\n")[0]
            words = re.split(rb"[ \t\0]+", first.removeprefix(b"#!").strip(b" \t"), maxsplit=1)
            if not first.startswith(b"#!") or not words[0]:
                break
            path = os.path.join(folder, words[0])
    return path


def _privilege(path: bytes) -> str:
    with suppress(OSError):
        mode = os.stat(path).st_mode
        if mode & stat.S_ISUID:
            return "is a setuid program"
        if mode & stat.S_ISGID and mode & stat.S_IXGRP:
            return "is a setgid program"
        if os.getxattr(path, "security.capability"):
            return "has capabilities"
    return ""


def privilege_lost(pid: int) -> str:
    """What a program that was executed just now would have had, had it not been traced;
    ``""`` where it lacks nothing, or may not be asked.
    """
    path = f"/proc/{pid}/exe"
    kind = _privilege(os.fsencode(path))
    if not kind or kind == "has capabilities":
        return kind
    ids = dict(re.findall(r"\n(Uid|Gid):\s+\d+\s+(\d+)", read_text(f"/proc/{pid}/status")))
    with suppress(OSError, KeyError):
        file = os.stat(path)
        name, owner = ("Uid", file.st_uid) if file.st_mode & stat.S_ISUID else ("Gid", file.st_gid)
        return kind if int(ids[name]) != owner else ""
    return ""


# ---- the same every time

#: What makes malloc, hashing and huge pages the same in each run.  Thresholds that are set are
#: not adjusted by what the program happens to free.
_PINS = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TOP_PAD_": "131072",
    "PYTHONHASHSEED": "0",
}
_TUNABLES = "GLIBC_TUNABLES"
_DECORATE = "glibc.mem.decorate_maps=1"


def pinned(env: Environment | None, pin: bool | Mapping[str, str]) -> dict[str, str]:
    """The variables that ``pin`` sets in an environment."""
    if not pin:
        return {}
    if not isinstance(pin, bool | Mapping):
        raise TypeError(f"pin is True, or a mapping of variables to set, not {pin!r}")
    given = os.environ if env is None else readable(env)
    tunables = [t for t in given.get(_TUNABLES, "").split(":") if t]
    if not any(t.startswith("glibc.mem.decorate_maps=") for t in tunables):
        tunables.append(_DECORATE)
    pins = {**_PINS, _TUNABLES: ":".join(tunables)}
    return {**pins, **(readable(pin) if isinstance(pin, Mapping) else {})}
