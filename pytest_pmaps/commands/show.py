"""``pmaps show``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NoSuchMapping, PmapsError
from .terminal import Bar, shown, width

if TYPE_CHECKING:
    from ..metrics import Counted
    from ..snapshots import Snapshot

__all__ = ["DESCRIPTION", "HELP", "arguments", "run"]

HELP = "print a page map as the 2007 proposal's /proc/PID/pmaps would have"
DESCRIPTION = "Print the page map of a process, or of a saved snapshot."

#: 128 + SIGINT, as shells have it.
INTERRUPTED = 130


def arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("target", metavar="PID|FILE", help="a process, or a map saved earlier")
    parser.add_argument(
        "selector",
        nargs="?",
        metavar="SELECTOR",
        help="only these mappings: libfoo, libfoo.text, '[heap]', a path, a glob; "
        "or only these addresses: START-END as in maps, 0xADDRESS+LENGTH",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything that was captured, as JSON")
    form.add_argument("--summary", action="store_true", help="a table, a line for each file")
    parser.add_argument(
        "--depth",
        choices=["mappings", "pages", "full"],
        default="full",
        help="what to look at; the less, the faster (default: full)",
    )
    parser.add_argument(
        "--no-counters",
        action="store_true",
        help="leave smaps and numa_maps alone, which hold up a large process",
    )
    parser.add_argument(
        "--stop",
        action="store_true",
        help="hold the process still meanwhile, for some milliseconds",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="print piece by piece, in bounded memory; Ctrl-C ends it with what there is",
    )
    parser.add_argument(
        "--start",
        metavar="ADDRESS",
        type=_address,
        default=None,
        help="with --stream: begin at this address (hexadecimal)",
    )
    parser.add_argument(
        "--pages",
        metavar="N",
        type=_positive,
        default=0,
        help="with --stream: so many pages at a time (default: 262144)",
    )


def _address(text: str) -> int:
    try:
        if 0 <= (address := int(text, 16)) < 1 << 64:
            return address
        raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no hexadecimal address") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of pages")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Print a map; what is wrong with its capture goes to standard error."""
    if args.stream:
        return _show_stream(args)
    snapshot = _target(args)
    for line in _lines(snapshot, args):
        sys.stdout.write(shown(line) + "\n")
    if not snapshot.verdict and snapshot.pid:
        from ..report.text import verdict_lines

        print("\n".join(f"pmaps: {line}" for line in verdict_lines(snapshot)), file=sys.stderr)
    return 0


def _show_stream(args: argparse.Namespace) -> int:
    from ..capture import pid_of
    from ..report.text import rfc_lines
    from ..streaming import PIECE, stream

    if not _is_pid(args.target) or args.json or args.summary or args.selector or args.stop:
        raise PmapsError("--stream prints the whole map of a running process, as text")
    if args.depth == "mappings":
        raise PmapsError("--stream is of pages: --depth is pages or full")
    with Bar() as bar:
        walk = stream(
            pid_of(int(args.target)),
            depth=args.depth,
            counters=not args.no_counters,
            start=args.start or 0,
            pages=args.pages or PIECE,
            young=True,
            progress=bar,
        )
        try:
            for piece in walk:
                bar.clear()
                for line in rfc_lines(piece):
                    sys.stdout.write(shown(line) + "\n")
                sys.stdout.flush()
        except KeyboardInterrupt:
            # As the archive of the proposal marks what it leaves out; it loads as incomplete.
            print("[...]")
            sys.stdout.flush()
            bar.clear()
            print(
                f"pmaps: interrupted: a partial map of {walk.pages:,} pages; "
                f"go on with --start {walk.next_address:x}",
                file=sys.stderr,
            )
            return INTERRUPTED
    return 0


def _is_pid(text: str) -> bool:
    return text.lstrip("-").isdecimal()


def _target(args: argparse.Namespace) -> Snapshot:
    text: str = args.target
    if args.start is not None or args.pages:
        raise PmapsError("--start and --pages are for --stream")
    if _is_pid(text):
        from ..capture import pid_of, snapshot
        from ..extents import parse_addresses

        with Bar() as bar:
            take = partial(
                snapshot,
                pid_of(int(text)),
                depth=args.depth,
                counters=not args.no_counters,
                stop=args.stop,
                progress=bar,
                young=True,
            )
            try:
                return take(select=args.selector)
            except NoSuchMapping:
                addresses = parse_addresses(args.selector)
                if addresses is None:
                    raise
                return take(window=(addresses[0], sum(addresses)))
    if args.depth != "full" or args.no_counters or args.stop:
        raise PmapsError("--depth, --no-counters and --stop are for running processes")
    if not Path(text).exists():
        raise PmapsError(f"{text!r} is neither a pid nor a saved map")
    from ..files import load

    return load(text)


def _lines(snapshot: Snapshot, args: argparse.Namespace) -> Iterator[str]:
    from ..report.text import rfc_lines, summary_table

    if args.json:
        yield from _json(snapshot, args.selector)
        return
    chosen: Counted = _selected(snapshot, args.selector) if args.selector else snapshot
    if args.summary:
        yield from summary_table(chosen, width())
    else:
        yield from rfc_lines(chosen)


def _selected(snapshot: Snapshot, selector: str) -> Counted:
    """Mappings by name, or addresses; a file may be called as addresses are written."""
    from ..extents import parse_addresses

    addresses = None if selector in snapshot else parse_addresses(selector)
    return snapshot.select(selector) if addresses is None else snapshot.of(addresses)


def _json(snapshot: Snapshot, selector: str | None) -> Iterator[str]:
    from .. import jsonfile

    plain = snapshot.to_plain()
    if selector is not None:
        chosen = {w.mapping for w in _selected(snapshot, selector).windows}
        plain.mappings = [m for i, m in enumerate(plain.mappings) if i in chosen]
    yield jsonfile.dump(plain).rstrip("\n")
