"""What this process wrote between two moments, page by page: ``written()``."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self, TypeVar

from ._native import Window, WriteWatch
from .cached import cached_property
from .capture import snapshot
from .counts import Count
from .errors import AccessDenied, NoSuchMapping, PmapsError, Unsupported
from .extents import Edges, Extent, extent_of, whole_pages
from .metrics import Counted
from .procfs import getpid
from .select import Selector
from .snapshots import Mapping, Pages, Selection, Snapshot

__all__ = [
    "Told",
    "Unwatched",
    "Written",
    "WrittenMethod",
    "WrittenPages",
    "WrittenRange",
    "WrittenSelection",
    "written",
]

_Selected = TypeVar("_Selected", bound=Selection)

# pm_written_state
_WRITTEN, _LOST, _NEW, _HUGETLB, _SPECIAL, _BUSY, _REFUSED, _REPLACED = 1, 3, 4, 5, 6, 7, 8, 9

#: Why it is not known whether a page was written, and what would help.
_WHY = {
    _LOST: ("given back to the kernel meanwhile", ""),
    _NEW: ("in memory that came meanwhile", "make it before the window"),
    _HUGETLB: ("in hugetlb memory, which cannot be watched", ""),
    _SPECIAL: ("of a device or the kernel, which cannot be watched", ""),
    _BUSY: ("watched by another userfaultfd of this process", ""),
    _REFUSED: ("in memory that the kernel would not watch", ""),
    _REPLACED: ("of a mapping that took the place of another meanwhile", ""),
}
_UNWATCHED = (_HUGETLB, _SPECIAL, _BUSY, _REFUSED)

_SOFT_DIRTY = (
    "by soft-dirty bits: pages that moved, or became part of a huge page, count as written; "
    "those given back and read anew do not"
)


class WrittenMethod(Enum):
    """How it was found out what was written."""

    USERFAULTFD = "userfaultfd"
    SOFT_DIRTY = "soft-dirty"


@dataclass(frozen=True, slots=True)
class WrittenRange:
    """Pages that were written; ``written`` None: that may have been, ``why`` says why not known.

    ``index`` is the page index as the RFC defines it, ``address`` that of the first page.
    """

    index: int
    address: int
    count: int
    written: bool | None
    why: str


@dataclass(frozen=True, slots=True)
class Unwatched:
    """A mapping of which pages could not be watched: what maps calls it, how many, and why."""

    name: str
    start: int
    end: int
    pages: int
    why: str


class Told(Counted):
    """What a window says of some addresses."""

    _watch: WriteWatch
    #: Pages that were watched, and are not mapped any more.
    _gone: int = 0

    def metric(self, name: str) -> Count:
        """``written`` and ``new``, or a counter of the moment in which the window ended."""
        if name not in ("written", "new"):
            return super().metric(name)
        found, size = self._states, self.page_size
        lo = found[_WRITTEN if name == "written" else _NEW]
        hi = lo
        if name == "written":
            hi += sum(found[state] for state in _WHY) + self._gone
        notes = (self.note, _SOFT_DIRTY if self._watch.soft_dirty else "")
        return Count(
            lo * size,
            hi * size,
            page_size=size,
            label=self._labelled(name),
            remedy=", ".join(self._open_ones) if lo < hi else "",
            note="; ".join(note for note in notes if note),
        )

    @property
    def written(self) -> Count:
        """Pages written in the window."""
        return self.metric("written")

    @property
    def new(self) -> Count:
        """Pages of memory that came, or moved, in the window, and hold something by its end.

        Whether they were written is not known: ``written`` has them in its upper end only.
        """
        return self.metric("new")

    def written_ranges(self, window: Window | None = None) -> Iterator[WrittenRange]:
        """The pages that were written, and those that may have been, in address order; of all
        windows, or of one.
        """
        size = self.page_size
        for w in self.windows if window is None else (window,):
            m = self.columns.mapping(w.mapping)
            for start, end, state in self._watch.regions(w.start, w.end):
                if state != _WRITTEN and state not in _WHY:
                    continue
                yield WrittenRange(
                    index=m.index + (start - m.start) // size,
                    address=start,
                    count=(end - start) // size,
                    written=True if state == _WRITTEN else None,
                    why="" if state == _WRITTEN else _WHY[state][0],
                )

    @property
    def _open_ones(self) -> list[str]:
        """Of which pages it is not known, and why."""
        return [*_reasons(self._states), *([_gone(self._gone)] if self._gone else [])]

    @cached_property
    def _states(self) -> tuple[int, ...]:
        return self._watch.count(self.windows)


def _gone(pages: int) -> str:
    return f"{pages:,} page{'s' if pages > 1 else ''} not mapped any more (freed, or moved)"


def _reasons(states: tuple[int, ...]) -> Iterator[str]:
    for state, (what, hint) in _WHY.items():
        if n := states[state]:
            yield f"{n:,} page{'s' if n > 1 else ''} {what}" + (f" ({hint})" if hint else "")


class WrittenSelection(Told, Selection):
    """Mappings of one file, or part of them, and what was written there."""

    def __init__(self, watch: WriteWatch, of: Selection, gone: int = 0) -> None:
        super().__init__(of.snapshot, of.windows, of.label, of.part)
        self._watch = watch
        self._gone = gone

    def parts(self) -> dict[str, Selection]:
        """Its ELF parts by name, in file order; empty where they are unknown or it has none."""
        found = super().parts().items()
        return {name: WrittenSelection(self._watch, part) for name, part in found}

    def __repr__(self) -> str:
        return f"<{self.label or 'all'}: written {self.written}>"


class WrittenPages(Told, Pages):
    """The pages that an object lies in, and what was written there; as :class:`Pages` else."""

    def __init__(self, watch: WriteWatch, of: Pages, extent: Extent, edges: Edges) -> None:
        super().__init__(of.snapshot, extent, of.windows, edges)
        self._watch = watch

    def _cut(self, start: int, end: int, label: str) -> Selection:
        return WrittenSelection(self._watch, super()._cut(start, end, label))

    def __repr__(self) -> str:
        return f"<{self.label}: written {self.written}>"


class Written:
    """A window over what this process writes; see :func:`written`.

    It begins with the ``with`` block, and can be asked when that has ended: ``w.written`` of
    everything, ``w["libfoo"].written`` and ``w.of(array).written`` of some.
    """

    def __init__(self, select: Selector | None, of: object) -> None:
        self._select = select
        self._of = of
        self._of_one = of is not None
        self._watch: WriteWatch | None = None
        self._end: Callable[[], int]
        self._snapshot: Snapshot | None = None
        self._extents: tuple[tuple[int, int], ...] = ()
        #: What it is called, where only a part of a file is watched.
        self._part = ""
        self._pid = getpid()

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        if self._watch is not None:
            raise ValueError("a window is for one with block: begin another one with written()")
        self._extents = self._chosen()
        self._of = None  # or it would live as long as this does
        watch = WriteWatch(self._extents)
        self._end = watch.end
        self._watch = watch
        code = watch.begin()
        if code:  # nothing else from here on: pages are watched
            raise _explained(-code, *watch.failures)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        code = self._end()  # first of all: what Python does before it, it writes
        __tracebackhide__ = True
        if kind is not None or code == -errno.ESRCH:
            return
        if code:
            raise _unread(-code)
        self._snapshot = self._captured()

    def _chosen(self) -> tuple[tuple[int, int], ...]:
        """The addresses to watch; none for all."""
        __tracebackhide__ = True
        if self._select is not None:
            chosen = snapshot(depth="pages", counters=False, select=self._select)
            found = chosen.select(self._select)
            if found.part is None:
                return tuple((m.start, m.end) for m in chosen.mappings)
            self._part = found.label
            return _whole_pages(found.windows)
        if self._of is not None:
            extent = whole_pages(extent_of(self._of), mmap.PAGESIZE, "include")
            self._check_mapped(extent)
            return (extent,)
        return ()

    def _check_mapped(self, extent: tuple[int, int]) -> None:
        __tracebackhide__ = True
        try:
            snapshot(depth="mappings", counters=False, window=extent).of(self._of)
        except NoSuchMapping:
            raise NoSuchMapping(
                f"{extent_of(self._of).name}: not mapped, or not all of it: give what is there "
                "when the window begins, or watch everything, written()"
            ) from None

    def _captured(self) -> Snapshot:
        """What is mapped where, now that it has ended."""
        if not self._extents:
            return snapshot()
        if self._select is not None:
            return snapshot(depth="pages", counters=False, select=self._select)
        return snapshot(depth="pages", counters=False, window=self._extents[0])

    # ---- how it was done

    @property
    def method(self) -> WrittenMethod:
        """What tells: userfaultfd page by page, or soft-dirty bits, which say more than is true."""
        return WrittenMethod.SOFT_DIRTY if self._ended[0].soft_dirty else WrittenMethod.USERFAULTFD

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is not exact in it, one short line for each thing; empty where all is."""
        watch, _ = self._ended
        lines = self._all._open_ones
        if watch.soft_dirty:
            lines += [_why_not(*watch.failures[0]), _SOFT_DIRTY]
        return tuple(lines)

    @property
    def unwatched(self) -> tuple[Unwatched, ...]:
        """Mappings with pages that could not be watched."""
        return tuple(found for m in self.snapshot.mappings for found in self._unwatched(m))

    def _unwatched(self, m: Mapping) -> Iterator[Unwatched]:
        pages = self._ended[0].count(m.windows)
        for state in _UNWATCHED:
            if pages[state]:
                yield Unwatched(m.label, m.start, m.end, pages[state], _WHY[state][0])

    # ---- what was written

    @property
    def snapshot(self) -> Snapshot:
        """This process as it was captured when the window had ended."""
        return self._ended[1]

    @property
    def written(self) -> Count:
        """Pages written, of everything that was watched and is still there."""
        return self._all.written

    @property
    def new(self) -> Count:
        """Pages of memory that came, or moved, in the window: see :class:`WrittenSelection`."""
        return self._all.new

    def written_ranges(self) -> Iterator[WrittenRange]:
        """The pages that were written, and those that may have been, in address order."""
        return self._all.written_ranges()

    def __getitem__(self, selector: Selector) -> WrittenSelection:
        """Mappings of one file, or a part of them, as ``snapshot[selector]`` selects them.

        Raises what that raises: NoSuchMapping, AmbiguousMapping, Undetermined.
        """
        __tracebackhide__ = True
        watch, taken = self._ended
        return WrittenSelection(watch, self._watched(taken[selector]))

    def select(self, selector: Selector) -> WrittenSelection:
        """Like ``w[selector]``, but takes the mappings of all files that match."""
        __tracebackhide__ = True
        watch, taken = self._ended
        return WrittenSelection(watch, self._watched(taken.select(selector)))

    def of(self, x: object, *, edges: Edges = "include") -> WrittenPages:
        """The pages that an object lies in, as :meth:`Snapshot.of` finds them; raises what that
        raises.
        """
        __tracebackhide__ = True
        watch, taken = self._ended
        return WrittenPages(watch, self._watched(taken.of(x, edges=edges)), extent_of(x), edges)

    def _watched(self, found: _Selected) -> _Selected:
        """What was selected, if it was watched: of a part of a file nothing else was."""
        __tracebackhide__ = True
        inside = (
            any(start <= w.start and w.end <= end for start, end in self._extents)
            for w in found.windows
        )
        if self._part and not all(inside):
            raise NoSuchMapping(
                f"{found.label} was not watched: this window is over {self._part} alone"
            )
        return found

    @cached_property
    def _all(self) -> WrittenSelection:
        watch, taken = self._ended
        if not self._part and not self._of_one:
            return WrittenSelection(watch, Selection(taken, taken.windows, ""))
        windows = tuple(w for extent in self._extents for w in taken.columns.windows(*extent))
        asked = sum(end - start for start, end in self._extents)
        gone = asked - sum(w.end - w.start for w in windows)
        return WrittenSelection(watch, Selection(taken, windows, ""), gone // self.page_size)

    @property
    def page_size(self) -> int:
        """Bytes a page has."""
        return self._ended[1].page_size

    @property
    def _ended(self) -> tuple[WriteWatch, Snapshot]:
        __tracebackhide__ = True
        if self._watch is not None and self._snapshot is not None:
            return self._watch, self._snapshot
        if getpid() != self._pid:
            raise ValueError("this window is of the process that forked this one")
        raise ValueError("ask when the with block has ended: the window was not closed, or failed")

    def __repr__(self) -> str:
        if self._snapshot is None:
            return "<Written: not ended>"
        return f"<Written: {self.written} by {self.method.value}>"


def written(*, select: Selector | None = None, of: object = None) -> Written:
    """See which pages this process writes in a ``with`` block, without privilege, by whatever code:
    Python, C, system calls that fill its buffers.

        with pytest_pmaps.written() as w:
            foo.work()
        assert w["libfoo"].written == 0
        assert w.of(array).written == "8 KiB"

    ``select`` watches only the mappings of the files that a selector means, ``of`` only the pages
    of an object (or ``(address, length)``); then nothing else is slowed down.  Every first write
    to a watched page costs about a microsecond.  Windows may overlap.

    Where Linux (before 6.7), or a seccomp filter, does not allow it with userfaultfd, soft-dirty
    bits tell, which over-report: ``w.method`` says so.  docs/written.md tells what is counted.

    What of them is freed or moved meanwhile counts as an interval.
    Entering raises Unsupported where there is neither, NoSuchMapping where ``select`` matches
    nothing or ``of`` is not mapped, what :meth:`Snapshot.of` raises for what is no object,
    ValueError for both at a time.
    """
    __tracebackhide__ = True
    if select is not None and of is not None:
        raise ValueError("select or of: a window is limited in one way")
    return Written(select, of)


def _whole_pages(windows: Iterable[Window]) -> tuple[tuple[int, int], ...]:
    """Addresses widened to whole pages, those that meet then as one."""
    size = mmap.PAGESIZE
    merged: list[tuple[int, int]] = []
    for w in sorted(windows, key=lambda w: w.start):
        start, end = w.start // size * size, -(-w.end // size) * size
        if merged and merged[-1][1] >= start:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


# ---- what to say where it does not work

_STEPS = {
    ("userfaultfd", errno.EPERM): "userfaultfd is forbidden (a seccomp filter, as containers "
    "have one: allow it in the container's profile)",
    ("userfaultfd", errno.ENOSYS): "there is no userfaultfd here (CONFIG_USERFAULTFD, or a "
    "seccomp filter)",
    ("userfaultfd", errno.EINVAL): "userfaultfd is too old here (it takes Linux 6.7)",
    ("UFFDIO_API", errno.EINVAL): "userfaultfd is too old here, or cannot protect from writes on "
    "this machine (it takes Linux 6.7)",
    ("soft-dirty bits", errno.ENOTSUP): "this kernel has no soft-dirty bits "
    "(CONFIG_MEM_SOFT_DIRTY)",
}


def _why_not(code: int, step: str) -> str:
    return _STEPS.get((step, code), f"{step}: {os.strerror(code)}")


def _explained(code: int, uffd: tuple[int, str], soft_dirty: tuple[int, str]) -> Exception:
    """Of an errno, and why each of the two methods failed."""
    if code == errno.ENOMEM:
        return MemoryError("not enough memory to watch this process")
    if uffd == (errno.EACCES, "/proc/self/pagemap"):
        return AccessDenied(
            "this process may not read its own pagemap: it is not dumpable (prctl PR_SET_DUMPABLE)"
        )
    if {code, uffd[0], soft_dirty[0]} & {errno.EMFILE, errno.ENFILE}:
        return PmapsError("too many open files to watch this process; raise the limit (ulimit -n)")
    if soft_dirty[0] == errno.EBUSY:
        return PmapsError("another window is open, and soft-dirty bits tell of one at a time")
    if not soft_dirty[0]:
        return PmapsError(f"this process could not be watched: {os.strerror(code)}")
    reasons = f"{_why_not(*uffd)}; {_why_not(*soft_dirty)}"
    return Unsupported(f"what is written cannot be seen here: {reasons}")


def _unread(code: int) -> Exception:
    if code == errno.ENOMEM:
        return MemoryError("not enough memory to say what was written")
    if code in (errno.EMFILE, errno.ENFILE):
        return PmapsError(
            "too many open files to say what was written; raise the limit (ulimit -n)"
        )
    if code == errno.EACCES:
        return AccessDenied(
            "this process may not read its own pagemap any more: it was made undumpable meanwhile"
        )
    return PmapsError(f"what was written could not be read: {os.strerror(code)}")
