"""JSON that others wrote, read strictly: what is wrong with it is said, and in which line.

A reader is a function that takes a JSON value and gives what it means, or raises :class:`Wrong`.
Readers of parts make readers of wholes, and on its way out Wrong learns its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn, TypeVar

from .errors import FormatError

__all__ = ["Record", "Wrong", "any_object", "boolean", "checked_format", "integer", "kind_of",
           "list_of", "object_of", "read", "shown", "string"]  # fmt: skip

_T = TypeVar("_T")


def read(text: str, of: Callable[[object], _T]) -> _T:
    """Read JSON text with a reader; FormatError names the line of what is wrong."""
    value = _decode(text)
    try:
        return of(value)
    except Wrong as wrong:
        raise FormatError(wrong.reason, line=_line_of(text, wrong.path)) from None


def checked_format(value: object, form: str, version: int) -> dict[str, Any]:
    """A file without its first two keys, ``format`` and ``version``, if it is one of these.

    ``version`` is the last one that is understood; all before it are.
    """
    if not isinstance(value, dict) or value.get("format") != form:
        raise Wrong(f'this is JSON, but no {form}: those begin with "format": "{form}"')
    found = value.get("version")
    if type(found) is not int or found < 1:
        raise Wrong(f"no version of the format: {shown(found)}", "version")
    if found > version:
        mine = f"this pytest-pmaps understands version {version}"
        raise Wrong(f"a {form.split()[-1]} of format version {found}; {mine}", "version")
    return {key: item for key, item in value.items() if key not in ("format", "version")}


class Wrong(Exception):
    """Something is wrong, at a path of keys and positions from where it is raised."""

    def __init__(self, reason: str, *path: str | int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path

    def under(self, step: str | int) -> Wrong:
        """The same, of what holds it: at a key or position."""
        return Wrong(self.reason, step, *self.path)


class Record:
    """A JSON object whose keys are asked for by name; what nobody asked for is refused."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise Wrong(f"an object belongs here, not {kind_of(value)}")
        self._left = dict(value)

    def need(self, key: str, read: Callable[[object], _T]) -> _T:
        """What a key holds; it has to be there."""
        if key not in self._left:
            raise Wrong(f'"{key}" is missing')
        try:
            return read(self._left.pop(key))
        except Wrong as wrong:
            raise wrong.under(key) from None

    def get(self, key: str, read: Callable[[object], _T], default: _T) -> _T:
        """What a key holds, or the default where it is missing."""
        return self.need(key, read) if key in self._left else default

    def done(self) -> None:
        """Refuse what nobody asked for."""
        for key in self._left:
            raise Wrong(f"unknown key {shown(key)}", key)


# ---- single values


def list_of(read: Callable[[object], _T]) -> Callable[[object], list[_T]]:
    """Reads a list of what a reader reads."""

    def read_all(value: object) -> list[_T]:
        if not isinstance(value, list):
            raise Wrong(f"a list belongs here, not {kind_of(value)}")
        result = []
        for position, item in enumerate(value):
            try:
                result.append(read(item))
            except Wrong as wrong:
                raise wrong.under(position) from None
        return result

    return read_all


def object_of(read: Callable[[object], _T]) -> Callable[[object], dict[str, _T]]:
    """Reads an object with any keys, each of which holds what a reader reads."""

    def read_all(value: object) -> dict[str, _T]:
        record = Record(value)
        return {key: record.need(key, read) for key in any_object(value)}

    return read_all


def integer(limit: int, least: int = 0) -> Callable[[object], int]:
    """Reads whole numbers from ``least`` up to below ``limit``."""

    def read(value: object) -> int:
        # A bool is an int to Python, and to nobody else.
        if type(value) is not int:
            raise Wrong(f"a whole number belongs here, not {kind_of(value)}")
        if not least <= value < limit:
            raise Wrong(f"{shown(value)} is out of range")
        return value

    return read


def boolean(value: object) -> bool:
    """Reads true and false."""
    if not isinstance(value, bool):
        raise Wrong(f"true or false belongs here, not {kind_of(value)}")
    return value


def string(value: object) -> str:
    """Reads what a name or path can be: no NUL, no half of a character."""
    if not isinstance(value, str):
        raise Wrong(f"a string belongs here, not {kind_of(value)}")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Wrong("a string with characters that no name can hold") from None
    if "\0" in value:
        raise Wrong("a string with a NUL in it")
    return value


def any_object(value: object) -> dict[str, Any]:
    """Reads an object, whatever is in it."""
    if not isinstance(value, dict):
        raise Wrong(f"an object belongs here, not {kind_of(value)}")
    return value


def kind_of(value: object) -> str:
    """What a value is, in a message."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value)) or f"the number {shown(value)}"


def shown(value: object) -> str:
    """A value in a message, as the file has it, but short."""
    if isinstance(value, dict | list):
        return kind_of(value)
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:40] + "..."


# ---- reading: JSON itself, more strictly than the standard library


def _decode(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except Wrong as wrong:
        raise FormatError(wrong.reason, line=_first_line(text, lambda it: it.bad)) from None
    except json.JSONDecodeError as wrong:
        raise FormatError(f"this is no JSON: {wrong.msg}", line=wrong.lineno) from None
    except RecursionError:
        line = _first_line(text, lambda it: len(it.path) > _DEEP)
        raise FormatError("nested too deeply", line=line) from None
    except ValueError:  # int() refuses thousands of digits
        digits = re.search(r"[0-9]{1000}", text)
        line = _line_at(text, digits.start()) if digits else None
        raise FormatError("a number of too many digits", line=line) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in record if keys.count(key) > 1)
        raise Wrong(f"key {shown(twice)} is there twice")
    return record


def _no_constant(name: str) -> NoReturn:
    raise Wrong(f"{name} is no JSON")


# ---- finding lines, once there is an error to report

_DEEP = 100  # no parser gives up before
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},]|[^][{},:"\s]+', re.DOTALL)


class _Step(NamedTuple):
    """A value or key in JSON text; ``bad`` for a key told twice, or a constant of none."""

    path: tuple[str | int | None, ...]
    bad: bool


def _walk(text: str) -> Iterator[tuple[int, _Step]]:
    """Go through well-formed JSON text; gives the line of every key and value."""
    path: list[str | int | None] = []  # None: a key comes next
    seen: list[set[str]] = []
    line, at = 1, 0
    for match in _TOKEN.finditer(text):
        line, at, token = line + text.count("\n", at, match.start()), match.start(), match[0]
        if token == ",":
            path[-1] = path[-1] + 1 if isinstance(path[-1], int) else None
        elif token in "]}":
            path.pop()
            seen.pop()
        elif path and path[-1] is None:
            key = path[-1] = str(json.loads(token))
            yield line, _Step(tuple(path), key in seen[-1])
            seen[-1].add(key)
        else:
            yield line, _Step(tuple(path), token in ("NaN", "Infinity", "-Infinity"))
        if token in "[{":
            path.append(None if token == "{" else 0)
            seen.append(set())


def _first_line(text: str, wanted: Callable[[_Step], bool]) -> int | None:
    try:
        return next((line for line, step in _walk(text) if wanted(step)), None)
    except (LookupError, ValueError):  # behind the place there may be no JSON at all
        return None


def _line_of(text: str, path: tuple[str | int, ...]) -> int:
    """The line of what is at a path, or of what holds it where it is not there."""
    lines = {step.path: line for line, step in _walk(text) if step.path == path[: len(step.path)]}
    return next((lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in lines), 1)


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
