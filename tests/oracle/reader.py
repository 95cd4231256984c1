"""Read one process page by page, in plain Python, from the kernel's documentation.

Sources: ``/proc/PID/maps``, ``smaps``, ``numa_maps`` (proc.rst), ``/proc/PID/pagemap``,
``/proc/kpageflags``, ``/proc/kpagecount`` (pagemap.rst).  Page frame numbers are looked up and
forgotten; a page keeps only an opaque token that tells whether two pages are the same frame.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import mmap
import os
import re
import secrets
import signal
import struct
import time
import unittest
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

PAGE: Final = os.sysconf("SC_PAGE_SIZE")

# /proc/PID/pagemap, pagemap.rst
PM_PRESENT: Final = 1 << 63
PM_SWAPPED: Final = 1 << 62
PM_FILE: Final = 1 << 61
PM_GUARD: Final = 1 << 58
PM_UFFD_WP: Final = 1 << 57
PM_EXCLUSIVE: Final = 1 << 56
PM_SOFT_DIRTY: Final = 1 << 55
PM_FRAME: Final = (1 << 55) - 1
PM_SWAP_TYPE: Final = (1 << 5) - 1

# The kernel keeps the highest of the 32 swap types for entries that are no swap at all
# (migration, device memory, hardware poison, markers): at most nine (include/linux/swap.h).
SWAP_TYPES: Final = 32 - 9

# /proc/kpageflags, pagemap.rst
KPF: Final[dict[str, int]] = {
    "LOCKED": 0,
    "ERROR": 1,
    "REFERENCED": 2,
    "UPTODATE": 3,
    "DIRTY": 4,
    "LRU": 5,
    "ACTIVE": 6,
    "SLAB": 7,
    "WRITEBACK": 8,
    "RECLAIM": 9,
    "BUDDY": 10,
    "MMAP": 11,
    "ANON": 12,
    "SWAPCACHE": 13,
    "SWAPBACKED": 14,
    "COMPOUND_HEAD": 15,
    "COMPOUND_TAIL": 16,
    "HUGE": 17,
    "UNEVICTABLE": 18,
    "HWPOISON": 19,
    "NOPAGE": 20,
    "KSM": 21,
    "THP": 22,
    "OFFLINE": 23,
    "ZERO_PAGE": 24,
    "IDLE": 25,
    "PGTABLE": 26,
}

# PAGEMAP_SCAN, pagemap.rst and include/uapi/linux/fs.h
SCAN_FILE: Final = 1 << 2
SCAN_PRESENT: Final = 1 << 3
SCAN_SWAPPED: Final = 1 << 4
SCAN_ZERO: Final = 1 << 5
SCAN_HUGE: Final = 1 << 6
SCAN_GUARD: Final = 1 << 8
_SCAN_IOCTL: Final = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg), 96 bytes

# Opaque frame tokens of one run of this program: equal frames give equal tokens, no way back.
_TOKEN_KEY: Final = secrets.token_bytes(32)


class Unavailable(unittest.SkipTest):
    """This host cannot show it; pytest reports a test that raises this as skipped, with reason."""


class ProcessGone(RuntimeError):
    """The process exited, or has no memory (zombie, kernel thread)."""


@dataclass(frozen=True, slots=True)
class Page:
    """One populated page: something is in its page table entry."""

    address: int
    index: int  # page index of the RFC
    index_exact: bool  # False: address / page size, wrong if it was moved by mremap

    # pagemap
    present: bool
    swapped: bool  # bit 62 as it is: also guard pages, userfaultfd markers, migration entries
    on_swap: bool  # bit 62 and the entry names a swap area
    file: bool
    exclusive: bool
    soft_dirty: bool
    uffd_wp: bool
    guard: bool

    # kpageflags; for tails of compound pages the folio-wide flags are their head's
    referenced: bool
    active: bool
    uptodate: bool
    dirty: bool
    writeback: bool
    anon: bool
    swapbacked: bool
    swapcache: bool
    unevictable: bool
    ksm: bool | None  # None: kpageflags call everything merged here, and smaps says some is
    zero: bool
    hugetlb: bool
    thp: bool  # part of a large folio, however it is mapped

    mapcount: int  # kpagecount; 0 for pages that are not present
    normal: bool  # present, an ordinary page: the RFC lists it and it counts in Rss
    scan: int | None  # PAGEMAP_SCAN categories (SCAN_*); None: the kernel has no such call
    frame: str = field(repr=False)  # opaque token, "" when not present
    kpageflags: int = field(compare=False)  # raw, of this page; holds volatile bits (IDLE, LRU)
    torn: bool = False  # kept changing while it was looked at

    @property
    def pmd_mapped(self) -> bool | None:
        """Whether a PMD (or larger) entry maps it; None where PAGEMAP_SCAN cannot tell."""
        return None if self.scan is None else bool(self.scan & SCAN_HUGE)

    def kpf(self, name: str) -> bool:
        """Tell a bit of the page's own raw kpageflags by name, e.g. ``page.kpf("LRU")``."""
        return bool(self.kpageflags >> KPF[name] & 1)

    def kernel_letters(self) -> str:
        """Give the struct-page flags in RFC order; the two PTE bits, not visible here, as ``?``."""
        r, a, u = self.referenced, self.active, self.uptodate
        d, w = self.dirty, self.writeback
        letters = zip("RAU?DW", (r, a, u, True, d, w), strict=True)
        return "?" + "".join(letter if bit else "_" for letter, bit in letters)


