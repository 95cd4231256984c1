"""Memory that a process holds by descriptors, mapped or not: ``held()``."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NoReturn

from .capture import pid_of
from .counts import Count
from .errors import AccessDenied, PmapsError, ProcessGone, Unsupported
from .procfs import getpid

__all__ = ["Held", "held"]

#: How /proc names what memfd_create() made.
_MEMFD = "/memfd:"


@dataclass(frozen=True, slots=True)
class Held:
    """A file that is only memory, and that nothing but descriptors and mappings keeps.

    ``fds`` are the descriptors of it, ``bytes`` is what it holds, swapped-out pages too, whoever
    put them there; ``mapped`` says how many bytes of it this process maps, 0: it is in no map.
    """

    name: str
    fds: tuple[int, ...]
    bytes: Count
    mapped: int
    device: tuple[int, int]
    inode: int


class _Proc:
    """A folder of /proc, held open: a pid that is used again is never read."""

    def __init__(self, pid: int) -> None:
        __tracebackhide__ = True
        self.who = "this process" if pid == getpid() else f"process {pid}"
        self.fd = self.fds = -1
        try:
            self.fd = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.fds = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as exc:
            self.close()
            self.refused(exc)

    def refused(self, exc: OSError) -> NoReturn:
        """Say why something cannot be read."""
        __tracebackhide__ = True
        # EINVAL: a zombie has no mounts any more.
        if exc.errno in (errno.ENOENT, errno.ESRCH, errno.EINVAL):
            raise ProcessGone(f"{self.who} does not exist, or has exited") from None
        if exc.errno in (errno.EACCES, errno.EPERM):
            raise AccessDenied(
                f"{self.who}: its descriptors may not be looked at: its owner may, or "
                "CAP_SYS_PTRACE, if it has not made itself undumpable"
            ) from None
        raise PmapsError(f"{self.who}: {exc.strerror}") from None

    def lines(self, name: str) -> list[str]:
        """A file of text."""
        __tracebackhide__ = True
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
            with open(fd, encoding="utf-8", errors="surrogateescape") as file:
                return file.read().splitlines()
        except OSError as exc:
            self.refused(exc)

    def descriptors(self) -> Iterator[tuple[int, str, os.stat_result]]:
        """Those that are still there when they are looked at."""
        __tracebackhide__ = True
        try:
            names = os.listdir(self.fds)
        except OSError as exc:
            self.refused(exc)
        for name in sorted(names, key=int):
            try:
                yield int(name), os.readlink(name, dir_fd=self.fds), os.stat(name, dir_fd=self.fds)
            except FileNotFoundError:
                continue
            except OSError as exc:
                self.refused(exc)

    def close(self) -> None:
        """Let go of it."""
        for fd in (self.fd, self.fds):
            if fd >= 0:
                os.close(fd)


def held(target: object = None) -> tuple[Held, ...]:
    """Files that are only memory and that a process has open: memfds, and deleted files of tmpfs
    (``/dev/shm``, and ``O_TMPFILE`` there), each once, those that hold most first.

    What is not mapped is in no RSS and in no snapshot: ``sum(h.bytes for h in held())`` has it.
    Other processes may hold the same file; nothing says which.  Where the file system of a deleted
    file is in no mount of the process, it may be memory or disk: its ``bytes`` begin at 0.

    Raises ProcessGone, AccessDenied, Unsupported, TypeError for what is no target.
    """
    __tracebackhide__ = True
    if os.uname().sysname != "Linux":
        raise Unsupported(f"pytest-pmaps reads Linux's /proc, and this is {os.uname().sysname}")
    with closing(_Proc(pid_of(target) or getpid())) as proc:
        kinds = _file_systems(proc.lines("mountinfo"))
        found: dict[tuple[int, int], tuple[str, list[int], os.stat_result]] = {}
        for fd, name, about in proc.descriptors():
            if stat.S_ISREG(about.st_mode) and about.st_nlink == 0:
                key = about.st_dev, about.st_ino
                found.setdefault(key, (name, [], about))[1].append(fd)
        maps = _mapped(proc.lines("maps")) if found else {}
    files = [_held(name, fds, about, kinds, maps) for name, fds, about in found.values()]
    return tuple(sorted((f for f in files if f), key=lambda f: -(f.bytes.bytes.bounds[1] or 0)))


def _held(
    name: str,
    fds: list[int],
    about: os.stat_result,
    kinds: dict[tuple[int, int], str],
    maps: dict[tuple[int, int, int], list[tuple[int, int]]],
) -> Held | None:
    device = os.major(about.st_dev), os.minor(about.st_dev)
    memfd = name.startswith(_MEMFD)
    kind = "tmpfs" if memfd else kinds.get(device, "")
    if kind not in ("tmpfs", "hugetlbfs", ""):
        return None
    size = about.st_blocks * 512
    count = Count(
        size if kind else 0,
        size,
        page_size=mmap.PAGESIZE,
        label=name,
        remedy="" if kind else "its file system is in no mount of the process",
    )
    mapped = _union(maps.get((*device, about.st_ino), []))
    return Held(name.removesuffix(" (deleted)"), tuple(fds), count, mapped, device, about.st_ino)


def _file_systems(mountinfo: list[str]) -> dict[tuple[int, int], str]:
    """Of each device that is mounted, what it is."""
    found = {}
    for line in mountinfo:
        before, _, after = line.partition(" - ")
        major, _, minor = before.split()[2].partition(":")
        found[int(major), int(minor)] = after.split()[0]
    return found


def _mapped(maps: list[str]) -> dict[tuple[int, int, int], list[tuple[int, int]]]:
    """Of each file that is mapped, by device and inode, the parts of it."""
    found: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    for line in maps:
        span, _, offset, device, inode = line.split(maxsplit=5)[:5]
        start, end = (int(end, 16) for end in span.split("-"))
        major, minor = (int(part, 16) for part in device.split(":"))
        at = int(offset, 16)
        found.setdefault((major, minor, int(inode)), []).append((at, at + end - start))
    return found


def _union(parts: list[tuple[int, int]]) -> int:
    """Bytes in any of the parts."""
    total, reached = 0, 0
    for start, end in sorted(parts):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
