r"""The RFC's text form, as ``cat /proc/PID/pmaps`` would have printed it in 2007.

One line per mapping as ``/proc/PID/maps`` prints it, then one per page range::

    7f0012340000-7f0012343000 r-xp 00001000 fe:00 1234                       /usr/lib/libfoo.so
    1	2	YR_U___	3

that is: page index, number of pages, flags, mapcount.  Beyond the RFC, ``?`` stands for an
unknown flag, and a mapcount may be ``1..2``, ``2..?`` (no upper bound) or ``?`` (1 or more).

Two things are the kernel's doing and cannot be undone: a file name that really holds the four
characters ``\012`` reads back as a newline, and what maps does not say is not in here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from .errors import FormatError
from .model import FLAG_LETTERS, MAPCOUNT, Fact, Kind, PageRange, Source
from .plain import PlainMapping, PlainRange, PlainSnapshot

__all__ = ["MapsLine", "header_line", "parse", "range_lines", "render"]

_MAPCOUNT_LIMIT = (1 << 32) - 1  # the engine's word for "no bound"
_ADDRESS_LIMIT = 1 << 64

#: Where a 64-bit kernel begins to print the name.
_NAME_COLUMN = 73

_PRESENT, _NORMAL = 1 << Fact.PRESENT, 1 << Fact.NORMAL
_RFC_FLAGS = (1 << len(FLAG_LETTERS)) - 1

#: Page indexes behind the last page of a fresh ``[stack]`` on x86-64, with four levels of page
#: tables and with five: exec builds it at the top of user space and then moves it, which leaves
#: the indexes behind.
_STACK_TOPS = (0x7FFFFFFFF, 0xFFFFFFFFFFF)


@dataclass(slots=True)
class _Row:
    """One line of page ranges, as read."""

    line: int
    index: int
    count: int
    set_bits: int
    known_bits: int
    mapcount: tuple[int, int | None]

    @property
    def end(self) -> int:
        return self.index + self.count


# ---- writing


def render(snapshot: PlainSnapshot) -> str:
    """Write a snapshot as RFC text.

    Lists the pages that the RFC lists: present, and not known to be anything but ordinary.
    Ranges that differ only in what the RFC does not show become one.
    What is not all there, or moved while it was captured, ends in ``[...]``.
    """
    text = "".join(
        line for mapping in snapshot.mappings for line in _lines_of(mapping, snapshot.page_size)
    )
    moved = snapshot.raced_pages or snapshot.missed_pages or snapshot.appeared or snapshot.faults
    return text + "[...]\n" if moved or not snapshot.complete else text


def _lines_of(mapping: PlainMapping, page_size: int) -> Iterator[str]:
    yield header_line(mapping) + "\n"
    shift = mapping.index - mapping.start // page_size
    ranges = (
        PageRange(r.page + shift, r.page * page_size, r.count, r.mapcount, r.set_bits, r.known_bits)
        for r in mapping.ranges
    )
    yield from (line + "\n" for line in range_lines(ranges))


class MapsLine(Protocol):
    """What a line of /proc/PID/maps shows of a mapping."""

    @property
    def start(self) -> int: ...  # noqa: D102
    @property
    def end(self) -> int: ...  # noqa: D102
    @property
    def perms(self) -> str: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def dev(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def inode(self) -> int: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102


def header_line(mapping: MapsLine) -> str:
    """One mapping as /proc/PID/maps prints it, without the newline."""
    major, minor = mapping.dev
    prefix = (
        f"{mapping.start:08x}-{mapping.end:08x} {mapping.perms} {mapping.offset:08x} "
        f"{major:02x}:{minor:02x} {mapping.inode} "
    )
    if not mapping.name:
        return prefix
    name = mapping.name.replace("\n", "\\012")
    return f"{prefix.ljust(_NAME_COLUMN - 1)} {name}"


def range_lines(ranges: Iterable[PageRange]) -> Iterator[str]:
    """Ranges in the RFC's form, without newlines: those it lists, neighbours joined that look
    the same in it.
    """
    shown: tuple[str, tuple[int, int | None]] | None = None
    first = count = 0
    for item in ranges:
        if not item.listed:
            continue
        state = (_flags(item.set_bits, item.known_bits), item.mapcount)
        if shown == state and first + count == item.index:
            count += item.count
            continue
        if shown:
            yield _range_line(first, count, *shown)
        shown, first, count = state, item.index, item.count
    if shown:
        yield _range_line(first, count, *shown)


@lru_cache(maxsize=1024)
def _flags(set_bits: int, known_bits: int) -> str:
    return PageRange(0, 0, 0, (0, None), set_bits, known_bits).flags


def _range_line(index: int, count: int, flags: str, mapcount: tuple[int, int | None]) -> str:
    return f"{index}\t{count}\t{flags}\t{_mapcount_text(*mapcount)}"


def _mapcount_text(lo: int, hi: int | None) -> str:
    if hi is None:
        return "?" if lo == 1 else f"{lo}..?"
    return str(lo) if lo == hi else f"{lo}..{hi}"


# ---- reading: lines


def parse(text: str, page_size: int = 4096) -> PlainSnapshot:
    """Read RFC text; the archive's sample with spaces for tabs reads as well.

    Blank lines, ``#`` lines and CRLF are fine; a line ``[...]`` says that the text was cut,
    and makes the snapshot incomplete.

    A listed page is present.  It is an ordinary page where its mapcount is at least 1.
    A page that is not listed is none that the RFC lists: whether it is swapped out, the zero
    page, or nothing at all stays unknown.

    Raises FormatError with the line for whatever does not read, ValueError for a page size
    that is no power of two.
    """
    if page_size <= 0 or page_size & (page_size - 1):
        raise ValueError(f"a page size of {page_size} bytes")
    reader = _Reader(page_size)
    for number, line in enumerate(_lines(text), 1):
        try:
            reader.take(number, line)
        except FormatError as wrong:
            raise FormatError(wrong.reason, line=wrong.line or number) from None
    return reader.finish()


def _lines(text: str) -> list[str]:
    # Not splitlines(): a name may hold every other character that it takes for a line's end.
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if lines and all(line.endswith("\r") for line in lines):
        return [line[:-1] for line in lines]
    return lines


class _Reader:
    """Takes lines one by one; a mapping is finished when the next one begins."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.mappings: list[PlainMapping] = []
        self.rows: list[_Row] = []
        self.cut = False

    def take(self, number: int, line: str) -> None:
        if "\0" in line:
            raise FormatError("a NUL byte: this is no text")
        shown = line.strip(" \t\r")
        if not shown or shown.startswith("#"):
            return
        if shown == "[...]":
            self.cut = True
        elif "-" in _BLANKS.split(shown, maxsplit=1)[0]:
            self._take_mapping(line)
        else:
            self._take_row(number, shown)

    def finish(self) -> PlainSnapshot:
        self._close()
        return PlainSnapshot(
            mappings=self.mappings,
            page_size=self.page_size,
            sources=(Source.TEXT,),
            complete=not self.cut,
        )

    def _take_mapping(self, line: str) -> None:
        mapping = _read_header(line, self.page_size)
        self._close()
        if self.mappings and mapping.start < self.mappings[-1].end:
            raise FormatError("this mapping begins before the last one ends")
        self.mappings.append(mapping)

    def _take_row(self, number: int, shown: str) -> None:
        row = _read_row(number, shown)
        if not self.mappings:
            raise FormatError("a page range before any mapping")
        if self.rows and row.index < self.rows[-1].end:
            raise FormatError("this page range begins before the last one ends")
        self.rows.append(row)

    def _close(self) -> None:
        if self.mappings:
            _place(self.mappings[-1], self.rows, self.page_size)
        self.rows = []


