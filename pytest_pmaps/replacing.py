"""Files that are written in one step, so that nobody ever sees half of one."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["check_replaceable", "replacing", "write_atomically"]


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file by one step, as :func:`replacing` does."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


@contextmanager
def replacing(path: str | os.PathLike[str], mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` in one step when all went well; on any
    failure the old one stays as it was.

    Where ``path`` is a symbolic link, what it leads to is replaced or made, and the link stays.
    Where no ``mode`` is given it is that of the old file, else the umask's.

    Raises OSError, and PermissionError for a file that may not be written: a folder that may be
    is enough to replace it, but mode 0444 is its owner's word (version control that locks what
    is not checked out gives it).  That holds for root as well.
    """
    target, old = _target(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as exc:
        raise type(exc)(exc.errno, exc.strerror, os.fspath(path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _mode(old) if mode is None else mode)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise the OSError of :func:`replacing`, as far as it can be told without writing."""
    target, _ = _target(path)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        there = target.parent.is_dir()
        raise _error(errno.EACCES if there else errno.ENOENT, target.parent)


def _target(path: str | os.PathLike[str]) -> tuple[Path, os.stat_result | None]:
    """What is to be replaced, and what it is now if it is there; OSError if it must not be."""
    target = Path(os.path.realpath(path))
    try:
        old = os.stat(path)
    except FileNotFoundError:
        return target, None
    if not stat.S_ISREG(old.st_mode):  # a device, say
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    if not old.st_mode & 0o222 or not os.access(target, os.W_OK):
        raise _error(errno.EACCES, path)
    return target, old


def _error(code: int, path: str | os.PathLike[str]) -> OSError:
    return OSError(code, os.strerror(code), os.fspath(path))


def _mode(old: os.stat_result | None) -> int:
    return 0o666 & ~_umask() if old is None else old.st_mode & 0o777


def _umask() -> int:
    # There is no way to ask without setting it; /proc says it without a moment of wrong mode.
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next((x for x in status.splitlines() if x.startswith("Umask:")), "Umask: 0022")
    return int(line.split()[1], 8)
