"""Where objects lie, and in which processes their addresses mean the same.

Nothing here reads or writes what an object holds: asking brings no page of it in.
"""

from __future__ import annotations

import errno
import functools
import operator
import re
import struct
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

from ._native import Columns, Window, buffer_span
from .counts import format_bytes, parse_amount
from .errors import FormatError, PmapsError
from .procfs import START, getpid, stat_of

__all__ = [
    "Edge",
    "Edges",
    "Extent",
    "check_edges",
    "check_same_memory",
    "edges_of",
    "extent_of",
    "parse_addresses",
    "whole_pages",
]

#: What to do with pages that are only partly the object's.
Edges: TypeAlias = Literal["include", "exclude"]

_TOP = 1 << 64
_BUFFERS = "a buffer (bytes, bytearray, memoryview, array, mmap, ctypes, NumPy)"
_GIVE_ADDRESS = "to look at these addresses all the same, give (address, length)"


class Extent(NamedTuple):
    """Addresses ``[start, end)`` to the byte, and what messages call them.

    ``ours``: an object of this process lies there, so that they mean something in this process
    and in copies that fork made of it, and nowhere else.
    """

    start: int
    end: int
    name: str
    ours: bool


class Edge(NamedTuple):
    """A page that is only partly an object's; the rest of it belongs to what lies beside it.

    ``place``: ``first``, ``last``, or ``only`` where the object lies within one page.
    ``address`` is the page's, ``bytes`` how many of its bytes are the object's.
    """

    place: str
    address: int
    bytes: int

    def __str__(self) -> str:
        return f"its {self.place} page ({format_bytes(self.bytes)} of it)"


# ---- from objects to addresses


def extent_of(given: object) -> Extent:
    """Where a buffer lies, or the addresses of a pair ``(address, length)``.

    Of a strided buffer it is everything from its lowest to its highest byte.
    Raises TypeError for what is neither, ValueError for a buffer that is empty, was closed or
    released, or is no one block of memory, and for addresses that cannot be.
    """
    __tracebackhide__ = True
    if isinstance(given, tuple):
        return _extent_of_pair(given)
    kind = type(given).__name__
    start, length, spread = _span(given)
    if not length:
        raise ValueError(f"this {kind} is empty: it lies in no page")
    of = "spread over" if spread else "of"
    name = f"{kind} {of} {format_bytes(length)} at {start:#x}"
    return Extent(start, start + length, name, ours=True)


def _extent_of_pair(given: tuple[object, ...]) -> Extent:
    __tracebackhide__ = True
    if len(given) != 2:
        raise TypeError(f"addresses are a pair (address, length), not {len(given)} values")
    address, length = _number(given[0], "an address"), _number(given[1], "a length")
    if address < 0 or length < 0 or address + length > _TOP:
        raise ValueError(f"no such addresses: {length:,} B at {address:#x}")
    if not length:
        raise ValueError(f"0 bytes at {address:#x} lie in no page")
    return Extent(address, address + length, f"{format_bytes(length)} at {address:#x}", ours=False)


def _number(given: Any, what: str) -> int:
    __tracebackhide__ = True
    try:
        if not isinstance(given, bool):
            return operator.index(given)
    except TypeError:
        pass
    raise TypeError(f"{what} is an int, not {type(given).__name__}")


def _span(given: object) -> tuple[int, int, bool]:
    """Address, bytes from the lowest to the highest, and whether there are gaps in between."""
    __tracebackhide__ = True
    try:
        return (*buffer_span(given), False)
    except TypeError:
        kind = type(given).__name__
        raise TypeError(f"pages are of {_BUFFERS}, or of (address, length), not {kind}") from None
    except (BufferError, ValueError):  # strided, or there is no memory any more
        pass
    try:
        return _strided_span(given)
    except (BufferError, ValueError) as exc:
        kind = type(given).__name__
        raise ValueError(f"this {kind} has no one block of memory: {exc}") from None


