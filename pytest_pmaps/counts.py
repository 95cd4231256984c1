"""Counts that say how sure they are: intervals of bytes, compared in three values.

What was seen does not always give one number.  A :class:`Count` keeps the lowest and the
highest number that it can be; a comparison holds, fails, or raises
:class:`~pytest_pmaps.errors.Undetermined`, and never guesses.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import ClassVar, Literal, NoReturn, TypeAlias

from .errors import FormatError, undetermined

__all__ = ["Count", "Unit", "explain", "format_bytes", "parse_amount"]

#: In what plain integers are meant.
Unit: TypeAlias = Literal["pages", "bytes"]

#: One end of an interval; None where there is no end.
End: TypeAlias = int | None

_BYTE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_PAGE_UNITS = ("page", "pages")
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}

#: Beyond what any address space holds; also keeps absurd input from costing time.
_TOO_MUCH = 1 << 64
_LONGEST_NUMBER = 40
_LONGEST_LABEL = 60


class Count:
    """A number of bytes that lies between two ends, both included.

    ``lo`` and ``hi`` are bytes.  ``hi`` None: no upper bound is known; ``lo`` None: no lower
    one, which only differences have.  Differences may be negative.

    ``unit`` says what a plain int means that the count is compared with, ``page_size`` how
    many bytes a page has, ``label`` what is counted, ``remedy`` what would have to be granted
    or installed to decide an undecided comparison, ``note`` what to bear in mind when one fails.

    All six comparisons take an int, an amount such as ``"64 KiB"``, or another count.
    A count that is part of another, its ``whole``, takes a float, too: what share of it, 0.8.
    They hold if they hold for every value in the interval and fail if they fail for every
    value; otherwise they raise Undetermined at once.  ``bool()`` does the same for
    "is not 0".  The values are taken as any bytes between the ends, whole pages or not.

    Counts have no hash: a dict could not tell whether two of them are equal.

    Raises ValueError for an interval that is upside down, or a unit or page size that is none.
    """

    __slots__ = ("_hi", "_lo", "label", "note", "page_size", "remedy", "unit", "whole")

    _lo: End
    _hi: End
    label: str
    note: str
    page_size: int
    remedy: str
    unit: Unit
    whole: Count | None

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(
        self,
        lo: End,
        hi: End,
        *,
        unit: Unit = "pages",
        page_size: int = 4096,
        label: str = "",
        remedy: str = "",
        note: str = "",
        whole: Count | None = None,
    ) -> None:
        if lo is not None and hi is not None and lo > hi:
            raise ValueError(f"an interval from {lo} down to {hi}")
        if unit not in ("pages", "bytes") or page_size <= 0:
            raise ValueError(f"no such unit: {unit!r} of {page_size} bytes a page")
        values: dict[str, object] = {
            "_lo": lo,
            "_hi": hi,
            "label": label,
            "remedy": remedy,
            "note": note,
        }
        values |= {"unit": unit, "page_size": page_size, "whole": whole}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of_pages(
        cls, lo: End, hi: End, *, page_size: int = 4096, label: str = "", remedy: str = ""
    ) -> Count:
        """Make a count whose ends are given in pages."""
        ends = (None if end is None else end * page_size for end in (lo, hi))
        return cls(*ends, page_size=page_size, label=label, remedy=remedy)

    # ---- what it is

    @property
    def bounds(self) -> tuple[End, End]:
        """The lowest and the highest it can be, in its unit; None where there is no bound.

        Always whole numbers.  Where the bytes are no whole pages (``pss``), the ends are
        rounded outwards: what is counted lies between them.  ``count.bytes.bounds`` is exact.
        """
        lo = None if self._lo is None else self._lo // self._step
        hi = None if self._hi is None else -(-self._hi // self._step)
        return lo, hi

    @property
    def exact(self) -> bool:
        """Whether the interval holds one number only."""
        return self._lo is not None and self._lo == self._hi

    @property
    def pages(self) -> Count:
        """The same count, plain ints meaning pages."""
        return self._with(self._lo, self._hi, unit="pages")

    @property
    def bytes(self) -> Count:
        """The same count, plain ints meaning bytes."""
        return self._with(self._lo, self._hi, unit="bytes")

    def __int__(self) -> int:
        """The number, in the count's unit.

        Raises Undetermined if there are several, ValueError for a broken number of pages.
        """
        __tracebackhide__ = True
        if self._lo is None or not self.exact:
            self._undecided("its number")
        if self._lo % self._step:
            raise ValueError(f"{self._subject} is {self}, no whole number of pages: use .bytes")
        return self._lo // self._step

    def __bool__(self) -> bool:
        """Whether it is not 0; raises Undetermined if that depends."""
        __tracebackhide__ = True
        equal = _decide("==", self, Count(0, 0))
        if equal is None:
            self._undecided("whether it is 0")
        return not equal

    # ---- comparing

    def __eq__(self, other: object) -> bool:
        __tracebackhide__ = True
        return self._compare("==", other)

    def __ne__(self, other: object) -> bool:
        __tracebackhide__ = True
        return self._compare("!=", other)

    def __lt__(self, other: object) -> bool:
        __tracebackhide__ = True
        return self._compare("<", other)

    def __le__(self, other: object) -> bool:
        __tracebackhide__ = True
        return self._compare("<=", other)

    def __gt__(self, other: object) -> bool:
        __tracebackhide__ = True
        return self._compare(">", other)

    def __ge__(self, other: object) -> bool:
        __tracebackhide__ = True
        return self._compare(">=", other)

    def _compare(self, op: str, other: object) -> bool:
        __tracebackhide__ = True
        count = self._limit(other)
        verdict = _decide(op, self, count)
        if verdict is None:
            raise undetermined(_undecided_message(self, op, other, count))
        return verdict

    # ---- arithmetic

    def __add__(self, other: object) -> Count:
        """Add a count or an amount; plain ints are in this count's unit."""
        count = self._counted(other)
        return self._merged(count, "+")._with(
            _plus(self._lo, count._lo), _plus(self._hi, count._hi)
        )

    # sum() begins with the int 0.
    __radd__ = __add__

    def __sub__(self, other: object) -> Count:
        """Take a count or an amount away; the result may be negative."""
        count = self._counted(other)
        return self._merged(count, "-")._with(
            _minus(self._lo, count._hi), _minus(self._hi, count._lo)
        )

    def __rsub__(self, other: object) -> Count:
        return self._counted(other) - self

    def _merged(self, count: Count, op: str) -> Count:
        """What label, remedy and unit become in a sum or difference; the ends are open."""
        if self.page_size != count.page_size:
            raise ValueError(f"pages of {self.page_size} and of {count.page_size} bytes")
        return self._with(
            None,
            None,
            unit=self.unit if self.unit == count.unit else "bytes",
            label=_join_labels(self.label, op, count.label),
            remedy=_remedies(self, count),
            note=_join_notes(self.note, count.note),
        )

    # ---- showing

    def __repr__(self) -> str:
        return _show(self, self.unit)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @property
    def _subject(self) -> str:
        return self.label or "the count"

    # ---- below the surface

    @property
    def _step(self) -> int:
        return self.page_size if self.unit == "pages" else 1

    def _counted(self, other: object) -> Count:
        """The other operand as a count; raises TypeError and FormatError."""
        __tracebackhide__ = True
        if isinstance(other, Count):
            return other
        if isinstance(other, str):
            size = parse_amount(other, self.page_size)
            unit: Unit = "pages" if other.rstrip().endswith(_PAGE_UNITS) else "bytes"
        elif isinstance(other, int) and not isinstance(other, bool):
            size, unit = other * self._step, self.unit
        else:
            accepted = f"an int ({self.unit}), an amount such as '64 KiB', or another count"
            raise TypeError(f"a count goes with {accepted}, not with {type(other).__name__}")
        label = _spelled(other, self) if other else ""
        return Count(size, size, unit=unit, page_size=self.page_size, label=label)

    def _limit(self, other: object) -> Count:
        """What it is compared with: anything that it could be added to, or a share of its whole."""
        __tracebackhide__ = True
        if isinstance(other, float) and self.whole is not None:
            return self._share(other, self.whole)
        return self._counted(other)

    def _share(self, share: float, whole: Count) -> Count:
        """So much of the whole, in bytes that are rounded outwards."""
        __tracebackhide__ = True
        if not 0 <= share <= 1:
            raise ValueError(f"a share lies between 0 and 1, not at {share}")
        if whole == 0:
            raise undetermined(f"{self._subject}: nothing of it is there to have a share of")
        part = Fraction(str(share))
        lo = None if whole._lo is None else math.floor(whole._lo * part)
        hi = None if whole._hi is None else math.ceil(whole._hi * part)
        return whole._with(lo, hi, unit=self.unit)

    def _with(
        self,
        lo: End,
        hi: End,
        *,
        unit: Unit | None = None,
        label: str | None = None,
        remedy: str | None = None,
        note: str | None = None,
    ) -> Count:
        return Count(
            lo,
            hi,
            unit=self.unit if unit is None else unit,
            page_size=self.page_size,
            label=self.label if label is None else label,
            remedy=self.remedy if remedy is None else remedy,
            note=self.note if note is None else note,
            whole=self.whole if lo == self._lo and hi == self._hi else None,
        )

    def _undecided(self, what: str) -> NoReturn:
        __tracebackhide__ = True
        message = f"{self._subject} is {self}; {what} is undecided"
        raise undetermined(f"{message}: {self.remedy}" if self.remedy else message)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"counts do not change: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"counts do not change: cannot delete {name!r}")

    def __reduce__(self) -> tuple[object, ...]:
        fields = (self._lo, self._hi, self.unit, self.page_size, self.label, self.remedy)
        return (_rebuilt, (*fields, self.note, self.whole))


