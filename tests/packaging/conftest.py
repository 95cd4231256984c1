"""Where the distributions to be judged lie: PMAPS_DIST, which "tox -e packaging" sets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dist() -> Path:
    """The folder with one built sdist and one built wheel."""
    if "PMAPS_DIST" not in os.environ:
        pytest.skip("needs a built sdist and wheel: tox -e packaging")
    return Path(os.environ["PMAPS_DIST"])


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    """The one wheel."""
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    """The one sdist."""
    (path,) = dist.glob("*.tar.gz")
    return path
