"""Holds tests against budgets: those of their markers, the command line and the ini file.

They speak of the call phase.  What fails is raised there, so that xfail, reruns, ``--pdb`` and
JUnit see a failure like any other.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ..errors import BudgetExceeded as Exceeded
from ..errors import PmapsError, Undetermined, Unsupported
from . import details, marks, records
from .fixtures import warm_up

if TYPE_CHECKING:
    from ..baseline import Baseline
    from ..budget import Budget
    from ..gates import Window
    from ..judging import Judgement, Value
    from .session import Session

__all__ = ["Gate"]


#: mypy takes pytest's attribute for no type.
_Failed: Any = pytest.fail.Exception


class BudgetExceeded(Exceeded, _Failed):  # type: ignore[misc]  # see above
    """As the library's; pytest shows no traceback, for the test did nothing wrong anywhere."""

    __module__ = "builtins"

    def __init__(self, message: str, evidence: object = None) -> None:
        _Failed.__init__(self, message, pytrace=False)
        self.args = (message,)
        self.evidence = evidence


class _Unmeasured(PmapsError, _Failed):  # type: ignore[misc]  # see above
    """A budget could not be measured."""

    __module__ = "builtins"

    def __init__(self, message: str) -> None:
        _Failed.__init__(self, message, pytrace=False)
        self.args = (message,)


_Unmeasured.__name__ = _Unmeasured.__qualname__ = "PmapsError"


class _Open(Undetermined, _Unmeasured):
    """A budget that what was seen does not decide."""

    __module__ = "builtins"


_Open.__name__ = _Open.__qualname__ = "Undetermined"


class _Chosen(NamedTuple):
    """A budget, and where it is written."""

    budget: Budget
    origin: str


