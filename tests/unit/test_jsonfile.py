"""The JSON form: what it holds, and what is refused."""

import json
import re

import pytest

from pytest_pmaps.errors import FormatError
from pytest_pmaps.jsonfile import dump, parse, parse_with_extra
from pytest_pmaps.model import MAPCOUNT, Fact, Kind, Source
from pytest_pmaps.plain import PlainMapping, PlainObject, PlainRange, PlainSnapshot


def snapshot():
    """Nothing in it has its default value."""
    mapping = PlainMapping(
        start=0x7F0000000000,
        end=0x7F000000A000,
        perms="r-xp",
        offset=0x4000,
        dev=(0xFE, 1),
        inode=7,
        name="/lib/libfoo\udcff.so",
        kind=Kind.FILE,
        index=4,
        index_exact=True,
        vmflags="rd ex",
        extra="New: 1 kB\n",
        before={"rss": 4096, "numa_mapmax": 3},
        after={"rss": 8192},
        counters_moved=True,
        evidence=(3, *(1 << Source.PTE,) * MAPCOUNT),
        trouble=5,
        raced_pages=1,
        drifted_pages=2,
        dirty_bounds=(0, 3),
        object=0,
        ranges=[
            PlainRange(0x7F0000000, 2, 0x83, 0x1FF, (1, 1)),
            PlainRange(0x7F0000002, 1, 0, 0, (1, None)),
            PlainRange(0x7F0000005, 5, 0x1FFFFFF, 0x1FFFFFF, (1, 2)),
        ],
    )
    parts = [(0, 0x7F0000000000, 0x7F0000004000), (4, 0x7F0000004000, 0x7F000000A000)]
    return PlainSnapshot(
        mappings=[mapping, PlainMapping(0x7F0000010000, 0x7F0000011000, "---p")],
        objects=[PlainObject("/lib/libfoo.so", (0xFE, 1), 7, 2, 13, parts)],
        pid=42,
        comm="a b",
        start_time=9,
        captured_ns=1_700_000_000_000_000_000,
        page_size=4096,
        status={"vm_hwm": 1 << 40},
        sources=(Source.MAPS, Source.SMAPS),
        complete=False,
        self_capture=True,
        appeared=3,
        raced_pages=1,
    )


GOOD = dump(snapshot())


def refused(text):
    """What the error says, with its line."""
    with pytest.raises(FormatError) as caught:
        parse(text)
    return str(caught.value)


# ---- what it holds


def test_everything_comes_back():
    """Field by field."""
    assert parse(GOOD) == snapshot()


def test_it_is_json_for_everyone():
    """And plain ASCII, whatever the names hold."""
    assert json.loads(GOOD)["format"] == "pytest-pmaps snapshot"
    assert GOOD.isascii()


def test_one_line_for_each_mapping_and_range():
    """So that two of them compare line by line."""
    lines = GOOD.splitlines()
    ranges = [line for line in lines if re.match(r"\[\d+, ", line)]
    assert ranges == [
        '[4, 2, "YR_____", 1, "present !normal ?*"],',
        '[6, 1, "???????", [1, null], "?*"],',
        f'[9, 5, "YRAUPDW", [1, 2], "{" ".join(f.name.lower() for f in list(Fact)[7:])}"]]}},',
    ]
    assert sum(line.startswith('{"start"') for line in lines) == 2


def test_facts_are_told_the_shorter_way():
    """Unknown ones by name where few are unknown."""
    plain = PlainSnapshot([PlainMapping(0, 4096, "rw-p")])
    known = 0x1FFFFFF & ~(1 << Fact.SOFTDIRTY)
    plain.mappings[0].ranges = [PlainRange(0, 1, 1 << Fact.PRESENT, known, (0, 0))]
    assert '[0, 1, "_______", 0, "present ?softdirty"]' in dump(plain)


def test_empty_snapshot():
    """Of a process that has no memory."""
    assert parse(dump(PlainSnapshot([]))) == PlainSnapshot([])


def test_extra_travels_along():
    """Whatever the caller wants to keep with the snapshot."""
    extra = {"test": "tests/test_x.py::test_y", "numbers": [1, 2.5, None, {"a": True}]}
    text = dump(snapshot(), extra=extra)
    assert parse_with_extra(text) == (snapshot(), extra)
    assert parse_with_extra(GOOD)[1] == {}


