"""``checkpoint("loaded")``: a program says when it is to be captured.

Loaded by programs under test: it imports next to nothing, and nothing more until somebody
listens, or it would be in the footprint that is measured.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["checkpoint", "include_dir"]

#: Names a socket; ``pmaps_checkpoint.h`` knows it, too.
VARIABLE = "PMAPS_CHECKPOINT"
LONGEST = 200

_PATIENCE = 60.0


def checkpoint(name: str) -> bool:
    """Be captured now, under this name, by the :func:`~pytest_pmaps.run` that started us.

    Waits until that is done, a minute at most, and says whether it was.  Only this thread
    waits.  Where nobody listens it does nothing: it looks at one environment variable,
    ``PMAPS_CHECKPOINT``.

    Raises TypeError and ValueError for what is no name.

    For programs in other languages there is ``pmaps_checkpoint.h``, see :func:`include_dir`.
    """
    if not isinstance(name, str):
        raise TypeError(f"a checkpoint has a name, not {type(name).__name__}")
    if not name:
        raise ValueError("a checkpoint has a name")
    path = os.environ.get(VARIABLE)
    return bool(path) and _ask(str(path), name.encode()[:LONGEST])


def include_dir() -> str:
    """The folder of ``pmaps_checkpoint.h``, for the compiler's ``-I``.

    One header for C and C++, with nothing to link with; ``pmaps_checkpoint("loaded")`` does what
    :func:`checkpoint` does.
    """
    return str(Path(__file__).with_name("include"))


def _ask(path: str, name: bytes) -> bool:
    # What socket is made of: with it come selectors, enums and a megabyte.
    import _socket

    try:
        asking = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    except OSError:
        return False
    try:
        asking.settimeout(_PATIENCE)
        asking.connect(path)
        asking.send(name)
        return asking.recv(1) == b"y"
    except OSError:
        return False
    finally:
        asking.close()