class Gate:
    """Registered where there are budgets; its wrapper is the one next to the test."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.settings = session.settings
        self._windows: list[Window] = []
        self._ready = self._told = False

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Measure before the test and after it, and judge."""
        chosen = self.budgets_of(item)
        if not chosen:
            return (yield)
        self._get_ready(any(each.budget.limit.baseline for each in chosen))
        from ..gates import Window

        window = Window(
            [each.budget for each in chosen],
            self.session.targets,
            lambda budget: self._recorded(item, budget),
            self.session.note,
        )
        self._windows.append(window)
        self.session.measuring = True
        try:
            window.begin()
            result = yield
            self._forget(item)
            judgements = window.end()
        except BaseException:
            window.abandon()
            raise
        finally:
            self.session.measuring = False
            self._windows.remove(window)
        self._judge(item, chosen, judgements)
        return result

    def _get_ready(self, needs_baseline: bool) -> None:
        """Load and find out what a test's patches could keep from us when it is judged, and what
        a first capture does, before anything is measured.
        """
        # pytest lets go of these in the midst of the call, and with them of another test's frames.
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)
        if needs_baseline:
            _ = self.session.baseline, self.session.environment
        if not self._ready:
            self._ready = True
            from .. import baseline, gates  # noqa: F401

            with contextlib.suppress(PmapsError):
                warm_up()

    @staticmethod
    def _forget(item: pytest.Item) -> None:
        """What the test made to look at its snapshots is not what it held itself."""
        for pair in records.of_item(item).values():
            pair.first.forget()
            pair.last.forget()

    def arrived(self, name: str) -> None:
        """A target was named while a test runs."""
        for window in self._windows:
            window.arrived(name)

    def budgets_of(self, item: pytest.Item) -> list[_Chosen]:
        """Those that hold for a test: of two of the same the marker's, then the command line's."""
        if not (self.settings.budgets or marks.has_budgets(item)):
            return []
        from ..budget import merge, parse_budget

        layers = [
            *(
                (origin, [parse_budget(text) for text in texts])
                for origin, texts in self.settings.budgets
            ),
            *(("marker", [parse_budget(text) for text in texts]) for texts in marks.budgets(item)),
        ]
        origins = {budget: origin for origin, budgets in layers for budget in budgets}
        return [_Chosen(b, origins[b]) for b in merge(*(budgets for _, budgets in layers))]

    # ---- what follows

    def _judge(self, item: pytest.Item, chosen: list[_Chosen], judgements: list[Judgement]) -> None:
        __tracebackhide__ = True
        from ..gates import conclude

        origins = {each.budget: each.origin for each in chosen}
        for judgement in judgements:
            self._apply_policy(item, judgement)
        told = details.of(item)
        told.budgets = [_row(j, origins[j.budget]) for j in judgements]
        told.environment = self.session.environment
        told.problems += [text for j in judgements if (text := _too_tight(j))]
        unseen = [j for j in judgements if isinstance(j.error, Unsupported)]
        if unseen and not self._told:
            self._told = True
            told.problems.append(f"budgets cannot be judged here: {unseen[0].error}")
        with contextlib.suppress(*details.ANYTHING):
            details.publish(item)
        wrong = conclude(
            [j for j in judgements if not isinstance(j.error, Unsupported)
             and not self._is_let_pass(item, j)]
        )  # fmt: skip
        if wrong is not None:
            raise _as_pytest_has_it(wrong)
        if any(origins[j.budget] == "marker" for j in unseen):
            pytest.skip(f"budgets cannot be judged here: {unseen[0].error}")

    def _is_let_pass(self, item: pytest.Item, judgement: Judgement) -> bool:
        """Of a test that is expected to fail nothing is recorded, and this is not how it fails."""
        expected = item.get_closest_marker("xfail") is not None
        return judgement.outcome == "missing" and (expected or self.settings.missing == "pass")

    def _apply_policy(self, item: pytest.Item, judgement: Judgement) -> None:
        """What becomes of baseline budgets that were breached, or have no baseline yet."""
        if not judgement.budget.limit.baseline:
            return
        new = judgement.outcome == "missing" and self.settings.missing == "record"
        if self.settings.update and judgement.value is not None:
            # Of an interval its upper end is recorded.
            new |= judgement.outcome in ("exceeded", "missing", "undetermined")
            new &= judgement.value.hi is not None
        if new:
            judgement.outcome = "recorded"
        elif judgement.outcome == "missing":
            judgement.note = self._why_missing(item, judgement.budget)

    def _why_missing(self, item: pytest.Item, budget: Budget) -> str:
        from ..baseline import explain_difference

        ours = self.session.environment
        others = self._baseline.elsewhere(ours, item.nodeid, budget.subject)
        if others:
            return f"one is for another environment ({explain_difference(ours, others[0])})"
        return "--pmaps-update records one"

    def _recorded(self, item: pytest.Item, budget: Budget) -> tuple[int, int] | None:
        found = self._baseline.find(self.session.environment, item.nodeid, budget.subject)
        return None if found is None else (found.value, found.spread)

    @property
    def _baseline(self) -> Baseline:
        return self.session.baseline


def _as_pytest_has_it(wrong: BaseException) -> BaseException:
    """Without a traceback: raised in a hook it would show nothing but that it is hidden."""
    if isinstance(wrong, Exceeded):
        return BudgetExceeded(str(wrong), wrong.evidence)
    if isinstance(wrong, Undetermined):
        return _Open(str(wrong))
    return _Unmeasured(str(wrong)) if isinstance(wrong, PmapsError) else wrong


def _too_tight(judgement: Judgement) -> str:
    """A gate that will fail though nothing changed."""
    limit, spread = judgement.budget.limit, judgement.spread
    if not limit.baseline or not spread or judgement.value is None or judgement.budget.noisy:
        return ""
    tolerance = limit.tolerance(judgement.value.page_size, judgement.recorded or 0)
    if tolerance >= spread:
        return ""
    unit = "" if judgement.budget.counted else " bytes"
    return (
        f"{judgement.budget}: its values have spread by {spread:,}{unit}, and {tolerance:,} are "
        "allowed: it will fail now and then"
    )


def _row(judgement: Judgement, origin: str) -> dict[str, Any]:
    """For run.json."""
    value = judgement.value
    return {
        "budget": str(judgement.budget),
        "origin": origin,
        "verdict": judgement.outcome,
        "value": _ends(value),
        "limit": judgement.limit,
        "unit": "number" if judgement.budget.counted else "bytes",
        "samples": [_ends(sample) for sample in judgement.samples],
        "recorded": judgement.recorded,
        "spread": judgement.spread,
        "note": judgement.note,
    }


def _ends(value: Value | None) -> list[int | None]:
    return [None, None] if value is None else [value.lo, value.hi]
