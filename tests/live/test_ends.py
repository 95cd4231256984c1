"""Targets that exit, are killed, or execute another program while they are captured.

``PMAPS_TORTURE`` is how often each of it is tried; 10,000 of it takes minutes.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from oracle import targets
from oracle.agreement import unprivileged_python
from pytest_pmaps import ProcessGone, Snapshot, snapshot

TIMES = int(os.environ.get("PMAPS_TORTURE", "400"))

REASONS = {
    "gone": "does not exist, has exited",
    "zombie": "is a zombie",
    "exec": "kept replacing its program",
}

# ender.c
LOW, HIGH, APART, MOST = 0x100000000, 0x700000000000, 0x100000, 1 << 20


@pytest.fixture(scope="module")
def ender(public: Path) -> Path:
    """The program that ends."""
    return targets.build("ender", public)


@pytest.fixture(scope="module")
def other(ender: Path) -> Path:
    """The same under another name: another file, and another program."""
    copy = ender.with_name("enderother")
    shutil.copy(ender, copy)
    return copy


def reason_of(exc: ProcessGone) -> str:
    """Which of the reasons it names: one, and no other."""
    named = [name for name, text in REASONS.items() if text in str(exc)]
    assert len(named) == 1, exc
    return named[0]


def capture(target: object) -> tuple[str, Snapshot | None]:
    """A snapshot, or the reason why there is none."""
    try:
        return "snapshot", snapshot(target)
    except ProcessGone as exc:
        return reason_of(exc), None


@pytest.mark.parametrize("how", ["exit", "thread", "kill"])
def test_exit_is_named(ender: Path, how: str):
    """At any moment, of one's own accord, from a second thread, or killed."""
    seen, dice = Counter[str](), random.Random(1)
    for _ in range(TIMES // 4):
        with subprocess.Popen([ender, how, str(dice.randrange(4000))]) as process:
            outcome = ""
            while outcome not in ("gone", "zombie"):
                outcome, snap = capture(process.pid)
                seen[outcome] += 1
                if snap is None:
                    continue
                # What was caught as it went away says that it is not whole; before exec has
                # mapped the program, there is a stack and nothing else.
                names = {m.name for m in snap.mappings}
                whole = names >= {"ender", "[stack]"} or names <= {"[stack]", "[vsyscall]"}
                assert whole or not snap.verdict, names
    print(seen)
    assert seen["zombie"] + seen["gone"] == TIMES // 4
    assert seen["snapshot"]


def generations(snap: Snapshot) -> tuple[set[int], set[int]]:
    """Which generations the lower and the upper marks tell."""
    starts = [m.start for m in snap.mappings]
    low = {(s - LOW) // APART for s in starts if LOW <= s < LOW + MOST * APART}
    high = {(s - HIGH) // APART for s in starts if HIGH <= s < HIGH + MOST * APART}
    return low, high


def check_one_program(snap: Snapshot) -> None:
    """All that is mapped is one program's."""
    low, high = generations(snap)
    programs = {m.path for m in snap.mappings if re.search(r"/ender(other)?$", m.path or "")}
    about = (snap.comm, low, high, programs, snap.verdict)
    assert len(low) <= 1, about
    assert len(high) <= 1, about
    assert len(programs) <= 1, about
    # One mark without the other: it was just putting them there, or there is a gap.
    assert not low or not high or low == high, about
    if low and programs:
        even = "ender" if next(iter(low)) % 2 == 0 else "enderother"
        assert {Path(p).name for p in programs} == {even}, about


@pytest.mark.parametrize("how", ["exec", "exec-thread"])
@pytest.mark.parametrize("pace", [300, 3000, 20000])
def test_exec_gives_one_program_or_its_name(ender: Path, other: Path, how: str, pace: int):
    """Two programs that execute each other: a capture is of one of them, never of both."""
    seen = Counter[str]()
    with subprocess.Popen([ender, how, str(pace), other, "1000000"]) as process:
        try:
            for _ in range(TIMES // 4):
                outcome, snap = capture(process)
                seen[outcome] += 1
                if snap is not None:
                    check_one_program(snap)
            assert process.poll() is None
        finally:
            process.kill()
    print(seen)
    assert set(seen) <= {"snapshot", "exec"}


REUSE = """
import json, subprocess, sys, time
from collections import Counter

from pytest_pmaps import ProcessGone, snapshot
LOW, HIGH, APART, MOST = 0x100000000, 0x700000000000, 0x100000, 1 << 20
ender, times, pid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
seen = Counter()
process = subprocess.Popen([ender, "reuse", str(pid), "1000000"], stdout=subprocess.PIPE)
end = time.monotonic() + 60
while sum(seen.values()) < times and time.monotonic() < end:
    if process.poll() is not None:
        print("unavailable", process.stdout.read().decode())
        sys.exit()
    try:
        snap = snapshot(pid)
    except ProcessGone as exc:
        seen[str(exc)] += 1
        continue
    starts = [m.start for m in snap.mappings]
    low = {(s - LOW) // APART for s in starts if LOW <= s < LOW + MOST * APART}
    high = {(s - HIGH) // APART for s in starts if HIGH <= s < HIGH + MOST * APART}
    if len(low) > 1 or len(high) > 1 or (low and high and low != high):
        print("MIXED", snap.comm, low, high, snap.verdict)
    if snap.comm.startswith("g") and (low | high) - {int(snap.comm[1:])}:
        print("ANOTHER", snap.comm, low, high, snap.verdict)
    seen["generations"] += bool(low)
    seen["snapshot"] += 1
print(json.dumps(seen))
process.kill()
"""


def test_a_pid_that_is_another_processs_now(ender: Path):
    """One pid, process after process: what is captured is one of them."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a pid namespace and choose pids in it")
    words = [unprivileged_python(), "-P", "-c", REUSE, ender, TIMES, 77]
    run = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *map(str, words)],
        capture_output=True,
        text=True,
        cwd="/",
    )
    print(run.stdout)
    assert run.returncode == 0, run.stderr
    if "unavailable" in run.stdout:
        pytest.skip(f"no pids of one's choice here: {run.stdout}")
    assert "MIXED" not in run.stdout
    assert "ANOTHER" not in run.stdout
    reasons = json.loads(run.stdout)
    assert reasons.pop("snapshot") > 10
    assert reasons.pop("generations") > 10
    assert all(any(text in reason for text in REASONS.values()) for reason in reasons), reasons


def test_nothing_is_left_open(ender: Path):
    """Whatever way a capture ended."""
    before = len(os.listdir("/proc/self/fd"))
    for us in range(0, 3000, 60):
        with subprocess.Popen([ender, "exit", str(us)]) as process:
            while capture(process.pid)[1] is not None:
                time.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_without_its_main_thread(ender: Path):
    """It is no zombie: others go on.  /proc shows no memory under its pid, and that is said."""
    with subprocess.Popen([ender, "headless", "0"], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        stat = Path(f"/proc/{process.pid}/stat")
        while ") Z " not in stat.read_text():  # said before the thread has ended
            time.sleep(0.01)
        try:
            with pytest.raises(ProcessGone, match="has lost its main thread while others go on"):
                snapshot(process)
            assert process.poll() is None
        finally:
            process.kill()
