"""``pmaps``: the console script."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from .errors import NoSuchMapping, PmapsError
from .extents import parse_addresses
from .metrics import Counted
from .select import printable
from .snapshots import Snapshot

__all__ = ["main"]

#: Seconds before a bar appears.
_PATIENCE = 0.5
#: 128 + SIGINT, as shells have it.
_INTERRUPTED = 130
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
    except KeyboardInterrupt:
        print("pmaps: interrupted", file=sys.stderr)
        return _INTERRUPTED
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
        help="only these mappings: libfoo, libfoo.text, '[heap]', a path, a glob; "
        "or only these addresses: START-END as in maps, 0xADDRESS+LENGTH",
    )
    form = show.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything that was captured, as JSON")
    form.add_argument("--summary", action="store_true", help="a table, a line for each file")
    show.add_argument(
        "--depth",
        choices=["mappings", "pages", "full"],
        default="full",
        help="what to look at; the less, the faster (default: full)",
    )
    show.add_argument(
        "--no-counters",
        action="store_true",
        help="leave smaps and numa_maps alone, which hold up a large process",
    )
    show.add_argument(
        "--stop",
        action="store_true",
        help="hold the process still meanwhile, for some milliseconds",
    )
    show.add_argument(
        "--stream",
        action="store_true",
        help="print piece by piece, in bounded memory; Ctrl-C ends it with what there is",
    )
    show.add_argument(
        "--start",
        metavar="ADDRESS",
        type=_address,
        default=None,
        help="with --stream: begin at this address (hexadecimal)",
    )
    show.add_argument(
        "--pages",
        metavar="N",
        type=_positive,
        default=0,
        help="with --stream: so many pages at a time (default: 262144)",
    )
    show.set_defaults(run=_show)
    recorder = commands.add_parser(
        "record",
        help="write down all that the kernel says of a process, for 'pmaps show' elsewhere",
        description="Capture a process, and write what the kernel said to a file: names of files, "
        "addresses and page states, no contents of memory (see docs/recordings.md).",
    )
    recorder.add_argument("pid", metavar="PID", type=int, help="a process")
    recorder.add_argument("file", metavar="FILE", help="readable by its owner alone")
    recorder.add_argument(
        "--stop", action="store_true", help="hold the process still while it is captured"
    )
    recorder.set_defaults(run=_record)
    doctor = commands.add_parser(
        "doctor", help="say what this host lets us see, and how to see more"
    )
    doctor.set_defaults(run=_doctor)
    return parser


def _version() -> str:
    from importlib.metadata import version

    return f"pytest-pmaps {version('pytest-pmaps')}"


# ---- show


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


def _show(args: argparse.Namespace) -> int:
    if args.stream:
        return _show_stream(args)
    snapshot = _target(args)
    for line in _shown(snapshot, args):
        sys.stdout.write(_printable(line) + "\n")
    if not snapshot.verdict and snapshot.pid:
        from .report.text import verdict_lines

        print("\n".join(f"pmaps: {line}" for line in verdict_lines(snapshot)), file=sys.stderr)
    return 0


def _show_stream(args: argparse.Namespace) -> int:
    from .capture import pid_of
    from .report.text import rfc_lines
    from .streaming import PIECE, stream

    if not _is_pid(args.target) or args.json or args.summary or args.selector or args.stop:
        raise PmapsError("--stream prints the whole map of a running process, as text")
    if args.depth == "mappings":
        raise PmapsError("--stream is of pages: --depth is pages or full")
    with _Bar() as bar:
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
                    sys.stdout.write(_printable(line) + "\n")
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
            return _INTERRUPTED
    return 0


class _Bar:
    """A bar on stderr for what takes longer than a moment, where a person is looking."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._drawn = False
        self._wanted = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
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

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        self.clear()


def _is_pid(text: str) -> bool:
    return text.lstrip("-").isdecimal()


def _target(args: argparse.Namespace) -> Snapshot:
    text: str = args.target
    if args.start is not None or args.pages:
        raise PmapsError("--start and --pages are for --stream")
    if _is_pid(text):
        from .capture import pid_of, snapshot

        with _Bar() as bar:
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
    from .files import load

    return load(text)


def _shown(snapshot: Snapshot, args: argparse.Namespace) -> Iterator[str]:
    from .report.text import rfc_lines, summary_table

    if args.json:
        yield from _json(snapshot, args.selector)
        return
    chosen: Counted = _selected(snapshot, args.selector) if args.selector else snapshot
    if args.summary:
        yield from summary_table(chosen, shutil.get_terminal_size().columns)
    else:
        yield from rfc_lines(chosen)


def _selected(snapshot: Snapshot, selector: str) -> Counted:
    """Mappings by name, or addresses; a file may be called as addresses are written."""
    addresses = None if selector in snapshot else parse_addresses(selector)
    return snapshot.select(selector) if addresses is None else snapshot.of(addresses)


def _json(snapshot: Snapshot, selector: str | None) -> Iterator[str]:
    from . import jsonfile

    plain = snapshot.to_plain()
    if selector is not None:
        chosen = {w.mapping for w in _selected(snapshot, selector).windows}
        plain.mappings = [m for i, m in enumerate(plain.mappings) if i in chosen]
    yield jsonfile.dump(plain).rstrip("\n")


def _printable(line: str) -> str:
    """For a terminal, what would move its cursor is spelled out; columns keep their tabs."""
    return "\t".join(printable(cell) for cell in line.split("\t")) if sys.stdout.isatty() else line


# ---- record


def _record(args: argparse.Namespace) -> int:
    from .recordings import record

    with _Bar() as bar:
        snapshot = record(args.pid, args.file, progress=bar, stop=args.stop, young=True)
    size = -(-Path(args.file).stat().st_size // 1024)
    print(_printable(f"{args.file}: process {snapshot.pid} ({snapshot.comm}), {size:,} KiB"))
    return 0


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
