"""A follower's life: ``pmaps-follower``, which holds a process where it can be captured.

It is a process of its own for the same reason as the tracer: whoever traces a process sees its
stops in wait().
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

from ._native import program_path
from .errors import AccessDenied, PmapsError, Unsupported
from .procfs import STATE, stat_of
from .stopping import Program, why_denied

__all__ = ["Event", "Follower"]

_WORD = struct.Struct("=6i")  # struct word of follower.c
_PATIENCE = 10.0  # for an answer that takes microseconds


class Event(NamedTuple):
    """What the follower tells; see ``struct word`` in follower.c."""

    what: str
    pid: int
    other: int
    value: int
    late: int
    hold: int


class Follower:
    """A follower, and the words that go to and fro."""

    def __init__(self) -> None:
        # Datagrams, and an end: a word is one of them, and a follower that dies is heard.
        self._program = Program("follower", socket.SOCK_SEQPACKET)

    def start(self) -> None:
        """Run it; Unsupported where that cannot be."""
        __tracebackhide__ = True
        self._program.start(program_path("pmaps-follower"))

    @property
    def pid(self) -> int:
        """Its process."""
        return self._program.pid

    def fileno(self) -> int:
        """Readable when there is an event."""
        return self._program.channel.fileno()

    def follow(self, pid: int, *, tree: bool) -> None:
        """Have a process followed, which waits meanwhile; raises where that is refused."""
        __tracebackhide__ = True
        self._program.channel.settimeout(_PATIENCE)
        self._say("a", pid, int(tree))
        event = self.hear()
        self._program.channel.settimeout(None)
        code = event.value if event and event.what == "a" else errno.EPIPE
        if code:
            raise _explained(pid, code, self.pid)

    def let_go(self, event: Event) -> bool:
        """Let a process that is held go on; whether it has been held until now."""
        return self._say("g", event.pid, 0, event.hold)

    def wake(self) -> None:
        """Have it go on if somebody stopped it: what it holds stands still, too."""
        with suppress(OSError):
            stat = stat_of(self.pid)
            if stat and stat[STATE] == "T":
                os.kill(self.pid, signal.SIGCONT)  # not waited for yet, so it is still its pid

    def hear(self) -> Event | None:
        """The next event; None where there will be none, because it has ended."""
        try:
            got = self._program.channel.recv(_WORD.size)
        except OSError:
            return None
        if len(got) != _WORD.size:
            return None
        what, *rest = _WORD.unpack(got)
        return Event(chr(what), *rest)

    def close(self) -> None:
        """All that it follows is let go, and it has ended."""
        self._program.close()

    def _say(self, what: str, pid: int, value: int, hold: int = 0) -> bool:
        word = _WORD.pack(ord(what), pid, 0, value, 0, hold)
        try:
            self._program.channel.send(word, socket.MSG_NOSIGNAL)
        except OSError:  # it has ended, which hear() tells
            return False
        return True


def _explained(pid: int, code: int, own_tracer: int) -> PmapsError:
    without = "trace=False works without, for all but the moments exec and exit"
    if code == errno.EPERM:
        return AccessDenied(
            f"the program may not be followed: {why_denied(pid, own_tracer)}; {without}"
        )
    if code == errno.ENOSYS:
        return Unsupported(f"ptrace is forbidden here (a sandbox, or a seccomp filter); {without}")
    if code == errno.EPIPE:
        return PmapsError(f"the program was not followed: the follower was killed; {without}")
    return PmapsError(f"the program was not followed: {os.strerror(code)}; {without}")