@dataclass(frozen=True, slots=True)
class Header:
    """A line of ``/proc/PID/maps``."""

    start: int
    end: int
    perms: str
    offset: int
    dev: tuple[int, int]
    inode: int
    name: str

    @property
    def has_file(self) -> bool:
        """Whether a file (also shmem, memfd, shared anonymous, a device) is mapped."""
        return self.inode != 0 or self.dev != (0, 0)

    @property
    def private(self) -> bool:
        """Whether it was mapped MAP_PRIVATE."""
        return self.perms[3] == "p"


@dataclass(frozen=True, slots=True)
class Numa:
    """A line of ``/proc/PID/numa_maps``; ``counts`` in pages of the mapping."""

    policy: str
    file: str | None
    words: tuple[str, ...]
    counts: Mapping[str, int]

    @property
    def pages(self) -> int:
        """Pages counted: ``mapped=`` is left out where it equals ``anon=`` or ``dirty=``."""
        per_node = [count for key, count in self.counts.items() if re.fullmatch(r"N\d+", key)]
        return sum(per_node)


@dataclass(frozen=True, slots=True)
class MappingState:
    """One mapping with its counters and populated pages."""

    header: Header
    smaps: Mapping[str, int]  # lines in kB, as bytes
    other: Mapping[str, str]  # smaps lines that are not in kB, verbatim
    vmflags: tuple[str, ...]
    numa: Numa | None
    pages: tuple[Page, ...]
    unstable: int = 0  # sandwich only: pages left out because the two reads differ
    steady: bool = True  # sandwich only: header and counters were the same in both

    @property
    def start(self) -> int:
        """Start address."""
        return self.header.start

    @property
    def end(self) -> int:
        """End address, exclusive."""
        return self.header.end

    @property
    def name(self) -> str:
        """Name as ``maps`` prints it, unescaped."""
        return self.header.name

    @property
    def hugetlb(self) -> bool:
        """Whether it is a hugetlb mapping, which Rss leaves out and the RFC skips."""
        return "ht" in self.vmflags

    def count(self, wanted: Callable[[Page], bool]) -> int:
        """Count populated pages that satisfy ``wanted``."""
        return sum(1 for page in self.pages if wanted(page))


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One process as it was read."""

    pid: int
    mappings: tuple[MappingState, ...]

    def at(self, address: int) -> MappingState:
        """Find the mapping that holds an address."""
        for mapping in self.mappings:
            if mapping.start <= address < mapping.end:
                return mapping
        raise KeyError(hex(address))

    def named(self, name: str) -> list[MappingState]:
        """List the mappings of a file by path or base name, or of ``[heap]`` and the like."""
        return [m for m in self.mappings if name in (m.name, os.path.basename(m.name))]

    def pages(self, start: int, length: int) -> dict[int, Page]:
        """Map address to populated page within a window."""
        return {
            page.address: page
            for mapping in self.mappings
            if mapping.start < start + length and start < mapping.end
            for page in mapping.pages
            if start <= page.address < start + length
        }


# ---- text files -------------------------------------------------------------------------------

_HEADER = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][sp]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)"
)


def parse_header(line: bytes) -> Header | None:
    """Parse a line of maps (or the first line of an smaps entry); None for any other line."""
    match = _HEADER.fullmatch(line)
    if match is None:
        return None
    start, end, perms, offset, major, minor, inode, name = match.groups()
    return Header(
        start=int(start, 16),
        end=int(end, 16),
        perms=perms.decode("ascii"),
        offset=int(offset, 16),
        dev=(int(major, 16), int(minor, 16)),
        inode=int(inode),
        name=os.fsdecode(name.replace(rb"\012", b"\n")),  # the only escape, proc.rst
    )


def parse_maps(text: bytes) -> list[Header]:
    """Parse the whole of ``/proc/PID/maps``."""
    headers = []
    for line in text.split(b"\n"):
        if line:
            header = parse_header(line)
            if header is None:
                raise ValueError(f"not a line of maps: {line!r}")
            headers.append(header)
    return headers


@dataclass(slots=True)
class Counters:
    """The lines of one smaps entry under its header."""

    header: Header
    kilobytes: dict[str, int] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)
    vmflags: tuple[str, ...] = ()


def parse_smaps(text: bytes) -> list[Counters]:
    """Parse the whole of ``/proc/PID/smaps``; kB become bytes, unknown lines are kept."""
    entries: list[Counters] = []
    for line in text.split(b"\n"):
        if not line:
            continue
        header = parse_header(line)
        if header is not None:
            entries.append(Counters(header))
            continue
        key, _, value = line.decode("ascii").partition(":")
        words = value.split()
        if key == "VmFlags":
            entries[-1].vmflags = tuple(words)
        elif len(words) == 2 and words[1] == "kB":
            entries[-1].kilobytes[key] = int(words[0]) * 1024
        else:
            entries[-1].other[key] = value.strip()
    return entries


def parse_numa_maps(text: bytes) -> dict[int, Numa]:
    """Parse the whole of ``/proc/PID/numa_maps`` by start address."""
    entries = {}
    for line in text.split(b"\n"):
        if not line:
            continue
        address, policy, *words = line.split(b" ")
        counts: dict[str, int] = {}
        plain: list[str] = []
        file: str | None = None
        for word in words:
            key, equals, value = word.partition(b"=")
            if equals and key == b"file":
                octal = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), value)
                file = os.fsdecode(octal)
            elif equals:
                counts[key.decode("ascii")] = int(value)
            else:
                plain.append(word.decode("ascii"))
        entries[int(address, 16)] = Numa(policy.decode("ascii"), file, tuple(plain), counts)
    return entries


# ---- pages ------------------------------------------------------------------------------------


def _pread_u64(fd: int, slot: int) -> int | None:
    """Read the 8-byte entry number ``slot``; None past the end of the file."""
    data = os.pread(fd, 8, slot * 8)
    if len(data) != 8:
        return None
    (value,) = struct.unpack("=Q", data)
    assert isinstance(value, int)
    return value


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Unavailable(f"{path}: no such file (no CONFIG_PROC_PAGE_MONITOR?)") from error
    except PermissionError as error:
        raise Unavailable(f"{path}: {error.strerror}; run as root with CAP_SYS_ADMIN") from error


def require_frames() -> None:
    """Raise Unavailable unless this process may see page frame numbers (CAP_SYS_ADMIN)."""
    with mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area[0] = 1
        view = ctypes.c_char.from_buffer(area)
        address = ctypes.addressof(view)
        fd = _open("/proc/self/pagemap")
        try:
            entry = _pread_u64(fd, address // PAGE) or 0
        finally:
            os.close(fd)
        del view
    if not entry & PM_PRESENT:
        raise RuntimeError("a page just written is not present in pagemap")
    if not entry & PM_FRAME:
        raise Unavailable("pagemap hides page frame numbers: CAP_SYS_ADMIN is missing")


class Pages:
    """The open page files of one process."""

    def __init__(self, pid: int | str) -> None:
        """Open pagemap, kpageflags and kpagecount, after checking that frames are visible."""
        require_frames()
        if not os.path.exists(f"/proc/{pid}"):
            raise ProcessGone(f"process {pid} is gone")
        self._fds: list[int] = []
        try:
            self._pagemap = self._keep(_open(f"/proc/{pid}/pagemap"))
            self._kpageflags = self._keep(_open("/proc/kpageflags"))
            self._kpagecount = self._keep(_open("/proc/kpagecount"))
        except BaseException:
            self.close()
            raise
        self._scan_mask: int | None = None
        self.calls_all_merged = self._calls_all_merged()

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        """Close the files."""
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        """Enter: nothing to do, they are open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the files."""
        self.close()

    def _calls_all_merged(self) -> bool:
        """Whether kpageflags say KSM even of a page that was just written (seen on 6.12)."""
        with mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
            area[0] = 1
            view = ctypes.c_char.from_buffer(area)
            fd = _open("/proc/self/pagemap")
            try:
                entry = _pread_u64(fd, ctypes.addressof(view) // PAGE) or 0
            finally:
                os.close(fd)
            flags = _pread_u64(self._kpageflags, entry & PM_FRAME) or 0
            del view
        return bool(flags >> KPF["KSM"] & 1)

    # -- one entry --

    def _categories(self, address: int) -> int | None:
        """Ask PAGEMAP_SCAN for the categories of one page; None: the kernel has no such call."""
        if self._scan_mask is None:
            self._scan_mask = 0
            for bit in (SCAN_FILE, SCAN_PRESENT, SCAN_SWAPPED, SCAN_ZERO, SCAN_HUGE, SCAN_GUARD):
                if self._scan(address, bit) is not None:
                    self._scan_mask |= bit
        if not self._scan_mask:
            return None
        return self._scan(address, self._scan_mask)

    def _scan(self, address: int, mask: int) -> int | None:
        region = (ctypes.c_uint64 * 3)()
        argument = bytearray(
            # size flags start end walk_end vec vec_len max_pages inverted mask anyof return
            struct.pack("=4Q", 96, 0, address, address + PAGE)
            + struct.pack("=4Q", 0, ctypes.addressof(region), 1, 0)
            + struct.pack("=4Q", 0, 0, 0, mask)
        )
        try:
            found = fcntl.ioctl(self._pagemap, _SCAN_IOCTL, argument)
        except OSError:
            return None
        return int(region[2]) if found else 0

    def _folio_flags(self, frame: int, flags: int) -> int:
        """Flags of the folio a frame belongs to: its head's (before 6.10 tails show junk).

        A compound page of order k is aligned to 2**k pages, so its head is the first frame with
        the head bit among the frame aligned down to 2, 4, 8 ... pages.
        """
        if not flags >> KPF["COMPOUND_TAIL"] & 1:
            return flags
        for order in range(1, 19):
            head = _pread_u64(self._kpageflags, frame & -(1 << order)) or 0
            if head >> KPF["COMPOUND_HEAD"] & 1:
                return head
        return flags

    def page(self, address: int, index: int, exact: bool, ordinary: bool) -> Page | None:
        """Read one page, again if it changes meanwhile; None if nothing is there.

        ``ordinary`` tells whether the mapping can hold pages that count in Rss.
        """
        entry = _pread_u64(self._pagemap, address // PAGE) or 0
        for _ in range(4):
            if not entry & (PM_PRESENT | PM_SWAPPED | PM_GUARD):
                return None
            present = bool(entry & PM_PRESENT)
            frame = entry & PM_FRAME if present else 0
            own = folio = count = 0
            if present:
                flags = _pread_u64(self._kpageflags, frame)
                own = 1 << KPF["NOPAGE"] if flags is None else flags
                folio = self._folio_flags(frame, own)
                count = _pread_u64(self._kpagecount, frame) or 0
            scan = self._categories(address)
            again = _pread_u64(self._pagemap, address // PAGE) or 0
            torn = entry != again
            if not torn:
                break
            entry = again

        def has(name: str) -> bool:
            return bool(folio >> KPF[name] & 1)

        zero = bool(own >> KPF["ZERO_PAGE"] & 1)
        nopage = bool(own >> KPF["NOPAGE"] & 1)
        swapped = bool(entry & PM_SWAPPED)
        guard = bool(entry & PM_GUARD)
        token = hashlib.blake2b(frame.to_bytes(8, "little"), key=_TOKEN_KEY, digest_size=12)
        return Page(
            address=address,
            index=index,
            index_exact=exact,
            present=present,
            swapped=swapped,
            on_swap=swapped and not guard and entry & PM_SWAP_TYPE < SWAP_TYPES,
            file=bool(entry & PM_FILE),
            exclusive=bool(entry & PM_EXCLUSIVE),
            soft_dirty=bool(entry & PM_SOFT_DIRTY),
            uffd_wp=bool(entry & PM_UFFD_WP),
            guard=guard,
            referenced=has("REFERENCED"),
            active=has("ACTIVE"),
            uptodate=has("UPTODATE"),
            dirty=has("DIRTY"),
            writeback=has("WRITEBACK"),
            anon=has("ANON"),
            swapbacked=has("SWAPBACKED"),
            swapcache=has("SWAPCACHE"),
            unevictable=has("UNEVICTABLE"),
            ksm=has("KSM"),
            zero=zero,
            hugetlb=has("HUGE"),
            thp=has("THP"),
            mapcount=count,
            normal=present and ordinary and not zero and not nopage,
            scan=scan,
            frame=token.hexdigest() if present else "",
            kpageflags=own,
            torn=torn,
        )

    def populated(self, start: int, end: int) -> Iterator[int]:
        """Give the addresses in a mapping whose pagemap entry is not empty.

        Entries are looked at one by one, except that stretches of 4,096 empty ones are passed
        over at once: some programs reserve hundreds of gigabytes.
        """
        stretch = 4096
        first, last = start // PAGE, end // PAGE
        while first < last:
            data = os.pread(self._pagemap, min(stretch, last - first) * 8, first * 8)
            if not data:  # past the end of user space: [vsyscall]
                return
            if data.count(0) != len(data):
                for slot, entry in enumerate(struct.unpack(f"={len(data) // 8}Q", data)):
                    if entry:
                        yield (first + slot) * PAGE
            first += len(data) // 8


@functools.cache
def address_bits() -> int:
    """Give how many bits a user's address has on x86-64; on other machines 0."""
    flags = re.search(rb"^flags.*", Path("/proc/cpuinfo").read_bytes(), re.MULTILINE)
    if os.uname().machine != "x86_64" or flags is None:
        return 0
    return 56 if b"la57" in flags[0].split() else 47  # five levels of page tables, or four


