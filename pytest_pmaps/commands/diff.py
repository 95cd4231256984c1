"""``pmaps diff``."""

from __future__ import annotations

import argparse
import sys

from ..errors import PmapsError
from .terminal import say, shown, width

__all__ = ["DESCRIPTION", "HELP", "arguments", "run"]

HELP = "say what changed between two saved maps"
DESCRIPTION = (
    "Print what changed from one saved map to another, file by file, and which pages are newly "
    "dirty. Exit status: 0 if all counts are the same, 1 if one differs or may, 2 for trouble."
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("earlier", metavar="A", help="a saved map: text, JSON or a recording")
    parser.add_argument("later", metavar="B", help="another one, of whatever process")


def run(args: argparse.Namespace) -> int:
    """Print the table, if anything differs."""
    from ..files import load
    from ..report.difference import difference_lines, differences, is_sure, processes
    from ..snapshots import diff

    earlier, later = load(args.earlier), load(args.later)
    if later.page_size != earlier.page_size:
        raise PmapsError("the maps have pages of different sizes")
    try:
        change = diff(later, earlier)
    except ValueError as exc:
        raise PmapsError(str(exc)) from None
    found = differences(change)
    if not found:
        return 0
    notes = [processes(later, earlier)]
    if not is_sure(found):
        notes.append("nothing is known to differ, but what is not known may")
    for note in filter(None, notes):
        print(f"pmaps: note: {shown(note)}", file=sys.stderr)
    say(difference_lines(change, found, width()))
    return 1
