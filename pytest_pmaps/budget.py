"""Budgets, the one language in which footprints are limited: markers, ini, command line, library.

.. code-block:: text

    [@TARGET] [SELECTOR][?]: METRIC [growth] <= AMOUNT | baseline [+ N%] [+ AMOUNT] [noisy]

    libfoo.text: dirty <= 0
    anonymous growth <= 2 MiB
    "[anon:jit]": rss <= baseline + 5%
    libjit?: dirty <= 64 KiB
    @server: unique_rss <= 300 MiB

docs/budgets.md describes it.  Nothing here looks at a process, or loads the engine.
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
from .model import METRICS, PARTS
from .select import printable

__all__ = ["BUDGET_METRICS", "NUMBERS", "PROCESS_METRICS", "TREE_METRICS", "Budget", "Limit",
           "merge", "parse_budget"]  # fmt: skip

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
#: What varies from run to run: which pages of files are mapped depends on the page cache, and who
#: else maps them on what else runs.
_SPREADS = ("rss", "peak_rss", "unique_rss", "sum_rss", "file", "present", "shared", "shared_clean",
            "private_clean", "uss")  # fmt: skip
_LEAST_PERCENT = 1


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
        # Of what shrank there is no share.
        return amount + math.floor(max(0, recorded) * self.percent / 100)

    def __str__(self) -> str:
        amount = f"{self.amount:,}" if self.unit != "bytes" else format_bytes(self.amount)
        if not self.baseline:
            return amount
        percent = f" + {_decimal(self.percent)}%" if self.percent else ""
        return f"baseline{percent}{f' + {amount}' if self.amount else ''}"


def _decimal(number: Fraction) -> str:
    # Exact: a float holds 15 digits, and there are 12.
    return f"{float(number):.6f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be held; ``str()`` is its normal form, which :func:`parse_budget` reads back.

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


def merge(*layers: Iterable[Budget]) -> list[Budget]:
    """The budgets that hold: of those with the same key the last, where the first one stood."""
    return list({budget.key: budget for layer in layers for budget in layer}.values())


def parse_budget(text: str) -> Budget:
    """Read a budget, such as ``"libfoo.text: dirty <= 0"``.

    Raises BudgetError, which marks the place of what cannot be read, and suggests; TypeError for
    what is no string.
    """
    __tracebackhide__ = True
    if not isinstance(text, str):
        raise TypeError(f"a budget is text, such as 'dirty <= 64 KiB', not {text!r}")
    try:
        return _Reader(text).budget()
    except BudgetError as error:
        # The place in the text is what counts, not the one in here.
        raise error.with_traceback(None) from None


# ---- selectors

_BARE = r'(?:\[[^]]*\]|[^\s:?"@\[])[^\s:?"]*'
_BRACKETS = re.compile(rf"(\[[^][]*\])(\.(?:{'|'.join(PARTS)}))?")
_SPECIAL = ("[heap]", "[stack]", "[anon]", "[vdso]", "[vvar]", "[vsyscall]", "[uprobes]",
            "[vectors]", "[sigpage]")  # fmt: skip
_NAMED = re.compile(r"\[(?:(?:anon|anon_shmem|stack):.*|vvar_.*)\]", re.DOTALL)


def _misspelt(selector: str) -> str:
    """Why nothing could match a selector in brackets, "" where something could."""
    found = _BRACKETS.fullmatch(selector)
    if found is None:
        return ""
    name, part = found.groups()
    if name in _SPECIAL or _NAMED.fullmatch(name):
        return f"{printable(name)} has no parts: only files have" if part else ""
    near = _near(name, _SPECIAL, 0.7)
    # What is less near may be a newer kernel's.
    if part or not near or "*" in name or "?" in name:
        return ""
    return f"the kernel names no mapping {printable(name)}: did you mean {near}?"


def _quoted(selector: str) -> str:
    """As it stands in a budget: in quotes where it would not read otherwise."""
    if not selector or (re.fullmatch(_BARE, selector) and not _misspelt(selector)):
        return selector
    return '"' + re.sub(r'(["\\])', r"\\\1", selector) + '"'


def _unquoted(text: str) -> str:
    return re.sub(r'\\(["\\])', r"\1", text)


# ---- reading

#: It matches anything, if only the empty string, and so never goes back.
_HEAD = re.compile(
    rf"""\s* (?: @ (?P<target> [A-Za-z_][\w.-]* ) \s* )?
         (?: " (?P<quoted> (?:[^"\\]|\\.)* ) " | (?P<bare> {_BARE} ) )? \s*
         (?P<optional> \? )? \s* (?P<colon> : )?""",
    re.DOTALL | re.VERBOSE,
)
_TOKEN = re.compile(r"\w+|[<>=!]+|\S")
_NUMBER = re.compile(r"-?[0-9.,]+")
_PERCENT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*%")

#: Where the words stand, for those who have put them elsewhere, or twice.
_WORDS = {
    "growth": "growth stands once, behind the metric",
    "baseline": "baseline stands once, behind <=",
    "noisy": "noisy stands once, at the end",
}
#: What a head that is none begins with.
_BROKEN = {
    '"': "this quote is not closed",
    "[": "this bracket is not closed",
    "@": "a target is a name behind @, such as @server",
}
_QUOTE_IT = "a selector with a space, a colon, a quote or ? in it stands in double quotes"
#: Of the smallest pages there are, so that no number of them is refused that may be held.
_PAGE = 4096


class _Reader:
    """One pass from left to right; ``at`` is where it is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def budget(self) -> Budget:
        target, selector, optional = self.head()
        place = self.skip()
        metric = self.metric(bool(selector))
        growth = self.take("growth")
        if not self.take("<="):
            self.stray("<= is expected here")
        limit = self.baseline(metric) if self.take("baseline") else Limit(*self.amount(metric))
        noisy = self.take("noisy")
        if self.peek():
            self.stray("nothing may follow here")
        budget = Budget(metric, limit, growth, selector, optional, target, noisy)
        self.check_noise(budget, place)
        return budget

    # ---- the left side

    def head(self) -> tuple[str, str, bool]:
        """Target, selector and ``?``, where a colon follows; else nothing is read."""
        found = _HEAD.match(self.text)
        assert found is not None
        target, quoted, bare, optional, colon = found.groups()
        self.check_colon(found)
        if not colon:
            return "", "", False
        if bare and (why := _misspelt(bare)):
            self.fail(why, found.start("bare"))
        if quoted == "":
            self.fail("a selector is empty", found.start("quoted"))
        if not (target or quoted or bare):
            self.fail(
                "a selector is missing here", found.start("optional" if optional else "colon")
            )
        self.at = found.end()
        return target or "", _unquoted(quoted) if quoted else bare or "", bool(optional)

    def check_colon(self, found: re.Match[str]) -> None:
        """Refuse a head that has no colon, or more of them."""
        target, quoted, bare, optional, colon = found.groups()
        place = found.end() - bool(colon)
        begun = quoted is not None or bare is not None or optional or colon
        if not begun and (why := _BROKEN.get(self.text[place : place + 1])):
            self.fail(why, place)
        if ":" in self.text[found.end() :].partition("<=")[0]:
            self.fail(_QUOTE_IT, place)
        if colon:
            return
        if target and bare in BUDGET_METRICS:
            self.fail("a colon is missing before the metric", found.start("bare"))
        follows = self.peek(place) in BUDGET_METRICS and bare not in _WORDS
        if follows or target or optional or quoted is not None or (bare or "").startswith("["):
            self.fail("a colon is missing before the metric", place)

    def metric(self, selected: bool) -> str:
        place, name = self.skip(), self.peek()
        if not name[:1].isalnum() or name in _WORDS:
            self.stray("a metric is expected here, such as dirty, rss or anonymous")
        if name not in BUDGET_METRICS:
            near = _near(name, BUDGET_METRICS)
            hint = f": did you mean {near}?" if near else ""
            self.fail(f"{name} is no metric{hint}", place)
        if selected and name in (*PROCESS_METRICS, "processes"):
            self.fail(f"{name} is of a whole process, and of no selection", place)
        self.take(name)
        return name

    # ---- the right side

    def baseline(self, metric: str) -> Limit:
        plain = "" if metric in NUMBERS else "pages"
        amount, unit, percent = 0, plain, Fraction(0)
        seen: set[str] = set()
        while self.take("+"):
            place = self.skip()
            found = _PERCENT.match(self.text, place)
            kind = "percentage" if found else "amount"
            if kind in seen:
                self.fail(f"one {kind} is enough", place)
            seen.add(kind)
            if found:
                percent, self.at = Fraction(found[1]), found.end()
            else:
                amount, unit = self.amount(metric)
        # Nothing on top is nothing in any unit.
        return Limit(amount, unit if amount else plain, baseline=True, percent=percent)

    def amount(self, metric: str) -> tuple[int, str]:
        """A number and its unit, ``"bytes"``, ``"pages"`` or ``""``."""
        place, counted = self.skip(), metric in NUMBERS
        found = _NUMBER.match(self.text, place)
        if found is None:
            self.stray(f"{'a number' if counted else 'an amount, such as 64 KiB,'} belongs here")
        self.at = found.end()
        if found[0].startswith("-"):
            self.fail("a budget is not below 0", place)
        if self.peek() == "%":
            self.fail("a percentage is of a baseline, with 6 digits and 6 decimals at most", place)
        unit = self.unit()
        if counted and (unit or "." in found[0]):
            self.fail(f"{metric} are counted in whole numbers, without a unit", place)
        paged = unit in ("", "page", "pages")
        if paged and "." in found[0]:
            self.fail("pages are whole: is another unit meant, such as MiB?", place)
        size = self.size(place, self.text[place : self.at] if unit else f"{found[0]} pages")
        return (size // _PAGE, "" if counted else "pages") if paged else (size, "bytes")

    def unit(self) -> str:
        """The word behind a number, unless it is one of ours, or was meant to be."""
        word = self.peek()
        if not word[:1].isalpha() or _near(word, _WORDS):
            return ""
        self.take(word)
        return word

    def size(self, place: int, text: str) -> int:
        """An amount in bytes, its trouble shown where it stands."""
        try:
            return parse_amount(text, _PAGE)
        except FormatError as error:
            reason, *_, caret = error.reason.split("\n")
            self.fail(reason, place + caret.index("^") - 2)

    def check_noise(self, budget: Budget, place: int) -> None:
        """What would fail now and then though nothing changed has to be asked for by its name."""
        metric, limit = budget.metric, budget.limit
        if budget.noisy:
            return
        if why := _NOISY.get(metric):
            self.fail(
                f"{metric} is no sound gate: {why}; anonymous or dirty is, or say noisy at the end",
                place,
            )
        tight = limit.baseline and not limit.amount and limit.percent < _LEAST_PERCENT
        if tight and metric in _SPREADS:
            self.fail(
                f"{metric} varies from run to run, by 0.5% as a rule: allow + 1% or an amount, "
                "or say noisy at the end",
                place,
            )

    # ---- the text

    def skip(self) -> int:
        """Over white space; where that ends."""
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.at

    def peek(self, place: int | None = None) -> str:
        """The token that stands next, or at a place; "" at the end."""
        found = _TOKEN.match(self.text, self.skip() if place is None else place)
        return found[0] if found else ""

    def take(self, token: str) -> bool:
        if self.peek() != token:
            return False
        self.at += len(token)
        return True

    def stray(self, reason: str) -> NoReturn:
        """Say what is expected, or what the word that stands there was meant to be."""
        given = self.peek()
        if self.text.startswith("#", self.skip()):
            self.fail("nothing may follow here: a comment has a line of its own")
        near = _near(given, _WORDS)
        if near == given:
            reason = _WORDS.get(given, reason)
        elif near:
            reason = f"{given} means nothing here: did you mean {near}?"
        self.fail(reason)

    def fail(self, reason: str, place: int | None = None) -> NoReturn:
        raise BudgetError(reason, self.text, self.skip() if place is None else place)


def _near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Which of the known ones was meant, "" if none."""
    return next(iter(difflib.get_close_matches(word.lower(), list(known), 1, cutoff)), "")
