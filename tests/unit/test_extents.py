"""Where objects lie, and what is said of their pages."""

from __future__ import annotations

import array
import ctypes
import mmap

import numpy as np
import pytest

from pytest_pmaps import (
    Count,
    Depth,
    Edge,
    Fact,
    FootprintError,
    FormatError,
    NoSuchMapping,
    Pages,
    Snapshot,
    assert_at_most,
    assert_no_dirty,
    assert_shared,
    assert_unchanged,
    diff,
)
from pytest_pmaps.counts import explain
from pytest_pmaps.extents import extent_of, parse_addresses
from pytest_pmaps.model import Kind
from pytest_pmaps.plain import PlainMapping, PlainRange, PlainSnapshot

PAGE = 4096
ALL = (1 << len(Fact)) - 1
RESIDENT = 1 << Fact.PRESENT | 1 << Fact.NORMAL | 1 << Fact.ANON | 1 << Fact.EXCLUSIVE
DIRTY = RESIDENT | 1 << Fact.DIRTY | 1 << Fact.PORD

BASE = np.zeros((40, 50), dtype=np.int32)


def address(array: np.ndarray) -> int:
    """Of the element [0, 0, ...]."""
    return array.__array_interface__["data"][0]


class Point(ctypes.Structure):
    """16 bytes."""

    _fields_ = (("x", ctypes.c_double), ("y", ctypes.c_double))


# ---- objects


@pytest.mark.parametrize(
    ("given", "start", "length"),
    [
        pytest.param(BASE, address(BASE), 8000, id="C"),
        pytest.param(BASE.T, address(BASE), 8000, id="Fortran"),
        pytest.param(BASE[3:5], address(BASE) + 600, 400, id="rows"),
        pytest.param(BASE[:, 7], address(BASE) + 28, 39 * 200 + 4, id="column"),
        pytest.param(BASE[::-1, ::-2], address(BASE) + 4, 7996, id="backwards"),
        pytest.param(memoryview(BASE)[::3], address(BASE), 8000, id="strided memoryview"),
        pytest.param(np.broadcast_to(BASE, (9, 40, 50)), address(BASE), 8000, id="broadcast"),
        pytest.param(BASE[1:2, 1], address(BASE) + 204, 4, id="one element"),
        pytest.param(BASE.view("M8[ns]"), address(BASE), 8000, id="dates, which have no format"),
    ],
)
def test_extents_of_arrays(given: object, start: int, length: int):
    """From the lowest to the highest byte, whatever the order."""
    extent = extent_of(given)
    assert (extent.start, extent.end - extent.start, extent.ours) == (start, length, True)


def test_spread_arrays_are_called_so():
    """Bytes in between belong to others; where there are none, it is not said."""
    assert extent_of(BASE[::2]).name == f"ndarray spread over 7,800 B at {address(BASE):#x}"
    assert extent_of(BASE.T).name == f"ndarray of 8,000 B at {address(BASE):#x}"
    assert extent_of(np.zeros(1 << 20, "u1")).name.startswith("ndarray of 1 MiB at 0x")


def test_extents_of_other_buffers():
    """ctypes tells where its own lie; the others lie where ctypes says."""
    point, numbers = Point(), (ctypes.c_int * 10)()
    assert extent_of(point)[:2] == (ctypes.addressof(point), ctypes.addressof(point) + 16)
    assert extent_of(numbers)[:2] == (ctypes.addressof(numbers), ctypes.addressof(numbers) + 40)
    for writable in (bytearray(77), array.array("d", [0.5] * 7), mmap.mmap(-1, 2 * PAGE)):
        size = len(memoryview(writable).cast("B"))
        at = ctypes.addressof(ctypes.c_char.from_buffer(writable))
        assert extent_of(writable)[:2] == (at, at + size)
        part = memoryview(writable).cast("B")[8:20]
        assert extent_of(part)[:2] == (at + 8, at + 20)
        assert extent_of(part.toreadonly())[:2] == (at + 8, at + 20)
    text = b"somewhere"
    at = ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value
    assert extent_of(text)[:2] == (at, at + 9)


