"""A program from its start to its end: what it held at most, and what it left dirty."""

from __future__ import annotations

import subprocess
import sys

from pytest_pmaps import assert_no_dirty

TOOL = """
import sys
import pytest_pmaps
table = bytearray(8 << 20)
pytest_pmaps.checkpoint("loaded")
del table
print("done")
"""


def test_a_tool(pmaps):
    """It is captured where it says, and right before its end."""
    run = pmaps.run([sys.executable, "-c", TOOL], timeout=60, stdout=subprocess.PIPE, text=True)
    assert (run.returncode, run.stdout) == (0, "done\n")
    assert run.peak_rss <= "64 MiB"
    assert (run.at["loaded"] - run.at["exec"]).anonymous >= "8 MiB"
    assert run.at["exit"].anonymous <= run.at["loaded"].anonymous.bytes - (7 << 20)
    assert_no_dirty(run.at["exit"]["libc.text"])


def test_the_same_every_time(pmaps):
    """Pinned, three runs have the same anonymous pages."""
    runs = pmaps.run(["true"], pin=True, at=["exit"], repeat=3)
    assert runs.spread("anonymous").width == 0
