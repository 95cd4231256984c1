"""Adds what was captured, and a fresh capture, to the report of a test that failed."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ..assertions import Evidence
from ..capture import snapshot
from ..errors import FootprintError, PmapsError, Undetermined
from ..files import dumps, save
from ..metrics import Counted
from ..procfs import getpid
from ..replacing import write_atomically
from ..report import failure
from ..report.failure import Change, Dump, Story, View, plain
from ..snapshots import Mapping, Snapshot
from . import details, records

if TYPE_CHECKING:
    from .session import Session

__all__ = ["tell"]


def tell(
    session: Session, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport
) -> None:
    """Add sections, files and properties; whatever goes wrong is one line, never an error."""
    teller = _Teller(session, item, call, report)
    for step in (teller.note_headline, teller.dump, teller.add_section, teller.add_sections):
        try:
            step()
        except details.ANYTHING as exc:  # the test's own failure must stay what is reported
            teller.trouble(f"the report could not be finished: {_brief(exc)}")
    details.fail(item, report)
    teller.forget()


def _brief(exc: BaseException) -> str:
    """An exception in one line."""
    return f"{type(exc).__name__}: {str(exc).strip().partition(chr(10))[0]}"


#: pytest has formatted the traceback by then, and we have done our part.
_UNTIL_NOW = "the test's only snapshot (with pytest's own work on the failure)"


class _Target(NamedTuple):
    """A process to dump; ``process`` None where only a hook knows it."""

    who: str
    target: object
    process: records.Process | None = None


class _Teller:
    """One failed phase of one test."""

    def __init__(
        self,
        session: Session,
        item: pytest.Item,
        call: pytest.CallInfo[None],
        report: pytest.TestReport,
    ) -> None:
        self.session = session
        self.item = item
        self.report = report
        self.failure = call.excinfo.value if call.excinfo else None
        self.pairs = records.of_item(item)
        self.details = details.of(item)
        self.story = Story()
        self._saved_names: dict[int, str] = {}

    def trouble(self, line: str) -> None:
        """Tell of something that went wrong here, in the report and in the summary."""
        self.details.problems.append(plain(line))
        self._add("pmaps", plain(line))

    # ---- steps

    def note_headline(self) -> None:
        """Keep the story's first line for the summary, JUnit and run.json."""
        found = self.details
        failures = [[self.report.when, kind, text] for kind, text in self._headlines()]
        if not found.failures and (failures or found.phase == "call"):
            found.phase = self.report.when
        if failures and not found.headline:
            _, found.kind, found.headline = failures[0]
        found.failures += failures

    def _headlines(self) -> Iterator[tuple[str, str]]:
        for exc in _leaves(self.failure):
            first = plain(str(exc).partition("\n")[0])
            if isinstance(exc, FootprintError):
                yield "footprint", first
            elif isinstance(exc, Undetermined):
                yield "undetermined", first
            elif isinstance(exc, AssertionError):
                # A plain assert about counts, which our hook explained.
                told = (text for text in self.session.explained if text in str(exc))
                yield from (("footprint", plain(text)) for text in itertools.islice(told, 1))
        self.session.explained.clear()

    def forget(self) -> None:
        """Others may keep the exception, and with it what it is about, for long."""
        for evidence in self.story.evidence:
            evidence.selection.forget()
        for pair in self.pairs.values():
            pair.first.forget()
            pair.last.forget()

    def dump(self) -> None:
        """Capture what still lives, before anything here disturbs it more; then save it."""
        targets = list(self._targets())
        captured = [(target, *_captured(target)) for target in targets]
        self.story.evidence = _evidence(self.failure)
        self.story.changes = list(self._changes([c for _, c, _ in captured if c]))
        self.details.dumped = [details.numbers(taken, taken) for _, taken, _ in captured if taken]
        offending = {id(e.selection.columns): e.selection for e in self.story.evidence}
        for number, selection in enumerate(offending.values(), 1):
            self.story.dumps.append(self._failed(selection, number))
        for target, taken, note in captured:
            self.story.dumps.append(self._dumped(target, taken, note))

    def add_section(self) -> None:
        """Our own section."""
        self._add("pmaps", failure.section(self.story, self._view()))

    def add_sections(self) -> None:
        """Those of other plugins."""
        dumped = (dump.snapshot for dump in self.story.dumps if dump.snapshot)
        known = [*itertools.chain.from_iterable(self.pairs.values()), *dumped]
        distinct = {id(one.columns): one for one in known}.values()
        snapshots = sorted(distinct, key=lambda one: one.columns.captured_ns)
        hook = self.item.ihook.pytest_pmaps_report_sections
        try:
            for found in hook(item=self.item, report=self.report, snapshots=snapshots):
                for title, text in found or ():
                    self._add(plain(str(title)), plain(str(text)))
        except details.ANYTHING as exc:  # somebody else's
            self.trouble(f"pytest_pmaps_report_sections failed: {_brief(exc)}")

    # ---- what to dump

    def _targets(self) -> Iterator[_Target]:
        if self.session.settings.report and not any(p.pid == getpid() for p in self.pairs):
            yield _Target("this process", None)
        for process, pair in self.pairs.items():
            yield _Target(_who(pair.last), process.pid, process)
        try:
            yield from self._targets_of_hooks()
        except details.ANYTHING as exc:  # somebody else's
            self.trouble(f"pytest_pmaps_targets failed: {_brief(exc)}")

    def _targets_of_hooks(self) -> Iterator[_Target]:
        for found in self.item.ihook.pytest_pmaps_targets(item=self.item):
            if isinstance(found, str | bytes):
                raise TypeError(f"it gave {found!r}, not a list of targets")
            for target in found or ():
                if isinstance(target, tuple):
                    yield _Target(str(target[0]), target[1])
                else:
                    yield _Target(f"process {getattr(target, 'pid', target)}", target)

    def _dumped(self, target: _Target, taken: Snapshot | None, note: str) -> Dump:
        who = target.who if target.process else _named(target, taken)
        if taken is not None:
            return Dump(f"{who}, now", taken, *self._saved(taken))
        last = self.pairs[target.process].last if target.process else None
        if last is None or id(last.columns) in self._saved_names:
            return Dump(who, note=note)
        saved, problem = self._saved(last)
        return Dump(f"{who}, at the test's last snapshot", last, saved, problem or note)

    def _failed(self, selection: Counted, number: int) -> Dump:
        snapshot = Snapshot(selection.columns)
        tag = "failed" if number == 1 else f"failed{number}"
        return Dump(f"{_who(snapshot)}, as it failed", snapshot, *self._saved(snapshot, tag))

    # ---- what to compare

    def _changes(self, fresh: list[Snapshot]) -> Iterator[Change]:
        """Of each process: between the test's two snapshots, or from the only one to now."""
        now = {_process(s): s for s in fresh}
        for process, (first, last) in self.pairs.items():
            if first is not last:
                yield Change(_who(last), "the test's first snapshot", first, last)
            elif process in now:
                yield Change(_who(first), _UNTIL_NOW, first, now[process])

    def _view(self) -> View:
        hook = self.item.ihook.pytest_pmaps_classify
        config = self.item.config

        def classify(mapping: Mapping) -> str | None:
            try:
                name = hook(mapping=mapping)
            except details.ANYTHING as exc:  # somebody else's: our own names will do
                line = f"pytest_pmaps_classify failed: {_brief(exc)}"
                if line not in self.details.problems:
                    self.trouble(line)
                return None
            return None if name is None else str(name)

        return View(
            verbosity=config.get_verbosity(),
            tables=self.session.settings.report,
            classify=classify if hook.get_hookimpls() else None,
        )

    # ---- where it goes

    def _saved(self, snapshot: Snapshot, tag: str = "") -> tuple[str, str]:
        """The name of the file that a snapshot was saved in, or why it was not."""
        if id(snapshot.columns) in self._saved_names:
            return self._saved_names[id(snapshot.columns)], ""
        parts = (
            _safe(self.item.nodeid),
            self.report.when,
            str(self.details.attempt),
            str(snapshot.pid),
            tag,
        )
        try:
            path = self.session.directory.reserve("-".join(filter(None, parts)))
            write_atomically(path, dumps(snapshot))
            save(snapshot, path.with_suffix(".json"))
        except OSError as exc:
            problem = f"its map could not be saved: {exc}"
            self.details.problems.append(problem)
            return "", problem
        self.details.folder = self.session.directory.known
        self.details.maps.append(str(path.relative_to(self.details.folder)))
        self.story.folder = str(path.parent)
        self._saved_names[id(snapshot.columns)] = path.name
        return path.name, ""

    def _add(self, title: str, text: str) -> None:
        if not text:
            return
        add: Callable[[str, str], None] | None
        add = getattr(self.report.longrepr, "addsection", None)
        if add is not None:
            add(title, text)
        elif isinstance(self.report.longrepr, str):  # a failure without traceback
            self.report.longrepr += f"\n\n--- {title} ---\n{text}"
        else:
            self.report.sections.append((title, text))


