"""What can be counted of some windows of a snapshot, and how.

Of whole mappings the kernel's own counters are used, under their smaps names; of
parts of mappings only pages can be counted.  Either way the result is a
:class:`~pytest_pmaps.counts.Count`, as wide as what was seen leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ._native import Columns, Interval, MappingInfo, Window
from .cached import cached_property
from .counts import Count
from .kinship import one_memory
from .model import FACT_METRICS, METRICS, Depth, Fact, Kind, PageRange, Source
from .select import Entry

__all__ = ["Counted"]

#: smaps counters, and what counts them where only pages can be.
_COUNTER_FACTS = {
    "rss": Fact.NORMAL,
    "referenced": Fact.TOUCHED,
    "anonymous": Fact.ANON,
    "ksm": Fact.KSM,
    "lazy_free": Fact.LAZYFREE,
    "swap": Fact.SWAPPED,
}
_SPLIT = ("private_clean", "private_dirty", "shared_clean", "shared_dirty", "pss")
#: Counters without a page-by-page form: at most this fact's pages.
_AT_MOST = {
    "locked": Fact.NORMAL,
    "anon_huge_pages": Fact.HUGE,
    "shmem_pmd_mapped": Fact.HUGE,
    "file_pmd_mapped": Fact.HUGE,
    "pss_dirty": Fact.PORD,
    "swap_pss": Fact.SWAPPED,
}

#: Sums of parts of pages, which smaps prints in whole kB.
_DIVIDED = ("pss", "pss_dirty", "swap_pss", "locked")
_CUT = 1023

_HIDDEN_FRAMES = "grant CAP_SYS_ADMIN, which shows page flags ('pmaps doctor' tells how)"
_RACED = "capture it again while it is idle: pages changed meanwhile"
_HUGETLB = "pages of hugetlb mappings are not visible"
_SHARED_DIRTY = "the dirty bits of shared memory are not visible on this host (see 'pmaps doctor')"
_SETTLING = "capture it again in a second: the kernel has not settled yet what MADV_FREE freed"
_SHALLOW = 'this capture looked no deeper than {}: capture it with depth="full"'
_PAGES_ALONE = 'capture it with depth="full": only page table entries were looked at'
_PERHAPS_ONE = (
    "capture both with tree() or group() where kcmp(2) is allowed: they may be one memory (vfork, "
    "CLONE_VM)"
)
_TEXT = "the saved map does not say; capture the process, or save it as JSON"


class Counted:
    """Windows of one snapshot, and everything that can be counted of them.

    Every metric is a :class:`~pytest_pmaps.counts.Count`.  Kernel counters keep their smaps
    names and meaning: ``rss pss uss private_clean private_dirty shared_clean shared_dirty
    referenced anonymous ksm lazy_free swap swap_pss locked anon_huge_pages
    shmem_pmd_mapped file_pmd_mapped pss_dirty``; ``uss`` is Private_Clean + Private_Dirty.
    ``dirty`` is this project's own (docs/dirty.md).
    ``note`` is what its counts say when a comparison with them fails.
    """

    note = ""

    def __init__(self, columns: Columns, windows: tuple[Window, ...] | None, label: str) -> None:
        self._columns = columns
        self._given_windows = windows
        self.label = label

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """The address windows that it covers."""
        if self._given_windows is not None:
            return self._given_windows
        # Made when first asked for: a snapshot that is only kept must not fill the heap that
        # the next one measures.
        return self._columns.all_windows()

    @property
    def columns(self) -> Columns:
        """The snapshot's columns in the engine's memory."""
        return self._columns

    def by_name(self, called: Callable[[int], str | None] | None = None) -> dict[str, Counted]:
        """What each file has of it, and ``[heap]``, ``[anon]``, ..., by the name that tables show.

        ``called`` may give the name of a mapping, by its number; None: its own.
        """
        groups: dict[str, list[Window]] = {}
        for window in self.windows:
            name = called(window.mapping) if called else None
            if not name:
                info = self._columns.mappings[window.mapping]
                name = Entry(info.name, info.dev, info.inode, info.kind).shown
            groups.setdefault(name, []).append(window)
        return {name: Counted(self._columns, tuple(g), name) for name, g in groups.items()}

    # ---- metrics

    def metric(self, name: str) -> Count:
        """One metric by name; ValueError for a name that is none."""
        if name == "size":
            size = sum(w.end - w.start for w in self.windows)
            if self._columns.depth is Depth.TOTALS:
                size = 0  # [rollup] goes from the first mapping to the last, over all gaps
            return self._count(Interval(size, size), name, paged=True)
        if name == "uss":
            total = self.metric("private_clean") + self.metric("private_dirty")
            lo, hi = total.bytes.bounds
            return Count(lo, hi, page_size=self.page_size, label=self._labelled(name),
                         remedy=total.remedy, note=self.note)  # fmt: skip
        if name in FACT_METRICS:
            return self.count(FACT_METRICS[name], name)
        if name not in METRICS:
            raise ValueError(f"{name!r} is no metric; metrics are {', '.join(METRICS)}")
        counted = self._from_counters(name) if self._whole else None
        return self._count(counted or self._from_pages(name), name, paged=counted is None)

    def count(self, fact: Fact, name: str | None = None) -> Count:
        """How many pages have a fact; swapped-out ones too, where it can hold for them."""
        return self._in_pages(self._counts[fact], name or fact.name.lower(), fact)

    @property
    def rss(self) -> Count:
        """Resident memory: present pages other than the zero page (smaps Rss)."""
        return self.metric("rss")

    @property
    def pss(self) -> Count:
        """Resident memory, each page divided by its mapcount (smaps Pss)."""
        return self.metric("pss")

    @property
    def uss(self) -> Count:
        """Resident memory that nobody else maps (smaps Private_Clean + Private_Dirty)."""
        return self.metric("uss")

    @property
    def private_clean(self) -> Count:
        """Pages mapped once with neither P nor D (smaps Private_Clean)."""
        return self.metric("private_clean")

    @property
    def private_dirty(self) -> Count:
        """Pages mapped once with P or D (smaps Private_Dirty); a file just copied counts here."""
        return self.metric("private_dirty")

    @property
    def shared_clean(self) -> Count:
        """Pages mapped more than once with neither P nor D (smaps Shared_Clean)."""
        return self.metric("shared_clean")

    @property
    def shared_dirty(self) -> Count:
        """Pages mapped more than once with P or D (smaps Shared_Dirty)."""
        return self.metric("shared_dirty")

    @property
    def referenced(self) -> Count:
        """Pages with Y or R, or that the kernel remembers as young (smaps Referenced)."""
        return self.metric("referenced")

    @property
    def anonymous(self) -> Count:
        """Anonymous pages and private copies that are present (smaps Anonymous)."""
        return self.metric("anonymous")

    @property
    def swap(self) -> Count:
        """Pages swapped out (smaps Swap); guard and uffd markers are not."""
        return self.metric("swap")

    @property
    def locked(self) -> Count:
        """Locked pages, each divided by its mapcount, as smaps Locked is."""
        return self.metric("locked")

    @property
    def anon_huge_pages(self) -> Count:
        """Anonymous memory mapped by huge page table entries (smaps AnonHugePages)."""
        return self.metric("anon_huge_pages")

    @property
    def size(self) -> Count:
        """Address space, resident or not (smaps Size)."""
        return self.metric("size")

    @property
    def dirty(self) -> Count:
        """Private memory: pages copied or written, swapped-out ones too.  Shared: PTE-dirty."""
        return self.metric("dirty")

    @property
    def present(self) -> Count:
        """Pages that a page table entry maps, the zero page among them (pagemap bit 63)."""
        return self.metric("present")

    @property
    def shared(self) -> Count:
        """Resident pages mapped more than once."""
        return self.metric("shared")

    def shared_with(self, other: Counted) -> Count:
        """Pages that are the very same physical page in another process's snapshot.

        Pages of a file are the same where both map that page of the file uncopied.
        Private memory is compared frame by frame at the same address, as after fork; where
        frames were hidden, that stays open.  Of two processes that are one memory (vfork,
        CLONE_VM) it is all that is resident; where they may be, that is the upper end.

        The result compares with a float, too: what share of the selection's ``rss`` that is
        (``worker["[heap]"].shared_with(parent) >= 0.8``).
        """
        pages = self.columns.common(other.columns, self.windows, other.windows)
        size = self.page_size
        lo = pages.lo * size
        hi: int | None = pages.hi * size
        one = one_memory(self.columns, other.columns)
        if one is not False:
            least, most = self._resident_in_both(other)
            lo = max(lo, least) if one else lo
            hi = None if most is None else max(pages.hi * size, most)
        remedy = self._remedy(Fact.SHARED) if one is not None or pages.lo < pages.hi else ""
        return Count(
            lo,
            hi,
            page_size=size,
            label=self._labelled(f"shared with process {other.columns.pid}"),
            remedy="" if lo == hi else remedy or _PERHAPS_ONE,
            whole=self.rss,
        )

    def _resident_in_both(self, other: Counted) -> tuple[int, int | None]:
        """Bytes that are resident here, and at least so many there as well."""
        here, there = (
            Counted(each.columns, _overlap(each.windows, than.windows), "").rss.bytes.bounds
            for each, than in ((self, other), (other, self))
        )
        return min(here[0] or 0, there[0] or 0), here[1]

    # ---- ranges

    def ranges(self, fact: Fact | None = None) -> Iterator[PageRange]:
        """Page ranges in address order; with a fact those where it holds or may hold."""
        for window in self.windows:
            for found in self._columns.ranges(window):
                if fact is None or found.fact(fact) is not False:
                    yield found

    @property
    def page_size(self) -> int:
        """Bytes."""
        return self._columns.page_size

    def forget(self) -> None:
        """Drop the Python objects that were made to look at it, so that what is kept for a
        report does not fill the heap that the next test measures.
        """
        for name in ("windows", "_counts", "_infos", "_whole", "mappings", "verdict", "_entries"):
            self.__dict__.pop(name, None)
        self._columns.forget()

    # ---- below the surface

    @cached_property
    def _counts(self) -> dict[Fact | str, Interval]:
        return self._columns.count(self.windows)

    @cached_property
    def _infos(self) -> tuple[MappingInfo, ...]:
        return tuple(self._columns.mapping(w.mapping) for w in self.windows)

    @cached_property
    def _whole(self) -> bool:
        """Whether the windows are whole mappings, so that counters speak of them."""
        return self._columns.are_whole(self.windows)

    def _from_counters(self, name: str) -> Interval | None:
        """Read twice, a counter lies between its two values; None where one was not read."""
        lo = hi = 0
        for before, after in self._columns.counters(self.windows, name):
            if before is None or after is None:
                return None
            lo += min(before, after)
            hi += max(before, after)
        if name in _DIVIDED:
            # The kernel cuts what it divides by mapcount to whole kB, mapping by mapping.
            resident = (rss for _, rss in self._columns.counters(self.windows, "rss"))
            hi += _CUT * sum(rss != 0 for rss in resident)
        moved = self._columns.missed_pages * self.page_size if self.windows else 0
        return self._narrowed(name, Interval(max(0, lo - moved), hi + moved))

    def _narrowed(self, name: str, counted: Interval) -> Interval:
        """What both a counter and the pages allow; pages may know a sum of 1/mapcount better."""
        if name not in _DIVIDED or name in _AT_MOST:
            return counted
        pages = self._from_pages(name)
        lo, hi = max(counted.lo, pages.lo), min(counted.hi, pages.hi)
        return Interval(lo, hi) if lo <= hi else counted

    def _from_pages(self, name: str) -> Interval:
        size = self.page_size
        if name == "pss":
            return self._counts[name]
        if name in _AT_MOST:
            return Interval(0, self._counts[_AT_MOST[name]].hi * size)
        pages = self._counts[name if name in _SPLIT else _COUNTER_FACTS[name]]
        return Interval(pages.lo * size, pages.hi * size)

    def _in_pages(self, pages: Interval, name: str, fact: Fact) -> Count:
        size = self.page_size
        return self._count(Interval(pages.lo * size, pages.hi * size), name, fact, paged=True)

    def _count(
        self, value: Interval, name: str, fact: Fact | None = None, *, paged: bool = False
    ) -> Count:
        """``paged``: not from counters, of which alone totals consist."""
        open_end = bool(self.windows) and not self._columns.complete
        open_end |= paged and self._columns.depth is Depth.TOTALS
        return Count(
            value.lo,
            None if open_end else value.hi,
            page_size=self.page_size,
            label=self._labelled(name),
            remedy="" if value.lo == value.hi and not open_end else self._remedy(fact),
            note=self.note,
        )

    def _labelled(self, name: str) -> str:
        return f"{self.label}: {name}" if self.label else name

    def _remedy(self, fact: Fact | None) -> str:
        """What would decide a count that is still open, the nearest thing first."""
        sources = self._columns.sources
        if self._columns.depth < Depth.PAGES:
            return _SHALLOW.format(self._columns.depth.name.lower())
        if Source.PAGEMAP not in sources:
            return _TEXT
        if self._columns.missed_pages or any(m.raced_pages for m in self._infos):
            return _RACED
        if any(m.kind == Kind.HUGETLB for m in self._infos):
            return _HUGETLB
        if self._columns.depth is Depth.PAGES:
            return _PAGES_ALONE
        dirty = fact in (Fact.DIRTY, Fact.PTEDIRTY)
        if dirty and any(m.perms.endswith("s") for m in self._infos):
            return _SHARED_DIRTY
        if dirty:
            return _SETTLING
        return "" if Source.KPAGEFLAGS in sources else _HIDDEN_FRAMES


def _overlap(windows: tuple[Window, ...], others: tuple[Window, ...]) -> tuple[Window, ...]:
    """What of windows lies in others of another snapshot; all in address order."""
    found = []
    i = j = 0
    while i < len(windows) and j < len(others):
        w, other = windows[i], others[j]
        start, end = max(w.start, other.start), min(w.end, other.end)
        if start < end:
            found.append(Window(w.mapping, start, end))
        if w.end <= other.end:
            i += 1
        else:
            j += 1
    return _joined(found)


def _joined(windows: list[Window]) -> tuple[Window, ...]:
    """Those of one mapping that touch, as one: counters speak of whole mappings alone."""
    joined: list[Window] = []
    for w in windows:
        if joined and joined[-1].mapping == w.mapping and joined[-1].end == w.start:
            joined[-1] = joined[-1]._replace(end=w.end)
        else:
            joined.append(w)
    return tuple(joined)
