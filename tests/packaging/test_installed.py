from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from pytest_pmaps._native import program_path


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("pytest11", "pmaps", "pytest_pmaps.plugin"),
        ("console_scripts", "pmaps", "pytest_pmaps.cli:main"),
    ],
)
def test_entry_points(group: str, name: str, value: str) -> None:
    """pytest finds the plugin and the shell finds pmaps, and both can be loaded."""
    (entry,) = distribution("pytest-pmaps").entry_points.select(group=group)

    assert (entry.name, entry.value) == (name, value)
    entry.load()


@pytest.mark.parametrize("name", ["pmaps-tracer", "pmaps-follower", "pmaps-launch"])
def test_the_programs_are_installed(name: str) -> None:
    """Beside the engine, and may be run; by hand, each says how it is meant."""
    run = subprocess.run(
        [program_path(name)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )

    assert run.returncode == 2
    assert "pytest-pmaps starts this program" in run.stderr


def test_loading_the_plugin_is_cheap(tmp_path: Path) -> None:
    """Neither engine nor binding nor Hypothesis: they would be in everyone's footprint."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "PYTEST_"))}
    child = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-c", "import pytest_pmaps.plugin"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    # "import time:  self [us] | cumulative | imported package", indented by depth
    loaded = {line.rpartition("|")[2].strip() for line in child.stderr.splitlines()}
    costly = {"pytest_pmaps._engine", "_cffi_backend", "cffi", "hypothesis", "numpy", "psutil"}

    assert "pytest_pmaps.plugin" in loaded
    assert loaded & costly == set()
