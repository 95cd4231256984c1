"""Hypothesis strategies: snapshots and what they are made of, for property tests.

Needs the extra ``pytest-pmaps[hypothesis]``.  Everything drawn is as the kernel and the engine
would give it: mappings in order, facts that agree with each other, names that can exist.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import strategies as st

from . import rfctext
from .model import COUNTERS, MAPCOUNT, PARTS, Fact, Kind, PageRange, Source
from .plain import PlainMapping, PlainObject, PlainRange, PlainSnapshot

if TYPE_CHECKING:
    from .snapshots import Snapshot

__all__ = [
    "amounts",
    "mapping_names",
    "page_ranges",
    "plain_snapshots",
    "rfc_texts",
    "snapshots",
]

_PAGE = 4096
_MOST_PAGES = 40
_HIGHEST_PAGE = 1 << 35  # x86-64 user space


# ---- amounts and names


def amounts() -> st.SearchStrategy[int | str]:
    """Amounts that counts compare with: ints, and strings such as ``"1.5 MiB"``."""
    numbers = st.integers(0, 1 << 20)
    quarters = st.sampled_from(["", ".0", ".25", ".5", ".75"])
    sized = st.builds("{}{} {}".format, numbers, quarters, st.sampled_from(["KiB", "MiB", "GiB"]))
    plain = st.builds("{}{}{}".format, numbers, st.sampled_from(["", " "]), st.just("B"))
    return st.one_of(numbers, sized, plain, st.builds("{} pages".format, numbers))


def mapping_names() -> st.SearchStrategy[str]:
    """Names of mappings as maps prints them, unescaped; "" for nameless memory."""
    return st.one_of(st.just(""), _special_names(), _anonymous_names(), _paths())


def _special_names() -> st.SearchStrategy[str]:
    return st.sampled_from(["[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"])


def _anonymous_names() -> st.SearchStrategy[str]:
    named = st.text(string.ascii_letters + string.digits + " :_-.", min_size=1, max_size=12)
    return st.one_of(st.sampled_from(["[heap]", "[stack]"]), named.map("[anon:{}]".format))


def _paths() -> st.SearchStrategy[str]:
    folder = st.sampled_from(["", "/lib", "/usr/lib/x86_64-linux-gnu", "/a b/c", "/tmp/[x]"])
    ending = st.sampled_from(["", "", "", " (deleted)"])
    paths = st.builds("{}/{}{}".format, folder, _file_names(), ending)
    # Of these, maps cannot say what they were: see rfctext.
    return paths.filter(lambda path: "\\012" not in path and not path.endswith("\r"))


def _file_names() -> st.SearchStrategy[str]:
    stem = st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=8)
    suffix = st.sampled_from(
        [
            *("", ".so", ".so.1", ".so.1.2.3", "-2.31.so", "-3.so.0", ".data", ".text"),
            *(".cpython-311-x86_64-linux-gnu.so", ".abi3.so", "-1a2b3c4d.so.5", "-0f9e8d7c.3.so"),
        ]
    )
    usual = st.builds("{}{}{}".format, st.sampled_from(["", "lib"]), stem, suffix)
    return usual | st.text(_ODD_CHARACTERS, min_size=1, max_size=12)


#: Names are bytes, all but "/" and NUL; those that are no UTF-8 show as lone surrogates.
#: A choice, because Hypothesis takes seconds to list all of Unicode where it never did.
_ODD_CHARACTERS = "ab1.-_ ()[]*?:#\\\n\r\t\v\x1c\x7f\x85\u00e9\u2028\u65e5\U0001f40d\udc80\udcff"


# ---- page ranges


def page_ranges() -> st.SearchStrategy[PageRange]:
    """Page ranges whose facts agree with each other."""
    pages = st.integers(0, _HIGHEST_PAGE)
    states = _states()
    return st.builds(_as_page_range, pages, pages, st.integers(1, 1000), states)


class _State(NamedTuple):
    """What is known of a page."""

    set_bits: int
    known_bits: int
    mapcount: tuple[int, int | None]


def _as_page_range(index: int, page: int, count: int, state: _State) -> PageRange:
    return PageRange(
        index=index,
        address=page * _PAGE,
        count=count,
        mapcount=state.mapcount,
        set_bits=state.set_bits,
        known_bits=state.known_bits,
    )


def _states() -> st.SearchStrategy[_State]:
    raced = _State(1 << Fact.RACED, 1 << Fact.RACED, (0, None))
    others = [raced, *map(_other_page, (Fact.ZERO, Fact.SWAPPED, Fact.GUARD))]
    bits = st.integers(0, (1 << len(_FREE)) - 1)
    ordinary = st.builds(_ordinary_page, bits, bits, _mapcounts())
    return st.one_of(ordinary, ordinary, st.sampled_from(others))


#: What can be anything on an ordinary page.
_FREE = (
    *tuple(Fact)[: Fact.PRESENT],
    *(Fact.ANON, Fact.DIRTY, Fact.HUGE, Fact.SOFTDIRTY, Fact.KSM),
)


def _ordinary_page(known: int, value: int, mapcount: tuple[int, int | None]) -> _State:
    """A page in memory that the RFC lists."""
    lo, hi = mapcount
    facts: dict[Fact, bool | None] = {
        fact: bool(value >> bit & 1) if known >> bit & 1 else None for bit, fact in enumerate(_FREE)
    }
    anonymous = facts[Fact.ANON]
    facts |= {
        Fact.PRESENT: True,
        Fact.NORMAL: True if lo else None,
        Fact.FILE: None if anonymous is None else not anonymous,
        Fact.EXCLUSIVE: True if lo == hi == 1 else False if lo > 1 or hi == 0 else None,
        Fact.SHARED: True if lo > 1 else False if hi in (0, 1) else None,
        Fact.PORD: _either(facts[Fact.PTEDIRTY], facts[Fact.PAGEDIRTY]),
        Fact.TOUCHED: _either(facts[Fact.YOUNG], facts[Fact.REFERENCED]) or None,
        **dict.fromkeys((Fact.SWAPPED, Fact.GUARD, Fact.RACED), False),
    }
    return _state(facts, mapcount)


def _other_page(what: Fact) -> _State:
    """The zero page, one that is swapped out, a guard page: the RFC lists none of them."""
    facts: dict[Fact, bool | None] = dict.fromkeys(Fact, False)
    facts[what] = True
    facts[Fact.PRESENT] = what == Fact.ZERO
    facts[Fact.DIRTY] = what == Fact.SWAPPED
    facts[Fact.SOFTDIRTY] = None
    return _state(facts, (0, 0))


def _mapcounts() -> st.SearchStrategy[tuple[int, int | None]]:
    big = (1 << 32) - 2
    odd = [(0, 0), (0, None), (0, 2), (1, 2), (2, None), (big, big), (3, big)]
    usual: list[tuple[int, int | None]] = [(1, 1), (1, None), (2, 2)]
    return st.sampled_from([*usual, *odd])


def _either(left: bool | None, right: bool | None) -> bool | None:
    if left or right:
        return True
    return None if left is None or right is None else False


def _state(facts: dict[Fact, bool | None], mapcount: tuple[int, int | None]) -> _State:
    set_bits = sum(1 << fact for fact, value in facts.items() if value)
    known_bits = sum(1 << fact for fact, value in facts.items() if value is not None)
    return _State(set_bits, known_bits, mapcount)


@st.composite
def _plain_ranges(draw: st.DrawFn, first: int, pages: int) -> list[PlainRange]:
    """Ranges in ascending order within the pages of a mapping."""
    steps = st.tuples(st.sampled_from([0, 0, 0, 1, 2, 7]), st.integers(1, 9), _states())
    ranges, at = [], first
    for gap, count, state in draw(st.lists(steps, max_size=5)):
        if at + gap + count > first + pages:
            break
        ranges.append(PlainRange(at + gap, count, *state))
        at += gap + count
    return ranges


# ---- mappings


@st.composite
def _mapping(draw: st.DrawFn, first: int, objects: list[PlainObject]) -> PlainMapping:
    """A mapping that begins at a page."""
    pages = draw(st.integers(1, _MOST_PAGES))
    mapping = PlainMapping(
        start=first * _PAGE,
        end=(first + pages) * _PAGE,
        perms=draw(st.sampled_from(["r--p", "r-xp", "rw-p", "rwxp", "---p", "rw-s", "r--s"])),
        name=draw(mapping_names()),
    )
    draw(_identity(mapping))
    mapping.ranges = draw(_plain_ranges(first, pages))
    draw(_counters(mapping))
    mapping.evidence = draw(_evidence(mapping.ranges))
    if mapping.kind == Kind.FILE and draw(st.booleans()):
        mapping.object = len(objects)
        objects.append(draw(_object(mapping)))
    return mapping


@st.composite
def _identity(draw: st.DrawFn, mapping: PlainMapping) -> None:
    """Give it the kind, device and indexes that go with its name."""
    first = mapping.start // _PAGE
    if mapping.name.startswith("/"):
        mapping.kind = draw(st.sampled_from([Kind.FILE, Kind.FILE, Kind.SHMEM]))
        mapping.dev = (draw(st.sampled_from([0, 3, 0xFE])), draw(st.integers(0, 1 << 20)))
        mapping.inode = draw(st.integers(1, (1 << 64) - 1))
        mapping.index = draw(st.integers(0, 1000) | st.integers(0, 1 << 40))
        mapping.offset = mapping.index * _PAGE
        mapping.index_exact = True
    elif mapping.name in ("", "[heap]", "[stack]") or mapping.name.startswith("[anon:"):
        mapping.kind = Kind.ANON
        # Memory that was moved by mremap keeps the index of where it was.
        mapping.index = draw(st.just(first) | st.just(first) | st.integers(0, _HIGHEST_PAGE))
    else:
        mapping.kind = Kind.SPECIAL


@st.composite
def _counters(draw: st.DrawFn, mapping: PlainMapping) -> None:
    kib = st.integers(0, 1 << 20).map(lambda number: number * 1024)
    values = st.dictionaries(st.sampled_from(COUNTERS), kib, max_size=2)
    mapping.before = draw(values)
    mapping.after = draw(st.just(dict(mapping.before)) | values)
    mapping.counters_moved = mapping.before != mapping.after
    mapping.vmflags = draw(st.sampled_from(["", "rd ex mr mw me sd", "rd wr mr mw me ac nh"]))
    mapping.dirty_bounds = draw(st.sampled_from([None, (0, 0), (0, 1), (0, _MOST_PAGES)]))
    if draw(st.booleans()):
        mapping.extra = "FutureCounter:       4 kB\n"
        mapping.trouble, mapping.raced_pages, mapping.drifted_pages = 0x402, 3, 7


@st.composite
def _evidence(draw: st.DrawFn, ranges: list[PlainRange]) -> tuple[int, ...]:
    """Some source for every fact that is known of some page."""
    known = 1 << MAPCOUNT if ranges else 0
    for item in ranges:
        known |= item.known_bits
    masks = st.sampled_from([1 << Source.PAGEMAP, 1 << Source.PTE, 1 << Source.SMAPS, 0b110])
    odd, even = draw(masks), draw(masks)
    sources = (even if fact % 2 else odd for fact in range(MAPCOUNT + 1))
    return tuple(mask if known >> fact & 1 else 0 for fact, mask in enumerate(sources))


@st.composite
def _object(draw: st.DrawFn, mapping: PlainMapping) -> PlainObject:
    item = PlainObject(name=mapping.name, dev=mapping.dev, inode=mapping.inode, status=0)
    item.status, item.err = draw(st.sampled_from([(0, 0), (0, 0), (1, 0), (2, 13), (3, 0)]))
    if item.status == 0:
        half = mapping.start + (mapping.end - mapping.start) // (2 * _PAGE) * _PAGE
        kind = draw(st.integers(0, len(PARTS) - 2))
        item.parts = [(kind, mapping.start, half), (kind + 1, half, mapping.end)]
        item.parts = [part for part in item.parts if part[1] < part[2]]
    return item


# ---- snapshots


@st.composite
def plain_snapshots(draw: st.DrawFn) -> PlainSnapshot:
    """Snapshots as plain values, of 4 KiB pages; what the file formats hold."""
    mappings: list[PlainMapping] = []
    objects: list[PlainObject] = []
    at = draw(st.integers(16, _HIGHEST_PAGE))
    for gap in draw(st.lists(st.sampled_from([0, 0, 1, 1000]), max_size=4)):
        mappings.append(draw(_mapping(at + gap, objects)))
        at = mappings[-1].end // _PAGE
    snapshot = PlainSnapshot(mappings, objects, page_size=_PAGE)
    draw(_process(snapshot))
    return snapshot


@st.composite
def _process(draw: st.DrawFn, snapshot: PlainSnapshot) -> None:
    big = st.integers(0, (1 << 64) - 2)
    snapshot.pid = draw(st.integers(0, 1 << 22))
    snapshot.comm = draw(st.sampled_from(["", "python", "a b\tc", "\udcff"]))
    snapshot.start_time, snapshot.captured_ns = draw(big), draw(big)
    names = st.sampled_from(["vm_hwm", "vm_rss", "vm_pte", "vm_swap"])
    snapshot.status = draw(st.dictionaries(names, big))
    sources = st.sets(st.sampled_from(Source))
    snapshot.sources = tuple(sorted(draw(sources)))
    snapshot.complete, snapshot.self_capture = draw(st.booleans()), draw(st.booleans())
    snapshot.stopped_ns = draw(st.sampled_from([0, 1, 10**9]))
    snapshot.appeared = draw(st.sampled_from([0, 0, 2]))
    snapshot.raced_pages = sum(mapping.raced_pages for mapping in snapshot.mappings)


def snapshots() -> st.SearchStrategy[Snapshot]:
    """Snapshots, as :func:`pytest_pmaps.snapshot` takes them."""
    # The engine is loaded when the first one is built, not by importing this module.
    return plain_snapshots().map(_as_snapshot)


def _as_snapshot(plain: PlainSnapshot) -> Snapshot:
    from .snapshots import Snapshot

    return Snapshot.from_plain(plain)


def rfc_texts() -> st.SearchStrategy[str]:
    """Texts in the RFC's form, with tabs or, as in the mail archive, with spaces."""
    spellings: list[Callable[[str], str]] = [str, _with_spaces, _as_in_archive]
    return st.builds(
        lambda plain, spell: spell(rfctext.render(plain)),
        plain_snapshots(),
        st.sampled_from(spellings),
    )


def _with_spaces(text: str) -> str:
    return "\n".join(
        line if "-" in line else line.replace("\t", " ")
        for line in text.split("\n")  # names may hold what splitlines() splits at
    )


def _as_in_archive(text: str) -> str:
    return f"# cat /proc/$$/pmaps\n{text}[...]\n"
