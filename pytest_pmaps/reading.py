"""Files that somebody names: read whole, and named in what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import FormatError

__all__ = ["naming", "utf8"]


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
