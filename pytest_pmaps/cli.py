"""``pmaps``: the console script."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .commands import compare, diff, doctor, merge, record, report, show
from .errors import PmapsError

__all__ = ["main"]

_COMMANDS = {
    "show": show,
    "diff": diff,
    "report": report,
    "compare": compare,
    "merge": merge,
    "record": record,
    "doctor": doctor,
}


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
    except KeyboardInterrupt:
        print("pmaps: interrupted", file=sys.stderr)
        return show.INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough (pmaps show 1 | head); nothing is left to be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (PmapsError, MemoryError, OSError) as exc:
        print(f"pmaps: {_one_line(exc)}", file=sys.stderr)
        return 2
    return code


def _one_line(exc: BaseException) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return ": ".join(str(each) for each in (exc.filename, exc.strerror) if each is not None)
    return " ".join(str(exc).split()) or type(exc).__name__


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # Of --tolerance -5% it says that there is none.
        hint = ", one that is not below 0 and does not begin with -"
        super().error(f"{message}{hint if message.endswith('expected one argument') else ''}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pmaps")
    parser.description = "Show a process's memory, page range by page range."
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        its = commands.add_parser(name, help=command.HELP, description=command.DESCRIPTION)
        command.arguments(its)
        its.set_defaults(run=command.run)
    return parser


def _version() -> str:
    from importlib.metadata import version

    return f"pytest-pmaps {version('pytest-pmaps')}"