# ---- deciding


def _decide(op: str, left: Count, right: Count) -> bool | None:
    """What the comparison gives for every pair of values; None where that differs."""
    if op in (">", ">="):
        return _decide(_MIRRORED[op], right, left)
    if op == "!=":
        equal = _decide("==", left, right)
        return None if equal is None else not equal
    if op == "<":
        return _settled(_all_below(left, right), _all_at_most(right, left))
    if op == "<=":
        return _settled(_all_at_most(left, right), _all_below(right, left))
    return _settled(
        _all_at_most(left, right) and _all_at_most(right, left),
        _all_below(left, right) or _all_below(right, left),
    )


def _settled(always: bool, never: bool) -> bool | None:
    return True if always else False if never else None


def _all_below(left: Count, right: Count) -> bool:
    return left._hi is not None and right._lo is not None and left._hi < right._lo


def _all_at_most(left: Count, right: Count) -> bool:
    return left._hi is not None and right._lo is not None and left._hi <= right._lo


def _plus(left: End, right: End) -> End:
    return None if left is None or right is None else left + right


def _minus(left: End, right: End) -> End:
    return None if left is None or right is None else left - right


def _rebuilt(
    lo: End,
    hi: End,
    unit: Unit,
    page_size: int,
    label: str,
    remedy: str,
    note: str,
    whole: Count | None,
) -> Count:
    return Count(
        lo,
        hi,
        unit=unit,
        page_size=page_size,
        label=label,
        remedy=remedy,
        note=note,
        whole=whole,
    )


