"""Saved snapshots: the RFC's text, JSON that holds everything, and recordings."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from . import jsonfile, rfctext
from ._native import RECORDING, Columns
from .errors import FormatError
from .reading import naming
from .snapshots import Snapshot

__all__ = ["dumps", "load", "loads", "replacing", "save", "write_atomically"]


def dumps(snapshot: Snapshot) -> str:
    """The snapshot as the 2007 proposal would have printed /proc/PID/pmaps.

    One line per mapping as in /proc/PID/maps, then ``index<TAB>count<TAB>YRAUPDW<TAB>mapcount``
    per range.  Unknown flags are ``?``, an unknown mapcount ``?``, ``2..?`` or ``2..3``.
    """
    return rfctext.render(snapshot.to_plain())


def loads(text: str) -> Snapshot:
    """Read either form; FormatError with line and reason for anything else."""
    if not isinstance(text, str):
        raise TypeError(f"a saved map is text, not {type(text).__name__}")
    if not text.strip():
        raise FormatError("it is empty: no process has an empty map")
    parse = jsonfile.parse if text.lstrip()[:1] in ("{", "[") and not _is_mapping(text) else None
    return Snapshot.from_plain(parse(text) if parse else rfctext.parse(text))


def _is_mapping(text: str) -> bool:
    return text.lstrip().startswith("[...]")


def save(snapshot: Snapshot, path: str | os.PathLike[str]) -> None:
    """Write all of it as JSON, atomically: a reader never sees half a file."""
    write_atomically(path, jsonfile.dump(snapshot.to_plain()))


def load(path: str | os.PathLike[str]) -> Snapshot:
    """Read a saved snapshot, JSON or RFC text, or a recording, from which it is captured once
    more; FormatError says what is wrong with it, OSError why it cannot be read.

    A recording of a capture that failed raises what the capture raised.
    """
    data = Path(path).read_bytes()
    with naming(path):
        if data.startswith(RECORDING):
            return Snapshot(Columns.replay(data))
        return loads(_text(data))


def _text(data: bytes) -> str:
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape").read()


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file by one step; on any failure the old one stays as it was."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


@contextmanager
def replacing(path: str | os.PathLike[str], mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` in one step when all went well; on any
    failure the old one stays as it was.  Its mode is the umask's where none is given.
    """
    target = Path(path)
    if target.exists() and not target.is_file():  # a device, say, which is not to be replaced
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as exc:
        raise type(exc)(exc.errno, exc.strerror, os.fspath(path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask() if mode is None else mode)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    # There is no way to ask without setting it; /proc says it without a moment of wrong mode.
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next((x for x in status.splitlines() if x.startswith("Umask:")), "Umask: 0022")
    return int(line.split()[1], 8)
