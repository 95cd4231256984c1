"""What changed between two snapshots: net counters, and new pages one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ._native import Columns, Interval, NewRange
from .counts import Count
from .extents import Edges
from .metrics import Counted
from .model import FACT_METRICS, Fact

__all__ = ["Delta", "New", "check_same_process"]

_NEW_METRICS = FACT_METRICS | {
    "rss": Fact.NORMAL,
    "anonymous": Fact.ANON,
    "swap": Fact.SWAPPED,
    "referenced": Fact.TOUCHED,
}


def check_same_process(later: Columns, earlier: Columns) -> None:
    """Raise ValueError unless both are of one process, and in this order, as far as they say."""
    if later.captured_ns and later.captured_ns < earlier.captured_ns:
        raise ValueError("the snapshots are the wrong way round: the one called earlier is later")
    names = [(c.pid, c.start_time) for c in (later, earlier)]
    if all(pid for pid, _ in names) and names[0] != names[1]:
        raise ValueError(
            f"snapshots of different processes ({later.comm} {later.pid} and "
            f"{earlier.comm} {earlier.pid}); to compare them all the same: diff(later, earlier)"
        )


class New:
    """Pages that have a fact in the later snapshot and did not in the earlier one.

    They are judged page by page: at the same address of the same file and page index, or of
    anonymous memory.  Everything in a mapping that was not there before is new.
    A page that was dirty before and was written again is not new: see docs/dirty.md.
    """

    def __init__(self, later: Counted, earlier: Columns) -> None:
        self._later = later
        self._earlier = earlier
        self._counts: dict[Fact, Interval] | None = None

    def metric(self, name: str) -> Count:
        """New pages by the metric's name; ValueError for one that is not counted in pages."""
        if name not in _NEW_METRICS:
            raise ValueError(f"no pages are new by {name!r}; there are {', '.join(_NEW_METRICS)}")
        if self._counts is None:
            self._counts = self._later.columns.new(self._earlier, self._later.windows)
        found, now = self._counts[_NEW_METRICS[name]], self._later.metric(name)
        size = self._later.page_size
        return Count(
            found.lo * size,
            found.hi * size,
            page_size=size,
            label=f"{self._later.label}: new {name}" if self._later.label else f"new {name}",
            remedy=now.remedy or _EARLIER,
            note=self._later.note,
        )

    @property
    def dirty(self) -> Count:
        """Pages dirty now that were not."""
        return self.metric("dirty")

    @property
    def rss(self) -> Count:
        """Pages resident now that were not."""
        return self.metric("rss")

    @property
    def anonymous(self) -> Count:
        """Anonymous pages and private copies that were not there."""
        return self.metric("anonymous")

    @property
    def swap(self) -> Count:
        """Pages swapped out since."""
        return self.metric("swap")

    def ranges(self, fact: Fact = Fact.DIRTY, limit: int = 64) -> tuple[list[NewRange], int]:
        """The first new ranges for a fact, and how many there are; for reports."""
        later = self._later
        return later.columns.new_ranges(self._earlier, later.windows, fact, limit)


_EARLIER = "the earlier snapshot does not say what these pages were"


class Delta:
    """``later - earlier``: every metric as a net count, and ``new`` page by page.

    Net counts may be negative.  ``delta["libfoo"]`` is the same of one selection; what is
    mapped in only one of the two counts as nothing in the other.
    """

    def __init__(
        self,
        later: Counted,
        earlier: Counted,
        pick: Callable[[object], tuple[Counted, Counted]] | None = None,
        pages: Callable[[object, Edges], tuple[Counted, Counted]] | None = None,
    ) -> None:
        self.later = later
        self.earlier = earlier
        self._pick = pick
        self._pages = pages

    def __repr__(self) -> str:
        return (
            f"<change of {self.later.label or 'all'}: rss {self.rss}, new dirty {self.new.dirty}>"
        )

    def __getitem__(self, selector: object) -> Delta:
        """The change of one selection; NoSuchMapping where neither snapshot has it."""
        if self._pick is None:
            raise TypeError("this change is of one selection already")
        return Delta(*self._pick(selector))

    def of(self, x: object, *, edges: Edges = "include") -> Delta:
        """The change of the pages that an object lies in: see :meth:`Snapshot.of`.

        What was mapped there in only one of the two counts as nothing in the other.
        """
        __tracebackhide__ = True
        if self._pages is None:
            raise TypeError("this change is of one selection already")
        return Delta(*self._pages(x, edges))

    def by_name(
        self, called: Callable[[Counted, int], str | None] | None = None
    ) -> dict[str, Delta]:
        """The change of each file, and of ``[heap]``, ``[anon]``, ..., by the name tables show.

        ``called`` may give the name of a mapping of one side, by its number; None: its own.
        """
        sides = (self.later, self.earlier)
        later, earlier = (s.by_name(called and partial(called, s)) for s in sides)
        nothing = [Counted(side.columns, (), "") for side in sides]
        return {
            name: Delta(later.get(name, nothing[0]), earlier.get(name, nothing[1]))
            for name in {**later, **earlier}
        }

    def metric(self, name: str) -> Count:
        """The net change of one metric."""
        change = self.later.metric(name) - self.earlier.metric(name)
        lo, hi = change.bytes.bounds
        label = self.later.label or self.earlier.label
        return Count(
            lo,
            hi,
            page_size=self.later.page_size,
            label=f"{label}: {name} growth" if label else f"{name} growth",
            remedy=change.remedy,
            note=change.note,
        )

    @property
    def new(self) -> New:
        """Pages that are new, judged one by one."""
        return New(self.later, self.earlier.columns)

    @property
    def rss(self) -> Count:
        """Net change of resident memory."""
        return self.metric("rss")

    @property
    def pss(self) -> Count:
        """Net change of Pss."""
        return self.metric("pss")

    @property
    def uss(self) -> Count:
        """Net change of memory that nobody else maps."""
        return self.metric("uss")

    @property
    def anonymous(self) -> Count:
        """Net change of anonymous memory."""
        return self.metric("anonymous")

    @property
    def dirty(self) -> Count:
        """Net change of dirty pages."""
        return self.metric("dirty")

    @property
    def swap(self) -> Count:
        """Net change of swapped-out pages."""
        return self.metric("swap")

    @property
    def private_dirty(self) -> Count:
        """Net change of Private_Dirty."""
        return self.metric("private_dirty")

    @property
    def size(self) -> Count:
        """Net change of address space."""
        return self.metric("size")
