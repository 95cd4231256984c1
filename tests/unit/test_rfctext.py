"""The RFC's text form: what it says, and what is refused."""

import re
from pathlib import Path

import pytest

from pytest_pmaps.errors import FormatError
from pytest_pmaps.model import MAPCOUNT, Fact, Kind, Source
from pytest_pmaps.plain import PlainMapping, PlainRange, PlainSnapshot
from pytest_pmaps.rfctext import parse, render

SAMPLE = """\
# cat /proc/$$/pmaps
08048000-080c9000 r-xp 08048000 00:00 0
32840 129 Y_A_P__ 1
080c9000-080f6000 rwxp 080c9000 00:00 0 [heap]
32969 45 Y_A_P__ 1
f7dba000-f7dc3000 r-xp 00000000 03:00 176633 /lib/libnss_files-2.3.6.so
0 1 Y_AU___ 1
1 1 YR_U___ 1
5 1 YR_U___ 1
8 1 Y_AU___ 1
f7dc3000-f7dc5000 rwxp 00008000 03:00 176633 /lib/libnss_files-2.3.6.so
8 2 Y_A_P__ 1
f7dc5000-f7dcd000 r-xp 00000000 03:00 176635 /lib/libnss_nis-2.3.6.so
0 1 Y_AU___ 1
1 1 YR_U___ 1
4 1 YR_U___ 1
7 1 Y_AU___ 1
f7dcd000-f7dcf000 rwxp 00007000 03:00 176635 /lib/libnss_nis-2.3.6.so
7 2 Y_A_P__ 1
f7dcf000-f7de1000 r-xp 00000000 03:00 176630 /lib/libnsl-2.3.6.so
0 1 Y_AU___ 1
1 3 YR_U___ 1
16 1 YR_U___ 1
f7de1000-f7de3000 rwxp 00011000 03:00 176630 /lib/libnsl-2.3.6.so
17 2 Y_A_P__ 1
[...]
"""

# Ten pages of a file from page 4 on, and twenty of anonymous memory.
FILE = "00100000-0010a000 r-xp 00004000 fe:00 7 /lib/libfoo.so\n"
ANON = "00200000-00214000 rw-p 00000000 00:00 0 \n"

PRESENT, NORMAL = 1 << Fact.PRESENT, 1 << Fact.NORMAL


def rows(text, mapping=FILE):
    """The listed ranges of one mapping: page, count, flags, mapcount."""
    [read] = parse(mapping + text).mappings
    return [(r.page, r.count, r.mapcount) for r in read.ranges if r.set_bits & PRESENT]


def refused(text):
    """What the error says, with its line."""
    with pytest.raises(FormatError) as caught:
        parse(text)
    return str(caught.value)


# ---- reading


def test_sample_of_2007_reads():
    """The one in the proposal, as the mail archive keeps it: spaces for tabs, and cut."""
    snapshot = parse(SAMPLE)
    assert [
        (m.name, m.index, sum(r.count for r in m.ranges if r.set_bits & PRESENT))
        for m in snapshot.mappings
    ] == [
        ("", 32840, 129),
        ("[heap]", 32969, 45),
        ("/lib/libnss_files-2.3.6.so", 0, 4),
        ("/lib/libnss_files-2.3.6.so", 8, 2),
        ("/lib/libnss_nis-2.3.6.so", 0, 4),
        ("/lib/libnss_nis-2.3.6.so", 7, 2),
        ("/lib/libnsl-2.3.6.so", 0, 5),
        ("/lib/libnsl-2.3.6.so", 17, 2),
    ]
    assert snapshot.complete is False


def test_sample_writes_with_tabs():
    """As the patch does; names go to the column where a 64-bit kernel prints them."""
    lines = render(parse(SAMPLE)).splitlines()
    assert lines[:4] == [
        "08048000-080c9000 r-xp 08048000 00:00 0 ",
        "32840\t129\tY_A_P__\t1",
        "080c9000-080f6000 rwxp 080c9000 00:00 0" + " " * 34 + "[heap]",
        "32969\t45\tY_A_P__\t1",
    ]


def test_real_maps_come_back_byte_for_byte():
    """A mapping line is what /proc/PID/maps prints."""
    maps = Path("/proc/self/maps").read_bytes().decode("utf-8", "surrogateescape")
    assert render(parse(maps)) == maps


def test_newline_in_a_name_is_escaped():
    """As the kernel does; nothing else is."""
    text = FILE.replace("libfoo", "a\\012 b\\x")
    assert parse(text).mappings[0].name == "/lib/a\n b\\x.so"
    assert render(parse(text)).split() == text.split()