_HEADER = re.compile(
    r"([^ -]+)-([^ -]+) +([^ ]+) +([^ ]+) +([^ :]+):([^ :]+) +([^ ]+)(?: +(.*))?", re.DOTALL
)
_BLANKS = re.compile(r"[ \t]+")
_PERMS = re.compile(r"[r-][w-][x-][ps]")
_HEX = re.compile(r"[0-9a-fA-F]{1,16}")
_DECIMAL = re.compile(r"[0-9]{1,20}")


def _read_header(line: str, page_size: int) -> PlainMapping:
    match = _HEADER.fullmatch(line)
    if match is None:
        raise FormatError("this is no mapping as /proc/PID/maps prints it")
    start, end, perms, offset, major, minor, inode, name = match.groups()
    if not _PERMS.fullmatch(perms):
        raise FormatError(f"{_quoted(perms)} are no permissions such as r-xp")
    mapping = PlainMapping(
        start=_hex(start),
        end=_hex(end),
        perms=perms,
        offset=_hex(offset),
        dev=(_hex(major, digits=8), _hex(minor, digits=8)),
        inode=_number(inode),
        name=_name(name or ""),
    )
    _check_addresses(mapping, page_size)
    mapping.kind = _kind(mapping)
    return mapping


def _check_addresses(mapping: PlainMapping, page_size: int) -> None:
    if mapping.start >= mapping.end:
        raise FormatError("the mapping ends where it begins, or before")
    if (mapping.start | mapping.end | mapping.offset) % page_size:
        raise FormatError(f"an address or offset does not lie on a page of {page_size} bytes")


