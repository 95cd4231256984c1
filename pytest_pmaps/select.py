"""Selectors, which say what mappings are meant: ``"libfoo.text"``.

| selector | selects |
|---|---|
| ``"[heap]"``, ``"[stack]"``, ``"[vdso]"`` | the mapping of that name |
| ``"[anon]"`` | nameless anonymous memory |
| ``"[anon:jit]"``, ``"[anon:glibc*]"`` | named anonymous memory |
| ``"/usr/lib/libfoo.so.1"`` | the file at that path |
| ``"libfoo.so.1"``, ``"libfoo.so"``, ``"libfoo"`` | the file of that name or stem |
| ``"libfoo*"``, ``"*/site-packages/*/foo*"`` | files by glob; with a ``/``, by their paths |
| ``re.compile(…)`` | whatever names it finds something in |
| a module, a path object | the file that it is |

A name or path may end in a part: ``.text``, ``.rodata``, ``.relro``, ``.data``, ``.bss``.
Nothing here reads files; only symbolic links of paths are followed.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from types import ModuleType
from typing import NamedTuple, TypeAlias

from .errors import AmbiguousMapping, NoSuchMapping
from .model import PARTS, Kind

__all__ = [
    "Entry",
    "Parsed",
    "Reading",
    "Resolution",
    "Selector",
    "parse",
    "printable",
    "resolve",
    "stem",
]

#: What selects mappings.
Selector: TypeAlias = "str | re.Pattern[str] | ModuleType | os.PathLike[str]"

_DELETED = " (deleted)"
_SPECIAL = re.compile(r"\[[^][]*\]")
_MANY_SHOWN = 8
_NEAR_SHOWN = 5


def printable(name: str) -> str:
    r"""A name for people: what is not UTF-8, or would move the cursor, is spelled out (``\xff``).

    No terminal, no XML and no xdist worker takes what Python keeps such bytes as.
    """
    if name.isprintable():
        return name
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no name that came from the kernel
        data = name.encode("utf-8", "backslashreplace")
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Entry(NamedTuple):
    """What a mapping is chosen by; ``name`` as maps prints it, unescaped, "" if it has none."""

    name: str
    dev: tuple[int, int]
    inode: int
    kind: Kind

    @property
    def path(self) -> str:
        """The name without the kernel's note that the file was deleted."""
        return self.name.removesuffix(_DELETED)

    @property
    def basename(self) -> str:
        """The file's name without its folders; for other mappings the whole name."""
        return self.path.rpartition("/")[2] if self.is_file else self.name

    @property
    def spellings(self) -> set[str]:
        r"""What the file may really be called: the kernel writes a newline as ``\012``, and its
        note that a file was deleted may be part of a name.
        """
        names = {self.name, self.path}
        return names | {name.replace("\\012", "\n") for name in names}

    @property
    def basenames(self) -> set[str]:
        """The last part of each spelling."""
        return {name.rpartition("/")[2] for name in self.spellings}

    @property
    def is_file(self) -> bool:
        """Whether the name is a path."""
        return self.name.startswith("/")

    @property
    def shown(self) -> str:
        """How messages call it; bytes that are no UTF-8 are spelled out."""
        return printable(self.basename) or "[anon]"

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for mappings of the same file; named anonymous memory counts as one."""
        if self.name.startswith("[anon:"):
            return ("[anon:",)
        return (self.name, self.dev, self.inode)


class Reading(NamedTuple):
    """One way to understand a selector; ``part`` is its part under that reading."""

    matches: Callable[[Entry], bool]
    part: str | None = None


class Parsed(NamedTuple):
    """A selector's readings, in the order in which they are tried."""

    text: str
    readings: tuple[Reading, ...]


class Resolution(NamedTuple):
    """What a selector selects.

    ``indexes``: positions of the mappings among the entries, ascending.
    ``part``: the part that was asked for, or None for all of it.
    ``name``: the file's name as messages show it; the selector where several were taken.
    """

    indexes: tuple[int, ...]
    part: str | None
    name: str


def resolve(selector: Selector, entries: Sequence[Entry], *, many: bool = False) -> Resolution:
    """Find the mappings that a selector means: those of one file, or of ``many``.

    Raises NoSuchMapping with near matches if there are none, AmbiguousMapping if they are of
    several files and many were not asked for, TypeError for what is no selector.
    """
    __tracebackhide__ = True
    parsed = parse(selector)
    for reading in parsed.readings:
        indexes = tuple(i for i, entry in enumerate(entries) if reading.matches(entry))
        if indexes:
            return _one_or_many(parsed.text, reading.part, indexes, entries, many)
    if _wrong_part(parsed.text, entries) is not None:
        raise _never(_miss(parsed.text, entries))
    raise NoSuchMapping(_miss(parsed.text, entries))


