"""Watches tests run: who asks for snapshots, what undetermined means, who failed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import mmap
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ..errors import undetermined_policy
from . import details, marks, records
from .directory import Directory
from .options import Settings
from .standby import Asker

if TYPE_CHECKING:
    from ..baseline import Baseline
    from ..snapshots import Snapshot

__all__ = ["SESSION", "Session"]


class Session:
    """One per process, from when it is needed; its hooks know which test runs at the moment.

    ``wide``: the fixtures of wider scopes that do, the innermost last; others keep this list.
    """

    def __init__(self, config: pytest.Config, settings: Settings, wide: list[Asker]) -> None:
        self.config = config
        self.settings = settings
        self.directory = Directory(settings.report_dir, hasattr(config, "workerinput"))
        self.explained: list[str] = []
        #: Processes by the names that budgets call them.
        self.targets: dict[str, object] = {}
        self._owners: dict[str, object] = {}
        #: Between a test's first and last capture for its budgets, when nothing is looked at.
        self.measuring = False
        self._wide = wide
        self._item: pytest.Item | None = None
        self._joined = contextlib.ExitStack()

    @property
    def worker(self) -> str:
        """Name of this worker of pytest-xdist, ``""`` if it is none."""
        return str(getattr(self.config, "workerinput", {}).get("workerid", ""))

    def note(self, snapshot: Snapshot) -> None:
        """Keep a snapshot for the report of whoever runs."""
        if self._wide:
            record = records.own(self._wide[-1].node)
            record.fixtures.add(self._wide[-1].fixture)
        elif self._item is not None:
            record = records.own(self._item)
        else:
            return
        record.add(snapshot)

    def name(self, name: str, target: object) -> None:
        """Let budgets call a process by a name, as long as the test or the fixture lives that
        gave it.
        """
        self.targets[name] = target
        self._owners[name] = self._wide[-1] if self._wide else self._item
        gate = self.config.pluginmanager.get_plugin("pmaps-gate")
        if gate is not None:
            gate.arrived(name)

    def forget_targets(self, owner: object) -> None:
        """Whoever named them is over, and their pids may be others' soon."""
        for name in [name for name, asker in self._owners.items() if asker is owner]:
            del self._owners[name], self.targets[name]

    @functools.cached_property
    def baseline(self) -> Baseline:
        """What was recorded in earlier sessions; UsageError where that does not read."""
        from ..baseline import Baseline
        from ..errors import FormatError

        path = self.settings.baseline
        try:
            return Baseline() if path is None else Baseline.load(path, missing_ok=True)
        except (FormatError, OSError) as exc:
            raise pytest.UsageError(f"pmaps_baseline: {exc}") from None

    @functools.cached_property
    def environment(self) -> str:
        """Under which key baselines of this session stand."""
        from .. import baseline, host
        from ..model import Source

        # Those that decide what is counted; userfaultfd and others of a host's do not.
        names = {source.name.lower() for source in Source}
        return baseline.environment(
            sources=[s.name for s in host.sources() if s.works and s.name in names],
            page_size=mmap.PAGESIZE,
            workers=bool(self.worker),
        )

    # ---- who runs

    def join(self, item: pytest.Item, attempt: int) -> None:
        """A test is the first that needs this, in the midst of a phase: that phase counts as
        watched until the next one begins, and its report is still to come.
        """
        details.begin(item, records.begin(item, attempt), self.worker)
        self._joined.enter_context(self._runs(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """A test, or its next attempt, begins."""
        details.begin(item, records.begin(item), self.worker)
        with self._runs(item):
            result = yield
            # Not before: other plugins take apart in teardown what they put up in setup.
            marks.refuse(item, self.settings)
            return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """A test runs; under Hypothesis, many times."""
        with self._runs(item), _last_example_only(item):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """A test ends."""
        with self._runs(item):
            return (yield)

    @contextmanager
    def _runs(self, item: pytest.Item) -> Iterator[None]:
        self._joined.close()
        skips = marks.undetermined(item, self.settings) == "skip"
        # No token: who joins may do so in a task's context, and leave in another.
        before = undetermined_policy.get()
        undetermined_policy.set(pytest.skip.Exception if skips else None)
        self._item = item
        try:
            yield
        finally:
            self._item = None
            undetermined_policy.set(before)

    # ---- who failed

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Outermost: whether a test failed is known when everybody has had their say (xfail)."""
        captured = records.taken_for(item)
        if captured and not self.measuring:  # as in subtests, which report amid the test
            details.measure(item)
        report = yield
        if report.failed and (captured or self.settings.report):
            self._tell(item, call, report)
        if call.when == "teardown":
            records.end(item)
            self.forget_targets(item)
        return report

    def _tell(
        self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport
    ) -> None:
        """The test's patches are still in place, and its limits: whatever they do to us, its
        own failure is what must be reported.
        """
        try:
            from .failures import tell

            tell(self, item, call, report)
        except details.ANYTHING as exc:
            with contextlib.suppress(*details.ANYTHING):
                text = f"no page map: {type(exc).__name__}: {exc}"
                report.sections.append(("pmaps", text))

    # ---- the end

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Tell the controller of pytest-xdist where a worker's maps went."""
        self._joined.close()
        output = getattr(self.config, "workeroutput", None)
        if output is not None and self.directory.known:
            output["pmaps_report_dir"] = self.directory.known


#: The session of a config.
SESSION = pytest.StashKey[Session]()


@contextmanager
def _last_example_only(item: pytest.Item) -> Iterator[None]:
    """Under ``@given``, let each example begin with what was captured before the first."""
    handle = getattr(getattr(item, "obj", None), "hypothesis", None)
    inner: Callable[..., Any] | None = getattr(handle, "inner_test", None)
    if handle is None or inner is None:
        yield
        return
    record = records.own(item)
    handle.inner_test = _rewinding(inner, record, dict(record.pairs))
    try:
        yield
    finally:
        handle.inner_test = inner


def _rewinding(
    inner: Callable[..., Any], record: records.Record, before: dict[records.Process, records.Pair]
) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(inner):
        # Plugins that run coroutines look whether this is one.
        @functools.wraps(inner)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            record.rewind(before)
            return await inner(*args, **kwargs)

        return coroutine

    @functools.wraps(inner)
    def example(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        record.rewind(before)
        return inner(*args, **kwargs)

    return example
