"""Markers: declared, checked while collecting, read while running."""

from __future__ import annotations

import pytest

from .options import UNDETERMINED, Settings

__all__ = ["check", "declare", "refuse", "undetermined"]

_NAME = "pmaps_undetermined"


def declare(config: pytest.Config) -> None:
    """Make them known to ``--strict-markers`` and ``--markers``."""
    config.addinivalue_line(
        "markers",
        f'{_NAME}("error" or "skip"): what this test is where its page maps leave open what it '
        "asks; wins over --pmaps-undetermined",
    )


def check(collector: pytest.Collector, made: object) -> None:
    """Raise CollectError for a marker that does not read, on what was just collected."""
    for item in made if isinstance(made, list) else [made]:
        if isinstance(item, pytest.Item) and (wrong := _wrong(item)):
            raise collector.CollectError(wrong)


def refuse(item: pytest.Item) -> None:
    """Fail a test whose marker does not read.

    Methods of unittest classes are not made where check() looks, and markers can be added late.
    """
    __tracebackhide__ = True
    if wrong := _wrong(item):
        pytest.fail(wrong, pytrace=False)


def undetermined(item: pytest.Item, settings: Settings) -> str:
    """``error`` or ``skip``: the nearest marker's, or else the session's."""
    mark = item.get_closest_marker(_NAME)
    return str(mark.args[0]) if mark and not _wrong(item) else settings.undetermined


def _wrong(item: pytest.Item) -> str | None:
    for mark in item.iter_markers(_NAME):
        if mark.kwargs or len(mark.args) != 1 or mark.args[0] not in UNDETERMINED:
            given = [*map(repr, mark.args), *(f"{k}={v!r}" for k, v in mark.kwargs.items())]
            return f"{item.nodeid}: {_NAME} takes 'error' or 'skip', not ({', '.join(given)})"
    return None
