"""``pmaps report``."""

from __future__ import annotations

import argparse
import json

from .terminal import ROWS, paint, rows, say, width

__all__ = ["DESCRIPTION", "HELP", "arguments", "run"]

HELP = "say what a session's run.json holds, as text, Markdown or JSON for dashboards"
DESCRIPTION = (
    "Report on a run.json: what failed for its footprint, what grew most, what holds most dirty "
    "memory. Exit status: 0, or 2 for trouble; it is no gate."
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("file", metavar="RUN.json", help="the artefact of a session of pytest")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="for the summary of a GitHub job")
    form.add_argument(
        "--benchmark",
        action="store_true",
        help="JSON for github-action-benchmark's customSmallerIsBetter",
    )
    form.add_argument(
        "--annotations", action="store_true", help="GitHub workflow commands, a line each"
    )
    parser.add_argument(
        "--prefix",
        metavar="FOLDER",
        default="",
        help="with --annotations: where pytest's root lies in the repository",
    )
    parser.add_argument("--rows", metavar="N", type=rows, default=None, help=ROWS)


def run(args: argparse.Namespace) -> int:
    """Print the report in the form that was asked for."""
    from ..report import benchmark, blocks, github, markdown, runfile, summary

    found = runfile.load(args.file)
    if args.benchmark:
        print(json.dumps(benchmark.benchmark(found), indent=1))
        return 0
    if args.annotations:
        say(github.commands(found, args.prefix))
        return 0
    head, told = summary.head(found), summary.blocks(found)
    if args.markdown:
        print(markdown.markdown("Memory footprint", head, told, args.rows), end="")
    else:
        say(blocks.text_lines(head, told, paint, width(), args.rows))
    return 0
