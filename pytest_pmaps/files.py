"""Saved snapshots: the RFC's text, JSON that holds everything, and recordings."""

from __future__ import annotations

import io
import os

from . import jsonfile, rfctext
from ._native import RECORDING, Columns
from .errors import FormatError
from .reading import naming, whole
from .replacing import write_atomically
from .snapshots import Snapshot

__all__ = ["dumps", "load", "loads", "save"]


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
    """Write all of it as JSON, atomically: a reader never sees half a file.

    A symbolic link stays one, a file keeps its mode; one of mode 0444 is a PermissionError.
    """
    write_atomically(path, jsonfile.dump(snapshot.to_plain()))


def load(path: str | os.PathLike[str]) -> Snapshot:
    """Read a saved snapshot, JSON or RFC text, or a recording, from which it is captured once
    more; FormatError says what is wrong with it, OSError why it cannot be read.

    A recording of a capture that failed raises what the capture raised.
    """
    data = whole(path, opened=True)
    with naming(path):
        if data.startswith(RECORDING):
            return Snapshot(Columns.replay(data))
        return loads(_text(data))


def _text(data: bytes) -> str:
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape").read()
