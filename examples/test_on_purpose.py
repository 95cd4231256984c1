"""The test that fails on purpose does fail, and says why in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_the_failure_tells_the_story():
    """First line, offending range under its mapping, change since the start, saved map."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "fails_on_purpose.py"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "FootprintError: libfoo.so.1 text: 1 dirty page (4 KiB), allowed 0" in run.stdout
    assert "libfoo.so.1\n1\t1\t" in run.stdout
    assert ".pmaps" in run.stdout