@pytest.mark.parametrize("state", range(8))
@pytest.mark.parametrize("others", [0, 0x1FFFF80])
def test_each_fact_comes_back(state, others):
    """Set, clear or unknown, with all others known or not."""
    facts = [Fact(7 + state), Fact(15 + state), Fact.SHARED]
    for set_bits, known in ((1, 1), (0, 1), (0, 0)):
        plain = PlainSnapshot([PlainMapping(0, 4096, "rw-p")])
        bits = sum(1 << fact for fact in facts)
        known_bits = others & ~bits | bits * known
        plain.mappings[0].ranges = [PlainRange(0, 1, bits * set_bits, known_bits, (1, 1))]
        assert parse(dump(plain)) == plain


def test_counters_after_are_told_if_they_differ():
    """Often they are the same, and then need no second telling."""
    for before, after in (({}, {}), ({"rss": 1}, {"rss": 1}), ({"rss": 1}, {}), ({}, {"rss": 1})):
        plain = PlainSnapshot([PlainMapping(0, 4096, "rw-p", before=before, after=after)])
        assert parse(dump(plain)) == plain
        assert ("counters_after" in dump(plain)) is (before != after)


# ---- what is refused


@pytest.mark.parametrize("text", ["[]", "{}", "3", '"x"', "null", '{"format": "other"}', "[[]]"])
def test_foreign_json_is_told_as_such(text):
    """It is well-formed, but not ours."""
    assert refused(text).startswith("line 1: this is JSON, but no pytest-pmaps snapshot")


def test_later_version_is_told_as_such():
    """With the one that is understood."""
    assert refused(GOOD.replace('"version": 1', '"version": 2')) == (
        "line 1: a snapshot of format version 2; this pytest-pmaps understands version 1"
    )


@pytest.mark.parametrize("version", ["0", "true", "1.0", '"1"', "null", "-1"])
def test_odd_version_is_refused(version):
    """There was none before 1."""
    text = GOOD.replace('"version": 1', f'"version": {version}')
    assert refused(text).startswith("line 1: no version of the format")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1: this is no JSON: Expecting value"),
        ("{\n\n", "line 3: this is no JSON: Expecting property name"),
        ("\ufeff{}", "line 1: this is no JSON: Unexpected UTF-8 BOM"),
        ('{"a": 1,\n"b": {"c": 1,\n"c": 2}}', 'line 3: key "c" is there twice'),
        ('{"a": "\\"NaN",\n"b": NaN}', "line 2: NaN is no JSON"),
        ('[1,\n-Infinity\n, "x', "line 2: -Infinity is no JSON"),
        ("[\n" * 100_000, "line 102: nested too deeply"),
        ('{"a":\n' * 100_000, "line 101: nested too deeply"),
        (f"[1,\n{'7' * 5000}]", "line 2: a number of too many digits"),
    ],
    ids=lambda text: text[:12],
)
def test_bad_json_is_refused_with_its_line(text, expected):
    """More strictly than the standard library reads it."""
    assert refused(text)[: len(expected)] == expected


