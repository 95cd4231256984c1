"""Decides whether tests are watched, and stands by where one may ask for that in its midst.

Nothing is watched where nobody can be seen to need it.  But ``request.getfixturevalue`` may ask
at any time, and then it must be known who is running.  The hooks here run for tests of people who
have this package installed and do not use it: plain calls, and as few as will do.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ..procfs import getpid
from . import marks

if TYPE_CHECKING:
    from typing import Any

    from .options import Settings
    from .session import Session
    from .told import Reports

__all__ = ["STANDBY", "Asker", "Standby", "is_needed", "may_be_needed"]

_FIXTURES = frozenset(("pmaps", "pmaps_snapshot"))


def is_needed(settings: Settings, items: Collection[pytest.Item]) -> bool:
    """Whether tests must be watched from the start: anything was asked for, or one of these
    tests is seen to use a fixture or a marker of ours.  No items: they are not collected yet.
    """
    return settings.given or marks.are_on(items) or any(map(_asks, items))


def _asks(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    if not _FIXTURES.isdisjoint(names):
        return True
    # One under @given that can ask would do so amid its examples: too late to tell them apart.
    return "request" in names and hasattr(getattr(item, "obj", None), "hypothesis")


def may_be_needed(items: Collection[pytest.Item]) -> bool:
    """Whether one of these tests, or a fixture of it, has the means to ask while it runs."""
    return any("request" in getattr(item, "fixturenames", ()) for item in items)


class Asker:
    """A fixture of a wider scope that is being set up or torn down, and its node."""

    def __init__(self, node: pytest.Item | pytest.Collector, fixture: str) -> None:
        self.node = node
        self.fixture = fixture


class Standby:
    """One per process: has tests watched as soon as that is needed.

    Until it is told to stand by, it does nothing at all and does not know who runs: a test that
    found a way to ask nevertheless is watched from its next phase on.

    ``wide``: the fixtures of wider scopes that run at the moment, the innermost last.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.wide: list[Asker] = []
        #: Tests may fork: the session is this process's.
        self._owner = getpid()
        self._stands_by = False
        self._reports: Reports | None = None
        self._session: Session | None = None
        self._item: pytest.Item | None = None
        self._attempt = 0

    def stand_by(self, workers: int = 0) -> None:
        """From now on know who runs, and keep what is told of tests, here or by workers."""
        if not self._stands_by:
            self._stands_by = True
            self.config.pluginmanager.register(self, "pmaps-standby")
            if not hasattr(self.config, "workerinput"):
                from .told import Reports

                self._reports = Reports(self._owner, self.watch)
                self.config.pluginmanager.register(self._reports, "pmaps-reports")
        if workers and self._reports is not None:
            self._reports.workers = workers

    def watch(self) -> Session:
        """The session that watches tests, from the next phase of a test on if not already."""
        if self._session is None:
            self.stand_by()
            from .budgets import Gate
            from .collected import Collected
            from .controller import Controller
            from .session import SESSION, Session

            session = self._session = Session(self.config, self.settings, self.wide)
            self.config.stash[SESSION] = session
            self.config.pluginmanager.register(session, "pmaps-session")
            collected = Collected()
            self.config.pluginmanager.register(collected, "pmaps-collected")
            if self._reports is not None:
                controller = Controller(self.config, session, self._reports, collected)
                self.config.pluginmanager.register(controller, "pmaps-controller")
            self.config.pluginmanager.register(Gate(session), "pmaps-gate")
        return self._session

    def join(self) -> Session:
        """The same for the test that is running, which just asked: watched from now on."""
        if self._session is None:
            session = self.watch()
            if self._item is not None:
                session.join(self._item, self._attempt)
        return self.watch()

    # ---- who runs

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A test, or its next attempt, begins."""
        self._attempt = self._attempt + 1 if item is self._item else 1
        self._item = item

    @pytest.hookimpl(trylast=True, specname="pytest_runtest_setup")
    def pytest_runtest_setup_done(self, item: pytest.Item) -> None:
        """Its fixtures are set up: they may have added a marker."""
        for mark in item.own_markers:
            if mark.name in marks.NAMES:
                self.join()
                marks.refuse(item, self.settings)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """A fixture of a wider scope captures for itself, in its setup and its teardown."""
        if request.scope == "function":
            return (yield)
        asker = Asker(request.node, fixturedef.argname)
        # Finalizers run last in, first out: these two enclose the fixture's own.
        fixturedef.addfinalizer(self._leave)
        self.wide.append(asker)
        try:
            return (yield)
        finally:
            self.wide.pop()
            fixturedef.addfinalizer(partial(self.wide.append, asker))

    def _leave(self) -> None:
        asker = self.wide.pop()
        if self._session is not None:
            self._session.forget_targets(asker)


#: The standby of a config.
STANDBY = pytest.StashKey[Standby]()
