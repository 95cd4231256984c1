"""Reports as blocks, which text and Markdown both are made of."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..select import printable
from .text import cut, table

__all__ = ["Block", "Paint", "text_lines"]

#: ``paint(text, colour)`` colours for a terminal, or leaves as it is.
Paint = Callable[[str, str], str]

#: The most that a name takes of a line, and the least; the first one has what is left.
_NAME = (8, 24)
#: Rows of a block where nobody says how many.
_ROWS = 10


@dataclass(frozen=True, slots=True)
class Block:
    """A title and rows under a head.

    ``names``: so many columns hold names, which may be cut; the others hold numbers.
    ``wide``: the cells hold whole sentences, which no table has room for.
    ``colour`` says how much it matters.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    colour: str = ""
    names: int = 1
    wide: bool = False


def text_lines(
    head: Sequence[str],
    blocks: Sequence[Block],
    paint: Paint,
    width: int,
    limit: int | None,
    more: str = "--rows 0 shows all",
) -> Iterator[str]:
    """The report as text that is ``width`` wide; ``limit`` rows of each block, 0 for all, and
    ``more`` about the others.
    """
    for line in head:
        yield from _wrapped(line, width, "")
    for block in blocks:
        if block.rows:
            yield ""
            yield paint(block.title, "bold")
            yield from _rows(block, paint, width, _ROWS if limit is None else limit or None)
            left = len(block.rows) - (_ROWS if limit is None else limit or len(block.rows))
            if left > 0:
                yield f"… {left:,} more ({more})"


def _rows(block: Block, paint: Paint, width: int, limit: int | None) -> Iterator[str]:
    shown = [[printable(cell) for cell in row] for row in block.rows[:limit]]
    if block.wide:
        for first, *rest in shown:
            yield from _wrapped(first, width, "")
            for cell in filter(None, rest):
                yield from (paint(line, block.colour) for line in _wrapped(cell, width, "  "))
    else:
        head, *lines = table(list(block.head), _narrowed(block, shown, width), width)
        yield head
        yield from (paint(line, block.colour) for line in lines)


def _narrowed(block: Block, rows: list[list[str]], width: int) -> list[list[str]]:
    """The rows with names cut, so that the numbers and something of the first name fit."""
    least, most = _NAME
    numbers = list(zip(block.head, *rows, strict=True))[block.names :]
    taken = sum(max(map(len, column)) + 2 for column in numbers)
    names = block.names - 1
    room = (width - taken - least - 2 * names) // names if names else 0
    size = max(least, min(room, most))
    return [
        [row[0], *(cut(cell, size) for cell in row[1 : block.names]), *row[block.names :]]
        for row in rows
    ]


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(printable(text), max(width, 20), initial_indent=indent,
                         subsequent_indent=indent, break_on_hyphens=False)  # fmt: skip