# ---- words


def _undecided_message(subject: Count, op: str, other: object, count: Count) -> str:
    same_unit = subject.unit == count.unit == "pages"
    shown = (_show_pages(subject) if same_unit else None) or _show(subject, subject.unit)
    message = f"{subject._subject} is {shown}; {op} {_spelled(other, subject)} is undecided"
    remedy = _remedies(subject, count)
    return f"{message}: {remedy}" if remedy else message


def _remedies(*counts: Count) -> str:
    """What would decide the inexact ones among the counts."""
    return "; ".join(dict.fromkeys(c.remedy for c in counts if c.remedy and not c.exact))


def _join_labels(left: str, op: str, right: str) -> str:
    if not right:
        return left
    if not left:
        return right if op == "+" else ""
    joined = f"{left} {op} {right}"
    if len(joined) <= _LONGEST_LABEL:
        return joined
    return left if left.endswith(" ...") else f"{left} {op} ..."


def _join_notes(left: str, right: str) -> str:
    return left if right in left else "; ".join(note for note in (left, right) if note)


def _spelled(other: object, subject: Count) -> str:
    """The other operand in its author's words."""
    if isinstance(other, Count):
        return f"{other.label} {other}".lstrip()
    if isinstance(other, int):
        return _pages(other) if subject.unit == "pages" else format_bytes(other)
    if isinstance(other, float):
        return f"{other:g} of {subject.whole}"
    return " ".join(str(other).split())


