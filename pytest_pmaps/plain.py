"""A snapshot as plain values: what files are read into, and written from.

The engine holds snapshots in columns; saved ones pass through these classes on
their way in and out.  Numbers are those of ``csrc/pmaps.h``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .model import MAPCOUNT, Depth, Kind, Source

__all__ = ["PlainMapping", "PlainObject", "PlainRange", "PlainSnapshot"]


@dataclass(slots=True)
class PlainRange:
    """One page range; ``page`` is the virtual page number, not the page index."""

    page: int
    count: int
    set_bits: int
    known_bits: int
    mapcount: tuple[int, int | None]


@dataclass(slots=True)
class PlainMapping:
    """One mapping with its ranges in ascending order.

    ``perms`` is as in maps (``r-xp``), ``offset`` in bytes,
    ``index`` the page index of its first page.
    ``before`` and ``after`` are counters by name, read before and after the pages;
    a counter that was not seen has no entry.
    ``evidence`` holds a mask of ``1 << Source`` per fact, mapcount last.
    ``object`` is a position in the snapshot's objects.
    """

    start: int
    end: int
    perms: str
    offset: int = 0
    dev: tuple[int, int] = (0, 0)
    inode: int = 0
    name: str = ""
    kind: Kind = Kind.UNKNOWN
    index: int = 0
    index_exact: bool = False
    vmflags: str = ""
    extra: str = ""
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    counters_moved: bool = False
    evidence: tuple[int, ...] = (0,) * (MAPCOUNT + 1)
    trouble: int = 0
    raced_pages: int = 0
    drifted_pages: int = 0
    dirty_bounds: tuple[int, int] | None = None
    object: int | None = None
    ranges: list[PlainRange] = field(default_factory=list)


@dataclass(slots=True)
class PlainObject:
    """A mapped file and its ELF parts: ``(position in PARTS, start, end)``."""

    name: str
    dev: tuple[int, int]
    inode: int
    status: int
    err: int = 0
    parts: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class PlainSnapshot:
    """A whole snapshot.  ``pid`` 0: unknown; ``status`` in bytes, by name, where seen.

    ``partial``: of some addresses only; ``next_address`` is where a capture that was to end
    after so many pages goes on, 0 where it got to the end; ``stopped_ns`` how long the process
    stood still.
    """

    mappings: list[PlainMapping]
    objects: list[PlainObject] = field(default_factory=list)
    pid: int = 0
    comm: str = ""
    start_time: int = 0
    captured_ns: int = 0
    page_size: int = 4096
    status: dict[str, int] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    complete: bool = True
    self_capture: bool = False
    appeared: int = 0
    raced_pages: int = 0
    missed_pages: int = 0
    pte_disagreed: int = 0
    faults: int = 0
    depth: Depth = Depth.FULL
    partial: bool = False
    next_address: int = 0
    stopped_ns: int = 0
