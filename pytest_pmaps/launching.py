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
from typing import IO, Any, NamedTuple, Self, TypeAlias, TypedDict

from ._native import program_path
from .errors import AccessDenied, PmapsError
from .procfs import read_text

__all__ = ["Args", "Command", "Environment", "Launched", "Options", "launch", "pinned"]

Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Args: TypeAlias = Path | Sequence[Path]
Environment: TypeAlias = Mapping[str, str] | Mapping[bytes, bytes]
File: TypeAlias = int | IO[Any] | None

_WORD = struct.Struct("=c3xi")  # struct word of launch.c
_PATIENCE = 30.0  # for a program that has nothing to do but to say that it is there
ADDR_NO_RANDOMIZE = 0x0040000


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
        folders = [os.fsencode(folder) for folder in os.get_exec_path(_readable(env))]
        where = [name] if os.path.dirname(name) else [os.path.join(f, name) for f in folders]
        return cls(given, program, where)


def _readable(env: Environment | None) -> Mapping[str, str] | None:
    if env is None:
        return None
    return {os.fsdecode(key): os.fsdecode(value) for key, value in env.items()}


class Launched:
    """A process that waits to become the program."""

    def __init__(
        self, process: subprocess.Popen[Any], control: socket.socket, program: Path
    ) -> None:
        self.process = process
        self._control = control
        self._program = program
        self._control.settimeout(_PATIENCE)
        self.personality = self._ready()

    def go(self) -> None:
        """Become the program, if it can be executed."""
        with suppress(OSError):  # it was killed
            self._control.send(b"g", socket.MSG_NOSIGNAL)

    def check(self) -> None:
        """It has ended: raises what subprocess does where the program could not be executed.

        Only now is it asked: that its end of the socket closes tells nothing, since a process
        that was forked meanwhile may have it, too.
        """
        __tracebackhide__ = True
        self._control.setblocking(False)
        try:
            said = self._hear()
        except BlockingIOError:
            return
        if said:
            code = said[1]
            raise OSError(code, os.strerror(code), self._program)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._control.close()

    def give_up(self) -> None:
        """End it; nothing of the program has run."""
        self._control.close()
        self.process.kill()
        with self.process:
            pass

    def _ready(self) -> int | None:
        """Wait for it, and give the personality that the program starts with."""
        said = self._hear()
        if said is None or said[0] != b"r":
            self.give_up()
            raise PmapsError(
                f"the program was not started: pmaps-launch ended with {self.process.returncode}"
            )
        return said[1] if said[1] >= 0 else None

    def _hear(self) -> tuple[bytes, int] | None:
        try:
            got = self._control.recv(_WORD.size)
        except ConnectionError:  # it was killed with a word unread
            return None
        return _WORD.unpack(got) if len(got) == _WORD.size else None


def launch(
    command: Command, env: Environment | None, how: str, tracer: int, options: Options
) -> Launched:
    """Start ``pmaps-launch`` for a command, and wait until it is there.

    ``how``: ``"a"`` for no randomised addresses, ``"t"`` for no transparent huge pages.
    """
    __tracebackhide__ = True
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # By descriptor: the user that the process becomes may not reach the folder.
    own = os.open(program_path("pmaps-launch"), os.O_PATH | os.O_CLOEXEC)
    try:
        fds = (theirs.fileno(), own)
        argv: list[Path] = ["pmaps-launch", *map(str, fds), str(tracer), how or "-"]
        argv += [str(len(command.candidates)), *command.candidates, *command.argv]
        # Which of its many forms it is depends on options that are not known here.
        rest: dict[str, Any] = {**options, **_keeping(fds, options)}
        process = subprocess.Popen(argv, executable=f"/proc/self/fd/{own}", env=env, **rest)
        process.args = command.argv  # what a TimeoutExpired names
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(own)
    return Launched(process, ours, command.program)


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
        path = os.path.join(os.fsencode(cwd), candidate) if cwd else candidate
        if os.access(path, os.X_OK):
            kind = _privilege(path)
            if kind:
                raise AccessDenied(
                    f"{os.fsdecode(candidate)} {kind}: traced it would run without its privilege; "
                    "trace=False runs it as it is, without the moments exec and exit"
                )
            return


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
    given = _readable(env) if env is not None else os.environ
    assert given is not None
    tunables = [t for t in given.get(_TUNABLES, "").split(":") if t]
    if not any(t.startswith("glibc.mem.decorate_maps=") for t in tunables):
        tunables.append(_DECORATE)
    pins = {**_PINS, _TUNABLES: ":".join(tunables)}
    return {**pins, **(pin if isinstance(pin, Mapping) else {})}