def page_index(header: Header, address: int) -> tuple[int, bool]:
    """Give the RFC's page index of an address, and whether it is certain.

    File mappings: file offset in pages, also for private copies.  Anonymous memory: address in
    pages, unless it was moved.  The main stack was moved at exec from the top of the
    address space; ``[vdso]`` and ``[vvar]`` begin at 0.
    """
    position = (address - header.start) // PAGE
    if header.has_file:
        return header.offset // PAGE + position, True
    bits = address_bits()
    if header.name == "[stack]" and bits and 1 << 32 < header.end < 1 << 47:
        return (1 << bits) // PAGE - 1 - (header.end - address) // PAGE, True
    if header.name in ("[vdso]", "[vvar]", "[vvar_vclock]"):
        return position, True
    return address // PAGE, False


# ---- the process ------------------------------------------------------------------------------


def _slurp(pid: int, name: str) -> bytes:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProcessGone(f"process {pid} is gone") from error
    with os.fdopen(fd, "rb") as file:
        return file.read()


def read(pid: int) -> ProcessState:
    """Read one process once; on a running process parts of the answer may not belong together."""
    maps = parse_maps(_slurp(pid, "maps"))
    if not maps:
        raise ProcessGone(f"process {pid} has no mappings: exited, zombie or kernel thread")
    counters = {entry.header.start: entry for entry in parse_smaps(_slurp(pid, "smaps"))}
    try:
        numa = parse_numa_maps(_slurp(pid, "numa_maps"))
    except ProcessGone:  # the kernel has no CONFIG_NUMA; a dead process is found out below
        numa = {}
    mappings = []
    with Pages(pid) as files:
        for header in maps:
            entry = counters.get(header.start, Counters(header))
            ordinary = not {"pf", "ht"} & set(entry.vmflags)  # no struct page; not in Rss
            pages = []
            for address in files.populated(header.start, header.end):
                index, exact = page_index(header, address)
                page = files.page(address, index, exact, ordinary)
                if page is not None:
                    pages.append(page)
            if files.calls_all_merged:
                pages = _merged(pages, entry.kilobytes.get("KSM"))
            mappings.append(
                MappingState(
                    header=header,
                    smaps=entry.kilobytes,
                    other=entry.other,
                    vmflags=entry.vmflags,
                    numa=numa.get(header.start),
                    pages=tuple(pages),
                )
            )
    if not os.path.exists(f"/proc/{pid}"):
        raise ProcessGone(f"process {pid} exited while it was read")
    return ProcessState(pid, tuple(mappings))


