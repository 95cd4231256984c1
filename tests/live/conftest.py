"""Targets for live tests, built once a session in a folder that everybody may read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oracle import targets


@pytest.fixture(scope="session")
def public() -> Iterator[Path]:
    """A folder that nobody can reach too; pytest's own are for their owner alone."""
    with targets.public_dir() as folder:
        yield folder


@pytest.fixture(scope="session")
def zoo(public: Path) -> Path:
    """The program that puts its memory into states that it names."""
    return targets.build("zoo", public)


@pytest.fixture(scope="session")
def host(public: Path) -> Path:
    """The program that loads libfoo and acts on it."""
    return targets.build("host", public)
