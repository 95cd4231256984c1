"""Snapshots, and what is selected of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as MappingType
from functools import cached_property
from itertools import pairwise

from ._native import Columns, MappingInfo, ObjectInfo, Window
from .delta import Delta, check_same_process
from .errors import NoSuchMapping, undetermined
from .extents import (
    Edge,
    Edges,
    Extent,
    check_edges,
    check_same_memory,
    edges_of,
    extent_of,
    whole_pages,
)
from .metrics import Counted
from .model import MAPCOUNT, PARTS, Depth, Fact, Kind, Source, Verdict
from .plain import PlainSnapshot
from .select import Entry, Resolution, Selector, resolve

__all__ = ["Mapping", "Pages", "Selection", "Snapshot", "diff"]

_GAPS_SHOWN = 4

# pm_elf_status
_ELF_OK, _ELF_NOT, _ELF_UNREADABLE, _ELF_REPLACED, _ELF_PLAIN, _ELF_UNASKED = range(6)
_NO_PARTS = {
    _ELF_NOT: "it is no ELF file",
    _ELF_PLAIN: "it is mapped as plain data, not as a program or library",
}

# pm_trouble
_CHANGED, _RACED = 1 << 0, 1 << 1
_UNRECONCILED = {
    1 << 2: "pages do not add up to Rss",
    1 << 3: "private copies do not add up to Anonymous",
    1 << 4: "P and D contradict Private_Dirty + Shared_Dirty",
    1 << 5: "mapcounts contradict Private_Clean + Private_Dirty",
    1 << 6: "mapcounts contradict Pss",
    1 << 7: "swap entries contradict Swap",
}


class Selection(Counted):
    """Mappings of one file, or part of them; every metric of :class:`Counted` applies.

    ``snap["libfoo"]`` covers the mappings of that file and, where its ELF headers could be
    read, its bss, which the kernel keeps in anonymous memory behind it.
    """

    def __init__(
        self, snapshot: Snapshot, windows: tuple[Window, ...], label: str, part: str | None = None
    ) -> None:
        super().__init__(snapshot.columns, windows, label)
        self.snapshot = snapshot
        self.part = part

    @property
    def name(self) -> str:
        """What messages call it: ``libfoo.so.1 text``."""
        return self.label

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """The mappings that it touches, whole."""
        return tuple(self.snapshot.mappings[w.mapping] for w in self.windows)

    def parts(self) -> dict[str, Selection]:
        """Its ELF parts by name, in file order; empty where they are unknown or it has none."""
        found = (
            (part, self.snapshot._part_windows(obj, part))
            for obj in self._objects
            for part in PARTS
        )
        return {
            part: Selection(self.snapshot, windows, f"{self.label} {part}", part)
            for part, windows in found
            if windows
        }

    def __sub__(self, earlier: object) -> Delta:
        if not isinstance(earlier, Selection):
            return NotImplemented
        check_same_process(self.columns, earlier.columns)
        return Delta(self, earlier)

    def __repr__(self) -> str:
        return f"<{self.label}: {len(self.windows)} mappings, rss {self.rss}>"

    @property
    def _objects(self) -> tuple[ObjectInfo, ...]:
        numbers = dict.fromkeys(m.object for m in self._infos if m.object is not None)
        return tuple(self.columns.objects[i] for i in numbers)


class Mapping(Selection):
    """One mapping: one line of /proc/PID/maps and its page ranges."""

    def __init__(self, snapshot: Snapshot, number: int) -> None:
        info = snapshot.columns.mappings[number]
        label = Entry(info.name, info.dev, info.inode, info.kind).shown
        super().__init__(snapshot, (Window(number, info.start, info.end),), label)
        self.info: MappingInfo = info

    @property
    def start(self) -> int:
        """Address of the first byte."""
        return self.info.start

    @property
    def end(self) -> int:
        """Address behind the last byte."""
        return self.info.end

    @property
    def perms(self) -> str:
        """As maps prints them: ``r-xp``."""
        return self.info.perms

    @property
    def path(self) -> str:
        """As maps prints it; ``""`` for nameless anonymous memory."""
        return self.info.name

    @property
    def kind(self) -> Kind:
        """What it maps."""
        return self.info.kind

    @property
    def counters(self) -> MappingType[str, int]:
        """smaps counters in bytes and numa_maps' in pages, as read after the pages."""
        return self.info.after or self.info.before

    @property
    def vmflags(self) -> tuple[str, ...]:
        """smaps VmFlags, unknown ones too."""
        return tuple(self.info.vmflags.split())

    def evidence(self, fact: Fact | None = None) -> tuple[Source, ...]:
        """The sources that decided a fact anywhere in this mapping; without one, its mapcounts."""
        mask = self.info.evidence[MAPCOUNT if fact is None else fact]
        return tuple(source for source in Source if mask >> source & 1)

    @property
    def troubles(self) -> tuple[str, ...]:
        """What does not add up in it, in words."""
        changed = ("it was remapped while it was captured",) if self.info.trouble & _CHANGED else ()
        raced = (
            (f"{self.info.raced_pages} pages changed while they were captured",)
            if self.info.raced_pages
            else ()
        )
        wrong = tuple(text for bit, text in _UNRECONCILED.items() if self.info.trouble & bit)
        return changed + raced + wrong