def _name(text: str) -> str:
    name = text.replace("\\012", "\n")
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise FormatError("the name holds characters that no file name can") from None
    return name


_SPECIAL = ("[vdso]", "[vvar", "[vsyscall]", "[uprobes]", "[vectors]", "[sigpage]")
_SHMEM = ("/memfd:", "/SYSV", "/dev/zero (deleted)", "/dev/shm/")


def _kind(mapping: PlainMapping) -> Kind:
    """What is mapped, as far as the line alone tells."""
    name = mapping.name
    if name.startswith(_SPECIAL):
        return Kind.SPECIAL
    if name.startswith(("[heap]", "[stack", "[anon:")) or (not name and not mapping.inode):
        return Kind.ANON
    if name.startswith(("[anon_shmem:", *_SHMEM)):
        return Kind.SHMEM
    if name.startswith("/anon_hugepage"):
        return Kind.HUGETLB
    # Major 0 is tmpfs, hugetlbfs, overlay, btrfs and more: not to be told from here.
    return Kind.FILE if name.startswith("/") and mapping.dev[0] else Kind.UNKNOWN


def _read_row(number: int, shown: str) -> _Row:
    fields = _BLANKS.split(shown)
    if len(fields) != 4:
        raise FormatError("neither a mapping nor a page range (index, count, flags, mapcount)")
    index, count = _number(fields[0]), _number(fields[1])
    if not count:
        raise FormatError("a page range of no pages")
    if index + count > _ADDRESS_LIMIT:
        raise FormatError("the page range ends beyond any page index")
    return _Row(number, index, count, *_read_flags(fields[2]), _read_mapcount(fields[3]))


@lru_cache(maxsize=1024)
def _read_flags(text: str) -> tuple[int, int]:
    """Flags as bits that are set, and bits that are known."""
    if len(text) != len(FLAG_LETTERS):
        raise FormatError(f"{_quoted(text)} are not the seven flags {FLAG_LETTERS}")
    set_bits = known_bits = 0
    for bit, (letter, found) in enumerate(zip(FLAG_LETTERS, text, strict=True)):
        if found not in (letter, "_", "?"):
            raise FormatError(f"{_quoted(found)} among the flags, where {letter}, _ or ? belongs")
        set_bits |= (found == letter) << bit
        known_bits |= (found != "?") << bit
    return set_bits, known_bits


@lru_cache(maxsize=1024)
def _read_mapcount(text: str) -> tuple[int, int | None]:
    if text == "?":
        return 1, None
    first, dots, last = text.partition("..")
    lo = _number(first, _MAPCOUNT_LIMIT)
    if not dots:
        return lo, lo
    hi = None if last == "?" else _number(last, _MAPCOUNT_LIMIT)
    if hi is not None and hi < lo:
        raise FormatError(f"a mapcount from {lo} down to {hi}")
    return lo, hi


def _hex(text: str, digits: int = 16) -> int:
    if not _HEX.fullmatch(text) or len(text) > digits:
        raise FormatError(f"{_quoted(text)} is no hexadecimal number of up to {digits} digits")
    return int(text, 16)


def _number(text: str, limit: int = _ADDRESS_LIMIT) -> int:
    if not _DECIMAL.fullmatch(text):
        raise FormatError(f"{_quoted(text)} is no decimal number of up to 20 digits")
    number = int(text)
    if number >= limit:
        raise FormatError(f"{number} is too large")
    return number


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "...")


# ---- reading: from page indexes to pages


