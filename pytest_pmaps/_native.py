"""The engine, as Python sees it.  Nothing else imports the compiled module.

:class:`Columns` holds one snapshot in the engine's memory, which lies outside the
Python heap that is being measured.  It is immutable and freed with the object.
"""

from __future__ import annotations

import errno
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, NoReturn

from .cached import cached_property
from .errors import AccessDenied, Cancelled, FormatError, PmapsError, ProcessGone, Unsupported
from .model import COUNTERS, MAPCOUNT, Depth, Fact, Kind, PageRange, Source
from .plain import PlainMapping, PlainObject, PlainRange, PlainSnapshot
from .procfs import getpid

try:
    from ._engine import ffi, lib
except ImportError as exc:  # not Linux, or run from a source tree without its engine
    _missing: ImportError | None = exc
else:
    _missing = None

__all__ = [
    "NO_BOUND",
    "RECORDING",
    "Columns",
    "Interval",
    "MappingInfo",
    "Member",
    "NewRange",
    "NotStopped",
    "ObjectInfo",
    "Prepared",
    "Request",
    "Tick",
    "TouchWatch",
    "Window",
    "WriteWatch",
    "buffer_span",
    "cpu_time",
    "heap_bytes",
    "migrated",
    "probe",
    "program_path",
    "purge",
    "require_engine",
    "same_mm",
    "tracer_path",
    "union",
]

#: What a recording begins with; PM__MAGIC in csrc/recording.h.
RECORDING = b"\x89PMAPS-REC\r\n\x1a\n"

#: What the mapcount column holds where no upper bound is known.
NO_BOUND = 0xFFFFFFFF
_NO_STATUS = 0xFFFFFFFFFFFFFFFF
_STATUS = {"vm_hwm": "vm_hwm", "vm_rss": "vm_rss", "vm_pte": "vm_pte", "vm_swap": "vm_swap"}
_PERMS = ((1, "r"), (2, "w"), (4, "x"))
_SHARED_MAP = 8

#: Order of ``pm_metric`` behind the facts.
_SPLIT_METRICS = ("private_clean", "private_dirty", "shared_clean", "shared_dirty", "pss")


class Interval(NamedTuple):
    """lo..hi, both included; pages, except for pss, which is bytes."""

    lo: int
    hi: int


class Window(NamedTuple):
    """Addresses ``[start, end)`` of one mapping, page-aligned."""

    mapping: int
    start: int
    end: int


