"""Captures of a process that does not hold still: what they claim was true.

``PMAPS_TORTURE`` is how many captures each test takes; 10,000 takes minutes.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from oracle import reader, targets, witness
from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import Snapshot, snapshot

CAPTURES = int(os.environ.get("PMAPS_TORTURE", "400"))


@pytest.fixture(scope="module")
def mutator(public: Path) -> Path:
    """The program that changes its memory all the time, and publishes how it is."""
    return targets.build("mutator", public)


@pytest.fixture(scope="module")
def oracle_for_all(public: Path) -> Path:
    """A folder with a copy of ``oracle`` that nobody can import."""
    shutil.copytree(Path(witness.__file__).parent, public / "lib" / "oracle")
    return public / "lib"


def check_honest(count: dict[str, int]) -> None:
    """Nothing false was claimed, and nothing was called raced that held still."""
    print(count)
    assert count["captures"] + count.get("overrun", 0) == CAPTURES // 4 * 4
    assert count["captures"] > 0.9 * CAPTURES
    assert count["never true"] == 0
    assert count["never true together"] == 0
    # The test would also pass if nothing ever moved, or everything did.
    assert count["quiet"] > CAPTURES / 100
    assert count["moved"] > CAPTURES / 10
    assert count["unraced"] < count["captures"]
    assert count["quiet and good"] == count["quiet"]


def test_what_is_claimed_was_true(mutator: Path):
    """Every page as it was at one moment of the capture; all at one, where nothing raced."""
    check_honest(witness.tally(mutator, CAPTURES))


def test_what_is_claimed_was_true_without_frames(mutator: Path, oracle_for_all: Path):
    """The same where the kernel does not show when a page has become another one."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from oracle import witness\n"
        "print(json.dumps(witness.tally(Path(sys.argv[2]), int(sys.argv[3]), seed=2)))\n"
    )
    words = [unprivileged_python(), "-P", "-c", code, oracle_for_all, mutator, CAPTURES]
    run = subprocess.run(
        [*as_nobody(), *map(str, words)], stdout=subprocess.PIPE, text=True, cwd="/", check=True
    )
    check_honest(json.loads(run.stdout))


def test_a_target_that_is_stopped_is_never_raced(mutator: Path):
    """Stopped by a signal, in the middle of whatever it was doing."""

    def take(pid: int) -> Snapshot:
        with reader.stopped(pid):
            return snapshot(pid)

    count = witness.tally(mutator, CAPTURES // 4, take, seed=3)
    print(count)
    assert count["never true"] == count["never true together"] == 0
    assert count["unraced"] >= 0.95 * count["captures"]


@pytest.mark.skipif(
    "stop" not in inspect.signature(snapshot).parameters, reason="snapshot() cannot stop a target"
)
def test_stop_holds_it_still(mutator: Path):
    """``stop=True``: at least 95 of 100 claim that nothing changed, and it is true."""
    stop: dict[str, Any] = {"stop": True}
    count = witness.tally(mutator, CAPTURES // 4, lambda pid: snapshot(pid, **stop), seed=4)
    print(count)
    assert count["never true"] == count["never true together"] == 0
    assert count["unraced"] >= 0.95 * count["captures"]


SEESAW = """
import sys
from pytest_pmaps import snapshot
pid, low, high, times = map(int, sys.argv[1:])
unraced = both = 0
for _ in range(times):
    snap = snapshot(pid)
    if snap.verdict.raced:
        continue
    unraced += 1
    places = [m for m in snap.mappings if m.start in (low, high)]
    both += len(places) == 2 and all(m.rss >= 8 for m in places)
print(unraced, both)
"""


def test_pages_that_take_turns_are_not_all_there(public: Path):
    """Never resident in both places: no capture that claims to be unraced may say so."""
    program = targets.build("seesaw", public)
    times = str(max(50, CAPTURES // 10))
    with targets.running(program, "300", "300", uid=targets.NOBODY) as (pid, info):
        places = [str(area["start"]) for area in info["areas"]]
        command = [*as_nobody(), unprivileged_python(), "-P", "-c", SEESAW, str(pid), *places]
        run = subprocess.run(
            [*command, times], stdout=subprocess.PIPE, text=True, cwd="/", check=True
        )
        unraced, both = map(int, run.stdout.split())
        print(unraced, "unraced,", both, "of them false")
    assert both == 0


def test_the_witness_can_tell(mutator: Path):
    """A claim that is not so is found: the checks above can fail."""
    with witness.mutating(mutator, busy=0) as target:
        before = target.board.marks()
        plain = snapshot(target.pid).to_plain()
        start = target.board.start(witness.Kind.ANON)
        mapping = next(m for m in plain.mappings if m.start == start)
        good = witness.judge(target.board, Snapshot.from_plain(plain), before, target.board.marks())
        assert not good.never
        assert not good.torn
        assert good.ok
        mapping.perms = "r--p"
        bad = witness.judge(target.board, Snapshot.from_plain(plain), before, target.board.marks())
        assert bad.never == {"ANON": witness.ALL}
        assert bad.torn
