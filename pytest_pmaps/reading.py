"""Files that somebody names: read whole, and named in what is wrong with them."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import FormatError

__all__ = ["naming", "utf8", "whole"]

#: What a path to something that is open already begins with.
_OPEN = re.compile(r"/dev/(stdin$|fd/)|/proc/(self|thread-self|\d+)/fd/")


def whole(path: str | os.PathLike[str], *, opened: bool = False) -> bytes:
    """All that is in a regular file; OSError for any other, a FIFO or a device, which may never
    end, and may never begin.

    ``opened``: what is open already is read once, whatever it is: ``/dev/stdin``, and what a
    shell puts in the place of ``<(command)``.
    """
    mode = os.stat(path).st_mode
    # To read a folder is the better error.
    known = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    if not known and not (opened and _OPEN.match(os.fspath(path))):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return Path(path).read_bytes()


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let what does not read say in which file: ``/path/base.json:7: …``."""
    try:
        yield
    except FormatError as exc:
        raise FormatError(exc.reason, line=exc.line, path=path) from None


def utf8(data: bytes) -> str:
    """The text; FormatError names the line in which it is none."""
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise FormatError("this is no text in UTF-8", line=line) from None