def _merged(pages: list[Page], counted: int | None) -> list[Page]:
    """What is merged, where kpageflags show KSM of all anonymous memory: smaps counts it."""
    called = sum(page.ksm is True for page in pages)
    if counted == called * PAGE:
        return pages
    known = False if counted == 0 else None
    return [replace(page, ksm=known) if page.ksm else page for page in pages]


def both(before: ProcessState, after: ProcessState) -> ProcessState:
    """Keep the pages that are equal in two reads, with the second's counters."""
    earlier = {mapping.start: mapping for mapping in before.mappings}
    kept = []
    for mapping in after.mappings:
        first = earlier.get(mapping.start)
        if first is None:
            kept.append(replace(mapping, pages=(), unstable=len(mapping.pages), steady=False))
            continue
        known = {page.address: page for page in first.pages}
        pages = tuple(
            page for page in mapping.pages if not page.torn and known.get(page.address) == page
        )
        addresses = known.keys() | {page.address for page in mapping.pages}
        same = (first.header, first.smaps, first.numa) == (
            mapping.header,
            mapping.smaps,
            mapping.numa,
        )
        kept.append(
            replace(mapping, pages=pages, unstable=len(addresses) - len(pages), steady=same)
        )
    return ProcessState(after.pid, tuple(kept))


