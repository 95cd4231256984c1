"""``pmaps merge``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..errors import FormatError, PmapsError
from ..reading import whole
from .terminal import shown

__all__ = ["DESCRIPTION", "HELP", "arguments", "run"]

HELP = "make one run.json or baseline of those of several shards"
DESCRIPTION = (
    "Merge the files of CI shards, all of one kind, into one, which may be one of them. It is "
    "written in one step. Exit status: 0, or 2 for trouble."
)

_FORMAT = re.compile(rb'"format"\s*:\s*"([ -~]*?)"')
_BEGINNING = 1000
#: Merges files into one, with what they all were before, if that is known; gives notes.
_Merge = Callable[[str, Sequence[str], str | None], Iterable[str]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("out", metavar="OUT", help="the file to write")
    parser.add_argument("files", metavar="IN", nargs="+", help="the files to merge")
    parser.add_argument(
        "--base",
        metavar="FILE",
        help="of baselines: what all of them were before; what one of them changed is taken",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace OUT, though it is none of the files"
    )


def run(args: argparse.Namespace) -> int:
    """Write the merged file; notes go to standard error."""
    out = Path(args.out)
    known = [*args.files, *filter(None, [args.base])]
    if out.exists() and not args.force and not any(out.samefile(file) for file in known):
        # A forgotten OUT would take the first shard for it.
        raise PmapsError(f"{args.out} exists and is not merged; --force replaces it all the same")
    for note in _merger(args.files)(args.out, args.files, args.base):
        print(f"pmaps: note: {shown(note)}", file=sys.stderr)
    return 0


def _merger(paths: Sequence[str]) -> _Merge:
    kinds: dict[str, str] = {}
    for path in paths:
        kinds.setdefault(_format(path), path)
    if len(kinds) > 1:
        (one, first), (other, second), *_ = kinds.items()
        raise PmapsError(f"{first} is a {one}, {second} is a {other}: only files of a kind merge")
    return _kinds()[next(iter(kinds))]


def _format(path: str) -> str:
    """What a file says it is, near its beginning; its reader says what else is wrong with it."""
    found = _FORMAT.search(whole(path)[:_BEGINNING])
    kind = found[1].decode() if found else ""
    if kind not in _kinds():
        raise FormatError(f"this is none of {', '.join(_kinds())}", path=path)
    return kind


def _kinds() -> dict[str, _Merge]:
    from .. import baseline
    from ..report import run

    return {run.FORMAT: _merge_runs, baseline.FORMAT: _merge_baselines}


def _merge_runs(out: str, paths: Sequence[str], base: str | None) -> Iterable[str]:
    from ..report.merging import merge_files

    if base is not None:
        raise PmapsError("--base is for baselines: runs are of one moment")
    return merge_files(out, paths)


def _merge_baselines(out: str, paths: Sequence[str], base: str | None) -> Iterable[str]:
    from ..baseline import Baseline, merge

    before = None if base is None else Baseline.load(base)
    merged, notes = merge([Baseline.load(path) for path in paths], before)
    merged.save(out)
    return notes
