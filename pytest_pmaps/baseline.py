"""Baselines: what was recorded of the budgets that say ``<= baseline``, in one committed file.

.. code-block:: text

    {
      "format": "pytest-pmaps baseline",
      "version": 1,
      "environments": {
        "x86_64 4096 glibc-2.36 cpython-3.11 thp=madvise sources=maps,pagemap,smaps xdist=no": {
          "tests/test_a.py::test_b": {
            "anonymous growth": {"value": 65536, "spread": 4096},
            "libfoo.text: dirty": {"value": 0, "spread": 0}
          }
        }
      }
    }

Everything is sorted, and what is recorded of one budget is one line, so that a changed value is
one changed line.  One that is new behind the last of its test changes the line before it by a
comma: JSON has it so.
Budgets go by their left side (:attr:`.budget.Budget.subject`): what is allowed may change, and
what was recorded still holds.
Nothing here looks at a process.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import FormatError
from .jsontext import Record, Wrong, checked_format, integer, object_of, read
from .procfs import chosen, read_line
from .reading import naming, utf8, whole
from .replacing import write_atomically

__all__ = ["FORMAT", "VERSION", "Baseline", "Recorded", "environment", "explain_difference",
           "merge", "moved"]  # fmt: skip

FORMAT = "pytest-pmaps baseline"
VERSION = 1

#: Far beyond what any memory holds, and whatever is computed from it.
_BEYOND = 1 << 62


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was recorded: ``value`` in bytes (a number, of what is counted), below 0 where less
    was held than before; ``spread``, by how much other measurements were seen to be off.

    Raises ValueError for a spread below 0, and for what no memory holds.
    """

    value: int
    spread: int = 0

    def __post_init__(self) -> None:
        if self.spread < 0:
            raise ValueError(f"a spread is not below 0, as {self.spread} is")
        # This way round: merge() makes nothing that is out of range of what is within it.
        if not -_BEYOND < self.value - self.spread <= self.value < _BEYOND:
            raise ValueError("this is more than any memory holds")


#: Node id and subject of a budget.
_Key = tuple[str, str]


class Baseline:
    """What is recorded, by environment, node id and subject; empty when it is made.

    Two that hold the same are equal.
    """

    def __init__(self) -> None:
        self._entries: dict[_Key, dict[str, Recorded]] = {}

    # ---- what is in it

    def find(self, environment: str, nodeid: str, subject: str) -> Recorded | None:
        """What is recorded in this environment, or None."""
        return self._entries.get(_key(nodeid, subject), {}).get(environment)

    def elsewhere(self, environment: str, nodeid: str, subject: str) -> tuple[str, ...]:
        """The other environments in which it is recorded."""
        return tuple(sorted(self._entries.get(_key(nodeid, subject), {}).keys() - {environment}))

    def unused(self, environment: str, used: Iterable[_Key]) -> list[_Key]:
        """What is recorded in this environment and not among ``used``: pairs of node id and
        subject.  That they are superfluous is known only after a run of all tests.
        """
        known = {_key(*pair) for pair in used}
        return [key for env, key, _ in self if env == environment and key not in known]

    def __iter__(self) -> Iterator[tuple[str, _Key, Recorded]]:
        """Environment, node id and subject, and what is recorded, in the order of the file."""
        yield from sorted(
            ((env, key, recorded) for key, by_env in self._entries.items()
             for env, recorded in by_env.items()),
            key=lambda entry: entry[:2],
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return self._entries == other._entries if isinstance(other, Baseline) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    # ---- changing it

    def record(self, environment: str, nodeid: str, subject: str, recorded: Recorded) -> None:
        """Put down what is recorded from now on."""
        self._entries.setdefault(_key(nodeid, subject), {})[environment] = recorded

    def remove(self, environment: str, nodeid: str, subject: str) -> None:
        """Forget what is recorded; KeyError where nothing is."""
        key = _key(nodeid, subject)
        del self._entries[key][environment]
        if not self._entries[key]:
            del self._entries[key]

    # ---- files

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, missing_ok: bool = False) -> Baseline:
        """Read a file; with ``missing_ok`` one that is not there is an empty one.

        Raises FormatError, with path and line, for what is no baseline or of a later version,
        OSError for what cannot be read or is no regular file.
        """
        try:
            data = whole(path)
        except FileNotFoundError:
            if missing_ok:
                return cls()
            raise
        with naming(path):
            return cls.loads(utf8(data))

    @classmethod
    def loads(cls, text: str) -> Baseline:
        """Read what :meth:`dumps` wrote; FormatError as of :meth:`load`."""
        conflict = re.search(r"^(<<<<<<<|=======|>>>>>>>)", text, re.MULTILINE)
        if conflict:
            line = text.count("\n", 0, conflict.start()) + 1
            raise FormatError("git left a merge conflict here", line=line)
        self = cls()
        for env, tests in read(text, _environments).items():
            for nodeid, subjects in tests.items():
                for subject, recorded in subjects.items():
                    self.record(env, nodeid, subject, recorded)
        return self

    def dumps(self) -> str:
        """The text of the file, in ASCII: the same for equal ones, byte for byte."""
        environments: dict[str, Any] = {}
        for env, (nodeid, subject), recorded in self:
            line = f'{{"value": {recorded.value}, "spread": {recorded.spread}}}'
            environments.setdefault(env, {}).setdefault(nodeid, {})[subject] = line
        head = {"format": json.dumps(FORMAT), "version": str(VERSION)}
        return _pretty(head | {"environments": environments}) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it atomically; a file that holds this text already is not touched.

        A symbolic link stays one, a file keeps its mode.  Raises OSError where it cannot be
        written, PermissionError for a file of mode 0444, which its owner does not want written.
        """
        text = self.dumps()
        try:
            if whole(path) == text.encode():
                return
        except FileNotFoundError:
            pass
        write_atomically(path, text)


def _key(nodeid: str, subject: str) -> _Key:
    return _joined(nodeid), _joined(subject)


def _joined(text: str) -> str:
    """The text as it comes back from JSON, which takes two surrogates for one character."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _pretty(value: str | dict[str, Any], indent: str = "") -> str:
    """JSON of objects, a key on each line; a string is JSON already."""
    if isinstance(value, str):
        return value
    inner = indent + "  "
    lines = [f"{inner}{json.dumps(key)}: {_pretty(it, inner)}" for key, it in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}" if lines else "{}"


