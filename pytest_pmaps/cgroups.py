"""What a cgroup is charged for, of which a process is a member: ``cgroup()``."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Self

from .capture import pid_of
from .counts import Count
from .errors import AccessDenied, PmapsError, ProcessGone, Unsupported
from .procfs import getpid

__all__ = ["Cgroup", "CgroupPeak", "cgroup"]

#: What its numbers are of, where a process's own are expected.
_MORE = "of all processes in the cgroup, with page cache, page tables, slab and tmpfs"

#: What of memory.stat is no number of bytes: it counts events, or pages that went by.
_EVENTS = ("pg", "workingset_", "thp_", "numa_", "zswpin", "zswpout", "zswpwb", "swpin_", "swpout_")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """What a cgroup (v2) was charged for when it was asked; ``path`` is its folder.

    ``current`` is everything: of each process in it and below it, of some that have ended, and with
    page cache, page tables, slab and tmpfs.  ``peak`` is the most it ever was (Linux 5.19),
    ``swap`` what is swapped out; None where the kernel does not say.  ``stat`` has the parts, in
    bytes, by the kernel's names: ``anon``, ``file``, ``kernel``, ``shmem``, ...

    ``processes`` are those that are in it now, not below it; 0 stands for those of other pid
    namespaces.
    """

    path: str
    current: Count
    peak: Count | None
    swap: Count | None
    stat: Mapping[str, int]
    processes: tuple[int, ...]

    def watch(self) -> CgroupPeak:
        """The most it is charged for in a ``with`` block: ``memory.peak``, reset for us alone.

        Entering raises Unsupported before Linux 6.12, AccessDenied where it may not be written.
        """
        return CgroupPeak(self.path)


class CgroupPeak:
    """A window over what a cgroup is charged for; see :meth:`Cgroup.watch`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._peak: int | None = None

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        if self._fd >= 0 or self._peak is not None:
            raise ValueError("a window is for one with block: begin another one with watch()")
        name = f"{self._path}/memory.peak"
        try:
            self._fd = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            os.write(self._fd, b"reset\n")
        except OSError as exc:
            self._close()
            if exc.errno == errno.EACCES and os.access(name, os.R_OK) and _writable(name):
                raise AccessDenied(f"{name} may not be written: it is its owner's") from None
            if exc.errno in (errno.EINVAL, errno.EACCES, errno.EBADF, errno.ENOENT):
                raise Unsupported(
                    f"{name} cannot be reset here: it takes Linux 6.12, and a cgroup of our own"
                ) from None
            raise PmapsError(f"{name}: {exc.strerror}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        try:
            if kind is None:
                self._peak = int(os.pread(self._fd, 64, 0))
        except OSError as gone:
            raise PmapsError(f"{self._path}: {gone.strerror}: the cgroup was removed") from None
        finally:
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    @property
    def peak(self) -> Count:
        """The most it was charged for in the block."""
        __tracebackhide__ = True
        if self._peak is None:
            raise ValueError("ask when the with block has ended: it has not, or it failed")
        return _count(self._peak, "memory.peak")

    def __repr__(self) -> str:
        return "<CgroupPeak: not ended>" if self._peak is None else f"<CgroupPeak: {self.peak}>"


def _writable(name: str) -> bool:
    """Whether somebody may write it, so that this kernel can reset it."""
    return bool(os.stat(name).st_mode & 0o222)


def cgroup(target: object = None) -> Cgroup:
    """What the cgroup is charged for that a process is in; cgroup v2, no privilege needed.

    These are no numbers of the process: they are of all processes in the cgroup and below it, and
    count what no process maps (page cache, page tables, slab, tmpfs).  The kernel charges in
    batches of 64 pages for each CPU.  In a container, or a systemd scope of its own, that is what
    a limit applies to.

    Raises Unsupported, which says why, where there are no such numbers: cgroup v1, the root
    cgroup, no memory controller, no cgroup file system; ProcessGone, AccessDenied, TypeError for
    what is no target.
    """
    __tracebackhide__ = True
    if os.uname().sysname != "Linux":
        raise Unsupported(f"cgroups are Linux's, and this is {os.uname().sysname}")
    pid = pid_of(target) or getpid()
    path = _folder(_lines(f"/proc/{pid}/cgroup", pid), _lines("/proc/self/mountinfo", pid))
    return _read(path)


def _read(path: str) -> Cgroup:
    __tracebackhide__ = True
    current = _number(path, "memory.current")
    if current is None:
        raise Unsupported(_why_nothing(path))
    peak, swap = _number(path, "memory.peak"), _number(path, "memory.swap.current")
    return Cgroup(
        path,
        _count(current, "memory.current"),
        None if peak is None else _count(peak, "memory.peak"),
        None if swap is None else _count(swap, "memory.swap.current"),
        MappingProxyType(_stat(_text(path, "memory.stat") or "")),
        tuple(int(line) for line in (_text(path, "cgroup.procs") or "").split()),
    )


def _folder(membership: list[str], mounts: list[str]) -> str:
    """Where the cgroup of a process lies, by its /proc/PID/cgroup and our mountinfo."""
    __tracebackhide__ = True
    for line in membership:
        _, controllers, place = line.split(":", 2)
        if "memory" in controllers.split(","):
            raise Unsupported(f"memory is accounted by cgroup v1 here ({place}); v2 is asked for")
    found = [line.split(":", 2)[2] for line in membership if line.startswith("0::")]
    if not found:
        raise Unsupported("this process is in no cgroup of v2: the kernel has none, or it is off")
    place = found[0].removesuffix(" (deleted)")
    if place.startswith("/.."):
        raise Unsupported(f"its cgroup ({place}) lies outside of our cgroup namespace")
    for line in mounts:
        before, _, after = line.partition(" - ")
        root, point = (_unescaped(part) for part in before.split()[3:5])
        if after.split()[0] == "cgroup2" and (place + "/").startswith(root.rstrip("/") + "/"):
            return point + place[len(root.rstrip("/")) :].rstrip("/")
    raise Unsupported("the cgroup file system of v2 is not mounted here, or not that part of it")


def _unescaped(text: str) -> str:
    """Mountinfo writes blanks and backslashes in octal."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


def _why_nothing(path: str) -> str:
    if _text(path, "cgroup.type") is None:
        if _text(path, "cgroup.procs") is None:
            return f"{path} cannot be read: the cgroup was removed, or lies in another namespace"
        return "the root cgroup has no numbers of its own: put the process into a cgroup"
    return (
        f"the memory controller is off for {path}: its parent's cgroup.subtree_control does not "
        "have it"
    )


def _stat(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {name: int(number) for name, number in pairs if not name.startswith(_EVENTS)}


def _count(size: int, label: str) -> Count:
    return Count(size, size, page_size=mmap.PAGESIZE, label=label, note=_MORE)


def _number(path: str, name: str) -> int | None:
    text = _text(path, name)
    return None if text is None else int(text)


def _text(path: str, name: str) -> str | None:
    """A file of the cgroup; None where there is none."""
    __tracebackhide__ = True
    try:
        with open(f"{path}/{name}", encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        if exc.errno in (errno.ENODEV, errno.EOPNOTSUPP):  # removed; procs of a threaded cgroup
            return None
        raise AccessDenied(f"{path}/{name} may not be read: {exc.strerror}") from None


def _lines(path: str, pid: int) -> list[str]:
    __tracebackhide__ = True
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGone(f"process {pid} does not exist, or has exited") from None
    except OSError as exc:
        raise AccessDenied(f"{path} may not be read: {exc.strerror}") from None