def test_mapping_line_gives_all_its_fields():
    """Numbers as they are meant: hexadecimal but for the inode."""
    [mapping] = parse("7f00000000-7f00001000 rw-s 0000f000 fe:1a 123 /x (deleted)\n").mappings
    assert (mapping.start, mapping.end, mapping.perms, mapping.offset) == (
        0x7F00000000,
        0x7F00001000,
        "rw-s",
        0xF000,
    )
    assert (mapping.dev, mapping.inode, mapping.name) == ((0xFE, 0x1A), 123, "/x (deleted)")


@pytest.mark.parametrize(
    ("tail", "kind"),
    [
        ("fe:00 1 /lib/libfoo.so", Kind.FILE),
        ("00:21 1 /tmp/x", Kind.UNKNOWN),
        ("00:01 1 /memfd:x (deleted)", Kind.SHMEM),
        ("00:01 1 /dev/zero (deleted)", Kind.SHMEM),
        ("00:00 0 [heap]", Kind.ANON),
        ("00:00 0 [anon:jit]", Kind.ANON),
        ("00:00 0 ", Kind.ANON),
        ("00:00 0 [vdso]", Kind.SPECIAL),
        ("00:0f 1 /anon_hugepage (deleted)", Kind.HUGETLB),
    ],
)
def test_kind_is_what_the_line_tells(tail, kind):
    """On an overlay, tmpfs or btrfs, device 0:n, a path may be of either kind."""
    assert parse(f"00100000-00101000 rw-p 00000000 {tail}\n").mappings[0].kind == kind


def test_flags_are_set_clear_or_unknown():
    """In the order YRAUPDW."""
    [item] = parse(FILE + "4\t10\tY_?_P?_\t1\n").mappings[0].ranges
    assert [
        "?" if not item.known_bits >> bit & 1 else item.set_bits >> bit & 1 for bit in range(7)
    ] == [1, 0, "?", 0, 1, "?", 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", (3, 3)), ("1..2", (1, 2)), ("2..?", (2, None)), ("?", (1, None)), ("0..?", (0, None))],
)
def test_mapcounts_are_intervals(text, expected):
    """A question mark alone means that the page is mapped."""
    assert rows(f"4\t10\t_______\t{text}\n") == [(0x100, 10, expected)]


def test_mapped_page_is_an_ordinary_page():
    """The RFC lists no others; with a mapcount of perhaps 0 it could be one."""
    sure, unsure = (parse(FILE + f"4\t10\t_______\t{m}\n").mappings[0].ranges[0] for m in "1?")
    assert (sure.known_bits & NORMAL, unsure.known_bits & NORMAL) == (NORMAL, NORMAL)
    perhaps = parse(FILE + "4\t10\t_______\t0..2\n").mappings[0].ranges[0]
    assert perhaps.known_bits & (PRESENT | NORMAL) == PRESENT


def test_page_that_is_not_listed_may_be_swapped():
    """It is no ordinary page in memory; what else it is the text does not say."""
    before, _, after = parse(FILE + "6\t2\t_______\t1\n").mappings[0].ranges
    assert [(r.page, r.count, r.set_bits, r.mapcount) for r in (before, after)] == [
        (0x100, 2, 0, (0, 0)),
        (0x104, 6, 0, (0, 0)),
    ]
    unknown = (PRESENT, 1 << Fact.SWAPPED, 1 << Fact.ZERO, 1 << Fact.DIRTY)
    assert [before.known_bits & bit for bit in (NORMAL, *unknown)] == [NORMAL, 0, 0, 0, 0]


def test_evidence_is_the_text():
    """For every fact that it tells of some page."""
    [mapping] = parse(FILE + "4\t10\tY??????\t1\n").mappings
    told = {fact for fact in range(MAPCOUNT + 1) if mapping.evidence[fact]}
    assert {Fact.YOUNG, Fact.PRESENT, Fact.NORMAL, MAPCOUNT} <= told
    assert told.isdisjoint({Fact.REFERENCED, Fact.SWAPPED, Fact.DIRTY})
    assert {mapping.evidence[fact] for fact in told} == {1 << Source.TEXT}


@pytest.mark.parametrize(
    "text",
    [
        FILE.replace("\n", "\r\n") + "4\t1\t_______\t1\r\n",
        FILE + "4 1 _______ 1\n",
        FILE + "  4 \t 1  _______\t1  \n",
        "\n\n# a comment\n" + FILE + "\n# another\n4\t1\t_______\t1",
    ],
)
def test_layout_is_forgiven(text):
    """CRLF, spaces, blank lines, comments, no newline at the end."""
    [mapping] = parse(text).mappings
    assert (mapping.name, mapping.ranges[0].count) == ("/lib/libfoo.so", 1)


