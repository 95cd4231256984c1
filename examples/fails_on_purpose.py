"""Fails on purpose, to show what a failure looks like.

    pytest examples/fails_on_purpose.py

Its name keeps it out of ``pytest examples/``; test_on_purpose.py runs it and reads the report.
"""

from __future__ import annotations

from pytest_pmaps import assert_no_dirty


def test_code_stays_clean(pmaps_snapshot, foo):
    """It does not: foo_patch() writes into it."""
    pmaps_snapshot()
    foo.foo_patch()
    assert_no_dirty(pmaps_snapshot()["libfoo.text"])
