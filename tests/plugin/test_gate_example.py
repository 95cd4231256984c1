"""The demonstration in examples/gate: quiet when nothing changed, loud when something did.

PMAPS_GATE_RUNS and PMAPS_GATE_TRIES say how often; by default CI is given a taste.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

GATE = Path(__file__).parents[2] / "examples" / "gate"
RUNS = int(os.environ.get("PMAPS_GATE_RUNS", "1"))
TRIES = int(os.environ.get("PMAPS_GATE_TRIES", "1"))

#: What the failure says of each mistake.  Sixteen pages each; a peak is known to the kernel in
#: batches only, and costs MiB here.
MISTAKES = {
    "heap": r"FAILED .*_leaves_nothing_behind - BudgetExceeded: anonymous growth: [67]",
    "text": r"FAILED .*test_code_is_never_written - BudgetExceeded: libgate.text: dirty: 16 pages",
    "sharing": r"FAILED .*test_a_worker_shares_the_heap - .*Exceeded: @worker \[heap\]: uss: 64 ",
    "mappings": r"FAILED .*test_mappings_do_not_pile_up - BudgetExceeded: mappings growth: 1\d, ",
    "peak": r"FAILED .*test_a_request_needs_little_at_its_most - BudgetExceeded: peak_rss growth",
}

RunGate = Callable[..., pytest.RunResult]


@pytest.fixture
def gate(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> RunGate:
    """Run the demonstration: ``gate(mistake, *options)``."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    shutil.copytree(GATE, pytester.path, dirs_exist_ok=True)
    monkeypatch.setenv("COLUMNS", "200")

    def run(mistake: str, *options: object) -> pytest.RunResult:
        monkeypatch.setenv("GATE_MISTAKE", mistake)
        return pytester.run(sys.executable, "-m", "pytest", "--basetemp=tmp", *options)

    return run


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_nothing_changed(gate: RunGate, workers: list[str]) -> None:
    """It passes, every time."""
    for _ in range(RUNS):
        result = gate("", *workers)
        result.assert_outcomes(passed=5)
        assert result.ret == 0


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named(gate: RunGate, mistake: str) -> None:
    """In its own test, by one line, without a traceback; the others pass, and are counted."""
    for _ in range(TRIES):
        result = gate(mistake)
        result.assert_outcomes(passed=4, failed=1)
        assert result.ret == 1
        text = result.stdout.str()
        assert re.search(MISTAKES[mistake], text)
        assert "4 passed" in text
        assert "Traceback" not in text
        assert "test_gate.py:" not in text.replace("test_gate.py::", "")


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_all_at_once(gate: RunGate, workers: list[str]) -> None:
    """Each by itself, and with workers too."""
    result = gate(",".join(MISTAKES), *workers)
    result.assert_outcomes(failed=5)
    for pattern in MISTAKES.values():
        assert re.search(pattern, result.stdout.str())
