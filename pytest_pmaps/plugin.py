"""Entry point of the pytest plugin: hooks that pytest calls by name, and the fixtures.

pytest loads this in every session, used or not: it imports nothing but pytest, the standard
library and a few small modules of this package.  What watches tests comes with the first test
that needs it, the engine with the first fixture used.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import pytest

from ._plugin import marks, options
from ._plugin.fixtures import pmaps, pmaps_snapshot
from ._plugin.standby import STANDBY, Standby, is_needed, may_be_needed

if TYPE_CHECKING:
    # For annotations in tests: ``def test_it(pmaps: Pmaps) -> None``.
    from ._plugin.facade import Pmaps as Pmaps
    from ._plugin.facade import TakeSnapshot as TakeSnapshot
    from .select import Selector

__all__ = ["pmaps", "pmaps_snapshot"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare --pmaps-* and pmaps_*."""
    options.declare(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare pytest_pmaps_*."""
    from . import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options, and watch the tests of this session if they ask for it."""
    marks.declare(config)
    settings = options.read(config)
    standby = config.stash[STANDBY] = Standby(config, settings)
    if is_needed(settings, ()):
        session = standby.watch()
        if settings.baseline is not None:
            _ = session.baseline  # reads it now: what is wrong with it is a usage error
    if settings.report or settings.budgets:
        from ._plugin import finds_temporary

        config.pluginmanager.register(finds_temporary, "pmaps-directory")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what this host shows and what moves, where somebody asked for this plugin."""
    settings = config.stash[STANDBY].settings
    if not settings.given:
        return None
    from .errors import PmapsError
    from .host import header_line

    try:
        line = header_line()
    except PmapsError as exc:
        line = f"pmaps: {exc}"
    if settings.baseline is None:
        return line
    return f"{line}; baseline {settings.baseline.name}{', updated' if settings.update else ''}"


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector) -> object:
    """Refuse markers that cannot be read."""
    made = yield
    marks.check(collector, made, collector.config.stash[STANDBY].settings)
    return made


def pytest_collection_finish(session: pytest.Session) -> None:
    """Watch tests if one of them can be seen to need it; stand by if one may come to."""
    standby = session.config.stash[STANDBY]
    if is_needed(standby.settings, session.items):
        standby.watch()
        marks.have_fixture(session.items)
    elif may_be_needed(session.items):
        standby.stand_by()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A worker of pytest-xdist is to start: only it will know its tests."""
    node.config.stash[STANDBY].stand_by(node.workerinput["workercount"])


def pytest_assertrepr_compare(
    config: pytest.Config, op: str, left: object, right: object
) -> list[str] | None:
    """Say why a plain ``assert`` about one of our objects failed."""
    # Nothing of ours can be compared where these were never imported.
    counts = sys.modules.get("pytest_pmaps.counts")
    snapshots = sys.modules.get("pytest_pmaps.snapshots")
    if snapshots and isinstance(right, snapshots.Snapshot) and op in ("in", "not in"):
        from .report.failure import explain_membership

        return explain_membership(cast("Selector", left), op, right)
    lines = counts.explain(left, op, right) if counts else None
    if lines:
        from ._plugin.session import SESSION

        if SESSION in config.stash:
            config.stash[SESSION].explained[:-8] = []
            config.stash[SESSION].explained.append(lines[0])
    return cast("list[str] | None", lines)