@functools.cache
def _buffer_protocol() -> tuple[Any, Any, Any]:
    """``Py_buffer`` and its two functions, of the stable ABI.

    Only for strided buffers, which memoryview does not tell the address of: their makers
    (NumPy) have imported ctypes already, and others shall not have it in their footprint.
    """
    import ctypes

    numbers = ctypes.POINTER(ctypes.c_ssize_t)

    class PyBuffer(ctypes.Structure):
        _fields_ = (
            ("buf", ctypes.c_void_p),
            ("obj", ctypes.c_void_p),
            ("len", ctypes.c_ssize_t),
            ("itemsize", ctypes.c_ssize_t),
            ("readonly", ctypes.c_int),
            ("ndim", ctypes.c_int),
            ("format", ctypes.c_void_p),
            ("shape", numbers),
            ("strides", numbers),
            ("suboffsets", numbers),
            ("internal", ctypes.c_void_p),
        )

    pointer = ctypes.POINTER(PyBuffer)
    get = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, pointer, ctypes.c_int)
    release = ctypes.PYFUNCTYPE(None, pointer)
    return (
        PyBuffer,
        get(("PyObject_GetBuffer", ctypes.pythonapi)),
        release(("PyBuffer_Release", ctypes.pythonapi)),
    )


_STRIDES = 0x18  # PyBUF_STRIDES: no format, which some dtypes have none of, and no indirection


def _strided_span(given: object) -> tuple[int, int, bool]:
    make, get, release = _buffer_protocol()
    view = make()
    get(given, view, _STRIDES)
    try:
        steps = [(view.shape[i], view.strides[i]) for i in range(view.ndim)]
        if not all(count for count, _ in steps):
            return view.buf or 0, 0, False
        reach = [(count - 1) * stride for count, stride in steps]
        low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
        length = high - low + view.itemsize
        return view.buf + low, length, length > view.len
    finally:
        release(view)


_FROM_TO = re.compile(r"(?:0x)?([0-9a-f]+)-(?:0x)?([0-9a-f]+)", re.IGNORECASE)
_FROM_FOR = re.compile(r"(0x[0-9a-f]+)\+(0x[0-9a-f]+|[0-9]+|.*[A-Za-z])", re.IGNORECASE)


def parse_addresses(text: str) -> tuple[int, int] | None:
    """Addresses as people write them: ``START-END`` in hex, as maps prints it, or
    ``0xADDRESS+LENGTH`` with a length in bytes (``4096``, ``0x1000``) or as an amount (``4KiB``).

    Gives ``(address, length)``, None for another form; FormatError for a range without bytes.
    """
    __tracebackhide__ = True
    if found := _FROM_TO.fullmatch(text):
        start, end = (int(number, 16) for number in found.groups())
        length = end - start
    elif found := _FROM_FOR.fullmatch(text):
        start, length = int(found[1], 16), _length(found[2])
    else:
        return None
    if length <= 0 or start + length > _TOP:
        raise FormatError(f"no such addresses: {text!r}")
    return start, length


def _length(text: str) -> int:
    __tracebackhide__ = True
    if text.isdecimal() or text[:2].lower() == "0x":
        return int(text, 0)
    return parse_amount(text)


# ---- from addresses to pages