def _never(message: str) -> NoSuchMapping:
    """A selector that could not match anything, whatever is mapped."""
    miss = NoSuchMapping(message)
    miss.misspelt = True
    return miss


def _one_or_many(
    text: str, part: str | None, indexes: tuple[int, ...], entries: Sequence[Entry], many: bool
) -> Resolution:
    __tracebackhide__ = True
    files = {entries[i].identity: entries[i] for i in indexes}
    if len(files) > 1 and not many:
        raise AmbiguousMapping(_ambiguous(text, list(files.values())))
    names = {entries[i].shown for i in indexes}
    return Resolution(indexes, part, names.pop() if len(names) == 1 else text)


# ---- what a selector may mean


def parse(selector: Selector) -> Parsed:
    """Take a selector apart without looking at any mapping.

    Raises TypeError for what is no selector, NoSuchMapping for a module without a file.
    """
    __tracebackhide__ = True
    given: object = selector  # for the type checker, callers are not always typed
    if isinstance(given, str):
        return Parsed(given, tuple(_readings(given)))
    if isinstance(given, re.Pattern) and isinstance(given.pattern, str):
        return Parsed(given.pattern, (_by_regex(given),))
    if isinstance(given, ModuleType):
        return _by_path_object(_module_file(given))
    if isinstance(given, os.PathLike):
        return _by_path_object(os.fsdecode(given))
    accepted = "a string, a compiled regex over strings, a module, or a path"
    raise TypeError(f"a selector is {accepted}, not {type(given).__name__}")


def _by_path_object(path: str) -> Parsed:
    __tracebackhide__ = True
    return Parsed(path, (_by_path(path),))


def _module_file(module: ModuleType) -> str:
    __tracebackhide__ = True
    path = getattr(module, "__file__", None)
    if not isinstance(path, str):
        raise _never(f"module {module.__name__!r} has no file: it is no extension module")
    if path.endswith((".py", ".pyc")):
        raise _never(f"module {module.__name__!r} is Python code: {path} is not mapped")
    return path


def _readings(text: str) -> Iterator[Reading]:
    if not text:
        return
    if _SPECIAL.fullmatch(text):
        # And nothing else: as a glob, "[heap]" would be any file called "h".
        yield from _special_readings(text)
        return
    # What is named exactly so comes first: "training.data" is a file if there is one.
    yield from _file_readings(text, None)
    base, dot, last = text.rpartition(".")
    if dot and base and last in PARTS:
        yield from _file_readings(base, last)
        if "/" not in base:
            yield _by_stem(base, last)
    if "/" not in text:
        yield _by_stem(text, None)


def _special_readings(text: str) -> Iterator[Reading]:
    if text == "[anon]":
        yield Reading(lambda entry: not entry.name and entry.kind == Kind.ANON)
    yield Reading(lambda entry: entry.name == text)
    if any(c in text for c in "*?"):
        glob = f"[[]{text[1:]}"
        yield Reading(lambda entry: fnmatchcase(entry.name, glob))


def _file_readings(text: str, part: str | None) -> Iterator[Reading]:
    """What names a file exactly, and globs."""
    yield _by_path(text, part) if "/" in text else _by_basename(text, part)
    if any(c in text for c in "*?["):
        yield _by_glob(text, part)


def _by_path(path: str, part: str | None = None) -> Reading:
    wanted = _spellings(path)
    return Reading(lambda entry: not wanted.isdisjoint(entry.spellings), part)


def _spellings(path: str) -> set[str]:
    try:
        # The kernel prints where links led when the file was mapped.
        return {path, os.path.abspath(path), os.path.realpath(path)}
    except ValueError:  # no path: it holds a NUL, or what cannot be encoded
        return {path}


def _by_basename(name: str, part: str | None) -> Reading:
    return Reading(lambda entry: entry.is_file and name in entry.basenames, part)


def _by_glob(glob: str, part: str | None) -> Reading:
    def matches(entry: Entry) -> bool:
        return entry.is_file and fnmatchcase(entry.path if "/" in glob else entry.basename, glob)

    return Reading(matches, part)


def _by_stem(text: str, part: str | None) -> Reading:
    tail = _tail_of(text)

    def matches(entry: Entry) -> bool:
        names = (entry.basename, _without_hash(entry.basename)) if entry.is_file else ()
        return any(
            name == text or (name.startswith(text) and tail.fullmatch(name, len(text)) is not None)
            for name in names
        )

    return Reading(matches, part)


def _by_regex(pattern: re.Pattern[str]) -> Reading:
    # What has no name is not found by it, whatever the pattern says about "".
    return Reading(lambda entry: bool(entry.name) and pattern.search(entry.name) is not None)


# ---- stems

