"""A gate for CI: each test says what it may cost, and fails when it costs more.

Try ``GATE_MISTAKE=heap pytest examples/gate``, or text, sharing, mappings, peak.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest

Mistake = Callable[[str], int]


@pytest.mark.pmaps_budget("anonymous growth <= 32 KiB")
def test_a_request_leaves_nothing_behind(gate: ctypes.CDLL, mistake: Mistake):
    """The heap after it is the heap before it, but for some of malloc's and Python's own."""
    gate.gate_serve(mistake("heap"))


@pytest.mark.pmaps_budget("libgate.text: dirty <= 0", "libgate.rodata: dirty <= 0")
def test_code_is_never_written(gate: ctypes.CDLL, mistake: Mistake):
    """So that all processes share it."""
    assert gate.gate_patch(mistake("text")) == 0


@pytest.mark.pmaps_budget("@worker [heap]: uss <= 16 KiB")
def test_a_worker_shares_the_heap(worker: int):
    """What it inherited and does not write is still its parent's."""
    assert worker


@pytest.mark.pmaps_budget("mappings growth <= 4")
def test_mappings_do_not_pile_up(gate: ctypes.CDLL, mistake: Mistake):
    """The kernel allows 65,530 of them."""
    assert gate.gate_map(mistake("mappings")) == 0


# The kernel keeps its mark in batches (docs/peaks.md): what one page costs it cannot tell.
@pytest.mark.pmaps_budget("peak_rss growth <= 4 MiB")
def test_a_request_needs_little_at_its_most(gate: ctypes.CDLL, mistake: Mistake):
    """However short the moment."""
    assert gate.gate_spike(1 + mistake("peak")) == 0
