"""Registered as a plugin of its own where maps may have to be saved for tests that use none of
our fixtures: only a fixture may ask where pytest's temporary folder is.
"""

from __future__ import annotations

import pytest

from .fixtures import load_reports
from .session import SESSION


@pytest.fixture(scope="session", autouse=True)
def _pmaps_directory(request: pytest.FixtureRequest) -> None:
    request.config.stash[SESSION].directory.find(request)
    load_reports()
