"""Every exception that pytest-pmaps raises on purpose."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar

__all__ = [
    "AccessDenied",
    "AmbiguousMapping",
    "BudgetError",
    "BudgetExceeded",
    "Cancelled",
    "FootprintError",
    "FormatError",
    "NoSuchMapping",
    "PmapsError",
    "ProcessGone",
    "Undetermined",
    "Unsupported",
    "undetermined",
    "undetermined_policy",
]


#: How much of a text is shown on either side of the place that is meant, in characters.
_AROUND = 60


class PmapsError(Exception):
    """Root of all errors of this package, footprint failures excepted."""


class ProcessGone(PmapsError, ProcessLookupError):
    """The process does not exist, has exited, or has no memory to look at."""


class AccessDenied(PmapsError, PermissionError):
    """The kernel does not let us look at this process; the message says what would."""


class Unsupported(PmapsError, NotImplementedError):
    """This system cannot show page maps at all: not Linux, or no pagemap in its kernel."""


class Cancelled(PmapsError):
    """A capture was told to stop by its progress callback; nothing of it is left."""


class FormatError(PmapsError, ValueError):
    """A text or file does not read as what it should be.

    ``line`` is the 1-based line of the trouble, or None where there is none to name; ``path`` the
    file, ``""`` where it is none.  The message begins with both as editors and CI link them,
    ``/path/base.json:7: …``; ``reason`` is the rest.
    """

    def __init__(
        self, reason: str, *, line: int | None = None, path: str | os.PathLike[str] = ""
    ) -> None:
        self.reason = reason
        self.line = line
        self.path = os.fspath(path)
        super().__init__(f"{self._place}{reason}")

    @property
    def _place(self) -> str:
        if self.line is None:
            return f"{self.path}: " if self.path else ""
        return f"{self.path}:{self.line}: " if self.path else f"line {self.line}: "

    def __reduce__(self) -> tuple[object, ...]:
        return (_format_error, (self.reason, self.line, self.path))


class BudgetError(FormatError):
    """A budget does not read; ``text`` is the budget, ``position`` the place of the trouble, which
    the message marks.
    """

    def __init__(self, reason: str, text: str, position: int) -> None:
        # One character for one character, so that the caret stays where it belongs.
        shown = "".join(c if c.isprintable() else " " for c in text)
        start, end = max(0, position - _AROUND), position + _AROUND
        before, after = ("..." if start else ""), ("..." if end < len(text) else "")
        caret = " " * (len(before) + position - start) + "^"
        super().__init__(f"{reason}\n  {before}{shown[start:end]}{after}\n  {caret}")
        self.text = text
        self.position = position

    def __reduce__(self) -> tuple[object, ...]:
        reason = self.reason.partition("\n")[0]
        return (BudgetError, (reason, self.text, self.position))


class NoSuchMapping(PmapsError, LookupError):
    """A selector matches no mapping; the message lists near matches.

    ``misspelt``: the file is there, and has no such part, so that nothing could match.
    """

    misspelt = False


class AmbiguousMapping(PmapsError, LookupError):
    """A selector matches mappings of several files; ``select()`` takes many on purpose."""


class Undetermined(PmapsError):
    """What was seen does not decide the question; the message says what would."""


#: What to raise where something is undetermined: called with the message, returns the exception.
#: None, the default, means :class:`Undetermined`.
#: A test runner sets it to make a skip out of it at the place where it arises; a context
#: variable, because threads and tasks of other tests must not see it.
undetermined_policy: ContextVar[Callable[[str], BaseException] | None] = ContextVar(
    "undetermined_policy", default=None
)


def undetermined(message: str) -> BaseException:
    """What to raise where the facts do not decide: Undetermined, or as the policy says."""
    policy = undetermined_policy.get()
    return Undetermined(message) if policy is None else policy(message)


class FootprintError(AssertionError):
    """A statement about a footprint is false.

    ``evidence`` holds what failed, for reports: whatever object the assertion was about.
    """

    # As pytest's own outcomes do: the summary line has no room for a module path.
    __module__ = "builtins"

    def __init__(self, message: str, evidence: object = None) -> None:
        super().__init__(message)
        self.evidence = evidence

    def __reduce__(self) -> tuple[object, ...]:
        # Found by name through this module, whatever __module__ shows.
        # The evidence is memory of this process and does not travel.
        return (_footprint_error, (str(self),))


class BudgetExceeded(FootprintError):
    """More is held than a budget allows."""

    __module__ = "builtins"

    def __reduce__(self) -> tuple[object, ...]:
        return (_budget_exceeded, (str(self),))


def _format_error(reason: str, line: int | None, path: str) -> FormatError:
    return FormatError(reason, line=line, path=path)


def _footprint_error(message: str) -> FootprintError:
    return FootprintError(message)


def _budget_exceeded(message: str) -> BudgetExceeded:
    return BudgetExceeded(message)


# Summary lines have no room for a path of modules; by this name they can be imported, too.
for _error in (PmapsError, *PmapsError.__subclasses__(), BudgetError):
    _error.__module__ = "pytest_pmaps"
