"""Hooks with which other plugins and conftest files add to what is reported.

They are called when a test fails that took snapshots, and for every failing test under
``--pmaps-report``.  What they raise is shown as one line and hides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .snapshots import Mapping, Snapshot


@pytest.hookspec
def pytest_pmaps_targets(item: pytest.Item) -> Iterable[object] | None:
    """More processes to dump when this test fails.

    Return targets as ``pytest_pmaps.snapshot`` takes them (a pid, a ``Popen``, …), or pairs
    ``(label, target)``.  Called while the processes of the test may still live: after its
    failing phase, before its teardown.  A process that is gone is named as such.
    """


@pytest.hookspec(firstresult=True)
def pytest_pmaps_classify(mapping: Mapping) -> str | None:
    """What the tables of a failure report call a mapping.

    Mappings of one name share a row; without an answer it is the file's name, ``[heap]``,
    ``[anon]`` and so on.  The first answer that is not None counts.
    """


@pytest.hookspec
def pytest_pmaps_report_sections(
    item: pytest.Item, report: pytest.TestReport, snapshots: Sequence[Snapshot]
) -> Iterable[tuple[str, str]] | None:
    """Sections to add to the report of a failed phase, as pairs ``(title, text)``.

    ``snapshots``: what the report itself is made from, oldest first: of each process the first
    and the last snapshot that the test took, and the one taken when it failed.
    """