_NUMBERS = r"(?:\.[0-9]+[a-z]?)*"
_SO = rf"\.so{_NUMBERS}"
_TAG = r"\.(?:cpython-|pypy|graalpy|abi[0-9])[^./]*"

# What may follow, by how far the selector itself goes.
_AFTER_SO = re.compile(_NUMBERS)
_AFTER_VERSION = re.compile(rf"{_NUMBERS}{_SO}")
_AFTER_STEM = re.compile(rf"(?:-[0-9]+{_NUMBERS}|-[0-9a-f]{{8,}}|{_TAG})?{_SO}")

_ENDS_IN_SO = re.compile(rf".*{_SO}", re.DOTALL)
_ENDS_IN_VERSION = re.compile(rf".*-[0-9]+{_NUMBERS}", re.DOTALL)

#: auditwheel puts a hash of the file before the first dot, so that wheels do not collide.
_HASHED = re.compile(r"([^.]+?)(?:-[0-9a-f]{8,})+(\..*)", re.DOTALL)


def _tail_of(text: str) -> re.Pattern[str]:
    """What may follow the text in a file's name for the text to be a stem of it."""
    if _ENDS_IN_SO.fullmatch(text):
        return _AFTER_SO
    return _AFTER_VERSION if _ENDS_IN_VERSION.fullmatch(text) else _AFTER_STEM


def _without_hash(name: str) -> str:
    hashed = _HASHED.fullmatch(name)
    return name if hashed is None else hashed[1] + hashed[2]


def stem(name: str) -> str:
    """The shortest selector by name: ``libfoo`` for ``libfoo-2.31.so`` or ``libfoo.so.1.2``."""
    bare = _without_hash(name)
    for start in range(1, len(bare)):
        if bare[start] in ".-" and _tail_of(bare[:start]).fullmatch(bare, start):
            return bare[:start]
    return bare


# ---- what to say when it does not work out


def _ambiguous(text: str, files: Sequence[Entry]) -> str:
    twins = len({entry.path for entry in files}) < len(files)
    shown = [_full_name(entry, twins) for entry in files[:_MANY_SHOWN]]
    if len(files) > _MANY_SHOWN:
        shown.append(f"and {len(files) - _MANY_SHOWN} more")
    hint = "take all of them with select()"
    if len({entry.name for entry in files}) > 1:
        hint = f"name one by its path, or {hint}"
    return f"{text!r} matches {len(files)} files: {', '.join(shown)}; {hint}"


def _full_name(entry: Entry, with_inode: bool) -> str:
    name = printable(entry.name) or "[anon]"
    return f"{name} (inode {entry.inode})" if with_inode and entry.inode else name


def _miss(text: str, entries: Sequence[Entry]) -> str:
    message = f"no mapping matches {text!r}"
    if not text:
        return f"{message}; nameless anonymous memory is '[anon]'"
    wrong_part = _wrong_part(text, entries)
    if wrong_part:
        return f"{message}: {wrong_part}"
    names = list(dict.fromkeys(entry.shown for entry in entries))
    near = _near(text, names)
    if near:
        return f"{message}; near: {', '.join(near)}"
    shown = ", ".join(names[:_MANY_SHOWN]) + (", ..." if len(names) > _MANY_SHOWN else "")
    return f"{message}; mapped are: {shown}" if names else f"{message}: nothing is mapped"


def _wrong_part(text: str, entries: Sequence[Entry]) -> str | None:
    """Whether ``libfoo.txt`` would be right but for its end."""
    base, _, last = text.rpartition(".")
    if not base or not last.isalpha() or last in ("so", *PARTS):
        return None
    reading = _by_path(base) if "/" in base else _by_stem(base, None)
    found = next((entry for entry in entries if reading.matches(entry)), None)
    if found is None:
        return None
    close = difflib.get_close_matches(last, PARTS, n=1, cutoff=0.5)
    meant = f"; did you mean '{base}.{close[0]}'?" if close else ""
    return f"{found.shown} has no part {last!r}, its parts are {', '.join(PARTS)}{meant}"


def _near(text: str, names: Iterable[str]) -> list[str]:
    wanted = text.rpartition("/")[2]
    base, _, last = wanted.rpartition(".")
    wanted = (base if base and last in PARTS else wanted).lower()
    keys: dict[str, list[str]] = {}
    for name in names:
        for key in {name.lower(), stem(name).lower()}:
            keys.setdefault(key, []).append(name)
    close = difflib.get_close_matches(wanted, keys, n=_NEAR_SHOWN, cutoff=0.6)
    holding = [key for key in keys if len(wanted) > 2 and wanted in key]
    found = dict.fromkeys(name for key in [*close, *holding] for name in keys[key])
    return list(found)[:_NEAR_SHOWN]