def _show(count: Count, first: Unit) -> str:
    in_pages, in_bytes = _show_pages(count), _span_of_bytes(count._lo, count._hi)
    if in_pages is None or (count.unit == "bytes" and first == "bytes"):
        return in_bytes
    if first == "bytes":
        return f"{in_bytes} ({in_pages})"
    if count._lo == count._hi and not count._lo:  # nothing, or no idea: nothing to convert
        return in_pages
    return f"{in_pages} ({in_bytes})"


def _show_pages(count: Count) -> str | None:
    """The count in pages, or None if they are not whole."""
    size = count.page_size
    if any(end is not None and end % size for end in (count._lo, count._hi)):
        return None
    lo, hi = count.pages.bounds
    if lo is not None and hi is not None:
        return _pages(lo) if lo == hi else f"{lo:,}..{_pages(hi)}"
    if lo is not None:
        return f"{lo:,} or more pages"
    return "any number of pages" if hi is None else f"{hi:,} or fewer pages"


def _pages(number: int) -> str:
    return f"{number:,} page" if number in (1, -1) else f"{number:,} pages"


def _span_of_bytes(lo: End, hi: End) -> str:
    if lo is not None and hi is not None:
        return format_bytes(lo) if lo == hi else _range_of_bytes(lo, hi)
    if lo is not None:
        return f"{format_bytes(lo)} or more"
    return "any number of bytes" if hi is None else f"{format_bytes(hi)} or less"


def _range_of_bytes(lo: int, hi: int) -> str:
    first, last = format_bytes(lo), format_bytes(hi)
    low, low_unit = first.split()
    high, high_unit = last.split()
    if lo == 0 or low_unit == high_unit:
        return f"{low}..{last}"
    return f"{low} {low_unit}..{high} {high_unit}" if hi else f"{low}..{high} {low_unit}"


def format_bytes(number: int) -> str:
    """Bytes in the largest binary unit that says them exactly in at most two decimals.

    ``12 KiB``, ``1.5 MiB``, ``70 MiB``, ``6,000 B``.  :func:`parse_amount` reads it back.
    """
    unit, size = next(
        (unit, size)
        for unit, size in reversed(_BYTE_UNITS.items())
        # Quarters are what two decimals can say of a power of two.
        if size == 1 or (abs(number) >= size and number * 4 % size == 0)
    )
    whole, rest = divmod(abs(number) * 100 // size, 100)
    decimals = f".{rest:02}".rstrip("0") if rest else ""
    return f"{'-' if number < 0 else ''}{whole:,}{decimals} {unit}"


def explain(left: object, op: str, right: object) -> list[str] | None:
    """Say in one line why a comparison with a count on either side failed.

    For ``pytest_assertrepr_compare``; None if neither side is a count, or the operator none
    of the six.  Example: ``[heap] rss: 70 MiB (17,920 pages), allowed <= 64 MiB``.
    """
    if op not in _MIRRORED:
        return None
    if isinstance(left, Count):
        return _explained(left, op, right)
    return _explained(right, _MIRRORED[op], left) if isinstance(right, Count) else None


def _explained(subject: Count, op: str, other: object) -> list[str] | None:
    try:
        limit = subject._limit(other)
    except (TypeError, FormatError):
        return None
    between = " is " if ": " in subject.label else ": "
    label = f"{subject.label}{between}" if subject.label else ""
    verb = "allowed" if op in ("<", "<=") else "expected"
    note = f"; {subject.note}" if subject.note else ""
    return [f"{label}{_show(subject, limit.unit)}, {verb} {op} {_spelled(other, subject)}{note}"]


# ---- amounts

_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?![0-9])")
_UNIT = re.compile(r"[^\s]*")