def sandwich(pid: int) -> ProcessState:
    """Read twice; give only the pages that were equal in both, with the second's counters.

    On a live host other processes change mapcounts and flags of shared pages at any time; what
    was read before and after with the same answer held in between (as far as anyone can tell).
    """
    return both(read(pid), read(pid))


def quiet(pid: int, tries: int = 20) -> ProcessState:
    """Sandwich until no page and no counter moved; after ``tries``, the last as it is."""
    before = read(pid)
    for _ in range(tries):
        after = read(pid)
        state = both(before, after)
        if all(mapping.steady and not mapping.unstable for mapping in state.mappings):
            break
        before = after
    return state


# ---- holding still ----------------------------------------------------------------------------


def parent_of(pid: int) -> int:
    """Give a process's parent, 0 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except FileNotFoundError:
        return 0
    return int(fields[1])


def descends_from_us(pid: int) -> bool:
    """Tell whether a process is our child, or a child's child and so on."""
    seen = pid
    while seen > 1:
        seen = parent_of(seen)
        if seen == os.getpid():
            return True
    return False


def thread_states(pid: int) -> list[str]:
    """Give the state letter of every thread of a process."""
    letters = []
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            letters.append(task.read_bytes().rpartition(b")")[2].split()[0].decode("ascii"))
    return letters


