"""Yama: who may follow a program that it has started itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oracle.agreement import as_nobody, unprivileged_python

SETTING = Path("/proc/sys/kernel/yama/ptrace_scope")
CODE = """
import pytest_pmaps as p
try:
    result = p.run(["true"])
    print(result.returncode, *result.at)
except p.AccessDenied as exc:
    print(exc)
print(p.run(["true"], trace=False).returncode)
"""


@pytest.fixture
def scope() -> Iterator[Callable[[int], None]]:
    """Set it, and set it back."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to set it")
    if not SETTING.exists():
        pytest.skip("this kernel has no Yama")
    before = SETTING.read_text()
    yield lambda value: SETTING.write_text(str(value)) and None
    SETTING.write_text(before)


@pytest.mark.parametrize("value", [0, 1])
def test_own_programs_may_be_followed(scope: Callable[[int], None], value: int):
    """Under 1, as on Ubuntu, because the program allows it before it begins."""
    scope(value)
    assert said() == ["0 exec exit", "0"]


def test_nobody_may_trace(scope: Callable[[int], None]):
    """Under 2: that is named, with what works without."""
    scope(2)
    refused, status = said()
    assert f"{SETTING} is 2: " in refused
    assert "trace=False" in refused
    assert status == "0"


def said() -> list[str]:
    """What an ordinary user's run gave."""
    command = [*as_nobody(), unprivileged_python(), "-P", "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120)
    assert done.stderr == ""
    return done.stdout.splitlines()