BAD_VALUES = {
    '"pid": 42': [
        ('"pid": true', "line 2: a whole number belongs here, not true or false"),
        ('"pid": 4.5', "line 2: a whole number belongs here, not the number 4.5"),
        ('"pid": -1', "line 2: -1 is out of range"),
        (f'"pid": {"9" * 400}', "line 2: 9999"),
        ('"pit": 42', 'line 1: "pid" is missing'),
        ('"pid": 42, "more": 1', 'line 2: unknown key "more"'),
    ],
    '"page_size": 4096': [
        ('"page_size": 0', "line 2: 0 is out of range"),
        ('"page_size": 4095', "line 2: a page size of 4095 bytes"),
        ('"page_size": 65536', "line 6: end does not lie on a page of 65536 bytes"),
    ],
    '"comm": "a b"': [
        ('"comm": null', "line 2: a string belongs here, not null"),
        ('"comm": "\\u0000"', "line 2: a string with a NUL in it"),
        ('"comm": "\\ud800"', "line 2: a string with characters that no name can hold"),
    ],
    '"complete": false': [('"complete": 0', "line 2: true or false belongs here")],
    '"sources": "maps smaps"': [('"sources": "maps xmaps"', 'line 2: "xmaps" is no source')],
    '"vm_hwm": 1099511627776': [('"vm_hwm": "1"', "line 2: a whole number belongs here")],
    '["text", ': [
        ('["txt", ', 'line 4: "txt" is no part: they are text, rodata'),
        ('[["text"], ', "line 4: a list is no part"),
        ('["text", 1, ', "line 4: a part is its name, start and end"),
    ],
    '"start": "7f0000000000"': [
        ('"start": "7f0000000001"', "line 6: start does not lie on a page of 4096 bytes"),
        ('"start": "7f000000a000"', "line 6: the mapping ends where it begins"),
        ('"start": 7', "line 6: 7 is no address"),
        ('"start": "7F0000000000"', 'line 6: "7F0000000000" is no address'),
    ],
    '"start": "7f0000010000"': [
        ('"start": "7f0000009000"', "line 10: this mapping begins before the last one ends"),
    ],
    '"perms": "r-xp"': [('"perms": "rxp"', 'line 6: "rxp" are no permissions')],
    '"kind": "file"': [('"kind": "files"', 'line 6: "files" is no kind of mapping')],
    '"index": 4': [('"index": 18446744073709551615', "line 6: the mapping ends beyond")],
    '"dev": "fe:01", "inode": 7, "index_exact"': [
        ('"dev": "fe01", "index_exact"', 'line 6: "fe01" is no device'),
    ],
    '"object": 0': [
        ('"object": 1', "line 6: there is no object 1, there are 1"),
        ('"object": null', "line 6: a whole number belongs here, not null"),
    ],
    '"dirty_bounds": [0, 3]': [
        ('"dirty_bounds": [3, 0]', "line 6: bounds are two numbers"),
        ('"dirty_bounds": [3]', "line 6: bounds are two numbers"),
    ],
    '"counters": {"rss"': [
        ('"counters": {"rs"', 'line 6: unknown key "rs"'),
        ('"counters": {"rss": -1, "pss"', "line 6: -1 is out of range"),
    ],
    '"evidence": {"maps': [
        ('"evidence": {"": "young", "maps', "line 6: evidence of no source"),
        ('"evidence": {"smaps": "young", "maps', 'line 6: "young" is no fact, or told twice'),
        ('"evidence": {"smaps": "old", "maps', 'line 6: "old" is no fact'),
    ],
    '[4, 2, "YR_____", 1, "present !normal ?*"]': [
        ('[4, 2, "YR____", 1, ""]', 'line 7: "YR____" are not the seven flags YRAUPDW'),
        ('[4, 2, "RY_____", 1, ""]', 'line 7: "RY_____": flag 1 is none of Y, _ and ?'),
        ('[4, 2, "YR_____", 1]', "line 7: a page range is index, count, flags, mapcount, facts"),
        ('[4, 2, "YR_____", 1, 2]', "line 7: flags and facts are strings"),
        ('[4, 2, "YR_____", [2, 1], ""]', "line 7: a mapcount from 2 down to 1"),
        ('[4, 2, "YR_____", [2], ""]', "line 7: a mapcount is a number or a pair"),
        ('[4, 2, "YR_____", 4294967295, ""]', "line 7: 4294967295 is out of range"),
        ('[4, true, "YR_____", 1, ""]', "line 7: a whole number belongs here"),
        ('[4, 0, "YR_____", 1, ""]', "line 7: this page range is empty, outside"),
        ('[3, 1, "YR_____", 1, ""]', "line 7: this page range is empty, outside"),
        ('[4, 3, "YR_____", 1, ""]', "line 8: this page range is empty, outside"),
        ('[4, 2, "YR_____", 1, "old"]', 'line 7: "old" is no fact'),
        ('[4, 2, "YR_____", 1, "huge huge"]', 'line 7: "huge" is no fact, told twice'),
        ('[4, 2, "YR_____", 1, "!huge"]', 'line 7: "!huge" is no fact, told twice, or marked'),
        ('[4, 2, "YR_____", 1, "?huge ?*"]', 'line 7: "?huge" is no fact, told twice, or marked'),
        ('[4, 2, "YR_____", 1, "young"]', 'line 7: "young" is no fact'),
    ],
    "[9, 5,": [("[9, 6,", "line 9: this page range is empty, outside")],
}


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [(good, *case) for good, cases in BAD_VALUES.items() for case in cases],
)
def test_bad_value_is_refused_with_its_line(good, bad, expected):
    """One value at a time is made wrong."""
    assert GOOD.count(good) == 1
    assert refused(GOOD.replace(good, bad))[: len(expected)] == expected


def test_text_cut_short_is_refused_at_its_end():
    """A file of a full disk."""
    assert refused(GOOD[:-20]).startswith("line 10: this is no JSON")