def test_cut_text_is_incomplete():
    """The archive's ``[...]`` stands for what is missing."""
    assert (parse(FILE).complete, parse(FILE + "[...]\n").complete) == (True, False)


# ---- where the page indexes begin


def _base(header, index):
    [mapping] = parse(f"{header}\n{index}\t1\t_______\t1\n").mappings
    page = next(r.page for r in mapping.ranges if r.set_bits & PRESENT)
    return mapping.index, mapping.index_exact, page - mapping.start // 4096


STACK = "7ffeb9dcf000-7ffeb9df0000 rw-p 00000000 00:00 0 [stack]"


@pytest.mark.parametrize(
    ("header", "index", "expected"),
    [
        (FILE.strip(), 6, (4, True, 2)),
        (ANON.strip(), 0x202, (0x200, False, 2)),
        ("08048000-080c9000 r-xp 08048000 00:00 0", 32842, (32840, True, 2)),
        (STACK, 0x7FFFFFFFE, (0x7FFFFFFFF - 33, False, 32)),
        (STACK, 0xFFFFFFFFFFE, (0xFFFFFFFFFFF - 33, False, 32)),
        (STACK, 0x7FFEB9DCF, (0x7FFEB9DCF, False, 0)),
        ("7ffeb9df5000-7ffeb9df7000 r-xp 00000000 00:00 0 [vdso]", 1, (0, False, 1)),
        (ANON.strip(), 77, (77, False, 0)),
        ("00200000-00203000 rw-s 00007000 00:01 9 /dev/zero (deleted)", 8, (7, True, 1)),
    ],
)
def test_page_index_leads_to_the_page(header, index, expected):
    """File offset; address; the stack's and vdso's own; moved by mremap, a guess."""
    assert _base(header, index) == expected


# ---- writing


def snapshot_of(*ranges, **fields):
    """A snapshot of one file mapping with these ranges."""
    mapping = PlainMapping(0x100000, 0x10A000, "r-xp", 0x4000, (0xFE, 0), 7, "/lib/libfoo.so")
    mapping.index, mapping.ranges = 4, list(ranges)
    for name, value in fields.items():
        setattr(mapping, name, value)
    return PlainSnapshot([mapping])


def listed(page, count, set_bits=0, known_bits=0x7F, mapcount=(1, 1)):
    """A range that the RFC lists."""
    bits = PRESENT | NORMAL
    return PlainRange(page, count, set_bits | bits, known_bits | bits, mapcount)


def rows_of(snapshot):
    """The lines of its ranges."""
    return render(snapshot).splitlines()[1:]


def test_equal_neighbours_become_one_range():
    """The RFC breaks at a gap, a flag and a mapcount; not at what it does not show."""
    beyond = 1 << Fact.SOFTDIRTY
    assert rows_of(
        snapshot_of(
            listed(0x100, 1),
            listed(0x101, 2, known_bits=0x7F | beyond, set_bits=beyond),
            listed(0x103, 1, set_bits=1),
            listed(0x104, 1, set_bits=1, mapcount=(1, 2)),
            listed(0x106, 1, set_bits=1, mapcount=(1, 2)),
        )
    ) == [
        "4\t3\t_______\t1",
        "7\t1\tY______\t1",
        "8\t1\tY______\t1..2",
        "10\t1\tY______\t1..2",
    ]


@pytest.mark.parametrize(
    ("set_bits", "known_bits", "expected"),
    [
        (PRESENT, PRESENT | NORMAL, []),
        (0, PRESENT, []),
        (0, 0, []),
        (1 << Fact.SWAPPED, PRESENT | 1 << Fact.SWAPPED, []),
        (PRESENT, PRESENT, ["4\t1\t???????\t?"]),
    ],
)
def test_only_pages_that_the_rfc_lists_are_written(set_bits, known_bits, expected):
    """Present, and not known to be anything but ordinary."""
    assert rows_of(snapshot_of(PlainRange(0x100, 1, set_bits, known_bits, (1, None)))) == expected


@pytest.mark.parametrize("text", ["3", "1..2", "2..?", "?", "0", "0..?", "0..1"])
def test_mapcounts_come_back(text):
    """In their shortest form."""
    assert rows_of(parse(f"{FILE}4\t10\t_______\t{text}\n")) == [f"4\t10\t_______\t{text}"]


# ---- refusing

