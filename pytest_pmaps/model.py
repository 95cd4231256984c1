"""Plain values: the facts of a page, their sources, names of metrics, ranges, verdicts.

Numbers mirror ``csrc/pmaps.h``; a test holds the two against each other.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping as MappingType
from dataclasses import dataclass

__all__ = [
    "COUNTERS",
    "FACT_METRICS",
    "FLAG_LETTERS",
    "METRICS",
    "PARTS",
    "Depth",
    "Fact",
    "Kind",
    "PageRange",
    "Source",
    "Verdict",
]

#: The RFC's flags in the RFC's order; position = bit number.
FLAG_LETTERS = "YRAUPDW"

#: Parts of an ELF file, in the engine's order.
PARTS = ("text", "rodata", "relro", "data", "bss")

#: smaps and numa_maps counters, in the engine's order.
#: Those from numa_maps are in pages, all others in bytes.
COUNTERS = (
    "size",
    "kernel_page_size",
    "mmu_page_size",
    "rss",
    "pss",
    "pss_dirty",
    "shared_clean",
    "shared_dirty",
    "private_clean",
    "private_dirty",
    "referenced",
    "anonymous",
    "ksm",
    "lazy_free",
    "anon_huge_pages",
    "shmem_pmd_mapped",
    "file_pmd_mapped",
    "shared_hugetlb",
    "private_hugetlb",
    "swap",
    "swap_pss",
    "locked",
    "numa_pages",
    "numa_dirty",
    "numa_mapmax",
    "numa_active",
    "numa_writeback",
)


class Fact(enum.IntEnum):
    """What can be set, clear or unknown for each page; see docs/facts.md."""

    YOUNG = 0
    REFERENCED = 1
    ACTIVE = 2
    UPTODATE = 3
    PTEDIRTY = 4
    PAGEDIRTY = 5
    WRITEBACK = 6
    PRESENT = 7
    NORMAL = 8
    SWAPPED = 9
    FILE = 10
    ANON = 11
    EXCLUSIVE = 12
    HUGE = 13
    ZERO = 14
    SOFTDIRTY = 15
    UFFDWP = 16
    KSM = 17
    GUARD = 18
    LAZYFREE = 19
    DIRTY = 20
    TOUCHED = 21
    PORD = 22
    RACED = 23
    SHARED = 24


#: The slot for mapcount in a mapping's evidence, behind the last fact.
MAPCOUNT = len(Fact)

#: Metrics counted from pages alone, by the fact that makes a page count.
FACT_METRICS = {
    "dirty": Fact.DIRTY,
    "present": Fact.PRESENT,
    "shared": Fact.SHARED,
    "zero": Fact.ZERO,
    "huge": Fact.HUGE,
    "file": Fact.FILE,
    "soft_dirty": Fact.SOFTDIRTY,
    "uffd_wp": Fact.UFFDWP,
    "guard": Fact.GUARD,
    "young": Fact.YOUNG,
    "page_referenced": Fact.REFERENCED,
    "active": Fact.ACTIVE,
    "uptodate": Fact.UPTODATE,
    "pte_dirty": Fact.PTEDIRTY,
    "page_dirty": Fact.PAGEDIRTY,
    "writeback": Fact.WRITEBACK,
}

#: Every metric by name: smaps counters and what is made of them, then what pages alone tell.
METRICS = (
    "rss",
    "pss",
    "uss",
    "private_clean",
    "private_dirty",
    "shared_clean",
    "shared_dirty",
    "referenced",
    "anonymous",
    "ksm",
    "lazy_free",
    "swap",
    "locked",
    "anon_huge_pages",
    "shmem_pmd_mapped",
    "file_pmd_mapped",
    "pss_dirty",
    "swap_pss",
    "size",
    *FACT_METRICS,
)


class Depth(enum.IntEnum):
    """How deep a capture looks; a caller pays for what it asks.

    ``TOTALS``: the counters of the whole process (smaps_rollup), as one mapping ``[rollup]``.
    ``MAPPINGS``: every mapping with its counters (smaps), and no page.
    ``PAGES``: every mapping (maps) and what its page table entries say (pagemap), read once.
    ``FULL``: everything, read twice and held against each other.
    """

    TOTALS = 0
    MAPPINGS = 1
    PAGES = 2
    FULL = 3


class Source(enum.IntEnum):
    """A kernel interface (or file) that can decide a fact."""

    MAPS = 0
    PAGEMAP = 1
    SCAN = 2
    KPAGEFLAGS = 3
    KPAGECOUNT = 4
    SMAPS = 5
    NUMA_MAPS = 6
    PTE = 7
    FILE = 8
    TEXT = 9


class Kind(enum.IntEnum):
    """What a mapping maps."""

    UNKNOWN = 0
    ANON = 1
    FILE = 2
    SHMEM = 3
    SPECIAL = 4
    HUGETLB = 5


@dataclass(frozen=True, slots=True)
class PageRange:
    """Consecutive pages of one mapping in one state.

    ``index`` is the page index as the RFC defines it, ``address`` that of the first page in bytes,
    ``count`` the number of pages.
    ``mapcount`` is ``(lo, hi)``; ``hi`` None means no bound is known.
    ``set_bits`` and ``known_bits`` hold one bit per :class:`Fact`.
    """

    index: int
    address: int
    count: int
    mapcount: tuple[int, int | None]
    set_bits: int
    known_bits: int

    def fact(self, fact: Fact) -> bool | None:
        """True, False, or None where nothing decided it."""
        bit = 1 << fact
        return bool(self.set_bits & bit) if self.known_bits & bit else None

    @property
    def flags(self) -> str:
        """The seven flags in the RFC's form: a letter, ``_`` for clear, ``?`` for unknown."""
        return "".join(
            "?" if (known := self.fact(Fact(bit))) is None else letter if known else "_"
            for bit, letter in enumerate(FLAG_LETTERS)
        )

    @property
    def listed(self) -> bool:
        """Whether the RFC lists these pages: present, and an ordinary page as far as is known."""
        return self.fact(Fact.PRESENT) is True and self.fact(Fact.NORMAL) is not False


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a capture may be trusted.

    ``complete``: every mapping and page was read.
    ``reconciled``: the pages add up to the kernel's own counters; None where there were none.
    ``raced``: the target changed while it was captured.
    ``reasons``: one short line for each thing that is not as it should be.
    """

    complete: bool
    reconciled: bool | None
    raced: bool
    reasons: tuple[str, ...]

    @property
    def label(self) -> str:
        """One word or two: ``complete``, ``raced``, ``not reconciled`` or ``incomplete``."""
        if not self.complete:
            return "incomplete"
        if self.raced:
            return "raced"
        return "complete" if self.reconciled else "not reconciled"

    def __bool__(self) -> bool:
        return self.complete and self.reconciled is True and not self.raced


#: Which sources decided a fact of a mapping.
EvidenceMap = MappingType[str, tuple[Source, ...]]