@contextlib.contextmanager
def stopped(pid: int, timeout: float = 10.0) -> Iterator[None]:
    """Stop a process that descends from ours, and continue it whatever happens."""
    if not descends_from_us(pid):
        raise ValueError(f"process {pid} does not descend from this one: not stopping it")
    if "T" in thread_states(pid):
        raise ValueError(f"process {pid} is stopped already")
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + timeout
        while set(thread_states(pid)) != {"T"}:
            if not thread_states(pid):
                raise ProcessGone(f"process {pid} exited while it was being stopped")
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {pid} did not stop: {thread_states(pid)}")
            time.sleep(0.001)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


# ---- does it add up? --------------------------------------------------------------------------


def reconcile(mapping: MappingState) -> list[str]:
    """List where the pages of a mapping contradict the kernel's own counters for it.

    Every line is an equality or a bound that proc.rst's definitions imply; an empty list means
    that nothing contradicts.  Meaningful on a process that holds still.
    """
    wrong: list[str] = []
    smaps, numa = mapping.smaps, mapping.numa
    pages = [page for page in mapping.pages if page.normal]
    inside = (mapping.end - mapping.start) // PAGE

    def equal(what: str, ours: int, kernels: int | None) -> None:
        if kernels is not None and ours != kernels:
            wrong.append(f"{mapping.name or '[anon]'}: {what} is {ours} by pages, {kernels} there")

    def within(what: str, low: int, value: int | None, high: int) -> None:
        if value is not None and not low <= value <= high:
            wrong.append(f"{mapping.name or '[anon]'}: {what} {value} is not in {low}..{high}")

    def size(wanted: Callable[[Page], bool]) -> int:
        return PAGE * sum(1 for page in pages if wanted(page))

    equal("Size", mapping.end - mapping.start, smaps.get("Size"))
    if len(mapping.pages) > inside:
        wrong.append(f"{mapping.name}: {len(mapping.pages)} pages in a mapping of {inside}")
    if mapping.hugetlb or not smaps:
        return wrong
    rss = size(lambda page: True)
    equal("Rss", rss, smaps.get("Rss"))
    equal("Anonymous", size(lambda page: page.anon), smaps.get("Anonymous"))
    if all(page.ksm is not None for page in pages):
        equal("KSM", size(lambda page: page.ksm is True), smaps.get("KSM"))
    equal(
        "Private",
        size(lambda page: page.mapcount == 1),
        smaps.get("Private_Clean", 0) + smaps.get("Private_Dirty", 0),
    )
    equal(
        "Shared",
        size(lambda page: page.mapcount != 1),
        smaps.get("Shared_Clean", 0) + smaps.get("Shared_Dirty", 0),
    )
    pss = sum(PAGE / max(page.mapcount, 1) for page in pages)
    within("Pss", int(pss) - 1024 - len(pages), smaps.get("Pss"), int(pss) + 1)
    alone = [page for page in pages if page.mapcount == 1]
    for name, some in (
        ("Private_Dirty", alone),
        ("Shared_Dirty", [page for page in pages if page.mapcount != 1]),
    ):
        sure = PAGE * sum(page.dirty for page in some)  # D counts there, so does P, unseen here
        within(name, sure, smaps.get(name), PAGE * len(some))
    within("Referenced", size(lambda page: page.referenced), smaps.get("Referenced"), rss)
    lazy = size(lambda page: page.anon and not page.swapbacked)
    within("LazyFree", 0, smaps.get("LazyFree"), lazy)
    if all(page.scan is not None for page in pages):
        huge = [page for page in pages if page.pmd_mapped]
        of_files = [page for page in huge if not page.anon]
        shmem = PAGE * sum(page.swapbacked for page in of_files)
        equal("AnonHugePages", PAGE * (len(huge) - len(of_files)), smaps.get("AnonHugePages"))
        equal("ShmemPmdMapped", shmem, smaps.get("ShmemPmdMapped"))
        equal("FilePmdMapped", PAGE * len(of_files) - shmem, smaps.get("FilePmdMapped"))
    swapped = PAGE * mapping.count(lambda page: page.on_swap)
    if mapping.header.has_file and "Swap" in smaps:
        # shmem: swapped pages of the object count too, though no entry names them
        within("Swap", swapped, smaps["Swap"], PAGE * inside)
    else:
        equal("Swap", swapped, smaps.get("Swap"))
    for page in mapping.pages:
        if page.normal and page.exclusive != (page.mapcount == 1) and not page.pmd_mapped:
            wrong.append(
                f"{mapping.name or '[anon]'} {page.address:x}: exclusive is {page.exclusive}, "
                f"mapcount {page.mapcount}"
            )
        if page.normal and page.file == page.anon:
            wrong.append(f"{mapping.name or '[anon]'} {page.address:x}: file and anon agree")
        if page.scan is not None:
            # the huge zero page carries bit 61 in pagemap and no FILE in PAGEMAP_SCAN
            expected = (
                (SCAN_FILE if page.file and not page.zero else 0)
                | (SCAN_PRESENT if page.present else 0)
                | (SCAN_SWAPPED if page.swapped else 0)
                | (SCAN_ZERO if page.zero else 0)
                | (SCAN_GUARD if page.guard else 0)
            )
            if page.scan & ~SCAN_HUGE != expected:
                wrong.append(
                    f"{mapping.name or '[anon]'} {page.address:x}: PAGEMAP_SCAN says "
                    f"{page.scan & ~SCAN_HUGE:#x}, pagemap and kpageflags {expected:#x}"
                )
    if numa is not None:
        # numa_maps leaves out reserved pages, such as those of the vdso
        counts = numa.counts
        listed = [page for page in pages if not page.kpageflags >> 32 & 1]
        active = sum(page.active or page.unevictable for page in listed)
        writeback = sum(page.writeback for page in listed)
        swapcache = sum(page.swapcache for page in listed)
        equal("numa_maps N*", len(listed), numa.pages)
        equal("numa_maps anon", sum(page.anon for page in listed), counts.get("anon", 0))
        equal("numa_maps swapcache", swapcache, counts.get("swapcache", 0))
        equal("numa_maps writeback", writeback, counts.get("writeback", 0))
        equal("numa_maps active", active, counts.get("active", len(listed)))
        most = max((page.mapcount for page in listed), default=0)
        equal("numa_maps mapmax", most if most > 1 else 1, counts.get("mapmax", 1))
    return wrong


