"""``pmaps doctor``."""

from __future__ import annotations

import argparse

from .terminal import paint, width

__all__ = ["DESCRIPTION", "HELP", "arguments", "run"]

HELP = "say what this host lets us see, and how to see more"
DESCRIPTION = None


def arguments(parser: argparse.ArgumentParser) -> None:
    """It has no options."""


def run(args: argparse.Namespace) -> int:
    """Print what this host shows."""
    from ..host import confounders, sources
    from ..report.doctor import doctor_lines

    columns = max(40, min(width(), 100))
    for line in doctor_lines(sources(), confounders(), paint, columns):
        print(line)
    return 0
