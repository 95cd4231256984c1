"""Snapshots as JSON: everything that is in one, for any machine and any later version.

The text is made to be read and compared: one line per mapping, one per page range::

    {"start": "7f0012340000", "end": "7f0012343000", "perms": "r-xp", …, "ranges": [
    [1, 2, "YR_U___", 3, "present normal file touched ?softdirty"]]}

A range is page index, number of pages, the RFC's flags, mapcount, and all other facts.
A mapcount is a number, or ``[1, 2]`` for an interval, or ``[1, null]`` where no upper bound is
known.  Of the facts, ``name`` is set and ``?name`` unknown; the rest is clear.  Where more is
unknown than clear it is told the other way round: with ``?*`` in it, ``!name`` is clear and
the rest unknown.  Addresses are hexadecimal, as maps prints them.  What is empty or 0 is left
out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

from .jsontext import (
    Record,
    Wrong,
    any_object,
    boolean,
    checked_format,
    integer,
    list_of,
    read,
    shown,
    string,
)
from .model import COUNTERS, FLAG_LETTERS, MAPCOUNT, PARTS, Depth, Fact, Kind, PageRange, Source
from .plain import PlainMapping, PlainObject, PlainRange, PlainSnapshot

__all__ = ["FORMAT", "VERSION", "dump", "parse", "parse_with_extra"]

#: What the file says it is.
FORMAT = "pytest-pmaps snapshot"

#: The one version that is written and understood.
VERSION = 1

_T = TypeVar("_T")
_U32, _U64 = 1 << 32, 1 << 64
_I31 = 1 << 31

_OTHER_FACTS = tuple(fact for fact in Fact if fact >= len(FLAG_LETTERS))
_EVIDENCE_NAMES = (*(fact.name.lower() for fact in Fact), "mapcount")
_PLAIN = PlainMapping(0, 0, "")
_OPTIONAL = (
    *("offset", "dev", "inode", "index_exact", "vmflags", "extra", "object", "trouble"),
    *("raced_pages", "drifted_pages", "dirty_bounds", "counters_moved"),
)


# ---- writing


def dump(snapshot: PlainSnapshot, *, extra: dict[str, Any] | None = None) -> str:
    """Write a snapshot, and with it whatever JSON values ``extra`` holds.

    A set bit that is not known means nothing and is not kept.
    Raises what :func:`json.dumps` raises for an ``extra`` that is no JSON.
    """
    lines = [f'{{"format": "{FORMAT}", "version": {VERSION},', f"{_inner(_head(snapshot))},"]
    if extra:
        lines.append(f'"extra": {json.dumps(extra, allow_nan=False)},')
    objects = [json.dumps(_object(item)) for item in snapshot.objects]
    lines.append(_listing("objects", objects) + ",")
    mappings = [_mapping_lines(item, snapshot.page_size) for item in snapshot.mappings]
    lines.append(_listing("mappings", mappings) + "}")
    return "\n".join(lines) + "\n"


def _listing(name: str, items: Iterable[str]) -> str:
    text = ",\n".join(items)
    return f'"{name}": [\n{text}]' if text else f'"{name}": []'


def _inner(values: dict[str, object]) -> str:
    return json.dumps(values)[1:-1]


#: What is left out where it is 0.
_RARE = ("pte_disagreed", "faults", "partial", "next_address", "stopped_ns")


def _head(snapshot: PlainSnapshot) -> dict[str, object]:
    return {
        "pid": snapshot.pid,
        "comm": snapshot.comm,
        "start_time": snapshot.start_time,
        "captured_ns": snapshot.captured_ns,
        "page_size": snapshot.page_size,
        "complete": snapshot.complete,
        "self_capture": snapshot.self_capture,
        "appeared": snapshot.appeared,
        "raced_pages": snapshot.raced_pages,
        "missed_pages": snapshot.missed_pages,
        "sources": " ".join(source.name.lower() for source in snapshot.sources),
        "status": snapshot.status,
        "depth": snapshot.depth.name.lower(),
    } | {name: value for name in _RARE if (value := getattr(snapshot, name))}


def _object(item: PlainObject) -> dict[str, object]:
    return {
        "name": item.name,
        "dev": _dev(item.dev),
        "inode": item.inode,
        "status": item.status,
        "err": item.err,
        "parts": [[PARTS[part], f"{start:x}", f"{end:x}"] for part, start, end in item.parts],
    }


def _mapping_lines(mapping: PlainMapping, page_size: int) -> str:
    shift = mapping.index - mapping.start // page_size
    ranges = [_range_line(item, shift) for item in mapping.ranges]
    return f"{{{_inner(_mapping(mapping))}, {_listing('ranges', ranges)}}}"


def _mapping(mapping: PlainMapping) -> dict[str, object]:
    """The mapping without its ranges: first what is always there, then what is out of line."""
    always: dict[str, object] = {
        "start": f"{mapping.start:x}",
        "end": f"{mapping.end:x}",
        "perms": mapping.perms,
        "name": mapping.name,
        "kind": mapping.kind.name.lower(),
        "index": mapping.index,
    }
    return always | dict(_exceptions(mapping))


def _exceptions(mapping: PlainMapping) -> Iterator[tuple[str, object]]:
    for name in _OPTIONAL:
        value = getattr(mapping, name)
        if value != getattr(_PLAIN, name):
            yield name, _dev(value) if name == "dev" else value
    if mapping.before:
        yield "counters", mapping.before
    if mapping.after != mapping.before:
        yield "counters_after", mapping.after
    if any(mapping.evidence):
        yield "evidence", _evidence(mapping.evidence)


def _evidence(masks: tuple[int, ...]) -> dict[str, str]:
    """The facts by what decided them: ``{"smaps numa_maps": "active writeback"}``."""
    facts: dict[str, list[str]] = {}
    for name, mask in zip(_EVIDENCE_NAMES, masks, strict=True):
        if mask:
            sources = " ".join(source.name.lower() for source in Source if mask >> source & 1)
            facts.setdefault(sources, []).append(name)
    return {sources: " ".join(names) for sources, names in facts.items()}


def _dev(dev: tuple[int, int]) -> str:
    return f"{dev[0]:02x}:{dev[1]:02x}"


def _range_line(item: PlainRange, shift: int) -> str:
    lo, hi = item.mapcount
    mapcount = f"{lo}" if lo == hi else f"[{lo}, {'null' if hi is None else hi}]"
    return (
        f"[{item.page + shift}, {item.count}, {_state(item.set_bits, item.known_bits, mapcount)}]"
    )


@lru_cache(maxsize=1024)
def _state(set_bits: int, known_bits: int, mapcount: str) -> str:
    flags = PageRange(0, 0, 0, (0, None), set_bits, known_bits).flags
    return f'"{flags}", {mapcount}, "{_fact_words(set_bits, known_bits)}"'


def _fact_words(set_bits: int, known_bits: int) -> str:
    on, clear, unknown = [], [], []
    for fact in _OTHER_FACTS:
        name = fact.name.lower()
        if not known_bits >> fact & 1:
            unknown.append(f"?{name}")
        elif set_bits >> fact & 1:
            on.append(name)
        else:
            clear.append(f"!{name}")
    return " ".join([*on, *unknown] if len(unknown) <= len(clear) else [*on, *clear, "?*"])


# ---- reading


def parse(text: str) -> PlainSnapshot:
    """Read a snapshot.

    Raises FormatError, with the line wherever there is one, for what is no JSON, no snapshot,
    of a later version, or does not fit together.
    """
    return parse_with_extra(text)[0]


def parse_with_extra(text: str) -> tuple[PlainSnapshot, dict[str, Any]]:
    """Read a snapshot and what was written as ``extra``; raises as :func:`parse` does."""
    return read(text, _snapshot)


def _snapshot(value: object) -> tuple[PlainSnapshot, dict[str, Any]]:
    record = Record(checked_format(value, FORMAT, VERSION))
    snapshot = PlainSnapshot(mappings=[], page_size=record.need("page_size", _page_size))
    snapshot.pid = record.need("pid", integer(_I31))
    snapshot.comm = record.need("comm", string)
    snapshot.start_time = record.need("start_time", integer(_U64))
    snapshot.captured_ns = record.need("captured_ns", integer(_U64))
    snapshot.complete = record.need("complete", boolean)
    snapshot.self_capture = record.need("self_capture", boolean)
    snapshot.appeared = record.need("appeared", integer(_U32))
    snapshot.raced_pages = record.need("raced_pages", integer(_U64))
    snapshot.missed_pages = record.need("missed_pages", integer(1 << 52))
    snapshot.sources = record.need("sources", _sources)
    snapshot.status = record.need("status", _numbers)
    snapshot.depth = record.get("depth", _depth, Depth.FULL)
    snapshot.pte_disagreed = record.get("pte_disagreed", integer(_U64), 0)
    snapshot.faults = record.get("faults", integer(_U64), 0)
    snapshot.partial = record.get("partial", boolean, False)
    snapshot.next_address = record.get("next_address", integer(_U64), 0)
    snapshot.stopped_ns = record.get("stopped_ns", integer(_U64), 0)
    extra: dict[str, Any] = record.get("extra", any_object, {})
    snapshot.objects = record.need("objects", list_of(_read_object))
    snapshot.mappings = record.need("mappings", lambda it: _read_mappings(it, snapshot))
    record.done()
    return snapshot, extra


def _read_object(value: object) -> PlainObject:
    record = Record(value)
    item = PlainObject(
        name=record.need("name", string),
        dev=record.need("dev", _read_dev),
        inode=record.need("inode", integer(_U64)),
        status=record.need("status", integer(_I31, -_I31)),
        err=record.need("err", integer(_I31, -_I31)),
        parts=record.need("parts", list_of(_read_part)),
    )
    record.done()
    return item


def _read_part(value: object) -> tuple[int, int, int]:
    if not isinstance(value, list) or len(value) != 3:
        raise Wrong("a part is its name, start and end")
    name, start, end = value
    if name not in PARTS:
        raise Wrong(f"{shown(name)} is no part: they are {', '.join(PARTS)}")
    part = PARTS.index(name), _address(start), _address(end)
    if part[1] > part[2]:
        raise Wrong("the part ends before it begins")
    return part


def _read_mappings(value: object, snapshot: PlainSnapshot) -> list[PlainMapping]:
    end = 0

    def read(item: object) -> PlainMapping:
        nonlocal end
        mapping = _read_mapping(item, snapshot)
        if mapping.start < end:
            raise Wrong("this mapping begins before the last one ends")
        end = mapping.end
        return mapping

    return list_of(read)(value)


def _read_mapping(value: object, snapshot: PlainSnapshot) -> PlainMapping:
    record = Record(value)
    mapping = PlainMapping(
        start=record.need("start", _address),
        end=record.need("end", _address),
        perms=record.need("perms", _perms),
        name=record.need("name", string),
        kind=record.need("kind", _kind),
        index=record.need("index", integer(_U64)),
        offset=record.get("offset", integer(_U64), 0),
        dev=record.get("dev", _read_dev, (0, 0)),
        inode=record.get("inode", integer(_U64), 0),
        object=record.get("object", _position(len(snapshot.objects)), None),
    )
    _read_states(record, mapping)
    _check_place(mapping, snapshot.page_size)
    mapping.ranges = record.need("ranges", _ranges_reader(mapping, snapshot.page_size))
    record.done()
    return mapping


def _read_states(record: Record, mapping: PlainMapping) -> None:
    mapping.index_exact = record.get("index_exact", boolean, False)
    mapping.vmflags = record.get("vmflags", string, "")
    mapping.extra = record.get("extra", string, "")
    mapping.trouble = record.get("trouble", integer(_U32), 0)
    mapping.raced_pages = record.get("raced_pages", integer(_U32), 0)
    mapping.drifted_pages = record.get("drifted_pages", integer(_U32), 0)
    mapping.dirty_bounds = record.get("dirty_bounds", _bounds, None)
    mapping.before = record.get("counters", _counters, {})
    mapping.counters_moved = record.get("counters_moved", boolean, False)
    mapping.after = record.get("counters_after", _counters, dict(mapping.before))
    mapping.evidence = record.get("evidence", _read_evidence, _PLAIN.evidence)


def _check_place(mapping: PlainMapping, page_size: int) -> None:
    if mapping.start >= mapping.end:
        raise Wrong("the mapping ends where it begins, or before", "end")
    for name in ("start", "end", "offset"):
        if getattr(mapping, name) % page_size:
            raise Wrong(f"{name} does not lie on a page of {page_size} bytes")
    if mapping.index + (mapping.end - mapping.start) // page_size > _U64:
        raise Wrong("the mapping ends beyond any page index", "index")


def _ranges_reader(mapping: PlainMapping, page_size: int) -> Callable[[object], list[PlainRange]]:
    at, end = mapping.start // page_size, mapping.end // page_size
    shift = at - mapping.index

    def read(value: object) -> PlainRange:
        nonlocal at
        item = _read_range(value, shift)
        if not at <= item.page < item.page + item.count <= end:
            raise Wrong("this page range is empty, outside its mapping, or out of order")
        at = item.page + item.count
        return item

    return list_of(read)


def _read_range(value: object, shift: int) -> PlainRange:
    if not isinstance(value, list) or len(value) != 5:
        raise Wrong("a page range is index, count, flags, mapcount, facts")
    index, count, flags, mapcount, facts = value
    if not isinstance(flags, str) or not isinstance(facts, str):
        raise Wrong("flags and facts are strings")
    set_bits, known_bits = _read_state(flags, facts)
    page = _INDEX(index) + shift
    return PlainRange(page, _INDEX(count), set_bits, known_bits, _read_mapcount(mapcount))


@lru_cache(maxsize=1024)
def _read_state(flags: str, facts: str) -> tuple[int, int]:
    """All facts as bits that are set, and bits that are known."""
    if len(flags) != len(FLAG_LETTERS):
        raise Wrong(f"{shown(flags)} are not the seven flags {FLAG_LETTERS}")
    states: dict[Fact, str] = {}
    for bit, (letter, found) in enumerate(zip(FLAG_LETTERS, flags, strict=True)):
        if found not in (letter, "_", "?"):
            raise Wrong(f"{shown(flags)}: flag {bit + 1} is none of {letter}, _ and ?")
        states[Fact(bit)] = {"_": "!", "?": "?"}.get(found, "")
    states |= _other_states(facts.split())
    set_bits = sum(1 << fact for fact, mark in states.items() if not mark)
    return set_bits, sum(1 << fact for fact, mark in states.items() if mark != "?")


def _other_states(words: list[str]) -> dict[Fact, str]:
    """A mark for each fact beyond the flags: "" set, "!" clear, "?" unknown."""
    rest, other = ("?", "!") if "?*" in words else ("!", "?")
    states: dict[Fact, str] = {}
    for word in words:
        if word == "?*":
            continue
        mark = word[0] if word[0] in "!?" else ""
        fact = _FACTS.get(word[len(mark) :])
        if fact is None or fact in states or mark not in ("", other):
            raise Wrong(f"{shown(word)} is no fact, told twice, or marked as the rest is")
        states[fact] = mark
    return {fact: states.get(fact, rest) for fact in _OTHER_FACTS}


_FACTS = {fact.name.lower(): fact for fact in _OTHER_FACTS}


def _read_mapcount(value: object) -> tuple[int, int | None]:
    if not isinstance(value, list):
        number = _MAPCOUNT(value)
        return number, number
    if len(value) != 2:
        raise Wrong("a mapcount is a number or a pair of them")
    lo, hi = _MAPCOUNT(value[0]), None if value[1] is None else _MAPCOUNT(value[1])
    if hi is not None and hi < lo:
        raise Wrong(f"a mapcount from {lo} down to {hi}")
    return lo, hi


def _read_evidence(value: object) -> tuple[int, ...]:
    masks = [0] * (MAPCOUNT + 1)
    for sources, facts in any_object(value).items():
        mask = sum(1 << source for source in set(_sources(sources)))
        if not mask:
            raise Wrong("evidence of no source", sources)
        for name in string(facts).split():
            if name not in _EVIDENCE_NAMES or masks[_EVIDENCE_NAMES.index(name)]:
                raise Wrong(f"{shown(name)} is no fact, or told twice", sources)
            masks[_EVIDENCE_NAMES.index(name)] = mask
    return tuple(masks)


# ---- reading: single values


_INDEX = integer(_U64)
_MAPCOUNT = integer(_U32 - 1)  # the last number is the engine's word for "no bound"


def _position(size: int) -> Callable[[object], int | None]:
    def read(value: object) -> int | None:
        position = integer(_U32)(value)
        if position >= size:
            raise Wrong(f"there is no object {position}, there are {size}")
        return position

    return read


def _numbers(value: object) -> dict[str, int]:
    record = Record(value)
    limit = integer(_U64 - 1)  # the last number is the engine's word for "not seen"
    return {key: record.need(string(key), limit) for key in any_object(value)}


def _counters(value: object) -> dict[str, int]:
    record = Record(value)
    limit = integer(1 << 63)  # the engine keeps them signed
    counters = {key: record.need(key, limit) for key in any_object(value) if key in COUNTERS}
    record.done()
    return counters


def _bounds(value: object) -> tuple[int, int] | None:
    bounds = list_of(_INDEX)(value)
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise Wrong("bounds are two numbers, the lower one first")
    return bounds[0], bounds[1]


def _page_size(value: object) -> int:
    size = integer(_U32, 1)(value)
    if size & (size - 1):
        raise Wrong(f"a page size of {size} bytes")
    return size


def _address(value: object) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{1,16}", value):
        raise Wrong(f"{shown(value)} is no address: up to 16 hexadecimal digits in quotes")
    return int(value, 16)


def _read_dev(value: object) -> tuple[int, int]:
    text = value if isinstance(value, str) else ""
    match = re.fullmatch(r"([0-9a-f]{2,8}):([0-9a-f]{2,8})", text)
    if match is None:
        raise Wrong(f"{shown(value)} is no device such as fe:00")
    return int(match[1], 16), int(match[2], 16)


def _perms(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[r-][w-][x-][ps]", value):
        raise Wrong(f"{shown(value)} are no permissions such as r-xp")
    return value


def _depth(value: object) -> Depth:
    names = {depth.name.lower(): depth for depth in Depth}
    if not isinstance(value, str) or value not in names:
        raise Wrong(f"{shown(value)} is no depth: they are {', '.join(names)}")
    return names[value]


def _kind(value: object) -> Kind:
    found = next((kind for kind in Kind if kind.name.lower() == value), None)
    if found is None:
        raise Wrong(f"{shown(value)} is no kind of mapping")
    return found


def _sources(value: object) -> tuple[Source, ...]:
    names = {source.name.lower(): source for source in Source}
    words = string(value).split()
    for word in words:
        if word not in names:
            raise Wrong(f"{shown(word)} is no source")
    return tuple(names[word] for word in words)
