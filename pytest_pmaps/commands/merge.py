"""``pmaps merge``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import FormatError, PmapsError
from .terminal import shown

__all__ = ["DESCRIPTION", "HELP", "arguments", "run"]

HELP = "make one run.json of those of several shards"
DESCRIPTION = (
    "Merge the files of CI shards, all of one kind, into one, which may be one of them. It is "
    "written in one step. Exit status: 0, or 2 for trouble."
)

#: Merges files into one; gives notes.
_Merge = Callable[[str, Sequence[str]], list[str]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("out", metavar="OUT", help="the file to write")
    parser.add_argument("files", metavar="IN", nargs="+", help="the files to merge")
    parser.add_argument(
        "--force", action="store_true", help="replace OUT, though it is none of the files"
    )


def run(args: argparse.Namespace) -> int:
    """Write the merged file; notes go to standard error."""
    out = Path(args.out)
    if out.exists() and not args.force and not any(out.samefile(file) for file in args.files):
        # A forgotten OUT would take the first shard for it.
        raise PmapsError(f"{args.out} exists and is not merged; --force replaces it all the same")
    for note in _merger(args.files)(args.out, args.files):
        print(f"pmaps: note: {shown(note)}", file=sys.stderr)
    return 0


def _merger(paths: Sequence[str]) -> _Merge:
    kinds = {_format(path): path for path in reversed(paths)}
    if len(kinds) > 1:
        first, second = list(kinds.items())[:2]
        raise PmapsError(f"{first[1]} is a {first[0]}, {second[1]} is a {second[0]}")
    return _kinds()[next(iter(kinds))]


def _format(path: str) -> str:
    """What a file says it is."""
    from ..jsontext import read

    try:
        value = read(Path(path).read_text(encoding="utf-8", errors="replace"), lambda it: it)
    except FormatError as exc:
        raise FormatError(f"{path}: {exc.reason}", line=exc.line) from None
    kind = value.get("format") if isinstance(value, dict) else None
    if kind not in _kinds():
        raise FormatError(f"{path}: this is none of {', '.join(_kinds())}")
    return str(kind)


def _kinds() -> dict[str, _Merge]:
    from ..report import merging, run

    return {run.FORMAT: merging.merge_files}