BAD_ROWS = {
    "4\t1\t_______\n": "neither a mapping nor a page range",
    "4\t1\t_______\t1\t1\n": "neither a mapping nor a page range",
    "Rss:   4 kB\n": "neither a mapping nor a page range",
    "\x0b\n": "neither a mapping nor a page range",
    "4\t0\t_______\t1\n": "no pages",
    "4\t1\t______\t1\n": "are not the seven flags",
    "4\t1\tR______\t1\n": "'R' among the flags, where Y, _ or ? belongs",
    "4\t1\t_______\t2..1\n": "from 2 down to 1",
    "4\t1\t_______\t4294967295\n": "too large",
    "4\t1\t_______\t1..\n": "'' is no decimal number",
    "4\t1\t_______\t-1\n": "'-1' is no decimal number",
    "4\t٣\t_______\t1\n": "is no decimal number",
    "0x4\t1\t_______\t1\n": "'0x4' is no decimal number",
    "18446744073709551616\t1\t_______\t1\n": "too large",
    "18446744073709551615\t2\t_______\t1\n": "beyond any page index",
    f"{'9' * 5000}\t1\t_______\t1\n": "is no decimal number",
    "3\t1\t_______\t1\n": "page indexes 3..3 lie outside the mapping, which has 4..13",
    "13\t2\t_______\t1\n": "page indexes 13..14 lie outside the mapping, which has 4..13",
    "4\t1\t____\0__\t1\n": "NUL byte",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_bad_page_range_is_refused_with_its_line(row):
    """The reason says what is wrong with it."""
    assert re.fullmatch(f"line 2: .*{re.escape(BAD_ROWS[row])}.*", refused(FILE + row))


BAD_HEADERS = {
    "00100000-0010a000 r-xp\n": "no mapping as /proc/PID/maps prints it",
    "0010000g-0010a000 r-xp 00000000 fe:00 7 /x\n": "'0010000g' is no hexadecimal",
    "00100000-12345678123456781 r-xp 00000000 fe:00 7 /x\n": "is no hexadecimal",
    "00100000-00100000 r-xp 00000000 fe:00 7 /x\n": "ends where it begins",
    "0010a000-00100000 r-xp 00000000 fe:00 7 /x\n": "ends where it begins, or before",
    "00100001-0010a000 r-xp 00000000 fe:00 7 /x\n": "does not lie on a page of 4096 bytes",
    "00100000-0010a000 r-xp 00000800 fe:00 7 /x\n": "does not lie on a page",
    "00100000-0010a000 r-x 00000000 fe:00 7 /x\n": "'r-x' are no permissions",
    "00100000-0010a000 r-xp 00000000 123456789:00 7 /x\n": "is no hexadecimal",
    "00100000-0010a000 r-xp 00000000 fe:00 18446744073709551616 /x\n": "too large",
    "00100000-0010a000 r-xp 00000000 fe:00 -7 /x\n": "is no decimal number",
    "00100000-0010a000 r-xp 00000000 fe:00 7 /\ud800\n": "characters that no file name can",
}


@pytest.mark.parametrize("header", BAD_HEADERS)
def test_bad_mapping_is_refused_with_its_line(header):
    """The reason says what is wrong with it."""
    assert re.fullmatch(f"line 2: .*{re.escape(BAD_HEADERS[header])}.*", refused("\n" + header))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4\t1\t_______\t1\n", "line 1: a page range before any mapping"),
        (FILE + FILE, "line 2: this mapping begins before the last one ends"),
        (ANON + FILE, "line 2: this mapping begins before the last one ends"),
        (FILE + "5\t1\t_______\t1\n4\t1\t_______\t1\n", "line 3: this page range begins"),
        (FILE + "4\t2\t_______\t1\n5\t1\t_______\t1\n", "line 3: this page range begins before"),
        (ANON + "5\t1\t_______\t1\n30\t1\t_______\t1\n", "line 2: page indexes 5..5 lie outside"),
    ],
)
def test_what_does_not_fit_together_is_refused(text, expected):
    """Order, overlap, extent."""
    assert refused(text)[: len(expected)] == expected


def test_stray_range_is_named_even_if_a_mapping_follows():
    """The trouble is noticed at the next mapping, and told of the range."""
    assert refused(FILE + "4\t1\t_______\t1\n20\t1\t_______\t1\n" + ANON).startswith("line 3: ")


def test_long_line_takes_no_long_time():
    """No expression goes back and forth over it."""
    assert refused("-" * 1_000_000 + "\n").startswith("line 1: ")


@pytest.mark.parametrize("size", [0, -4096, 3000])
def test_page_size_is_a_power_of_two(size):
    """It is the caller's, not the text's."""
    with pytest.raises(ValueError, match="page size"):
        parse("", page_size=size)


def test_other_page_sizes_read():
    """With 64 KiB pages an offset of 0x40000 is page 4."""
    [mapping] = parse("00100000-00120000 r-xp 00040000 fe:00 7 /x\n4 2 _______ 1\n", 65536).mappings
    assert (mapping.index, mapping.ranges[0].page) == (4, 16)
