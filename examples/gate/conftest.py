"""Builds what the gate watches, and says which mistake was made: none, where nobody asks.

``GATE_MISTAKE`` names one, or several with commas between: heap, text, sharing, mappings, peak.
``GATE_PAGES`` is how many pages it costs, 16 unless told.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libgate.so and the server."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, to compile libgate")
    folder = tmp_path_factory.mktemp("gate")
    library, server = folder / "libgate.so", folder / "server"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, HERE / "gate.c"], check=True)
    subprocess.run(["gcc", "-O1", "-o", server, HERE / "server.c"], check=True)
    return folder


@pytest.fixture(scope="session")
def gate(built: Path) -> ctypes.CDLL:
    """The library, loaded once; what loading it costs is in no test's growth."""
    return ctypes.CDLL(str(built / "libgate.so"))


@pytest.fixture
def mistake() -> Callable[[str], int]:
    """How many pages a mistake of some kind costs."""
    made = os.environ.get("GATE_MISTAKE", "").split(",")
    return lambda kind: int(os.environ.get("GATE_PAGES", "16")) if kind in made else 0


@pytest.fixture
def worker(built: Path, mistake: Callable[[str], int], pmaps) -> Iterator[int]:
    """The worker of a pre-fork server; budgets call it @worker."""
    command = [built / "server", str(mistake("sharing"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        pmaps.target("worker", pid)
        yield pid
        os.killpg(process.pid, signal.SIGKILL)