def test_nothing_is_held():
    """A bytearray can be resized, an mmap closed, right after."""
    changing, closing = bytearray(10), mmap.mmap(-1, PAGE)
    extent_of(changing)
    extent_of(memoryview(changing)[::2])
    changing.extend(bytes(100))
    extent_of(closing)
    closing.close()


def closed() -> mmap.mmap:
    """No memory any more."""
    gone = mmap.mmap(-1, PAGE)
    gone.close()
    return gone


def released() -> memoryview:
    """No memory any more."""
    gone = memoryview(b"abc")
    gone.release()
    return gone


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ("text", TypeError, r"pages are of a buffer \(.*\), or of \(address, length\), not str"),
        ([1, 2], TypeError, "not list"),
        (None, TypeError, "not NoneType"),
        ((), TypeError, r"a pair \(address, length\), not 0 values"),
        ((1, 2, 3), TypeError, "not 3 values"),
        ((True, 8), TypeError, "an address is an int, not bool"),
        ((8, True), TypeError, "a length is an int, not bool"),
        ((8.0, 8), TypeError, "an address is an int, not float"),
        (("8", 8), TypeError, "an address is an int, not str"),
        ((-1, 8), ValueError, "no such addresses: 8 B at -0x1"),
        ((8, -1), ValueError, "no such addresses"),
        ((8, 0), ValueError, "0 bytes at 0x8 lie in no page"),
        ((1, (1 << 64)), ValueError, "no such addresses"),
        (b"", ValueError, "this bytes is empty: it lies in no page"),
        (bytearray(), ValueError, "this bytearray is empty"),
        (np.zeros((3, 0, 5)), ValueError, "this ndarray is empty"),
        (np.zeros((3, 0, 5))[::2], ValueError, "this ndarray is empty"),
        (np.zeros((3, 4))[::2, :0], ValueError, "this ndarray is empty"),
        (closed(), ValueError, "this mmap has no one block of memory: mmap closed"),
        (released(), ValueError, "this memoryview has no one block of memory: .* released"),
    ],
)
def test_what_lies_in_no_page(given: object, error: type[Exception], says: str):
    """One line that says what is wrong with it."""
    with pytest.raises(error, match=says) as caught:
        extent_of(given)
    assert "\n" not in str(caught.value)


def test_pairs_take_any_integer():
    """NumPy's too; up to the end of the address space."""
    assert extent_of((np.uint64(4096), np.int8(3)))[:2] == (4096, 4099)
    assert extent_of(((1 << 64) - 1, 1)).end == 1 << 64


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("7f12a000-7f12b000", (0x7F12A000, 0x1000)),
        ("0x10-0x1F", (0x10, 15)),
        ("0x7f12a000+0x1000", (0x7F12A000, 0x1000)),
        ("0x7f12a000+1000", (0x7F12A000, 1000)),
        ("0x7f12a000+64KiB", (0x7F12A000, 1 << 16)),
        ("0x7f12a000+1.5 MiB", (0x7F12A000, 3 << 19)),
        ("7f12a000+1000", None),
        ("libfoo", None),
        ("dead-beef.so", None),
        ("", None),
    ],
)
def test_written_addresses(text: str, addresses: tuple[int, int] | None):
    """As in maps, or an address and a length."""
    assert parse_addresses(text) == addresses


@pytest.mark.parametrize("text", ["20-10", "10-10", "0x10+0", "0x0-1ffffffffffffffff", "0x1+1KB"])
def test_addresses_without_bytes_are_refused(text: str):
    """And amounts that cannot be read."""
    with pytest.raises(FormatError):
        parse_addresses(text)


# ---- their pages


def state(pages: str, first: int) -> list[PlainRange]:
    """``.`` not there, ``r`` resident, ``d`` dirty, ``?`` nobody knows."""
    known = {"r": (RESIDENT, ALL), "d": (DIRTY, ALL), "?": (RESIDENT, ALL & ~(1 << Fact.DIRTY))}
    return [
        PlainRange(first + i, 1, *known[page], (1, 1))
        for i, page in enumerate(pages)
        if page != "."
    ]