def whole_pages(extent: Extent, page_size: int, edges: Edges) -> tuple[int, int]:
    """The pages of an extent, as addresses: with its edges, or those that are all its own.

    Raises ValueError where none is.
    """
    __tracebackhide__ = True
    if edges == "include":
        return extent.start // page_size * page_size, -(-extent.end // page_size) * page_size
    start, end = -(-extent.start // page_size) * page_size, extent.end // page_size * page_size
    if start >= end:
        raise ValueError(f"{extent.name}: no page is all its own")
    return start, end


def check_edges(edges: object) -> None:
    """Raise ValueError for what is no way to deal with edges."""
    __tracebackhide__ = True
    if edges not in ("include", "exclude"):
        raise ValueError(f"edges are 'include' or 'exclude', not {edges!r}")


def edges_of(extent: Extent, page_size: int) -> tuple[Edge, ...]:
    """The pages that are only partly the extent's: none, one or two."""
    first, last = extent.start // page_size, (extent.end - 1) // page_size
    if first == last:
        held = {"only": (first, extent.end - extent.start)}
    else:
        held = {
            "first": (first, (first + 1) * page_size - extent.start),
            "last": (last, extent.end - last * page_size),
        }
    return tuple(
        Edge(place, page * page_size, size)
        for place, (page, size) in held.items()
        if size < page_size
    )


# ---- whose addresses they are

_AT_BASE, _AT_RANDOM, _AT_SYSINFO_EHDR = 7, 25, 33
_ADDR_NO_RANDOMIZE = 0x0040000


def check_same_memory(extent: Extent, columns: Columns) -> None:
    """Raise ValueError unless an object of this process means something in a snapshot.

    It does in one of this process, and in one of a process that fork made of it (or it of that
    one): there the program, the C loader, the vdso and the stack lie where exec put them at
    random, and at the object's addresses the same memory is mapped.
    """
    __tracebackhide__ = True
    try:
        _check_same_memory(extent, columns)
    except OSError as exc:
        limit = exc.errno in (errno.EMFILE, errno.ENFILE)
        remedy = "; raise the limit (ulimit -n)" if limit else ""
        raise PmapsError(
            f"whose object it is cannot be looked up: {exc.filename}: {exc.strerror}{remedy}"
        ) from None


def _check_same_memory(extent: Extent, columns: Columns) -> None:
    __tracebackhide__ = True
    if not extent.ours or _is_this_process(columns):
        return
    who = f"process {columns.pid}" if columns.pid else "the saved map's process"
    why = _not_a_copy(columns)
    if why:
        raise ValueError(
            f"an object of this process means nothing in {who}: {why}; {_GIVE_ADDRESS}"
        )
    for ours, theirs in _overlaps(extent, columns):
        if ours != theirs:
            raise ValueError(f"{who} maps other memory at {extent.name}; {_GIVE_ADDRESS}")


def _is_this_process(columns: Columns) -> bool:
    if columns.pid != getpid():
        return False
    fields = stat_of("self")
    return fields is not None and columns.start_time == int(fields[START])


def _not_a_copy(columns: Columns) -> str:
    """Why a map is not known to be of a process that shares its exec with us; "" if it is."""
    with open("/proc/sys/kernel/randomize_va_space", "rb") as file:
        random = file.read().strip() != b"0"
    with open("/proc/self/personality", "rb") as file:
        random &= not int(file.read(), 16) & _ADDR_NO_RANDOMIZE
    if not random:
        return "addresses are not randomised here, so that no fork can be told from another program"
    with open("/proc/self/auxv", "rb") as file:
        aux = dict(struct.iter_unpack("@LL", file.read()))
    vdso, loader, stack = (aux.get(at, 0) for at in (_AT_SYSINFO_EHDR, _AT_BASE, _AT_RANDOM))
    same = (
        (not vdso or _begins(columns, vdso) == "[vdso]")
        and (not loader or _begins(columns, loader) is not None)
        and any(columns.mapping(w.mapping).name == "[stack]" for w in _at(columns, stack))
    )
    return "" if same else "it is no fork of this one, or its map does not show it"


def _at(columns: Columns, address: int) -> Iterator[Window]:
    return columns.windows(address, address + 1)


def _begins(columns: Columns, address: int) -> str | None:
    """The name of the mapping that begins there."""
    found = (columns.mapping(w.mapping) for w in _at(columns, address))
    return next((m.name for m in found if m.start == address), None)


#: What says that two mappings are of the same memory.
_Identity: TypeAlias = tuple[bool, tuple[int, int], int, int]


def _overlaps(extent: Extent, columns: Columns) -> Iterator[tuple[_Identity, _Identity]]:
    """What this process has at the extent, beside what the other one has there."""
    for start, end, ours in _own_mappings(extent):
        for m in (columns.mapping(w.mapping) for w in columns.windows(start, end)):
            yield ours, _identity(m.perms, m.dev, m.inode, m.offset - m.start)


def _own_mappings(extent: Extent) -> Iterator[tuple[int, int, _Identity]]:
    """Which addresses of the extent are what in this process."""
    with open("/proc/self/maps", "rb") as file:
        for line in file:
            span, perms, offset, dev, inode = line.split(maxsplit=5)[:5]
            start, end = (int(address, 16) for address in span.split(b"-"))
            if start >= extent.end:
                return
            if end > extent.start:
                major, minor = (int(number, 16) for number in dev.split(b":"))
                shift = int(offset, 16) - start
                ours = _identity(perms.decode(), (major, minor), int(inode), shift)
                yield max(start, extent.start), min(end, extent.end), ours


def _identity(perms: str, dev: tuple[int, int], inode: int, shift: int) -> _Identity:
    """Addresses of anonymous memory are its identity; the kernel counts no offset in it."""
    return perms.endswith("s"), dev, inode, shift if inode else 0
