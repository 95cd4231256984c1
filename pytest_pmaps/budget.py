"""Budgets, the one language in which footprints are limited: markers, ini, command line, library.

.. code-block:: text

    [@TARGET] [SELECTOR][?]: METRIC [growth] <= AMOUNT | baseline [+ N%] [+ AMOUNT] [noisy]

    libfoo.text: dirty <= 0
    anonymous growth <= 2 MiB
    "[anon:jit]": rss <= baseline + 5%
    libjit?: dirty <= 64 KiB
    @server: unique_rss <= 300 MiB

Without a selector the whole process is meant, without a target the one that runs the test.
A selector is one of :mod:`~pytest_pmaps.select`; where it holds spaces, colons, question marks or
quotes it stands in double quotes.  ``?`` lets it match nothing.  ``growth`` is against the start
of the test.  A plain number is pages, of ``mappings`` and ``processes`` how many there are.
Nothing here looks at a process.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NoReturn

from .counts import format_bytes, parse_amount
from .errors import BudgetError, FormatError
from .metrics import METRICS

__all__ = ["BUDGET_METRICS", "NUMBERS", "PROCESS_METRICS", "TREE_METRICS", "Budget", "Limit",
           "merge", "parse"]  # fmt: skip

#: Of a process and its descendants together.
TREE_METRICS = ("unique_rss", "sum_rss", "processes")
#: Of a whole process, which no selection has.
PROCESS_METRICS = ("peak_rss", "page_tables")
#: Counted, not measured in bytes.
NUMBERS = ("mappings", "processes")
#: Every metric that a budget may name.
BUDGET_METRICS = (*METRICS, "mappings", *PROCESS_METRICS, *TREE_METRICS)

_OTHERS = "it moves with what other processes map"
_KERNEL = "the kernel moves it by itself"
_NOISY = {
    **dict.fromkeys(("pss", "pss_dirty", "swap_pss", "locked"), _OTHERS),
    **dict.fromkeys(("referenced", "young", "active", "page_referenced"), _KERNEL),
    **dict.fromkeys(("page_dirty", "writeback"), _KERNEL),
}
#: What varies from run to run: which pages of files are mapped depends on the page cache.
_SPREADS = ("rss", "peak_rss", "unique_rss", "sum_rss", "file", "present", "shared_clean")
_LEAST_PERCENT = 1

_TARGET = re.compile(r"@([A-Za-z_][\w.-]*)")
_SELECTOR = re.compile(r'"((?:[^"\\]|\\.)*)"|\[[^]\n]*\][^\s:?"]*|[^\s:?"@][^\s:?"]*')
_NAME = re.compile(r"\w+")
_AMOUNT = re.compile(r"[-\d.,]+(?:\s*[A-Za-z]+)?")
_PERCENT = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*%")
_BARE = re.compile(r'\[[^]\n]*\][^\s:?"]*|[^\s:?"@\[][^\s:?"]*')
_PLAIN = re.compile(r"\d{1,3}(?:,\d{3})+|\d+")
_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Limit:
    """The right side of a budget.

    ``amount`` is a number of ``unit``, which is ``"bytes"``, ``"pages"`` or, of what is counted,
    ``""``.  With ``baseline`` it comes on top of what is recorded, as ``percent`` of that does.
    """

    amount: int = 0
    unit: str = "pages"
    baseline: bool = False
    percent: Fraction = Fraction(0)

    def at(self, page_size: int, recorded: int = 0) -> int:
        """The most that is allowed, in bytes (a number, of what is counted)."""
        return (recorded if self.baseline else 0) + self.tolerance(page_size, recorded)

    def tolerance(self, page_size: int, recorded: int) -> int:
        """What is allowed on top of what is recorded."""
        amount = self.amount * (page_size if self.unit == "pages" else 1)
        return amount + math.floor(abs(recorded) * self.percent / 100)

    def __str__(self) -> str:
        amount = f"{self.amount:,}" if self.unit != "bytes" else format_bytes(self.amount)
        if not self.baseline:
            return amount
        percent = f" + {_decimal(self.percent)}%" if self.percent else ""
        return f"baseline{percent}{f' + {amount}' if self.amount else ''}"


def _decimal(number: Fraction) -> str:
    return f"{float(number):.6f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be held; ``str()`` is its normal form, which :func:`parse` reads back.

    ``target`` is ``""`` for the process that runs the test, ``selector`` ``""`` for all of it.
    ``noisy``: its author knows that the metric moves by itself.
    """

    metric: str
    limit: Limit
    growth: bool = False
    selector: str = ""
    optional: bool = False
    target: str = ""
    noisy: bool = False

    @property
    def key(self) -> tuple[str, str, str, bool]:
        """What it limits: of two with the same key, one holds."""
        return self.target, self.selector, self.metric, self.growth

    @property
    def counted(self) -> bool:
        """Whether it is of a number, and not of bytes."""
        return self.metric in NUMBERS

    @property
    def of_tree(self) -> bool:
        """Whether it is of a process and its descendants together."""
        return self.metric in TREE_METRICS

    @property
    def subject(self) -> str:
        """Its left side: what is limited, without what is allowed."""
        target = f"@{self.target}" if self.target else ""
        parts = [part for part in (target, _quoted(self.selector)) if part]
        head = f"{' '.join(parts)}{'?' if self.optional else ''}: " if parts else ""
        return f"{head}{self.metric}{' growth' if self.growth else ''}"

    def __str__(self) -> str:
        return f"{self.subject} <= {self.limit}{' noisy' if self.noisy else ''}"


