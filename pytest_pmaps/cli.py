"""``pmaps``: the console script."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import PmapsError
from .metrics import Counted
from .select import printable
from .snapshots import Snapshot

__all__ = ["main"]

_COLOURS = {"green": "32", "yellow": "33"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.  0: done; 2: a mistake or something that cannot be looked at."""
    args = _parser().parse_args(argv)
    if sys.stdout is None:
        print("pmaps: standard output is closed", file=sys.stderr)
        return 2
    if not sys.stdout.isatty() and isinstance(sys.stdout, io.TextIOWrapper):
        # Names are bytes to the kernel, and go into files as the bytes that they are.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (pmaps show 1 | head); nothing is left to be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (PmapsError, MemoryError, OSError) as exc:
        print(f"pmaps: {_one_line(exc)}", file=sys.stderr)
        return 2
    return code


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pmaps", description=__doc__)
    parser.description = "Show a process's memory, page range by page range."
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    show = commands.add_parser(
        "show",
        help="print a page map as the 2007 proposal's /proc/PID/pmaps would have",
        description="Print the page map of a process, or of a saved snapshot.",
    )
    show.add_argument("target", metavar="PID|FILE", help="a process, or a map saved earlier")
    show.add_argument(
        "selector",
        nargs="?",
        metavar="SELECTOR",
        help="only these mappings: libfoo, libfoo.text, '[heap]', a path, a glob",
    )
    form = show.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything that was captured, as JSON")
    form.add_argument("--summary", action="store_true", help="a table, a line for each file")
    show.set_defaults(run=_show)
    doctor = commands.add_parser(
        "doctor", help="say what this host lets us see, and how to see more"
    )
    doctor.set_defaults(run=_doctor)
    return parser


def _version() -> str:
    from importlib.metadata import version

    return f"pytest-pmaps {version('pytest-pmaps')}"


# ---- show


def _show(args: argparse.Namespace) -> int:
    snapshot = _target(args.target)
    for line in _shown(snapshot, args):
        sys.stdout.write(_printable(line) + "\n")
    if not snapshot.verdict and snapshot.pid:
        from .report.text import verdict_lines

        print("\n".join(f"pmaps: {line}" for line in verdict_lines(snapshot)), file=sys.stderr)
    return 0


def _target(text: str) -> Snapshot:
    if text.lstrip("-").isdecimal():
        from .capture import pid_of, snapshot

        return snapshot(pid_of(int(text)))
    if not Path(text).exists():
        raise PmapsError(f"{text!r} is neither a pid nor a saved map")
    from .files import load

    return load(text)


def _shown(snapshot: Snapshot, args: argparse.Namespace) -> Iterator[str]:
    from .report.text import rfc_lines, summary_table

    if args.json:
        yield from _json(snapshot, args.selector)
        return
    chosen: Counted = snapshot.select(args.selector) if args.selector else snapshot
    if args.summary:
        yield from summary_table(chosen, shutil.get_terminal_size().columns)
    else:
        yield from rfc_lines(chosen)


def _json(snapshot: Snapshot, selector: str | None) -> Iterator[str]:
    from . import jsonfile

    plain = snapshot.to_plain()
    if selector is not None:
        chosen = {w.mapping for w in snapshot.select(selector).windows}
        plain.mappings = [m for i, m in enumerate(plain.mappings) if i in chosen]
    yield jsonfile.dump(plain).rstrip("\n")


def _printable(line: str) -> str:
    """For a terminal, what would move its cursor is spelled out; columns keep their tabs."""
    return "\t".join(printable(cell) for cell in line.split("\t")) if sys.stdout.isatty() else line


# ---- doctor


def _doctor(args: argparse.Namespace) -> int:
    from .host import confounders, sources
    from .report.doctor import doctor_lines

    width = max(40, min(shutil.get_terminal_size().columns, 100))
    for line in doctor_lines(sources(), confounders(), _paint, width):
        print(line)
    return 0


def _paint(text: str, colour: str) -> str:
    plain = os.environ.get("NO_COLOR") or not sys.stdout.isatty()
    return text if plain else f"\033[{_COLOURS[colour]}m{text}\033[0m"
