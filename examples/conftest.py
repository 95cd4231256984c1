"""What the stories share: a small library, compiled on the spot."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def build_libfoo(folder: Path) -> Path:
    """Compile libfoo.so.1 into a folder."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, to compile libfoo")
    path = folder / "libfoo.so.1"
    source = str(HERE / "libfoo.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(path), source], check=True)
    return path


@pytest.fixture
def foo(tmp_path: Path) -> ctypes.CDLL:
    """A fresh copy of libfoo, loaded: each test has pages of its own."""
    return ctypes.CDLL(str(build_libfoo(tmp_path)))