def _quoted(selector: str) -> str:
    if not selector or _BARE.fullmatch(selector):
        return selector
    return '"' + re.sub(r'(["\\])', r"\\\1", selector) + '"'


def merge(*layers: Iterable[Budget]) -> list[Budget]:
    """The budgets that hold, where of two with the same key the one in the later layer does."""
    chosen: dict[tuple[str, str, str, bool], Budget] = {}
    for layer in layers:
        chosen |= {budget.key: budget for budget in layer}
    return list(chosen.values())


def parse(text: str) -> Budget:
    """Read a budget; BudgetError marks the place of what cannot be read, and suggests.

    Raises TypeError for what is no string.
    """
    __tracebackhide__ = True
    if not isinstance(text, str):
        raise TypeError(f"a budget is text, such as 'dirty <= 64 KiB', not {text!r}")
    return _Reader(text).budget()


class _Reader:
    """One pass from left to right; ``at`` is where it is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def budget(self) -> Budget:
        __tracebackhide__ = True
        if len(self.text) > _LONGEST:
            self.fail("a budget is shorter than this", _LONGEST)
        target, selector, optional = self.head()
        place = self.skip()
        metric = self.metric(bool(selector))
        growth = self.word("growth")
        self.operator()
        limit = self.limit(metric)
        noisy = self.word("noisy")
        if self.skip() < len(self.text):
            self.fail("nothing may follow here")
        budget = Budget(metric, limit, growth, selector, optional, target, noisy)
        self.check_noise(budget, place)
        return budget

    # ---- the left side

    def head(self) -> tuple[str, str, bool]:
        """Target, selector and ``?``, where a colon follows; else nothing is read."""
        __tracebackhide__ = True
        start = self.skip()
        target = self.match(_TARGET)
        if self.text[self.at : self.at + 1] == "@":
            self.fail("a target is a name behind @, such as @server")
        self.skip()
        if self.text[self.at : self.at + 1] == '"' and not _SELECTOR.match(self.text, self.at):
            self.fail("this quote is not closed")
        place = self.at
        selector = self.match(_SELECTOR)
        optional = self.take("?")
        if not self.take(":"):
            if target or optional or (selector and selector[0][0] in '["'):
                self.fail("a colon is missing: SELECTOR: METRIC <= AMOUNT")
            self.at = start
            return "", "", False
        if not (target or selector):
            self.fail("a selector is missing before the colon", start)
        if optional and not (selector or target):
            self.fail("there is nothing to be optional", place)
        quoted = selector is not None and selector[1] is not None
        name = "" if selector is None else selector[1] if quoted else selector[0]
        if quoted:
            name = re.sub(r"\\(.)", r"\1", name)
            if not name:
                self.fail("a selector is empty", place)
        if selector and name.startswith("[") and not quoted:
            self.check_special(name, place)
        return target[1] if target else "", name, optional

    def check_special(self, name: str, place: int) -> None:
        __tracebackhide__ = True
        known = ("[heap]", "[stack]", "[anon]", "[vdso]", "[vvar]", "[vsyscall]", "[uprobes]")
        if name in known or re.fullmatch(r"\[(anon|anon_shmem|stack|vvar\w*):?[^]]*\]", name):
            return
        near = difflib.get_close_matches(name, known, 1)
        if near and not re.search(r"[*?!-]", name):
            self.fail(f"the kernel names no mapping {name}: did you mean {near[0]}?", place)

    def metric(self, selected: bool) -> str:
        __tracebackhide__ = True
        place = self.skip()
        found = self.match(_NAME)
        name = found[0] if found else ""
        if not name:
            self.fail("a metric is missing, such as dirty, rss or anonymous", place)
        if name not in BUDGET_METRICS:
            near = difflib.get_close_matches(name.lower(), BUDGET_METRICS, 3, 0.5)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            self.fail(f"{name} is no metric{hint}", place)
        if selected and name in (*PROCESS_METRICS, "processes"):
            self.fail(f"{name} is of a whole process, and of no selection", place)
        return name

    def operator(self) -> None:
        __tracebackhide__ = True
        if not self.take("<="):
            found = re.match(r"[<>=!]+|\S*", self.text[self.skip() :])
            given = found[0] if found else ""
            self.fail(f"<= is expected here, not {given}" if given else "<= AMOUNT is missing")

    # ---- the right side

    def limit(self, metric: str) -> Limit:
        __tracebackhide__ = True
        if not self.word("baseline"):
            amount, unit = self.amount(metric)
            return Limit(amount, unit)
        amount, percent, unit = 0, Fraction(0), "" if metric in NUMBERS else "bytes"
        seen: set[str] = set()
        while self.take("+"):
            place = self.skip()
            found = self.match(_PERCENT)
            kind = "percentage" if found else "amount"
            if kind in seen:
                self.fail(f"one {kind} is enough", place)
            seen.add(kind)
            if found:
                percent = Fraction(found[1])
            else:
                amount, unit = self.amount(metric)
        return Limit(amount, unit, baseline=True, percent=percent)

    def amount(self, metric: str) -> tuple[int, str]:
        __tracebackhide__ = True
        place = self.skip()
        found = self.match(_AMOUNT)
        if found is None:
            expected = "a number" if metric in NUMBERS else "an amount, such as 64 KiB,"
            self.fail(f"{expected} or baseline is expected here", place)
        text = found[0]
        if text.startswith("-"):
            self.fail("a budget is not below 0", place)
        if _PLAIN.fullmatch(text):
            if int(text.replace(",", "")) >= 1 << 52:
                self.fail("this is more than an address space holds", place)
            return int(text.replace(",", "")), "" if metric in NUMBERS else "pages"
        if metric in NUMBERS:
            self.fail(f"{metric} are counted: a plain number is expected", place)
        try:
            # Of pages, how many bytes they are depends on where they are counted.
            amount = parse_amount(text, page_size=1)
            return amount, "pages" if text.endswith(("page", "pages")) else "bytes"
        except FormatError as exc:
            reason, *_, caret = exc.reason.split("\n")
            self.fail(reason, place + caret.index("^") - 2)

    def check_noise(self, budget: Budget, place: int) -> None:
        """What would fail now and then though nothing changed has to be asked for by its name."""
        __tracebackhide__ = True
        if budget.noisy:
            return
        why = _NOISY.get(budget.metric)
        if why:
            self.fail(
                f"{budget.metric} is no sound gate: {why}; anonymous, dirty or uss is, "
                "or say noisy at the end",
                place,
            )
        limit = budget.limit
        bare = limit.baseline and not limit.amount and limit.percent < _LEAST_PERCENT
        if bare and budget.metric in _SPREADS:
            self.fail(
                f"{budget.metric} varies by about 0.5% from run to run: allow + 1% or an amount, "
                "or say noisy at the end",
                place,
            )

    # ---- the text

    def skip(self) -> int:
        """Over white space; where that ends."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def take(self, token: str) -> bool:
        self.skip()
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def word(self, word: str) -> bool:
        found = _NAME.match(self.text, self.skip())
        if found is None or found[0] != word:
            return False
        self.at = found.end()
        return True

    def fail(self, reason: str, place: int | None = None) -> NoReturn:
        __tracebackhide__ = True
        raise BudgetError(reason, self.text, self.skip() if place is None else place)