#: Called every few milliseconds of a capture with pages done and in all; True cancels it.
Tick = Callable[[int, int], bool | None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to capture; ``pm_request`` in pmaps.h.

    ``extents`` are addresses ``(start, end)``, ascending and apart; none means all.
    ``stopper`` is the descriptor of a socket to a tracer that holds the target still.
    ``young`` asks for Y of each page, where page tables can be read.
    ``held``: somebody else holds it still.
    ``thread`` is one of its threads to look through, where its first has ended.
    """

    pid: int = 0
    depth: Depth = Depth.FULL
    counters: bool = True
    extents: tuple[tuple[int, int], ...] = ()
    max_pages: int = 0
    stopper: int = -1
    young: bool = False
    held: bool = False
    thread: int = 0
    tick: Tick | None = None


@dataclass(frozen=True, slots=True)
class NewRange:
    """Pages that are new; ``sure`` False: that may be."""

    page: int
    count: int
    sure: bool


@dataclass(frozen=True, slots=True)
class MappingInfo:
    """One mapping, without its pages; see ``pm_mapping`` in pmaps.h."""

    start: int
    end: int
    perms: str
    offset: int
    dev: tuple[int, int]
    inode: int
    name: str
    kind: Kind
    index: int
    index_exact: bool
    vmflags: str
    extra: str
    before: dict[str, int]
    after: dict[str, int]
    counters_moved: bool
    evidence: tuple[int, ...]
    trouble: int
    raced_pages: int
    drifted_pages: int
    dirty_bounds: tuple[int, int]
    object: int | None
    first_range: int
    n_ranges: int


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A mapped file and where its parts lie: ``(position in PARTS, start, end)``."""

    name: str
    dev: tuple[int, int]
    inode: int
    status: int
    err: int
    parts: tuple[tuple[int, int, int], ...]


def require_engine() -> None:
    """Raise Unsupported, saying why, where there is no engine."""
    if _missing is None:
        return
    if os.uname().sysname != "Linux":
        raise Unsupported(f"pytest-pmaps reads Linux's /proc, and this is {os.uname().sysname}")
    raise Unsupported(
        f"the engine is not built ({_missing}): install the package (pip install .) and do not "
        "import it from its source tree (PYTHONSAFEPATH=1 keeps the current folder out)"
    )


def tracer_path() -> str:
    """The program that holds a target still; it lies beside the engine."""
    return program_path("pmaps-tracer")


def program_path(name: str) -> str:
    """One of our programs."""
    require_engine()
    from . import _engine

    return os.path.join(os.path.dirname(str(_engine.__file__)), name)


# ---- errors


#: Stands for the pid of a recorded process, which nobody told us yet.
_RECORDED = -1


def _who(pid: int) -> str:
    if pid == _RECORDED:
        return "the recorded process"
    return "this process" if pid in (0, getpid()) else f"process {pid}"


_GONE = {
    10001: "does not exist, has exited, or is hidden from this user (hidepid)",
    10002: "is a zombie: it has exited and has no memory left",
    10003: "is a kernel thread: it has no memory of its own",
    10004: "kept replacing its program (exec) while it was captured",
    10008: "has lost its main thread while others go on: the kernel shows no memory of it",
}

_DENIED = (
    "its owner, or CAP_SYS_PTRACE, may look at a process that has not made itself undumpable "
    "(see 'pmaps doctor')"
)


class NotStopped(PmapsError):
    """The tracer did not stop the target, with an errno; ``stopping`` puts it into words."""

    def __init__(self, code: int) -> None:
        super().__init__(f"not stopped: {os.strerror(code)}")
        self.code = code


def _raise_capture(pid: int, code: int, stage: int, detail: str) -> NoReturn:
    __tracebackhide__ = True
    who = _who(pid)
    if stage == lib.PM_AT_RECORDING and code != errno.ENOMEM:
        raise FormatError(detail) if code == 10005 else OSError(code, os.strerror(code))
    if code in _GONE:
        raise ProcessGone(f"{who} {_GONE[code]}")
    if stage == lib.PM_AT_STOP:
        raise NotStopped(code)
    if code in (errno.EACCES, errno.EPERM):
        raise AccessDenied(f"{who}: {detail} may not be read: {_DENIED}")
    if stage == lib.PM_AT_PAGEMAP and code == errno.ENOENT:
        raise Unsupported("this kernel has no pagemap (CONFIG_PROC_PAGE_MONITOR, or a sandbox)")
    if stage == lib.PM_AT_REQUEST:
        raise ValueError("addresses to capture are whole pages, in order, and do not overlap")
    if code in (errno.EMFILE, errno.ENFILE):
        raise PmapsError(f"{who}: too many open files to capture it; raise the limit (ulimit -n)")
    if stage == lib.PM_AT_PROC:
        raise Unsupported(f"/proc cannot be read here: {os.strerror(code)}")
    if code == 10005:
        raise FormatError(f"{who}: {detail or 'a kernel file'} does not read as expected")
    if code == errno.ECANCELED:
        raise Cancelled(f"{who}: the capture was cancelled")
    if code == 10006:
        raise PmapsError(f"{who} grew faster than it could be captured")
    if code == errno.ENOMEM:
        raise MemoryError(f"{who}: not enough memory to capture it in")
    raise PmapsError(f"{who}: {detail or 'capture'}: {os.strerror(code)}")


def _check_proc(pid: int) -> None:
    """Raise Unsupported where /proc is missing, or speaks of other processes than we do."""
    __tracebackhide__ = True
    try:
        ours = os.readlink("/proc/self")
    except OSError as exc:
        if exc.filename != "/proc/self":
            raise  # out of a signal handler
        raise Unsupported(f"/proc cannot be read here: {exc.strerror}") from None
    if pid and ours != str(getpid()):
        raise Unsupported(
            f"this /proc is another pid namespace's: pid {pid} names another process there; "
            "mount a /proc of this namespace (unshare --mount-proc)"
        )


# ---- probing


def probe() -> dict[str, int]:
    """What this host lets us see: by name 0 (works), an errno, -1 (it opens but shows nothing), or
    an ``enum pm_pte_refusal``.
    """
    require_engine()
    host = ffi.new("pm_host *")
    lib.pm_probe(host)
    names = ("maps", "smaps", "numa_maps", "pagemap", "pfn", "scan", "scan_zero", "scan_guard")
    more = ("softdirty", "kpageflags", "kpagecount", "anon_names", "pte", "userfaultfd")
    return dict(zip((*names, *more), host.probe, strict=True))


# ---- objects


def buffer_span(given: object) -> tuple[int, int]:
    """Address and length in bytes of a contiguous buffer; none of its bytes is looked at.

    Raises TypeError for what is no buffer; BufferError or ValueError, as its maker likes, for one
    that is strided, or has no memory any more.
    """
    require_engine()
    with ffi.from_buffer(given) as data:
        return int(ffi.cast("uintptr_t", data)), len(data)


# ---- asking


class _Ticker:
    """What the engine calls back; an exception, as Ctrl-C is one, cancels the capture."""

    def __init__(self, tick: Tick) -> None:
        self.tick = tick
        self.raised: BaseException | None = None

    def __call__(self, done: int, total: int) -> int:
        try:
            return 1 if self.tick(done, total) else 0
        except BaseException as exc:  # raised again once the engine has cleaned up
            self.raised = exc
            return 1


#: Exceptions between the engine and a ticker, by thread, until the capture that they cancel ends.
#: Only a signal's can happen there, and before it is known whose ticker is called.
_between: dict[int, BaseException] = {}


def _on_error(kind: type[BaseException], exc: BaseException, traceback: object) -> None:
    _between[threading.get_ident()] = exc


if _missing is None:
    # cffi has no types.
    @ffi.def_extern(name="pm_python_tick", error=1, onerror=_on_error)  # type: ignore[untyped-decorator]
    def _tick(handle: Any, done: int, total: int) -> int:
        ticker: _Ticker = ffi.from_handle(handle)
        return ticker(done, total)


def _request(request: Request, ticker: _Ticker | None) -> tuple[Any, Any]:
    extents = ffi.new("pm_extent[]", list(request.extents))
    asked = ffi.new("pm_request *")
    asked.pid, asked.depth, asked.counters = request.pid, request.depth, request.counters
    asked.extents, asked.n_extents = extents, len(request.extents)
    asked.max_pages, asked.stopper = request.max_pages, request.stopper
    asked.young, asked.held, asked.thread = request.young, request.held, request.thread
    handle = ffi.new_handle(ticker)
    if ticker:
        asked.tick, asked.tick_arg = lib.pm_python_tick, handle
    return asked, (extents, handle)


# ---- one snapshot


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _perms(bits: int) -> str:
    head = "".join(letter if bits & bit else "-" for bit, letter in _PERMS)
    return head + ("s" if bits & _SHARED_MAP else "p")


def _perm_bits(perms: str) -> int:
    return sum(bit for bit, letter in _PERMS if letter in perms) | (
        _SHARED_MAP if perms.endswith("s") else 0
    )


def _counters(values: Any) -> dict[str, int]:
    return {name: value for name, value in zip(COUNTERS, values, strict=True) if value >= 0}


def _read(value: int) -> int | None:
    return value if value >= 0 else None


def _cell() -> Any:
    """Where the engine puts a snapshot.  Freed from the moment it is there: a signal handler that
    raises runs before the next line does.  And freed by C, in which no such handler runs.
    """
    return ffi.gc(ffi.new("pm_snapshot **"), lib.pm_drop)


class Prepared:
    """A capture that is ready to be made: ``call`` is a C call with nothing around it, ``finish``
    makes of what it returned what :meth:`Columns.capture` gives or raises.
    """

    call: Callable[[], int]

    def __init__(
        self, request: Request, capture: Callable[[Any, Any, Any], int] | None = None
    ) -> None:
        require_engine()
        _check_proc(request.pid)
        self._pid = request.pid
        self._out, self._err = _cell(), ffi.new("pm_error *")
        self._ticker = _Ticker(request.tick) if request.tick else None
        # The extents, and what the callback finds the ticker by, live as long as this does.
        asked, self._kept = _request(request, self._ticker)
        self.call = partial(capture or lib.pm_capture, asked, self._out, self._err)

    def finish(self, code: int) -> Columns:
        """The snapshot; raises what the capture failed by."""
        __tracebackhide__ = True
        raised = _between.pop(threading.get_ident(), None) or (self._ticker and self._ticker.raised)
        if raised:
            raise raised
        if code < 0:
            detail = ffi.string(self._err.detail).decode()
            _raise_capture(self._pid, self._err.code, self._err.stage, detail)
        return Columns(self._out)


class Columns:
    """One snapshot in the engine's memory."""

    def __init__(self, cell: Any) -> None:
        self._cell = cell  # frees it
        self._handle = cell[0]
        self._header = lib.pm_get_header(self._handle)
        self._columns = ffi.new("pm_columns *")
        lib.pm_get_columns(self._handle, self._columns)
        #: What is known of the processes that were captured together with this one.
        self.kin: object = None

    # ---- making one

    @classmethod
    def capture(cls, request: Request) -> Columns:
        """Capture a process; pid 0 is this one.  Raises PmapsErrors that say what is wrong."""
        __tracebackhide__ = True
        require_engine()
        return cls._ask(request, lib.pm_capture)

    @classmethod
    def record(cls, request: Request, fd: int, writer: str) -> Columns:
        """Capture, and write what the kernel said to a file; OSError where that fails."""
        __tracebackhide__ = True
        require_engine()
        name = writer.encode()
        return cls._ask(request, lambda asked, *to: lib.pm_record(asked, fd, name, *to))

    @classmethod
    def replay(cls, data: bytes) -> Columns:
        """What a recording was made of, again.  Raises what the capture raised, and FormatError
        for what is no recording.
        """
        __tracebackhide__ = True
        require_engine()
        out, err = _cell(), ffi.new("pm_error *")
        if lib.pm_replay(ffi.from_buffer(data), len(data), out, err) < 0:
            detail = ffi.string(err.detail).decode("utf-8", "replace")
            if err.stage == lib.PM_AT_BUILD:
                raise FormatError(f"the recording is damaged: {detail}")
            _raise_capture(_RECORDED, err.code, err.stage, detail)
        return cls(out)

    @classmethod
    def _ask(cls, request: Request, capture: Callable[[Any, Any, Any], int]) -> Columns:
        __tracebackhide__ = True
        prepared = Prepared(request, capture)
        return prepared.finish(prepared.call())

    @classmethod
    def build(cls, plain: PlainSnapshot) -> Columns:
        """Make one from plain values.  Raises FormatError for what cannot be a snapshot."""
        require_engine()
        return cls(_Builder(plain).build())

    # ---- the process

    @property
    def pid(self) -> int:
        """Process id, 0 where unknown."""
        return int(self._header.pid)

    @property
    def comm(self) -> str:
        """Command name, as the kernel keeps it: 15 bytes at most."""
        return _decode(ffi.string(self._header.comm))

    @property
    def start_time(self) -> int:
        """Field 22 of /proc/PID/stat; with the pid it names a process for good."""
        return int(self._header.start_time)

    @property
    def captured_ns(self) -> int:
        """When the capture began, nanoseconds since the epoch; 0 where unknown."""
        return int(self._header.captured_ns)

    @property
    def page_size(self) -> int:
        """Bytes."""
        return int(self._header.page_size)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources that answered."""
        return tuple(s for s in Source if self._header.sources >> s & 1)

    @property
    def status(self) -> dict[str, int]:
        """VmHWM, VmRSS, VmPTE and VmSwap of /proc/PID/status in bytes, where seen.

        Of ourselves, VmRSS is without the engine's own memory.
        """
        values = {name: int(getattr(self._header, field)) for name, field in _STATUS.items()}
        seen = {name: value for name, value in values.items() if value != _NO_STATUS}
        if "vm_rss" in seen:
            seen["vm_rss"] = max(0, seen["vm_rss"] - int(self._header.hidden_rss))
        return seen

    @property
    def complete(self) -> bool:
        """Whether all of it was read."""
        return bool(self._header.complete)

    @property
    def self_capture(self) -> bool:
        """Whether the process captured itself."""
        return bool(self._header.self)

    @property
    def appeared(self) -> int:
        """Mappings that appeared while it was captured, and are not listed."""
        return int(self._header.appeared)

    @property
    def raced_pages(self) -> int:
        """Pages that changed, came or went while it was captured."""
        return int(self._header.raced_pages)

    @property
    def missed_pages(self) -> int:
        """Pages that were missed, or met twice, as memory moved; by the kernel's total."""
        return int(self._header.missed_pages)

    @property
    def pte_disagreed(self) -> int:
        """Present pages whose page table entry did not agree with pagemap: Y and P are unknown."""
        return int(self._header.pte_disagreed)

    @property
    def faults(self) -> int:
        """Page faults of the target while it was captured, those of capturing left out."""
        return int(self._header.faults)

    @property
    def depth(self) -> Depth:
        """How deep the capture looked."""
        return Depth(self._header.depth)

    @property
    def partial(self) -> bool:
        """Whether only some addresses were asked for, or reached."""
        return bool(self._header.partial)

    @property
    def next_address(self) -> int:
        """Where a capture that ended after so many pages goes on; 0: it got to the end."""
        return int(self._header.next)

    @property
    def stopped_ns(self) -> int:
        """For how long the target stood still, nanoseconds; 0: it ran."""
        return int(self._header.stopped_ns)

    # ---- mappings

    def __len__(self) -> int:
        return int(self._columns.n_mappings)

    @cached_property
    def mappings(self) -> tuple[MappingInfo, ...]:
        """All mappings in address order."""
        return tuple(self._mapping(i) for i in range(len(self)))

    def mapping(self, i: int) -> MappingInfo:
        """One of them, without making the others."""
        made: tuple[MappingInfo, ...] | None = self.__dict__.get("mappings")
        return made[i] if made else self._mapping(i)

    def all_windows(self) -> tuple[Window, ...]:
        """A window for each mapping."""
        m = self._columns.mappings
        return tuple(Window(i, m[i].start, m[i].end) for i in range(len(self)))

    def are_whole(self, windows: Iterable[Window]) -> bool:
        """Whether each window is all of its mapping."""
        m = self._columns.mappings
        return all(w.start == m[w.mapping].start and w.end == m[w.mapping].end for w in windows)

    def counters(
        self, windows: Iterable[Window], name: str
    ) -> Iterator[tuple[int | None, int | None]]:
        """A counter of each window's mapping, read before the pages and after; None: not read.

        Without the objects of :meth:`mapping`, which would show in the next capture of ourselves.
        """
        place, counters = COUNTERS.index(name), self._columns.counters
        for window in windows:
            if not counters:
                yield None, None
                continue
            both = counters[window.mapping]
            yield _read(both.before[place]), _read(both.after[place])

    def windows(self, start: int, end: int) -> Iterator[Window]:
        """What of the mappings lies at these addresses, in their order."""
        m = self._columns.mappings
        first = bisect_right(range(len(self)), start, key=lambda i: m[i].start)
        for i in range(max(0, first - 1), len(self)):
            if m[i].start >= end:
                return
            if m[i].end > start:
                yield Window(i, max(start, m[i].start), min(end, m[i].end))

    @cached_property
    def objects(self) -> tuple[ObjectInfo, ...]:
        """The mapped files."""
        return tuple(self._object(i) for i in range(self._columns.n_objects))

    def _text(self, at: int, length: int) -> str:
        return _decode(ffi.buffer(self._columns.strings + at, length)[:])

    def _mapping(self, i: int) -> MappingInfo:
        m = self._columns.mappings[i]
        counters = self._columns.counters[i] if self._columns.counters else None
        return MappingInfo(
            start=m.start,
            end=m.end,
            perms=_perms(m.perms),
            offset=m.offset,
            dev=(m.dev_major, m.dev_minor),
            inode=m.inode,
            name=self._text(m.name, m.name_len),
            kind=Kind(m.kind),
            index=m.index,
            index_exact=m.index_trust == lib.PM_INDEX_EXACT,
            vmflags=self._text(m.vmflags, m.vmflags_len),
            extra=self._text(m.extra, m.extra_len),
            before=_counters(counters.before) if counters else {},
            after=_counters(counters.after) if counters else {},
            counters_moved=bool(m.counters_moved),
            evidence=tuple(m.evidence),
            trouble=m.trouble,
            raced_pages=m.raced_pages,
            drifted_pages=m.drifted_pages,
            dirty_bounds=(m.dirty_lo, m.dirty_hi),
            object=m.object - 1 if m.object else None,
            first_range=m.first_range,
            n_ranges=m.n_ranges,
        )

    def _object(self, i: int) -> ObjectInfo:
        o = self._columns.objects[i]
        parts = self._columns.parts[o.first_part : o.first_part + o.n_parts] if o.n_parts else ()
        return ObjectInfo(
            name=self._text(o.name, o.name_len),
            dev=(o.dev_major, o.dev_minor),
            inode=o.inode,
            status=o.status,
            err=o.err,
            parts=tuple((p.kind, p.start, p.end) for p in parts),
        )

    def forget(self) -> None:
        """Drop the Python objects that were made to look at it; they are made anew when asked."""
        for name in ("mappings", "objects", "_pages"):
            self.__dict__.pop(name, None)

    # ---- ranges

    @property
    def n_ranges(self) -> int:
        """Page ranges of all mappings together."""
        return int(self._columns.n_ranges)

    def ranges(self, window: Window) -> Iterator[PageRange]:
        """The page ranges in a window, made one by one; those at its edges are cut to it."""
        m, c = self.mapping(window.mapping), self._columns
        first, stop = window.start // self.page_size, window.end // self.page_size
        behind = m.first_range + m.n_ranges
        # The range in front of the one that begins there may reach into the window.
        after = bisect_right(self._pages, first, m.first_range, behind)
        for r in range(max(after - 1, m.first_range), behind):
            lo, hi = max(c.page[r], first), min(c.page[r] + c.count[r], stop)
            if lo >= stop:
                return
            if lo < hi:
                yield self._range(m, r, lo, hi - lo)

    def _range(self, m: MappingInfo, r: int, page: int, count: int) -> PageRange:
        c = self._columns
        most = c.mapcount_hi[r]
        return PageRange(
            index=m.index + page - m.start // self.page_size,
            address=page * self.page_size,
            count=count,
            mapcount=(c.mapcount_lo[r], None if most == NO_BOUND else most),
            set_bits=c.set[r],
            known_bits=c.known[r],
        )

    @cached_property
    def _pages(self) -> memoryview:
        return self._buffer("page", "Q")

    def buffers(self) -> dict[str, memoryview]:
        """The columns themselves, read-only, one element a range; they keep the snapshot alive."""
        wide = {name: self._buffer(name, "Q") for name in ("page", "count")}
        names = ("set", "known", "mapcount_lo", "mapcount_hi")
        return wide | {name: self._buffer(name, "I") for name in names}

    def _buffer(self, name: str, code: Literal["Q", "I"]) -> memoryview:
        cell = self._cell  # held by the destructor below, which has nothing else to do
        pointer = ffi.gc(getattr(self._columns, name), lambda _, cell=cell: None)
        size = self.n_ranges * (8 if code == "Q" else 4)
        whole: memoryview = memoryview(ffi.buffer(pointer, size))
        return whole.toreadonly().cast(code)

    # ---- counting

    def count(self, windows: Sequence[Window]) -> dict[Fact | str, Interval]:
        """Interval counts over windows, by fact, and by name for smaps' split of Rss and pss."""
        out = ffi.new("pm_interval[]", lib.PM_N_METRICS)
        if lib.pm_count(self._handle, _windows(windows), len(windows), out) < 0:
            raise ValueError("a window outside its mapping")
        names = (*Fact, *_SPLIT_METRICS)
        return {name: Interval(out[i].lo, out[i].hi) for i, name in enumerate(names)}

    def new(self, earlier: Columns, windows: Sequence[Window]) -> dict[Fact, Interval]:
        """Pages in windows of this snapshot for which a fact holds and did not hold earlier."""
        out = ffi.new("pm_interval[]", lib.PM_N_BITS)
        code = lib.pm_new(self._handle, earlier._handle, _windows(windows), len(windows), out)
        _check_pair(code)
        return {fact: Interval(out[fact].lo, out[fact].hi) for fact in Fact}

    def new_ranges(
        self, earlier: Columns, windows: Sequence[Window], fact: Fact, limit: int
    ) -> tuple[list[NewRange], int]:
        """The first ``limit`` ranges of pages that are new for a fact, and how many there are."""
        page, count = ffi.new("uint64_t[]", limit), ffi.new("uint64_t[]", limit)
        sure, found = ffi.new("uint8_t[]", limit), ffi.new("size_t *")
        code = lib.pm_new_ranges(
            self._handle, earlier._handle, _windows(windows), len(windows), fact,
            page, count, sure, limit, found,
        )  # fmt: skip
        _check_pair(code)
        shown = min(limit, found[0])
        return [NewRange(page[i], count[i], bool(sure[i])) for i in range(shown)], found[0]

    def common(
        self, other: Columns, windows: Sequence[Window], others: Sequence[Window]
    ) -> Interval:
        """Pages in windows of this snapshot that are the very same physical page in ``others``."""
        out = ffi.new("pm_interval *")
        if not others:
            return Interval(0, 0)
        ours, theirs = _windows(windows), _windows(others)
        code = lib.pm_common(
            self._handle, ours, len(windows), other._handle, theirs, len(others), out
        )
        _check_pair(code)
        return Interval(out.lo, out.hi)

    # ---- plain values

    def plain(self) -> PlainSnapshot:
        """All of it as plain values."""
        return PlainSnapshot(
            mappings=[self._plain_mapping(i) for i in range(len(self))],
            objects=[
                PlainObject(o.name, o.dev, o.inode, o.status, o.err, list(o.parts))
                for o in self.objects
            ],
            pid=self.pid,
            comm=self.comm,
            start_time=self.start_time,
            captured_ns=self.captured_ns,
            page_size=self.page_size,
            status=self.status,
            sources=self.sources,
            complete=self.complete,
            self_capture=self.self_capture,
            appeared=self.appeared,
            raced_pages=self.raced_pages,
            missed_pages=self.missed_pages,
            pte_disagreed=self.pte_disagreed,
            faults=self.faults,
            depth=self.depth,
            partial=self.partial,
            next_address=self.next_address,
            stopped_ns=self.stopped_ns,
        )

    def _plain_mapping(self, i: int) -> PlainMapping:
        m = self.mappings[i]
        fields = {name: getattr(m, name) for name in PlainMapping.__slots__ if hasattr(m, name)}
        bounds = None if m.dirty_bounds == (0, _NO_STATUS) else m.dirty_bounds
        return PlainMapping(**{**fields, "dirty_bounds": bounds, "ranges": self._plain_ranges(m)})

    def _plain_ranges(self, m: MappingInfo) -> list[PlainRange]:
        c, span = self._columns, range(m.first_range, m.first_range + m.n_ranges)
        tops = (None if c.mapcount_hi[r] == NO_BOUND else c.mapcount_hi[r] for r in span)
        return [
            PlainRange(c.page[r], c.count[r], c.set[r], c.known[r], (c.mapcount_lo[r], top))
            for r, top in zip(span, tops, strict=True)
        ]


def _windows(windows: Sequence[Window]) -> Any:
    return ffi.new("pm_window[]", [(w.start, w.end, w.mapping) for w in windows])


def _check_pair(code: int) -> None:
    if code == -10007:
        raise ValueError("the snapshots are of different page sizes")
    if code < 0:
        raise ValueError("a window outside its mapping")


# ---- several processes


class Member(NamedTuple):
    """One of several processes, each of another mm; ``pm_member`` in pmaps.h."""

    columns: Columns
    again: Columns | None
    windows: Sequence[Window] | None
    place: int
    ran: bool


def union(members: Sequence[Member], migrated: int) -> Interval:
    """Physical pages in the members' windows, each counted once."""
    kept = [ffi.NULL if m.windows is None else _windows(m.windows) for m in members]
    given = ffi.new("pm_member[]", len(members))
    for to, m, windows in zip(given, members, kept, strict=True):
        to.snapshot, to.again = m.columns._handle, m.again._handle if m.again else ffi.NULL
        to.windows, to.n_windows = windows, len(m.windows or ())
        to.place, to.ran = m.place, m.ran
    out = ffi.new("pm_interval *")
    code = lib.pm_union(given, len(members), migrated, out)
    if code == -errno.ENOMEM:
        raise MemoryError("not enough memory to count pages of several processes")
    _check_pair(code)
    return Interval(out.lo, out.hi)


def same_mm(a: int, b: int) -> bool | None:
    """Whether two processes are one memory (kcmp); None where the kernel does not say."""
    code = lib.pm_same_mm(a, b)
    return None if code < 0 else code == 1


def cpu_time(pid: int) -> int | None:
    """CPU time that a process used so far, in ns; None where there is no such process."""
    out = ffi.new("uint64_t *")
    return None if lib.pm_cpu_time(pid, out) < 0 else int(out[0])


def migrated() -> int | None:
    """Pages that the kernel moved to other frames since boot; None where it does not say."""
    out = ffi.new("uint64_t *")
    return None if lib.pm_migrated(out) < 0 else int(out[0])


# ---- the heap of this process


def purge() -> tuple[str, ...]:
    """Have the allocators that are loaded give back what they hold and nobody uses; their names."""
    require_engine()
    done = lib.pm_purge()
    names = ("glibc", "mimalloc", "jemalloc", "tcmalloc")  # pm_purged
    return tuple(name for i, name in enumerate(names) if done >> i & 1)


def heap_bytes() -> int | None:
    """Bytes that malloc has handed out and not got back; None where it does not say."""
    out = ffi.new("uint64_t *")
    return None if lib.pm_heap(out) < 0 else int(out[0])


# ---- what this process wrote


class WriteWatch:
    """A window over what this process writes; ``pm_written`` in pmaps.h.

    ``begin`` and ``end`` are C calls with nothing around them, for what Python does behind the
    one and before the other is written into watched memory: 0, or a negative errno.
    """

    begin: Callable[[], int]
    end: Callable[[], int]

    def __init__(self, extents: Sequence[tuple[int, int]]) -> None:
        require_engine()
        _check_proc(0)
        self._cell = ffi.gc(ffi.new("pm_written **"), lib.pm_written_drop)
        self._errors = ffi.new("pm_error[2]")
        given = ffi.new("pm_extent[]", list(extents))
        self.begin = partial(lib.pm_written_begin, given, len(extents), self._cell, self._errors)
        self.end = partial(lib.pm_written_end, self._cell)

    @property
    def failures(self) -> tuple[tuple[int, str], tuple[int, str]]:
        """Why userfaultfd, and why soft-dirty bits were not used: errno (0: nothing) and step."""
        one, two = ((e.code, ffi.string(e.detail).decode()) for e in self._errors)
        return one, two

    @property
    def soft_dirty(self) -> bool:
        """Whether soft-dirty bits tell."""
        return bool(lib.pm_written_method(self._cell[0]) == lib.PM_WRITTEN_SOFTDIRTY)

    def count(self, windows: Iterable[Window]) -> tuple[int, ...]:
        """Pages of the windows by state, in the order of ``pm_written_state``."""
        out = ffi.new("uint64_t[]", lib.PM_W_N_STATES)
        for window in windows:
            lib.pm_written_count(self._cell[0], window.start, window.end, out)
        return tuple(out)

    def regions(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Regions in ``[start, end)``, cut to it: start, end, state."""
        at, n = ffi.new("pm_region **"), ffi.new("size_t *")
        lib.pm_written_regions(self._cell[0], at, n)
        return _cut_regions(at[0], n[0], start, end)


# ---- what a process touched


class TouchWatch:
    """What a process touched; ``pm_touched`` in pmaps.h.

    ``begin`` is a C call with nothing around it: 0, or a negative errno.
    ``fd`` is of clear_refs, ``which`` what is written there, ``flush`` of ``pm_flush``.
    """

    begin: Callable[[], int]

    def __init__(self, fd: int, which: int, flush: int) -> None:
        require_engine()
        self._cell = ffi.gc(ffi.new("pm_touched **"), lib.pm_touched_drop)
        if lib.pm_touched_new(flush, self._cell) < 0:
            raise MemoryError("not enough memory for a window")
        self.begin = partial(lib.pm_touched_clear, self._cell[0], fd, which)

    def add(self, begin: Columns, end: Columns, how: int) -> None:
        """Add one stretch of time; ``how`` is of ``pm_touched_how``."""
        if lib.pm_touched_add(self._cell[0], begin._handle, end._handle, how) < 0:
            raise MemoryError("not enough memory to say what was touched")

    @property
    def moved(self) -> int:
        """Anonymous pages that are no longer where they were."""
        return int(lib.pm_touched_moved(self._cell[0]))

    def count(self, windows: Iterable[Window]) -> tuple[int, ...]:
        """Pages of the windows by state, in the order of ``pm_touched_state``."""
        out = ffi.new("uint64_t[]", lib.PM_Y_N_STATES)
        for window in windows:
            lib.pm_touched_count(self._cell[0], window.start, window.end, out)
        return tuple(out)

    def regions(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Regions in ``[start, end)``, cut to it: start, end, state."""
        at, n = ffi.new("pm_region **"), ffi.new("size_t *")
        lib.pm_touched_regions(self._cell[0], at, n)
        return _cut_regions(at[0], n[0], start, end)


def _cut_regions(at: Any, n: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    first = bisect_right(range(n), start, key=lambda i: at[i].end)
    for i in range(first, n):
        r = at[i]
        if r.start >= end:
            return
        yield max(start, r.start), min(end, r.end), r.state


class _Builder:
    """Lays plain values out as the engine wants them; it checks and copies them."""

    def __init__(self, plain: PlainSnapshot) -> None:
        self.plain = plain
        self.strings = bytearray()

    def text(self, value: str) -> tuple[int, int]:
        data = value.encode("utf-8", "surrogateescape")
        self.strings += data
        return len(self.strings) - len(data), len(data)

    def build(self) -> Any:
        plain = self.plain
        ranges = [r for m in plain.mappings for r in m.ranges]
        keep: dict[str, Any] = {
            "mappings": ffi.new("pm_mapping[]", len(plain.mappings)),
            "counters": ffi.new("pm_counters[]", len(plain.mappings)),
            "objects": ffi.new("pm_object[]", len(plain.objects)),
            "parts": ffi.new("pm_part[]", list(self._parts())),
        } | _range_columns(ranges)
        first = 0
        for m, to, counters in zip(plain.mappings, keep["mappings"], keep["counters"], strict=True):
            self._fill_mapping(m, to, first)
            for i, name in enumerate(COUNTERS):
                counters.before[i], counters.after[i] = (
                    m.before.get(name, -1),
                    m.after.get(name, -1),
                )
            first += len(m.ranges)
        first = 0
        for o, to in zip(plain.objects, keep["objects"], strict=True):
            self._fill_object(o, to, first)
            first += len(o.parts)
        keep["strings"] = ffi.new("char[]", bytes(self.strings))
        columns = ffi.new("pm_columns *", keep)
        columns.n_mappings, columns.n_objects = len(plain.mappings), len(plain.objects)
        columns.n_parts, columns.n_ranges = len(keep["parts"]), len(ranges)
        columns.n_strings = len(self.strings)
        out, err = _cell(), ffi.new("pm_error *")
        if lib.pm_build(self._header(), columns, out, err) < 0:
            _raise_build(err)
        return out

    def _parts(self) -> Iterator[dict[str, int]]:
        for i, o in enumerate(self.plain.objects):
            for kind, start, end in o.parts:
                yield {"kind": kind, "start": start, "end": end, "object": i}

    def _header(self) -> Any:
        p = self.plain
        status = {name: p.status.get(name, _NO_STATUS) for name in _STATUS}
        return ffi.new(
            "pm_header *",
            {
                "pid": p.pid,
                "start_time": p.start_time,
                "captured_ns": p.captured_ns,
                "page_size": p.page_size,
                **status,
                "sources": sum(1 << s for s in p.sources),
                "complete": p.complete,
                "self": p.self_capture,
                "appeared": p.appeared,
                "raced_pages": p.raced_pages,
                "missed_pages": p.missed_pages,
                "pte_disagreed": p.pte_disagreed,
                "faults": p.faults,
                "depth": p.depth,
                "partial": p.partial,
                "next": p.next_address,
                "stopped_ns": p.stopped_ns,
                "comm": p.comm.encode("utf-8", "surrogateescape")[:15],
            },
        )

    def _fill_mapping(self, m: PlainMapping, to: Any, first_range: int) -> None:
        to.start, to.end, to.offset, to.inode, to.index = m.start, m.end, m.offset, m.inode, m.index
        to.dev_major, to.dev_minor = m.dev
        to.name, to.name_len = self.text(m.name)
        to.vmflags, to.vmflags_len = self.text(m.vmflags)
        to.extra, to.extra_len = self.text(m.extra)
        to.first_range, to.n_ranges = first_range, len(m.ranges)
        to.object = 0 if m.object is None else m.object + 1
        to.trouble, to.perms, to.kind = m.trouble, _perm_bits(m.perms), m.kind
        to.index_trust = lib.PM_INDEX_EXACT if m.index_exact else lib.PM_INDEX_GUESS
        to.counters_moved = m.counters_moved
        to.raced_pages, to.drifted_pages = m.raced_pages, m.drifted_pages
        to.dirty_lo, to.dirty_hi = m.dirty_bounds or (0, _NO_STATUS)
        for i, mask in enumerate(m.evidence[: MAPCOUNT + 1]):
            to.evidence[i] = mask

    def _fill_object(self, o: PlainObject, to: Any, first_part: int) -> None:
        to.name, to.name_len = self.text(o.name)
        to.dev_major, to.dev_minor = o.dev
        to.inode, to.status, to.err = o.inode, o.status, o.err
        to.first_part, to.n_parts = first_part, len(o.parts)


def _range_columns(ranges: Iterable[PlainRange]) -> dict[str, Any]:
    ranges = list(ranges)
    tops = (NO_BOUND if r.mapcount[1] is None else r.mapcount[1] for r in ranges)
    return {
        "page": ffi.new("uint64_t[]", [r.page for r in ranges]),
        "count": ffi.new("uint64_t[]", [r.count for r in ranges]),
        "set": ffi.new("uint32_t[]", [r.set_bits for r in ranges]),
        "known": ffi.new("uint32_t[]", [r.known_bits for r in ranges]),
        "mapcount_lo": ffi.new("uint32_t[]", [r.mapcount[0] for r in ranges]),
        "mapcount_hi": ffi.new("uint32_t[]", list(tops)),
    }


def _raise_build(err: Any) -> NoReturn:
    reason = ffi.string(err.detail).decode()
    if err.code == errno.ENOMEM:
        raise MemoryError("not enough memory for the snapshot")
    raise FormatError(f"mapping {err.line}: {reason}" if err.line else reason)