def reconcile_all(state: ProcessState) -> list[str]:
    """Reconcile every mapping of which nothing moved (see ``quiet``).

    Where others keep starting and ending, a library's mapcounts go back and forth, and two reads
    may agree though the counters between them belong to another moment: see ``contradictions``.
    """
    return [
        line
        for mapping in state.mappings
        if mapping.steady and not mapping.unstable
        for line in reconcile(mapping)
    ]


def contradictions(pid: int, tries: int = 25, lasting: int = 10) -> tuple[list[str], list[str]]:
    """Reconcile a process that holds still until every mapping has added up once.

    Gives the contradictions of mappings that were alike in two reads ``lasting`` times and never
    added up, and the names of mappings that were not alike often enough to say anything.  What
    others do to shared pages comes and goes; a reader that is wrong is wrong every time.
    """
    before = read(pid)
    open_ones = {mapping.start: mapping.name for mapping in before.mappings}
    seen: dict[int, int] = {}
    wrong: dict[int, list[str]] = {}
    for _ in range(tries):
        after = read(pid)
        for mapping in both(before, after).mappings:
            if mapping.start not in open_ones or mapping.unstable or not mapping.steady:
                continue
            seen[mapping.start] = seen.get(mapping.start, 0) + 1
            lines = reconcile(mapping)
            if not lines:
                del open_ones[mapping.start]
            elif seen[mapping.start] == lasting:
                wrong[mapping.start] = lines
                del open_ones[mapping.start]
        if not open_ones:
            break
        before = after
    return [line for lines in wrong.values() for line in lines], list(open_ones.values())


def rfc_ranges(mapping: MappingState) -> list[tuple[int, int, str, int]]:
    """Group normal pages as the RFC does: (first index, count, ``kernel_letters``, mapcount).

    Y and P cannot be seen from here, so a range may be several of the RFC's.
    """
    ranges: list[tuple[int, int, str, int]] = []
    if mapping.hugetlb:
        return ranges
    for page in mapping.pages:
        if not page.normal:
            continue
        letters = page.kernel_letters()
        if ranges:
            first, count, *same = ranges[-1]
            if page.index == first + count and same == [letters, page.mapcount]:
                ranges[-1] = (first, count + 1, letters, page.mapcount)
                continue
        ranges.append((page.index, 1, letters, page.mapcount))
    return ranges
