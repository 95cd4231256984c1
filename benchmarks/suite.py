"""What the plugin adds to a test suite that does not use it, and to a test that does."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from report import Figure
from timing import Contender, race

_UNUSED = """\
import pytest


@pytest.mark.parametrize("i", range({tests}))
def test_nothing(i):
    pass
"""
_ENGINE = """\
import json, pathlib, sys


def pytest_sessionfinish(session):
    if not session.config.pluginmanager.has_plugin("pmaps"):
        return
    ours = [name for name in sys.modules if name.startswith("pytest_pmaps._engine")]
    pathlib.Path({answer!r}).write_text(json.dumps(ours))
"""
_USED = """\
import json, pathlib, time
import pytest_pmaps


def cost(capture):
    start = time.thread_time_ns()
    capture()
    return time.thread_time_ns() - start


def test_cost(pmaps_snapshot):
    pairs = []
    for i in range({rounds} + 1):
        ways = [pmaps_snapshot, pytest_pmaps.snapshot]
        took = {{way: cost(way) for way in (ways if i % 2 else ways[::-1])}}
        pairs.append([took[way] for way in ways])
    pathlib.Path({answer!r}).write_text(json.dumps(pairs[1:]))
"""


def _pytest(folder: Path, *options: str) -> int:
    """Run the suite of a folder; nanoseconds of CPU time."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--rootdir", str(folder)]
    quiet = ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist"]
    # pytest rewrites the assertions of a plugin once and keeps the result, where it may: here.
    kept = {"PYTHONPYCACHEPREFIX": str(folder.parent / "pycache"), "PYTHONDONTWRITEBYTECODE": ""}
    environment = os.environ | kept | {"PYTEST_ADDOPTS": ""}
    process = subprocess.Popen(
        [*command, *quiet, *options, str(folder)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"pytest ended with {process.returncode} in a suite that passes")
    return round((usage.ru_utime + usage.ru_stime) * 1e9)


def measure(folder: Path, rounds: int, quick: bool) -> Iterator[Figure]:
    """Both; a suite's time moves by itself, so it takes twice the rounds."""
    yield from _unused(folder / "unused", rounds if quick else 2 * rounds, 20 if quick else 1000)
    yield from _used(folder / "used", rounds if quick else 5 * rounds)


def _unused(folder: Path, rounds: int, tests: int) -> Iterator[Figure]:
    folder.mkdir()
    answer = folder / "engine.json"
    (folder / "test_nothing.py").write_text(_UNUSED.format(tests=tests))
    (folder / "conftest.py").write_text(_ENGINE.format(answer=str(answer)))
    contenders: dict[str, Contender] = {
        "loaded": lambda: _pytest(folder),
        "off": lambda: _pytest(folder, "-p", "no:pmaps"),
        "again": lambda: _pytest(folder, "-p", "no:pmaps"),
    }
    times = race(contenders, rounds, warm_up=tests > 100)
    # What disturbs a suite only ever adds to its time: the least of the rounds tells most.
    least = {name: min(taken.values()) for name, taken in times.ns.items()}
    ratio, control = least["loaded"] / least["off"], least["again"] / least["off"]
    what = f"{tests:,} no-op tests, unused / off"
    note = f"{least['off'] / 1e6:.0f} ms; off / off {control:.3f}"
    noise = abs(control - 1)
    yield Figure("plugin/unused", what, round(ratio, 3), "x", note, noise)
    loaded = len(json.loads(answer.read_text()))
    yield Figure("plugin/engine", "engine modules they import", loaded, "")


def _used(folder: Path, rounds: int) -> Iterator[Figure]:
    folder.mkdir()
    answer = folder / "pairs.json"
    text = _USED.format(rounds=rounds, answer=str(answer))
    (folder / "test_used.py").write_text(text)
    _pytest(folder)
    pairs = json.loads(answer.read_text())
    ratio = statistics.median(fixture / library for fixture, library in pairs)
    ms = statistics.median(fixture for fixture, _ in pairs) / 1e6
    note = f"{ms:.1f} ms, of itself"
    yield Figure("plugin/used", "pmaps_snapshot() / snapshot()", round(ratio, 3), "x", note)
