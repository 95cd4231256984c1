"""Markers: declared, checked while collecting, read while running."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from .options import UNDETERMINED, Settings, what_is_wrong

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "NAMES",
    "are_on",
    "budgets",
    "check",
    "declare",
    "has_budgets",
    "have_fixture",
    "refuse",
    "undetermined",
]

_UNDETERMINED = "pmaps_undetermined"
_BUDGET = "pmaps_budget"

#: All of them.
NAMES = frozenset((_UNDETERMINED, _BUDGET))


def declare(config: pytest.Config) -> None:
    """Make them known to ``--strict-markers`` and ``--markers``."""
    config.addinivalue_line(
        "markers",
        f'{_UNDETERMINED}("error" or "skip"): what this test is where its page maps leave open '
        "what it asks; wins over --pmaps-undetermined",
    )
    config.addinivalue_line(
        "markers",
        f'{_BUDGET}("anonymous growth <= 2 MiB", ...): what the process may hold when this test '
        "was called; wins over --pmaps-budget",
    )


def check(collector: pytest.Collector, made: object, settings: Settings) -> None:
    """Raise CollectError for a marker that does not read, on what was just collected."""
    found = made if isinstance(made, list) else (made,)
    items = [one for one in found if isinstance(one, pytest.Item)]
    if are_on(items):
        for item in items:
            if wrong := _wrong(item, settings):
                raise collector.CollectError(wrong)


def are_on(items: Iterable[pytest.Item]) -> bool:
    """Whether any of these tests, or a class, module, … that they are of, has a marker of ours.

    Cheap: a parent is looked at once for all its tests, and by id, as nodes are slow to hash.
    """
    nodes: list[pytest.Item | pytest.Collector] = list(items)
    while nodes:
        for node in nodes:
            for mark in node.own_markers:
                if mark.name in NAMES:
                    return True
        parents = {id(node.parent): node.parent for node in nodes}
        nodes = [parent for parent in parents.values() if parent is not None]
    return False


def refuse(item: pytest.Item, settings: Settings) -> None:
    """Fail a test whose marker does not read.

    Methods of unittest classes are not made where check() looks, and markers can be added late.
    """
    __tracebackhide__ = True
    if wrong := _wrong(item, settings):
        pytest.fail(wrong, pytrace=False)


def undetermined(item: pytest.Item, settings: Settings) -> str:
    """``error`` or ``skip``: the nearest marker's, or else the session's."""
    mark = item.get_closest_marker(_UNDETERMINED)
    return str(mark.args[0]) if mark and not _wrong_policy(mark) else settings.undetermined


def has_budgets(item: pytest.Item) -> bool:
    """Whether a marker gives it some."""
    return item.get_closest_marker(_BUDGET) is not None


def have_fixture(items: Iterable[pytest.Item]) -> None:
    """Have tests with budgets use our fixture, which loads what would show in the first test."""
    for item in items:
        names = getattr(item, "fixturenames", None)
        if has_budgets(item) and isinstance(names, list) and "pmaps_snapshot" not in names:
            names.insert(0, "pmaps_snapshot")


def budgets(item: pytest.Item) -> list[tuple[str, ...]]:
    """The budgets of its markers, the nearest last."""
    return [mark.args for mark in item.iter_markers(_BUDGET)][::-1]


def _wrong(item: pytest.Item, settings: Settings) -> str | None:
    for mark in item.iter_markers(_UNDETERMINED):
        if wrong := _wrong_policy(mark):
            return f"{item.nodeid}: {wrong}"
    for mark in item.iter_markers(_BUDGET):
        if wrong := _wrong_budgets(mark, settings.baseline):
            return f"{item.nodeid}: {_BUDGET}: {wrong}"
    return None


def _wrong_policy(mark: pytest.Mark) -> str | None:
    if not mark.kwargs and len(mark.args) == 1 and mark.args[0] in UNDETERMINED:
        return None
    return f"{_UNDETERMINED} takes 'error' or 'skip', not ({_given(mark)})"


def _wrong_budgets(mark: pytest.Mark, baseline: Path | None) -> str | None:
    if mark.kwargs or not mark.args:
        return f"takes budgets, such as 'anonymous growth <= 2 MiB', not ({_given(mark)})"
    found = (what_is_wrong(text, baseline) for text in mark.args)
    return next((wrong for wrong in found if wrong), None)


def _given(mark: pytest.Mark) -> str:
    return ", ".join([*map(repr, mark.args), *(f"{k}={v!r}" for k, v in mark.kwargs.items())])