def _place(mapping: PlainMapping, rows: list[_Row], page_size: int) -> None:
    """Find where the mapping's page indexes begin, and give it its ranges."""
    pages = (mapping.end - mapping.start) // page_size
    bases = list(_bases(mapping, pages, page_size))
    mapping.index = next((base for base in bases if _fit(base, rows, pages)), -1)
    if mapping.index < 0:
        mapping.index = _guessed_base(mapping, rows, bases[0], pages)
    mapping.index_exact = mapping.index == bases[0] and _shows_index(mapping)
    shift = mapping.start // page_size - mapping.index
    mapping.ranges = list(_ranges(rows, mapping.start // page_size, pages, shift))
    mapping.evidence = _evidence(mapping.ranges)


def _is_file(mapping: PlainMapping) -> bool:
    return mapping.inode != 0 or mapping.name.startswith("/")


def _shows_index(mapping: PlainMapping) -> bool:
    # Kernels of 2007 printed the offset of anonymous memory too; today's print 0.
    return _is_file(mapping) or mapping.offset != 0


def _bases(mapping: PlainMapping, pages: int, page_size: int) -> Iterator[int]:
    """What the first page's index can be by the kernel's rules, likeliest first."""
    if _shows_index(mapping):
        yield mapping.offset // page_size
    if _is_file(mapping):
        return
    if mapping.kind == Kind.SPECIAL:
        yield 0
    if mapping.name.startswith("[stack") and page_size == 4096:
        yield from (top - pages for top in _STACK_TOPS if pages <= top)
    yield mapping.start // page_size
    yield 0


def _fit(base: int, rows: list[_Row], pages: int) -> bool:
    return not rows or (rows[0].index >= base and rows[-1].end <= base + pages)


def _guessed_base(mapping: PlainMapping, rows: list[_Row], base: int, pages: int) -> int:
    """mremap takes indexes along to where no rule finds them: say the first page is first."""
    first = rows[0].index
    if not _is_file(mapping) and rows[-1].end - first <= pages:
        return first
    stray = next((row for row in rows if not _fit(base, [row], pages)), rows[-1])
    there = f"{stray.index}..{stray.end - 1}"
    raise FormatError(
        f"page indexes {there} lie outside the mapping, which has {base}..{base + pages - 1}",
        line=stray.line,
    )


def _ranges(rows: list[_Row], first: int, pages: int, shift: int) -> Iterator[PlainRange]:
    """The listed ranges, and between them what the text says nothing of."""
    at = first
    for row in rows:
        page = row.index + shift
        if page > at:
            yield _unlisted(at, page - at)
        set_bits, known_bits = _facts(row.set_bits, row.known_bits, *row.mapcount)
        yield PlainRange(page, row.count, set_bits, known_bits, row.mapcount)
        at = page + row.count
    if at < first + pages:
        yield _unlisted(at, first + pages - at)


#: Flags belong to ordinary pages; of the others none is set.
_CLEAR_OF_UNLISTED = _RFC_FLAGS | sum(
    1 << fact for fact in (Fact.NORMAL, Fact.KSM, Fact.TOUCHED, Fact.PORD, Fact.SHARED)
)


def _unlisted(page: int, count: int) -> PlainRange:
    return PlainRange(page, count, 0, _CLEAR_OF_UNLISTED, (0, 0))


@lru_cache(maxsize=1024)
def _facts(set_bits: int, known_bits: int, lo: int, hi: int | None) -> tuple[int, int]:
    """What a listed range says: its flags, and what follows from them and its mapcount."""
    facts: dict[Fact, bool | None] = {Fact.PRESENT: True, Fact.NORMAL: True if lo else None}
    flags = PageRange(0, 0, 0, (lo, hi), set_bits, known_bits)
    facts[Fact.PORD] = _either(flags.fact(Fact.PTEDIRTY), flags.fact(Fact.PAGEDIRTY))
    # Smaps counts one more thing as referenced, so that neither Y nor R decides nothing.
    touched = _either(flags.fact(Fact.YOUNG), flags.fact(Fact.REFERENCED))
    facts[Fact.TOUCHED] = touched or None
    facts[Fact.EXCLUSIVE] = _compared(lo, hi, 1, 1)
    facts[Fact.SHARED] = _compared(lo, hi, 2, None)
    for fact, value in facts.items():
        set_bits |= (value is True) << fact
        known_bits |= (value is not None) << fact
    return set_bits, known_bits


def _either(left: bool | None, right: bool | None) -> bool | None:
    if left or right:
        return True
    return None if left is None or right is None else False


def _compared(lo: int, hi: int | None, least: int, most: int | None) -> bool | None:
    """Whether what is lo..hi is also least..most; None if that depends."""
    if lo >= least and (most is None or (hi is not None and hi <= most)):
        return True
    outside = (hi is not None and hi < least) or (most is not None and lo > most)
    return False if outside else None


def _evidence(ranges: list[PlainRange]) -> tuple[int, ...]:
    known = 0
    for item in ranges:
        known |= item.known_bits
    text = 1 << Source.TEXT
    by_fact = [text if known >> fact & 1 else 0 for fact in range(MAPCOUNT)]
    return (*by_fact, text if ranges else 0)
