"""Small files of /proc and /sys that are read from Python: which process is which, say.

What is measured is read by the engine; these only say whom it is measured of.
"""

from __future__ import annotations

import os
from os import getpid  # as it is: tests of servers replace os.getpid
from pathlib import Path

__all__ = [
    "PARENT",
    "START",
    "STATE",
    "behind_comm",
    "chosen",
    "getpid",
    "has_ended",
    "read_line",
    "read_text",
    "stat_of",
]

# Bound here: tests replace the built-in one.
_open = open

#: Where fields of /proc/PID/stat stand behind comm, of which the first is the third of the file.
STATE, PARENT, START = 3 - 3, 4 - 3, 22 - 3


def read_text(path: str | Path) -> str:
    """A file; ``""`` where it cannot be read."""
    try:
        with _open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def read_line(path: str | Path) -> str:
    """A file of one line, without its end; ``""`` where it cannot be read."""
    return read_text(path).strip()


def chosen(text: str) -> str:
    """What a file of /sys marks as chosen: ``always [madvise] never`` → ``madvise``."""
    return text.partition("[")[2].partition("]")[0]


def behind_comm(stat: str) -> list[str]:
    """The fields of a stat file from the state on: comm, before it, may hold anything."""
    return stat.rpartition(")")[2].split()


def stat_of(pid: int | str) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` from the state on; None where there is no such process.

    Raises OSError where that cannot be told (too many open files).
    """
    try:
        with _open(f"/proc/{pid}/stat", encoding="utf-8", errors="surrogateescape") as file:
            return behind_comm(file.read()) or None
    except (FileNotFoundError, ProcessLookupError):
        return None


def has_ended(pid: int, stat: list[str] | None) -> bool:
    """Whether all of a process that is still shown has ended, and it waits to be reaped.

    Its first thread may have ended while others run on in the same memory.
    """
    if stat is None or stat[STATE] not in ("Z", "X"):
        return False
    try:
        return len(os.listdir(f"/proc/{pid}/task")) == 1
    except OSError:
        return False