class Pages(Selection):
    """The pages that an object or a stretch of addresses lies in, over several mappings perhaps.

    ``start`` and ``end`` are its addresses to the byte, end exclusive.  ``edges`` are the pages
    that are only partly its own and count all the same: another's write makes them dirty too.
    With ``edges="exclude"`` they are left out, and there are none.
    """

    def __init__(
        self, snapshot: Snapshot, extent: Extent, windows: tuple[Window, ...], edges: Edges
    ) -> None:
        whole = edges == "exclude"
        label = f"{extent.name}, whole pages" if whole else extent.name
        super().__init__(snapshot, windows, label)
        self.start = extent.start
        self.end = extent.end
        self.edges = () if whole else edges_of(extent, snapshot.page_size)
        names = " and ".join(f"{edge}" for edge in self.edges)
        self.note = f"not all its own: {names}" if names else ""

    def at(self, edge: Edge) -> Selection:
        """The page of an edge."""
        return self._cut(edge.address, edge.address + self.page_size, f"{self.label}: {edge}")

    @property
    def inside(self) -> Selection:
        """The pages that are all its own; of a small object there are none."""
        size = self.page_size
        return self._cut(-(-self.start // size) * size, self.end // size * size, self.label)

    def parts(self) -> dict[str, Selection]:
        """None: a part is of a file, not of an object."""
        return {}

    def _cut(self, start: int, end: int, label: str) -> Selection:
        windows = (Window(w.mapping, max(start, w.start), min(end, w.end)) for w in self.windows)
        left = tuple(w for w in windows if w.start < w.end)
        return Selection(self.snapshot, left, label)


class Snapshot(Counted):
    """The memory of one process, page range by page range, at one moment.

    Metrics of :class:`Counted` speak of all mappings together; ``snap["libfoo.text"]`` selects.
    It is immutable, lives outside the Python heap, and a forked child can still read it.
    """

    def __init__(self, columns: Columns) -> None:
        super().__init__(columns, None, "")

    @classmethod
    def from_plain(cls, plain: PlainSnapshot) -> Snapshot:
        """Make one from plain values; FormatError for what cannot be a snapshot."""
        return cls(Columns.build(plain))

    def to_plain(self) -> PlainSnapshot:
        """All of it as plain values."""
        return self.columns.plain()

    # ---- the process

    @property
    def pid(self) -> int:
        """Process id; 0 where a saved map does not say."""
        return self.columns.pid

    @property
    def comm(self) -> str:
        """Command name as in /proc/PID/comm."""
        return self.columns.comm

    @property
    def status(self) -> dict[str, int]:
        """``vm_hwm vm_rss vm_pte vm_swap`` in bytes (/proc/PID/status).

        The kernel batches these per CPU: they may lag behind what the pages say.
        """
        return self.columns.status

    @property
    def sources(self) -> tuple[Source, ...]:
        """The kernel interfaces that answered in this capture."""
        return self.columns.sources

    @property
    def depth(self) -> Depth:
        """How deep the capture looked."""
        return self.columns.depth

    @property
    def partial(self) -> bool:
        """Whether only some addresses were captured: ``select``, ``window``, one piece of a
        stream.  All counts are of these alone.
        """
        return self.columns.partial

    @property
    def next_address(self) -> int:
        """Where the next piece of a stream begins; 0 where this is the last one."""
        return self.columns.next_address

    @property
    def stopped_ns(self) -> int:
        """For how long the process stood still to be captured, in nanoseconds; 0: it ran."""
        return self.columns.stopped_ns

    @cached_property
    def verdict(self) -> Verdict:
        """How far it may be trusted."""
        c = self.columns
        reasons = [f"{m.label} at {m.start:x}: {why}" for m in self.mappings for why in m.troubles]
        if c.appeared:
            reasons.append(f"{c.appeared} mappings appeared while it was captured")
        troubles = [m.trouble for m in c.mappings]
        if c.missed_pages:
            reasons.append(
                f"memory moved while it was captured: the total is {c.missed_pages} pages off"
            )
        if c.faults:
            reasons.append(f"{c.faults} page faults happened while it was captured")
        if c.pte_disagreed:
            reasons.append(
                f"{c.pte_disagreed} page table entries did not agree with pagemap: their Y and P "
                "are unknown"
            )
        moved = (
            c.raced_pages
            or c.pte_disagreed
            or c.faults
            or c.appeared
            or c.missed_pages
            or any(t & (_CHANGED | _RACED) for t in troubles)
        )
        wrong = any(t & bit for t in troubles for bit in _UNRECONCILED)
        counters = all("rss" in m.after for m in c.mappings) and bool(c.mappings)
        counters &= c.depth >= Depth.PAGES  # else there are no pages to hold against them
        reasons += self._limits(counters)
        return Verdict(
            complete=c.complete,
            reconciled=not wrong if counters else None,
            raced=bool(moved),
            reasons=tuple(reasons),
        )

    def _limits(self, counters: bool) -> Iterator[str]:
        """What was not looked at, because nobody asked for it."""
        depth = self.columns.depth
        if depth < Depth.PAGES:
            yield f"no pages were looked at (depth {depth.name.lower()})"
        elif depth is Depth.PAGES:
            yield "pages were read once, and held against nothing (depth pages)"
        elif not counters and Source.SMAPS not in self.sources and Source.PAGEMAP in self.sources:
            yield "no counters were read that the pages could be held against"
        if self.columns.partial:
            yield "only some addresses were captured"

    # ---- selecting

    @cached_property
    def mappings(self) -> tuple[Mapping, ...]:
        """All mappings in address order."""
        return tuple(Mapping(self, i) for i in range(len(self.columns)))

    def __getitem__(self, selector: Selector) -> Selection:
        """Mappings of one file, or a part of them.

        Raises NoSuchMapping with near matches, AmbiguousMapping where several files match,
        Undetermined for a part of a file that could not be read.
        """
        __tracebackhide__ = True
        return self._selection(self._resolve(selector))

    def select(self, selector: Selector) -> Selection:
        """Like ``snap[selector]``, but takes the mappings of all files that match."""
        __tracebackhide__ = True
        return self._selection(self._resolve(selector, many=True))

    def _resolve(self, selector: Selector, *, many: bool = False) -> Resolution:
        __tracebackhide__ = True
        try:
            return resolve(selector, self._entries, many=many)
        except NoSuchMapping as miss:
            if miss.misspelt or not self._lists_less:
                raise
            raise NoSuchMapping(f"{miss}; {self._lists_less}") from None

    @property
    def _lists_less(self) -> str:
        """Why a mapping that is there may not be listed; empty where all are."""
        if self.depth is Depth.TOTALS:
            return 'this capture holds totals alone (depth="totals")'
        return "only some addresses were captured" if self.partial else ""

    def __contains__(self, selector: Selector) -> bool:
        """Whether anything that a selector means is mapped."""
        try:
            resolve(selector, self._entries, many=True)
        except NoSuchMapping:
            return False
        return True

    def of(self, x: object, *, edges: Edges = "include") -> Pages:
        """The pages that an object lies in.

        ``x`` is anything with the buffer protocol (bytes, bytearray, memoryview, array.array,
        mmap.mmap, ctypes' objects, NumPy's arrays), or a pair ``(address, length)`` in bytes.
        Of a strided array it is everything from its lowest to its highest byte.

        Its first and last page may be only partly its own.  ``edges="exclude"`` leaves them out.

        Where the object lies is asked now, without touching it; it must lie there since before
        the capture, which nothing can check.  It means something in snapshots of this process,
        and of one that fork made of it, if it was made before the fork; ``(address, length)``
        means something in all.

        Raises NoSuchMapping where some of it is not mapped in this snapshot, ValueError for an
        object that is empty or closed, or means nothing in that process, TypeError for what is
        neither a buffer nor addresses.
        """
        __tracebackhide__ = True
        check_edges(edges)
        extent = extent_of(x)
        check_same_memory(extent, self.columns)
        found, missing = self._covering(extent, edges)
        if missing:
            raise self._not_mapped(extent, missing)
        return found

    def _covering(self, extent: Extent, edges: Edges) -> tuple[Pages, list[tuple[int, int]]]:
        """What is mapped of its pages, and which addresses are not."""
        __tracebackhide__ = True
        start, end = whole_pages(extent, self.page_size, edges)
        # Totals are one mapping from end to end, which says nothing about what lies where.
        listed = self.depth is not Depth.TOTALS
        windows = tuple(self.columns.windows(start, end)) if listed else ()
        borders = [(start, start), *((w.start, w.end) for w in windows), (end, end)]
        gaps = [(a[1], b[0]) for a, b in pairwise(borders) if a[1] < b[0]]
        return Pages(self, extent, windows, edges), gaps

    def _not_mapped(self, extent: Extent, gaps: list[tuple[int, int]]) -> NoSuchMapping:
        shown = ", ".join(f"{a:#x}-{b:#x}" for a, b in gaps[:_GAPS_SHOWN])
        more = f" and {len(gaps) - _GAPS_SHOWN} more" if len(gaps) > _GAPS_SHOWN else ""
        return NoSuchMapping(
            f"{extent.name}: {shown}{more} not mapped in this snapshot{self._why_not(extent)}"
        )

    def _why_not(self, extent: Extent) -> str:
        if self.depth is Depth.TOTALS:
            return f": {self._lists_less}"
        if self.partial:
            return f", or not captured: {self._lists_less}"
        if not self._gapless:
            return ": memory moved while it was captured"
        return ": captured before it was made, or after it was freed?" if extent.ours else ""

    @property
    def _gapless(self) -> bool:
        """Whether what is not listed was not there."""
        c = self.columns
        everything = c.complete and not c.partial and self.depth is not Depth.TOTALS
        return everything and not (c.appeared or c.missed_pages)

    @cached_property
    def _entries(self) -> tuple[Entry, ...]:
        return tuple(Entry(m.name, m.dev, m.inode, m.kind) for m in self.columns.mappings)

    def _selection(self, found: Resolution) -> Selection:
        __tracebackhide__ = True
        infos = [self.columns.mappings[i] for i in found.indexes]
        numbers = dict.fromkeys(m.object for m in infos if m.object is not None)
        objects = [self.columns.objects[i] for i in numbers]
        if found.part is None:
            windows = {Window(i, m.start, m.end) for i, m in zip(found.indexes, infos, strict=True)}
            for obj in objects:
                windows.update(self._part_windows(obj, "bss"))
            return Selection(self, _merged(windows), found.name)
        windows = {w for obj in objects for w in self._part_windows(obj, found.part)}
        if not windows:
            self._no_part(found, objects)
        return Selection(self, _merged(windows), f"{found.name} {found.part}", found.part)

    def _part_windows(self, obj: ObjectInfo, part: str) -> tuple[Window, ...]:
        spans = [(start, end) for kind, start, end in obj.parts if PARTS[kind] == part]
        return tuple(
            Window(i, max(start, m.start), min(end, m.end))
            for start, end in spans
            for i, m in enumerate(self.columns.mappings)
            if start < m.end and m.start < end
        )

    def _no_part(self, found: Resolution, objects: list[ObjectInfo]) -> None:
        __tracebackhide__ = True
        has = sorted({PARTS[kind] for o in objects for kind, _, _ in o.parts}, key=PARTS.index)
        if has:
            hint = (
                "; linked with -z noseparate-code, read-only data lies in text"
                if found.part == "rodata" and "text" in has
                else ""
            )
            raise NoSuchMapping(f"{found.name} has no {found.part}: it has {', '.join(has)}{hint}")
        status = objects[0].status if objects else _ELF_UNREADABLE
        if status in _NO_PARTS:
            raise NoSuchMapping(f"{found.name} has no parts: {_NO_PARTS[status]}")
        if status == _ELF_UNASKED:
            raise undetermined(
                f"the parts of {found.name} are unknown: depth 'pages' does not look for them "
                f"unless they are asked for: snapshot(depth='pages', select={found.name!r})"
            )
        why = (
            "its path now holds another file than the one that is mapped"
            if status == _ELF_REPLACED
            else "its file could not be read"
        )
        raise undetermined(
            f"the parts of {found.name} are unknown: {why}; select all of it, {found.name!r}"
        )

    # ---- the rest

    def __sub__(self, earlier: object) -> Delta:
        """What changed since an earlier snapshot of the same process; ValueError for another's."""
        if not isinstance(earlier, Snapshot):
            return NotImplemented
        check_same_process(self.columns, earlier.columns)
        return diff(self, earlier)

    def buffers(self) -> dict[str, memoryview]:
        """The range columns, read-only and without a copy: ``page`` (virtual page number),
        ``count``, ``set``, ``known`` (masks over :class:`Fact`), ``mapcount_lo``, ``mapcount_hi``.
        """
        return self.columns.buffers()

    def __repr__(self) -> str:
        size, verdict = len(self.columns), self.verdict.label
        return f"<Snapshot of {self.comm} {self.pid}: {size} mappings, {verdict}>"


def diff(later: Snapshot, earlier: Snapshot) -> Delta:
    """What differs between two snapshots, of whatever processes: ``later`` against ``earlier``."""
    totals = [snapshot.depth is Depth.TOTALS for snapshot in (later, earlier)]
    if later.partial != earlier.partial or totals[0] != totals[1]:
        raise ValueError(
            "one of the snapshots does not list all mappings: compare what both hold, "
            'later["libfoo"] - earlier["libfoo"]'
        )

    def pick(selector: object) -> tuple[Counted, Counted]:
        sides = [_or_none(s, selector) for s in (later, earlier)]
        named = next((s for s in sides if s is not None), None)
        if named is None:
            later[selector]  # type: ignore[index]  # says what is wrong with it
        nothing = [Selection(s, (), named.label if named else "") for s in (later, earlier)]
        return sides[0] or nothing[0], sides[1] or nothing[1]

    def pages(x: object, edges: Edges) -> tuple[Counted, Counted]:
        __tracebackhide__ = True
        check_edges(edges)
        extent = extent_of(x)
        sides = []
        for snapshot in (later, earlier):
            check_same_memory(extent, snapshot.columns)
            sides.append((snapshot, *snapshot._covering(extent, edges)))
        nowhere = all(missing for _, _, missing in sides)
        for snapshot, _, missing in sides:
            if missing and (nowhere or not snapshot._gapless):
                raise snapshot._not_mapped(extent, missing)
        return sides[0][1], sides[1][1]

    return Delta(later, earlier, pick, pages)


def _or_none(snapshot: Snapshot, selector: object) -> Selection | None:
    try:
        return snapshot[selector]  # type: ignore[index]  # resolve() refuses what is no selector
    except NoSuchMapping:
        return None


def _merged(windows: Iterable[Window]) -> tuple[Window, ...]:
    """In address order, overlapping windows of one mapping joined."""
    merged: list[Window] = []
    for w in sorted(windows):
        if merged and merged[-1].mapping == w.mapping and merged[-1].end >= w.start:
            merged[-1] = merged[-1]._replace(end=max(merged[-1].end, w.end))
        else:
            merged.append(w)
    return tuple(merged)
