"""Saved snapshots: the RFC's text, and JSON that holds everything."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from . import jsonfile, rfctext
from .errors import FormatError
from .snapshots import Snapshot

__all__ = ["dumps", "load", "loads", "save", "write_atomically"]


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
    """Read a saved snapshot, JSON or RFC text; FormatError says what is wrong with it, OSError
    why it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        return loads(text)
    except FormatError as exc:
        raise FormatError(f"{os.fspath(path)}: {exc.reason}", line=exc.line) from None


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file by one step; on any failure the old one stays as it was."""
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as exc:
        raise type(exc)(exc.errno, exc.strerror, os.fspath(path)) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    # There is no way to ask without setting it; /proc says it without a moment of wrong mode.
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next((x for x in status.splitlines() if x.startswith("Umask:")), "Umask: 0022")
    return int(line.split()[1], 8)