def snap(*mappings: tuple[int, str], **process: object) -> Snapshot:
    """Mappings as page number and states of the pages."""
    plain = [
        PlainMapping(at * PAGE, (at + len(pages)) * PAGE, "rw-p", kind=Kind.ANON, index=at,
                     ranges=state(pages, at))
        for at, pages in mappings
    ]  # fmt: skip
    return Snapshot.from_plain(PlainSnapshot(plain, pid=7, **process))


def test_pages_over_several_mappings():
    """Windows of each; what is counted is counted over all of them."""
    pages = snap((16, "rrdd"), (20, "d.r"), (30, "d")).of((17 * PAGE, 5 * PAGE))
    assert isinstance(pages, Pages)
    assert [(w.mapping, w.start // PAGE, w.end // PAGE) for w in pages.windows] == [
        (0, 17, 20),
        (1, 20, 22),
    ]
    assert (pages.rss, pages.dirty, pages.size) == (4, 3, 5)
    assert pages.edges == ()
    assert pages.label == f"20 KiB at {17 * PAGE:#x}"
    assert len(pages.mappings) == 2


def test_edges_are_told_and_can_be_left_out():
    """How many bytes of which page; without them only whole pages are left."""
    given = (17 * PAGE - 16, 2 * PAGE + 48)
    pages = snap((16, "drrd")).of(given)
    assert pages.edges == (Edge("first", 16 * PAGE, 16), Edge("last", 19 * PAGE, 32))
    assert (pages.start, pages.end - pages.start) == given
    assert pages.dirty == 2
    whole = snap((16, "drrd")).of(given, edges="exclude")
    assert (whole.dirty, whole.rss, whole.edges) == (0, 2, ())
    assert whole.label.endswith(", whole pages")
    assert [pages.at(edge).dirty == 1 for edge in pages.edges] == [True, True]
    assert (pages.inside.rss, pages.inside.dirty) == (2, 0)


def test_small_objects_have_no_page_of_their_own():
    """One edge, called the only page; nothing inside, and nothing to exclude it from."""
    pages = snap((16, "d")).of((16 * PAGE + 5, 100))
    assert pages.edges == (Edge("only", 16 * PAGE, 100),)
    assert pages.inside.windows == ()
    with pytest.raises(ValueError, match=r"100 B at 0x10005: no page is all its own"):
        snap((16, "d")).of((16 * PAGE + 5, 100), edges="exclude")


def test_what_is_not_mapped_is_named():
    """Never a pass over what is left."""
    some = snap((16, "rr"), (20, "r"))
    with pytest.raises(NoSuchMapping, match="20 KiB at 0x10000: 0x12000-0x14000 not mapped"):
        some.of((16 * PAGE, 5 * PAGE))
    with pytest.raises(NoSuchMapping, match=r"0xf000-0x10000, 0x12000-0x14000, 0x15000-0x16000 no"):
        some.of((15 * PAGE + 4095, 6 * PAGE + 1))
    with pytest.raises(NoSuchMapping, match="0x5000-0x6000 not mapped"):
        some.of((5 * PAGE, 1))
    with pytest.raises(NoSuchMapping, match=r"0xfff0000000000000-0x10000000000000000 not"):
        some.of((0xFFF << 52, 1 << 52))
    many = snap(*((i, "r") for i in range(16, 40, 2)))
    with pytest.raises(NoSuchMapping, match=r"0x17000-0x18000 and 7 more not mapped"):
        many.of((16 * PAGE, 23 * PAGE))


@pytest.mark.parametrize("gap", [{"complete": False}, {"appeared": 1}, {"missed_pages": 1}])
def test_gaps_of_a_torn_map_prove_nothing(gap: dict[str, int]):
    """The message says so, and a change does not take them for empty."""
    torn = snap((16, "rr"), **gap)
    with pytest.raises(NoSuchMapping, match="not mapped in this snapshot: memory moved while"):
        torn.of((16 * PAGE, 3 * PAGE))
    whole = snap((16, "rrr"))
    assert diff(whole, snap((16, "rr"))).of((16 * PAGE, 3 * PAGE)).rss == 1
    with pytest.raises(NoSuchMapping, match="memory moved"):
        diff(whole, torn).of((16 * PAGE, 3 * PAGE))


def test_what_was_not_captured_proves_nothing():
    """Some addresses alone, or totals alone."""
    some = snap((16, "rr"), partial=True)
    assert some.of((16 * PAGE, 2 * PAGE)).rss == 2
    with pytest.raises(NoSuchMapping, match=r"0x12000-0x13000 not mapped .*, or not captured: o"):
        some.of((16 * PAGE, 3 * PAGE))
    with pytest.raises(NoSuchMapping, match="or not captured"):
        diff(snap((16, "rrr"), partial=True), some).of((16 * PAGE, 3 * PAGE))
    totals = snap((16, "...."), depth=Depth.TOTALS)
    with pytest.raises(NoSuchMapping, match=r"not mapped in this snapshot: .* totals alone"):
        totals.of((16 * PAGE, 3 * PAGE))
    with pytest.raises(NoSuchMapping, match="totals alone"):
        diff(totals, totals).of((16 * PAGE, 3 * PAGE))


@pytest.mark.parametrize("less", [{"partial": True}, {"depth": Depth.TOTALS}])
def test_snapshots_of_different_reach_are_not_compared(less):
    """The difference would be what was not looked at."""
    whole, some = snap((16, "rr")), snap((16, "rr"), **less)
    for sides in (whole, some), (some, whole):
        with pytest.raises(ValueError, match="does not list all mappings: compare what both hold"):
            diff(*sides)


def test_edges_are_include_or_exclude():
    """Nothing else."""
    with pytest.raises(ValueError, match="edges are 'include' or 'exclude', not 'inner'"):
        snap((16, "r")).of((16 * PAGE, PAGE), edges="inner")


def test_change_of_pages():
    """Net, and page by page; memory that came counts from nothing."""
    change = diff(snap((16, "rdd"), (20, "dd")), snap((16, "rrd")))
    assert change.of((16 * PAGE, 3 * PAGE)).new.dirty == 1
    assert change.of((16 * PAGE, 3 * PAGE)).rss == 0
    came = change.of((20 * PAGE + 1, 2 * PAGE - 1))
    assert (came.new.dirty, came.rss, came.size) == (2, 2, 2)
    whole = change.of((20 * PAGE + 1, 2 * PAGE - 1), edges="exclude")
    assert (whole.new.dirty, whole.rss) == (1, 1)
    went = diff(snap((16, "rrd")), snap((20, "dd"))).of((20 * PAGE, 2 * PAGE))
    assert (went.new.dirty, went.rss) == (0, -2)
    with pytest.raises(NoSuchMapping, match="0x1e000-0x1f000 not mapped"):
        change.of((30 * PAGE, 1))
    with pytest.raises(TypeError, match="of one selection already"):
        came.of((20 * PAGE, PAGE))


def test_pages_have_no_parts():
    """Parts are of files."""
    assert snap((16, "r")).of((16 * PAGE, PAGE)).parts() == {}


# ---- what failures say


OBJECT = (16 * PAGE + 4000, 2 * PAGE + 100)  # 96 bytes, two pages, 4 bytes
FIRST, LAST = "its first page (96 B of it)", "its last page (4 B of it)"


def failure(pages: str, *, before: str = "rrrr", amount: int | str = 0) -> str:
    """What a failed assertion says of OBJECT."""
    with pytest.raises(FootprintError) as caught:
        assert_at_most(snap((16, pages)).of(OBJECT), amount, since=snap((16, before)))
    new = str(caught.value)
    with pytest.raises(FootprintError) as caught:
        assert_at_most(snap((16, pages)).of(OBJECT), amount)
    text = str(caught.value)
    assert new == text.replace(" dirty page", " new dirty page")
    return text


@pytest.mark.parametrize(
    ("pages", "amount", "says"),
    [
        ("rddr", 0, ""),
        ("rrrd", 0, "; without its last page (4 B of it) it would pass"),
        ("drrd", 0, f"; without {FIRST} and {LAST} it would pass"),
        ("ddrr", 0, f"; not all its own: {FIRST}"),
        ("ddrd", 1, f"; without {FIRST} and {LAST} it would pass"),
        ("dddr", "8 KiB", f"; without {FIRST} it would pass"),
        ("ddd?", "4 KiB", f"; not all its own: {FIRST} and {LAST}"),
        ("d?dr", 0, f"; not all its own: {FIRST}"),
    ],
)
def test_failures_tell_of_edges(pages: str, amount: int | str, says: str):
    """Whether it is only by a page that is another's too."""
    text = failure(pages, amount=amount)
    assert text.startswith(f"8,292 B at {OBJECT[0]:#x}: {pages.count('d')}")
    assert text.partition(f"allowed {amount}")[2].removesuffix(': edges="exclude"') == says


def test_an_only_page_cannot_be_left_out():
    """No advice that would not work."""
    with pytest.raises(
        FootprintError, match=r"allowed 0; not all its own: its only page \(100 B of it"
    ):
        assert_no_dirty(snap((16, "d")).of((16 * PAGE, 100)))


def test_unchanged_tells_of_edges():
    """Came, went, became dirty."""
    for now, before in (("drrr", "rrrr"), ("rrrr", ".rrr"), (".rrr", "rrrr")):
        with pytest.raises(FootprintError, match=r"; without its first page \(96 B of it"):
            assert_unchanged(snap((16, now)).of(OBJECT), since=snap((16, before)))
    assert_unchanged(snap((16, "drrr")).of(OBJECT, edges="exclude"), since=snap((16, "rrrr")))


def test_plain_asserts_tell_of_edges():
    """A count carries it through arithmetic; those of other selections have nothing to tell."""
    pages = snap((16, "dddd")).of(OBJECT)
    told = f"not all its own: {FIRST} and {LAST}"
    assert explain(pages.dirty, "<=", 1) == [
        f"8,292 B at {OBJECT[0]:#x}: dirty is 4 pages (16 KiB), allowed <= 1 page; {told}"
    ]
    change = diff(snap((16, "dddd")), snap((16, "rrrr"))).of(OBJECT)
    for count in (change.new.dirty, change.dirty, pages.uss, pages.rss.bytes, pages.rss + 1):
        assert explain(count, "<=", 1)[0].endswith(told)
    whole = snap((16, "dddd")).of(OBJECT, edges="exclude")
    assert explain(whole.dirty, "<=", 0)[0].endswith(", whole pages: dirty is 2 pages (8 KiB), "
                                                     "allowed <= 0 pages")  # fmt: skip
    assert (Count(1, 1, note="a") + Count(1, 1, note="b") + Count(1, 1, note="a")).note == "a; b"


def test_shared_tells_of_edges():
    """Where the rest of it is shared."""
    file = {"inode": 5, "kind": Kind.FILE, "name": "/x"}

    def process(pid: int, file_pages: str) -> Snapshot:
        bits = 1 << Fact.PRESENT | 1 << Fact.NORMAL | 1 << Fact.FILE
        ranges = [
            PlainRange(16 + i, 1, bits, ALL, (1, 1)) if page == "f"
            else PlainRange(16 + i, 1, RESIDENT, ALL, (1, 1))
            for i, page in enumerate(file_pages)
        ]  # fmt: skip
        mapping = PlainMapping(16 * PAGE, 20 * PAGE, "rw-p", ranges=ranges, **file)
        # By which they are two memories, and no twins by vfork.
        stack = PlainMapping(64 * PAGE, (64 + pid) * PAGE, "rw-p", name="[stack]", kind=Kind.ANON)
        return Snapshot.from_plain(PlainSnapshot([mapping, stack], pid=pid, start_time=1))

    ours, other = process(7, "fffa"), process(8, "ffff")
    assert_shared(ours.of(OBJECT, edges="exclude"), other)
    with pytest.raises(FootprintError, match=r"3 shared pages.*100%; without its last page \("):
        assert_shared(ours.of(OBJECT), other)
    with pytest.raises(FootprintError, match=r"at least 4; not all its own: its last page \("):
        assert_shared(ours.of(OBJECT), other, at_least=4)
