"""``pmaps compare``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ..errors import BudgetError, PmapsError
from .terminal import ROWS, paint, rows, say, width

if TYPE_CHECKING:
    from ..budget import Limit
    from ..report.comparison import Allowed, Comparison

__all__ = ["DESCRIPTION", "HELP", "arguments", "run"]

HELP = "hold one run.json against another: what grew"
DESCRIPTION = (
    "Compare two run.json of the same tests, measured before a change and after it, best in one "
    "job. Exit status: 0 if nothing grew beyond the tolerance, 1 if something did, 2 for trouble."
)

#: Twice by what rss spreads from run to run; anonymous and dirty memory hardly do.
_TOLERANCE = "1% + 64 KiB"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("base", metavar="BASE.json", help="the run.json from before")
    parser.add_argument("head", metavar="HEAD.json", help="the run.json from after")
    parser.add_argument(
        "--tolerance",
        metavar="TOLERANCE",
        type=_tolerance,
        default=_TOLERANCE,
        help="by how much a number may grow; of numbers of things only the percentage counts "
        f"(default: {_TOLERANCE.replace('%', '%%')})",
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit status 1 also for what is undecided"
    )
    parser.add_argument("--markdown", action="store_true", help="for the summary of a GitHub job")
    parser.add_argument("--rows", metavar="N", type=rows, default=None, help=ROWS)


def _tolerance(text: str) -> str:
    try:
        _limit(text)
    except BudgetError as exc:
        reason = exc.reason.partition("\n")[0]
        raise argparse.ArgumentTypeError(f"{text!r}: {reason}, as in {_TOLERANCE!r}") from None
    return text


def _limit(text: str) -> Limit:
    """The language of budgets has tolerances already."""
    from ..budget import parse_budget

    return parse_budget(f"dirty <= baseline + {text}").limit


def _allowed(text: str, page_size: int) -> Allowed:
    from dataclasses import replace

    bytes_ = _limit(text)
    limits = {"bytes": bytes_, "number": replace(bytes_, amount=0)}

    def allowed(before: int, /, unit: str) -> int:
        # Not of what shrank: the less there was, the less may be.
        return before + limits[unit].tolerance(page_size, max(before, 0))

    return allowed


def run(args: argparse.Namespace) -> int:
    """Print what grew and what is undecided."""
    from ..report import blocks, comparison, markdown, runfile

    base, head = runfile.load(args.base), runfile.load(args.head)
    allowed = _allowed(args.tolerance, head["session"]["page_size"])
    found = comparison.compare(base, head, allowed)
    if not found.numbers:
        raise PmapsError("the runs have no number in common: there is nothing to compare")
    lines, told = comparison.head(found, head, args.tolerance), comparison.blocks(found)
    if args.markdown:
        sys.stdout.write(
            markdown.markdown("Memory footprint, base and head", lines, told, args.rows)
        )
    else:
        say(blocks.text_lines(lines, told, paint, width(), args.rows))
    return int(_is_worse(found, args.strict))


def _is_worse(found: Comparison, strict: bool) -> bool:
    from ..report.comparison import Verdict

    return bool(found.of(Verdict.GREW) or (strict and found.of(Verdict.UNDECIDED)))
