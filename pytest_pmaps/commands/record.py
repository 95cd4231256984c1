"""``pmaps record``."""

from __future__ import annotations

import argparse
from pathlib import Path

from .terminal import Bar, shown

__all__ = ["DESCRIPTION", "HELP", "arguments", "run"]

HELP = "write down all that the kernel says of a process, for 'pmaps show' elsewhere"
DESCRIPTION = (
    "Capture a process, and write what the kernel said to a file: names of files, "
    "addresses and page states, no contents of memory (see docs/recordings.md)."
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("pid", metavar="PID", type=int, help="a process")
    parser.add_argument("file", metavar="FILE", help="readable by its owner alone")
    parser.add_argument(
        "--stop", action="store_true", help="hold the process still while it is captured"
    )


def run(args: argparse.Namespace) -> int:
    """Write the recording, and say how large it is."""
    from ..recordings import record

    with Bar() as bar:
        snapshot = record(args.pid, args.file, progress=bar, stop=args.stop, young=True)
    size = -(-Path(args.file).stat().st_size // 1024)
    print(shown(f"{args.file}: process {snapshot.pid} ({snapshot.comm}), {size:,} KiB"))
    return 0
