"""These change settings of the kernel, and ask it what only a guest was told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oracle import targets

if "PMAPS_GUEST" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def public() -> Iterator[Path]:
    """A folder that nobody can reach too."""
    with targets.public_dir() as folder:
        yield folder


@pytest.fixture(scope="session")
def zoo(public: Path) -> Path:
    """The program that puts its memory into states that it names."""
    return targets.build("zoo", public)