def parse_amount(text: str, page_size: int = 4096) -> int:
    """Read an amount such as ``"64 KiB"``, ``"1.5 MiB"`` or ``"3 pages"``; gives bytes.

    Units: B, KiB, MiB, GiB, TiB, page, pages.  A unit is required: plain numbers are for
    ints.  ``kB``, ``MB`` and the like mean different sizes to different people and are refused.

    Raises FormatError, which shows the place and suggests what may have been meant.
    """
    __tracebackhide__ = True
    start = len(text) - len(text.lstrip())
    number = _NUMBER.match(text, start)
    if number is None:
        raise _amount_error("an amount is a number and a unit, such as 64 KiB", text, start)
    if number.end() - start > _LONGEST_NUMBER:
        raise _amount_error("this number is too long", text, start)
    gap = len(text[number.end() :]) - len(text[number.end() :].lstrip())
    unit = _UNIT.match(text, number.end() + gap)
    assert unit is not None  # it matches the empty string
    if unit[0] not in _BYTE_UNITS and unit[0] not in _PAGE_UNITS:
        raise _amount_error(_unit_trouble(number[0], unit[0]), text, unit.start())
    if text[unit.end() :].strip():
        raise _amount_error("nothing may follow the unit", text, unit.end() + 1)
    value = Fraction(number[0].replace(",", "")) * _BYTE_UNITS.get(unit[0], page_size)
    return _whole(value, text, start)


def _whole(value: Fraction, text: str, start: int) -> int:
    if value.denominator != 1:
        raise _amount_error("this is no whole number of bytes", text, start)
    if abs(value) >= _TOO_MUCH:
        raise _amount_error("this is more than an address space holds", text, start)
    return int(value)


def _amount_error(reason: str, text: str, position: int) -> FormatError:
    # One character for one character, so that the caret stays where it belongs.
    shown = "".join(c if c.isprintable() else "?" for c in text[: position + 20])
    return FormatError(f"{reason}\n  {shown}\n  {' ' * position}^")


def _unit_trouble(number: str, unit: str) -> str:
    if unit.startswith((",", ".")):
        return "decimals take a point, thousands come in groups of three"
    word = unit.lower().removesuffix("s")
    if not word:
        return f"a unit is missing: did you mean {number} pages or {number} B?"
    if word in ("b", "byte"):
        return f"{unit} is not a unit here: did you mean {number} B?"
    if word in ("p", "pg", "page"):
        return f"{unit} is not a unit here: did you mean {number} pages?"
    return _prefix_trouble(number, unit, word)


def _prefix_trouble(number: str, unit: str, word: str) -> str:
    power = "kmgt".find(word[0]) + 1
    if not power or word[1:] not in ("", "b", "i", "ib", "byte", "ibyte"):
        return f"{unit} is not a unit: there are {', '.join(_BYTE_UNITS)} and pages"
    binary = f"{number} {word[0].upper()}iB"
    if word[1:2] == "i":
        return f"{unit} is not a unit here: did you mean {binary}?"
    decimal = Fraction(number.replace(",", "")) * 1000**power
    other = f" or {int(decimal):,} B" if decimal.denominator == 1 else ""
    return f"{unit} may be 1000s or 1024s: did you mean {binary}{other}?"
