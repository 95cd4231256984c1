"""By how much the same program differs from run to run: what a gate has to allow.

Fresh processes beside others that come and go, captured at their exit, as they are and with
``pin=True``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest_pmaps
from report import Figure

_METRICS = ("anonymous", "dirty", "uss", "rss", "pss", "page_tables", "peak_rss")
_PROGRAM = """
import json, decimal, email, http.client
kept = [[n] for n in range(50_000)]
text = json.dumps(kept)
import os
os._exit(0)
"""
#: Imports the same libraries, and ends, again and again.
_NEIGHBOUR = "import time, json, decimal\nend = time.time() + {:f}\nwhile time.time() < end: pass"


@contextmanager
def _neighbours() -> Iterator[None]:
    code = """
import subprocess, sys
while True:
    subprocess.run([sys.executable, "-c", sys.argv[1]])
"""
    command = [sys.executable, "-c", code, _NEIGHBOUR.format(0.05)]
    with subprocess.Popen(command, process_group=0) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, 9)


def measure(quick: bool) -> Iterator[Figure]:
    """Spreads in percent of the median: of a Python program that keeps some objects."""
    repeat = 3 if quick else 30
    command = [sys.executable, "-I", "-c", _PROGRAM]
    for pin, how in ((False, "as it is"), (True, "pinned")):
        with _neighbours():
            runs = pytest_pmaps.run(command, pin=pin, at=["exit"], repeat=repeat)
        for metric in _METRICS:
            seen = [_value(run, metric) for run in runs]
            middle = statistics.median(seen)
            spread = 100 * (max(seen) - min(seen)) / middle
            what = f"{metric}, {repeat} runs {how}: max - min, of {middle / 1024:,.0f} KiB"
            yield Figure(f"noise/{metric}/{how.split()[0]}", what, round(spread, 2), "%")


def _value(run: pytest_pmaps.Run, metric: str) -> int:
    """Bytes; of an interval its middle."""
    taken = run.at["exit"]
    if metric == "page_tables":
        return taken.status["vm_pte"]
    count = run.peak_rss if metric == "peak_rss" else taken.metric(metric)
    lo, hi = count.bytes.bounds
    return ((lo or 0) + (hi or 0)) // 2