# ---- exceptions


def _leaves(exc: BaseException | None) -> Iterator[BaseException]:
    """The exceptions of a group, or the one that it is."""
    if isinstance(exc, BaseExceptionGroup):
        for one in exc.exceptions:
            yield from _leaves(one)
    elif exc is not None:
        yield exc


def _evidence(exc: BaseException | None) -> list[Evidence]:
    failures = [leaf.evidence for leaf in _leaves(exc) if isinstance(leaf, FootprintError)]
    found = [e for each in failures for e in (each if isinstance(each, tuple) else (each,))]
    return [evidence for evidence in found if isinstance(evidence, Evidence)]


# ---- processes


def _captured(target: _Target) -> tuple[Snapshot | None, str]:
    """A fresh capture, or one line that says why there is none."""
    try:
        taken = snapshot(target.target)
    except (PmapsError, OSError, MemoryError, TypeError) as exc:
        return None, str(exc)
    if target.process not in (None, _process(taken)):
        return None, f"it is gone: pid {taken.pid} is now another process ({taken.comm})"
    return taken, ""


def _process(snapshot: Snapshot) -> records.Process:
    return records.Process(snapshot.pid, snapshot.columns.start_time)


def _who(snapshot: Snapshot) -> str:
    if not snapshot.pid:
        return "a saved map"
    return f"process {snapshot.pid} ({snapshot.comm})"


def _named(target: _Target, taken: Snapshot | None) -> str:
    if taken is None or target.who == f"process {taken.pid}":
        return target.who if taken is None else _who(taken)
    return f"{target.who}: {_who(taken)}"


# ---- file names

_KEPT = 60


def _safe(nodeid: str) -> str:
    """A node id as part of a file name: readable, and unlike every other's."""
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", nodeid).strip("-.")
    digest = hashlib.sha256(nodeid.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{readable[-_KEPT:].lstrip('-.')}-{digest[:8]}"
