"""What commands write, and where."""

from __future__ import annotations

import os
import shutil
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Iterable

__all__ = ["ROWS", "Bar", "paint", "rows", "say", "shown", "width"]

#: Seconds before a bar appears.
_PATIENCE = 0.5
#: What ``--rows`` is for.
ROWS = "rows of each table, 0 for all (default: 10; in Markdown as many as fit)"

_COLOURS = {"green": "32", "yellow": "33", "red": "31", "bold": "1"}


def width() -> int:
    """Columns of the terminal, 80 where there is none."""
    return shutil.get_terminal_size().columns


def rows(text: str) -> int:
    """A number of rows, as an option gives it."""
    if not text.isdecimal() or len(text) > 9:
        raise ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)


def shown(line: str) -> str:
    """For a terminal, what would move its cursor is spelled out; columns keep their tabs."""
    if not sys.stdout.isatty():
        return line
    from ..select import printable

    return "\t".join(printable(cell) for cell in line.split("\t"))


def paint(text: str, colour: str) -> str:
    """In a colour, where a terminal shows it and nobody minds."""
    plain = os.environ.get("NO_COLOR") or not sys.stdout.isatty() or not colour
    return text if plain else f"\033[{_COLOURS[colour]}m{text}\033[0m"


def say(lines: Iterable[str]) -> None:
    """Write lines to the standard output."""
    for line in lines:
        sys.stdout.write(line + "\n")


class Bar:
    """A bar on stderr for what takes longer than a moment, where a person is looking."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._drawn = False
        self._wanted = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """So much is done."""
        if not self._wanted or time.monotonic() - self._begun < _PATIENCE:
            return
        width = max(10, min(shutil.get_terminal_size().columns, 80) - 30)
        share = min(1.0, done / total) if total else 0.0
        full = int(share * width)
        bar = f"{'#' * full}{'.' * (width - full)}"
        print(f"\r{bar} {share:4.0%} {done:>12,} pages", end="", file=sys.stderr, flush=True)
        self._drawn = True

    def clear(self) -> None:
        """Take it away, for text to follow."""
        if self._drawn:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._drawn = False

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        self.clear()
