"""What the stories share: a small library, compiled on the spot."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
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
def foo(tmp_path: Path) -> Iterator[ctypes.CDLL]:
    """A fresh copy of libfoo, loaded for one test: each has pages of its own."""
    library = ctypes.CDLL(str(build_libfoo(tmp_path)))
    yield library
    # Or the next test's "libfoo" would be two files; ctypes has no public way.
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))