def _environments(value: object) -> dict[str, dict[str, dict[str, Recorded]]]:
    record = Record(checked_format(value, FORMAT, VERSION))
    environments = record.need("environments", object_of(object_of(object_of(_recorded))))
    record.done()
    return environments


_NUMBER = integer(_BEYOND, -_BEYOND)


def _recorded(value: object) -> Recorded:
    record = Record(value)
    number, spread = record.need("value", _NUMBER), record.need("spread", integer(2 * _BEYOND))
    record.done()
    try:
        return Recorded(number, spread)
    except ValueError as exc:
        raise Wrong(str(exc)) from None


# ---- how entries move


def moved(recorded: Recorded | None, measured: int, tolerance: int) -> Recorded:
    """What an entry becomes when baselines are updated; ``tolerance`` is what its budget allows.

    Within the tolerance the value stays, or many small steps would add up to a large one that
    nobody was shown; the spread takes note.  Beyond it, up or down, what was measured is the
    value from now on, and what is known of the noise stays.
    """
    if recorded is None:
        return Recorded(measured)
    distance = abs(measured - recorded.value)
    if distance > tolerance:
        return Recorded(measured, recorded.spread)
    return Recorded(recorded.value, max(recorded.spread, distance))


def merge(
    baselines: Sequence[Baseline], base: Baseline | None = None
) -> tuple[Baseline, tuple[str, ...]]:
    """All that is in any of them, and a note for each entry of which they hold different values.

    Of those the largest is kept, with a spread that reaches down to the lowest (and as far below
    as that one's own).  Neither order nor grouping matters.

    ``base`` is what all of them were before: an entry that one of them changed is taken from
    that one, so that what another left alone does not stand against it.
    """
    found: dict[tuple[str, _Key], list[Recorded]] = {}
    for baseline in baselines:
        for env, key, recorded in baseline:
            found.setdefault((env, key), []).append(recorded)
    merged, notes = Baseline(), []
    for (env, key), entries in sorted(found.items(), key=lambda item: item[0]):
        before = None if base is None else base.find(env, *key)
        candidates = [entry for entry in entries if entry != before] or entries
        merged.record(env, *key, _union(candidates))
        values = sorted({entry.value for entry in candidates})
        if len(values) > 1:
            notes.append(_note(env, key, values))
    return merged, tuple(notes)


def _union(entries: Sequence[Recorded]) -> Recorded:
    value = max(entry.value for entry in entries)
    # To the lower end of each, or it would matter which two are merged first.
    return Recorded(value, value - min(entry.value - entry.spread for entry in entries))


def _note(environment: str, key: _Key, values: Sequence[int]) -> str:
    seen = ", ".join(f"{value:,}" for value in values)
    nodeid, subject = (json.dumps(part)[1:-1] if not part.isprintable() else part for part in key)
    return f"{nodeid}: {subject}: recorded as {seen}; the largest is kept ({environment})"


# ---- environments

#: The parts of a key that have no name in it, in their order.
_UNNAMED = ("architecture", "page size", "libc", "python")


def environment(*, sources: Iterable[str], page_size: int, workers: bool) -> str:
    """The key of all on which footprints depend, and never a host's name, in one line.

    ``sources`` are the kernel interfaces in use, ``workers`` whether tests run in processes of
    pytest-xdist.  What cannot be told is ``unknown``.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    thp = chosen(read_line("/sys/kernel/mm/transparent_hugepage/enabled"))
    parts = (
        _word(platform.machine()),
        str(page_size),
        _word(_libc()),
        # Free-threaded ("t") and debug ("d") builds hold other objects.
        f"{sys.implementation.name}-{version}{getattr(sys, 'abiflags', '')}",
        f"thp={_word(thp)}",
        f"sources={','.join(sorted(set(sources))) or 'none'}",
        f"xdist={'yes' if workers else 'no'}",
    )
    return " ".join(parts)


def _word(text: str) -> str:
    return "-".join(text.split()) or "unknown"


def _libc() -> str:
    try:
        named = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):  # musl does not know the name
        named = None
    if named:
        return named
    name, version = platform.libc_ver()
    if name != "musl" and "musl" in getattr(sys.implementation, "_multiarch", ""):
        return "musl"  # which Python could not name before 3.14
    return f"{name} {version}"


def explain_difference(ours: str, theirs: str) -> str:
    """In which parts two keys differ: ``python: cpython-3.11 here, cpython-3.12 there``.

    ``""`` where they do not.
    """
    here, there = _parts(ours), _parts(theirs)
    differing = [name for name in here | there if here.get(name) != there.get(name)]
    if not differing and ours != theirs:
        return f"{ours} here, {theirs} there"
    return "; ".join(
        f"{name}: {here.get(name, 'nothing')} here, {there.get(name, 'nothing')} there"
        for name in differing
    )


def _parts(key: str) -> dict[str, str]:
    words = key.split()
    unnamed = [word for word in words if "=" not in word]
    named = [word.partition("=") for word in words if "=" in word]
    return dict(zip(_UNNAMED, unnamed, strict=False)) | {name: value for name, _, value in named}
