"""Reports as Markdown, for the summary of a job on GitHub.

A step's summary may hold 1 MiB, and is not shown at all where it is larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..select import printable
from .blocks import Block
from .text import cut

__all__ = ["code", "markdown"]

#: Bytes for each block; there are fewer than eight.
_ROOM = 120_000
#: Characters of a name: what is longer makes a table that nobody can read.
_NAME = 160
_SENTENCE = 1000
#: Rows of a block that is not folded.
_OPEN = 10
#: What means something to Markdown, in tables or in HTML.
_SPECIAL = frozenset("\\`*_{}[]()<>#+!|~$&\"'^=")


def markdown(title: str, head: Sequence[str], blocks: Sequence[Block], limit: int | None) -> str:
    """The report as GitHub shows it; ``limit`` rows of each block, None or 0 for as many as fit."""
    lines = [f"## {title}", "", *(f"{_plain(cut(line, _SENTENCE))}  " for line in head)]
    for block in blocks:
        if block.rows:
            lines += ["", *_block(block, limit)]
    return "\n".join(lines) + "\n"


def _block(block: Block, limit: int | None) -> Iterator[str]:
    rows, room = [], _ROOM
    for row in block.rows[: limit or None]:
        text = "| " + " | ".join(_cells(row, block)) + " |"
        room -= len(text.encode()) + 1
        if room < 0:
            break
        rows.append(text)
    title = f"{_plain(block.title)}: {len(block.rows):,}"
    folded = len(rows) > _OPEN or not block.colour
    opened = " open" if block.colour else ""
    yield f"<details{opened}><summary><b>{title}</b></summary>" if folded else f"**{title}**"
    yield ""
    yield "| " + " | ".join(map(_plain, block.head)) + " |"
    names = len(block.head) if block.wide else block.names
    yield "|" + " --- |" * names + " ---: |" * (len(block.head) - names)
    yield from rows
    more = len(block.rows) - len(rows)
    if more:
        yield f"\n… {more:,} more"
    if folded:
        yield "\n</details>"


def _cells(row: Sequence[str], block: Block) -> Iterator[str]:
    for number, cell in enumerate(row):
        if block.wide or number < block.names:
            yield code(cut(printable(cell), _SENTENCE if block.wide else _NAME))
        else:
            yield _plain(cell)


def code(text: str) -> str:
    """Text as it is, whatever is in it; names are neither links nor emoji."""
    return f"<code>{_plain(text)}</code>" if text else ""


def _plain(text: str) -> str:
    return "".join(f"&#{ord(c)};" if c in _SPECIAL else c for c in printable(text))
