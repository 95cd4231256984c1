"""Budgets for what a ``with`` block does, ``within()``, or for what was captured,
``assert_within()``.

What does not hold is measured again before it is called so: after garbage was collected and free
memory given back, or in fresh runs.  A block is never run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import sleep  # bound here: tests replace time.sleep
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

from .budget import Budget, parse_budget
from .capture import snapshot
from .errors import BudgetExceeded, NoSuchMapping, PmapsError, ProcessGone, undetermined
from .judging import Judgement, State, failed, judge
from .moments import Run
from .peaks import Peak, peak
from .settling import settle
from .snapshots import Snapshot
from .trees import Tree, tree

__all__ = ["Recorded", "Subject", "Window", "assert_within", "conclude", "within"]

#: Seconds to wait before each time that it is measured again: the kernel frees lazily.
_AGAIN = (0.0, 0.3)
#: Fresh runs of which the middle one decides.
_RUNS = 3

#: What budgets are judged of.
Subject: TypeAlias = Snapshot | Tree | Run
#: What a baseline holds for a budget: value and spread; None where it holds nothing.
Recorded: TypeAlias = Callable[[Budget], tuple[int, int] | None]


def _nothing(_: Budget) -> None:
    return None


def _ignore(_: Snapshot) -> None:
    pass


class _Needs(NamedTuple):
    """What has to be captured of one target."""

    tree: bool
    start: bool
    peak: bool
    rest: bool  # compared with what was measured at another time, so always in the same state

    @classmethod
    def of(cls, budgets: Sequence[Budget]) -> _Needs:
        now = [budget for budget in budgets if budget.metric != "peak_rss"]
        return cls(
            tree=any(budget.of_tree for budget in now),
            start=any(budget.growth for budget in now),
            peak=len(now) < len(budgets),
            rest=any(budget.growth or budget.limit.baseline for budget in now),
        )


class Window:
    """The time for which budgets are judged: :meth:`begin`, :meth:`end`.

    ``targets`` are processes by the names that budgets call them, and may be added to meanwhile,
    with :meth:`arrived`.  ``note`` is told each snapshot that a report may want.
    """

    def __init__(
        self,
        budgets: Sequence[Budget],
        targets: Mapping[str, object],
        recorded: Recorded = _nothing,
        note: Callable[[Snapshot], None] = _ignore,
    ) -> None:
        self.budgets = budgets
        self._targets = targets
        self._recorded = recorded
        self._note = note
        names = dict.fromkeys(budget.target for budget in budgets)
        self._needs = {n: _Needs.of([b for b in budgets if b.target == n]) for n in names}
        self._starts: dict[str, State] = {}
        self._peaks: dict[str, Peak] = {}
        self._errors: dict[str, PmapsError] = {}

    def begin(self) -> None:
        """It starts: with this process at rest, where that is what it ends with."""
        self._settle(self._needs)
        for name in self._needs:
            if not name or name in self._targets:
                self.arrived(name)

    def arrived(self, name: str) -> None:
        """A target is known from now on: its growth is against what it holds now."""
        needs = self._needs.get(name)
        if needs is None:
            return
        self._leave(name)
        self._errors.pop(name, None)
        try:
            if needs.start:
                self._starts[name] = self._state(name)
                self._note(self._starts[name].snapshot)
            if needs.peak:
                window = peak(self._target(name))
                window.__enter__()
                self._peaks[name] = window
        except PmapsError as exc:
            self._errors[name] = exc

    def abandon(self) -> None:
        """It is over, and nothing is judged."""
        for name in list(self._peaks):
            self._leave(name)

    def end(self) -> list[Judgement]:
        """It is over: judgements in the order of the budgets."""
        # Whoever looked at the start meanwhile left objects that are none of the block's.
        self._forget({})
        for name, window in self._peaks.items():
            try:
                window.__exit__(None, None, None)
            except PmapsError as exc:
                self._errors.setdefault(name, exc)
        self._settle(self._needs)
        states = self._states(self._needs)
        for state in states.values():
            self._note(state.snapshot)
        found = [self._judge(budget, states) for budget in self.budgets]
        self._forget(states)
        for pause in _AGAIN:
            open_ones = [j for j in found if _may_change(j)]
            if not open_ones:
                break
            sleep(pause)
            self._look_again(open_ones)
        return found

    # ---- below the surface

    def _look_again(self, judgements: list[Judgement]) -> None:
        names = dict.fromkeys(judgement.budget.target for judgement in judgements)
        self._settle(names, always=True)
        states = self._states(names)
        for judgement in judgements:
            again = self._judge(judgement.budget, states)
            if again.value is None:
                continue
            judgement.samples.append(again.value)
            # Looking costs memory, too: the lowest says most, and is the first where they agree.
            if judgement.value is None or _rank(again) < _rank(judgement):
                judgement.outcome, judgement.value = again.outcome, again.value
                judgement.evidence = again.evidence
        self._forget(states)

    def _settle(self, names: Iterable[str], *, always: bool = False) -> None:
        """Bring this process to rest."""
        if "" in names and (always or self._needs[""].rest):
            settle()

    def _forget(self, states: dict[str, State]) -> None:
        """What looking at a capture leaves on the heap would show in the next one."""
        for state in (*states.values(), *self._starts.values()):
            state.snapshot.forget()

    def _judge(self, budget: Budget, states: dict[str, State]) -> Judgement:
        name = budget.target
        if name not in states:
            error = self._errors.get(name) or _unknown(name)
            gone = isinstance(error, ProcessGone | NoSuchMapping)
            if gone and budget.optional and not budget.selector:
                return Judgement(budget, "absent", note=str(error))
            return failed(budget, error)
        recorded, spread = self._recorded(budget) or (None, None)
        return judge(budget, states[name], self._starts.get(name), recorded, spread)

    def _states(self, names: Iterable[str]) -> dict[str, State]:
        states = {}
        for name in names:
            if name in self._errors or (name and name not in self._targets):
                continue
            try:
                states[name] = self._state(name)
            except PmapsError as exc:
                self._errors[name] = exc
        return states

    def _state(self, name: str) -> State:
        target, needs = self._target(name), self._needs[name]
        family = tree(target) if needs.tree else None
        taken = family.root if family is not None else snapshot(target)
        window = self._peaks.get(name)
        if window is None or not needs.peak:
            return State(taken, family)
        return State(taken, family, window.rss, window.growth)

    def _target(self, name: str) -> object:
        return self._targets[name] if name else None

    def _leave(self, name: str) -> None:
        window = self._peaks.pop(name, None)
        if window is not None:
            window.__exit__(ValueError, None, None)


def _unknown(name: str) -> PmapsError:
    return NoSuchMapping(
        f"no target is called {name}: name it with pmaps.target({name!r}, process)"
    )


_RANKS = {"passed": 0, "undetermined": 1, "exceeded": 2}


def _rank(judgement: Judgement) -> tuple[int, int]:
    """The lower, the better."""
    low = judgement.value.lo if judgement.value else None
    return _RANKS.get(judgement.outcome, 1), low or 0


def _may_change(judgement: Judgement) -> bool:
    """Whether it does not hold, and another look might show that it does; peaks are past."""
    bad = judgement.outcome in ("exceeded", "undetermined")
    return bad and judgement.budget.metric != "peak_rss"


# ---- conclusions

_WORST_FIRST = ("exceeded", "error", "missing", "undetermined")


def conclude(judgements: Sequence[Judgement]) -> BaseException | None:
    """What to raise: BudgetExceeded, what kept it from being measured, or what is undetermined;
    None where all hold.  The first line tells the first of the worst kind, the rest all others.
    """
    bad = [j for kind in _WORST_FIRST for j in judgements if j.outcome == kind]
    if not bad:
        return None
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    message = "\n".join([bad[0].story + more, *(j.story for j in bad[1:])])
    worst = bad[0].outcome
    if worst in ("exceeded", "missing"):
        evidence = tuple(j.evidence for j in bad if j.evidence and j.outcome == "exceeded")
        return BudgetExceeded(message, evidence)
    if worst == "error":
        kind = type(bad[0].error) if bad[0].error else PmapsError
        try:
            return kind(message)
        except TypeError:  # one that takes more
            return PmapsError(message)
    return undetermined(message)


# ---- for whoever writes tests


class within:  # used as a function: with within("dirty <= 0"):
    """Hold what a ``with`` block does against budgets.

        with pytest_pmaps.within("libfoo.text: dirty <= 0", "anonymous growth <= 2 MiB"):
            foo.work()

    ``targets`` names processes for budgets such as ``"@server: unique_rss <= 300 MiB"``;
    ``note`` is told each snapshot, in tests the fixture's does that.
    Growth is against the start of the block, where this process was at rest (``settle()``).
    What does not hold is measured again at rest before it fails.  Judged when the block ends
    without an exception; ``.judgements`` has what was measured.

    Raises BudgetExceeded, an AssertionError; Undetermined; BudgetError for a budget that does not
    read, before anything is measured; NoSuchMapping for a selector that matches nothing.
    """

    def __init__(
        self,
        *budgets: str | Budget,
        targets: Mapping[str, object] | None = None,
        note: Callable[[Snapshot], None] = _ignore,
    ) -> None:
        __tracebackhide__ = True
        self._window = Window(_read(budgets), targets or {}, note=note)
        self.judgements: list[Judgement] = []

    def __enter__(self) -> Self:
        self._window.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if kind is not None:
            self._window.abandon()
            return
        self.judgements = self._window.end()
        wrong = conclude(self.judgements)
        if wrong is not None:
            raise wrong


def assert_within(
    subject: Subject | Callable[[], Subject],
    *budgets: str | Budget,
    since: Subject | None = None,
) -> list[Judgement]:
    """Hold what was captured against budgets: a Snapshot, a Tree, or a Run (at its exit, with its
    peak); growth is against ``since``.

        assert_within(pmaps.run(["./tool"]), "peak_rss <= 48 MiB", "libtool.data: dirty <= 3")

    A function that gives one of these makes fresh ones: where a budget does not hold it is called
    twice more, and the middle one of three decides.

    Gives the judgements.  Raises what :class:`within` does.
    """
    __tracebackhide__ = True
    chosen = _read(budgets)
    start = None if since is None else _state_of(since)
    make = subject if callable(subject) else None
    first = _state_of(make() if make else subject)
    judgements = [judge(budget, first, start) for budget in chosen]
    if make and any(j.outcome in ("exceeded", "undetermined") for j in judgements):
        states = [_state_of(make()) for _ in range(_RUNS - 1)]
        judgements = [_middle(j, [judge(j.budget, s, start) for s in states]) for j in judgements]
    wrong = conclude(judgements)
    if wrong is not None:
        raise wrong
    return judgements


def _middle(first: Judgement, others: list[Judgement]) -> Judgement:
    """The one in the middle, which knows all values."""
    measured = [j for j in (first, *others) if j.value is not None]
    if len(measured) < _RUNS:
        return next(j for j in (first, *others) if j.value is None)
    samples = [j.value for j in measured if j.value is not None]
    middle = sorted(measured, key=_rank)[_RUNS // 2]
    middle.samples = samples
    return middle


def _state_of(subject: object) -> State:
    __tracebackhide__ = True
    if isinstance(subject, Tree):
        return State(subject.root, subject)
    if isinstance(subject, Run):
        return State(subject.at["exit"], None, subject.peak_rss)
    if isinstance(subject, Snapshot):
        return State(subject)
    raise TypeError(f"budgets are of a Snapshot, a Tree or a Run, not {type(subject).__name__}")


def _read(budgets: Iterable[str | Budget]) -> list[Budget]:
    __tracebackhide__ = True
    chosen = [each if isinstance(each, Budget) else parse_budget(each) for each in budgets]
    for budget in chosen:
        if budget.limit.baseline:
            raise ValueError(f"{budget}: only pytest's options and markers know a baseline")
    return chosen
