"""Ten thousand broken files of each format: refused as such, or read right."""

import random
from pathlib import Path

import pytest

from property import reference
from property.flat import everything, joined, rfc_fields
from pytest_pmaps import jsonfile, rfctext
from pytest_pmaps.errors import FormatError
from pytest_pmaps.model import MAPCOUNT, Fact, Kind, Source
from pytest_pmaps.plain import PlainMapping, PlainObject, PlainRange, PlainSnapshot

ROUNDS = 10_000
PRESENT = 1 << Fact.PRESENT | 1 << Fact.NORMAL


def corpus():
    """One snapshot with something of everything."""
    ranges = [
        PlainRange(0x100, 2, PRESENT | 0x13, PRESENT | 0x1F, (1, 1)),
        PlainRange(0x102, 1, PRESENT, PRESENT | 0x7F, (1, None)),
        PlainRange(0x105, 4, PRESENT, PRESENT | 1 << Fact.HUGE, (2, 3)),
        PlainRange(0x109, 1, 1 << Fact.SWAPPED, 0x1FFFFFF, (0, 0)),
    ]
    file = PlainMapping(0x100000, 0x10A000, "r-xp", 0x4000, (0xFE, 1), 7, "/lib/libfoo.so")
    file.kind, file.index, file.index_exact, file.object = Kind.FILE, 4, True, 0
    file.before = file.after = {"rss": 4096, "pss": 100}
    file.evidence = (1 << Source.PTE,) * (MAPCOUNT + 1)
    file.ranges = ranges
    heap = PlainMapping(0x200000, 0x214000, "rw-p", name="[heap]", kind=Kind.ANON, index=0x200)
    heap.ranges = [PlainRange(0x202, 9, PRESENT, PRESENT | 0x7F, (1, 1))]
    heap.dirty_bounds, heap.before, heap.after = (0, 3), {"swap": 0}, {}
    stack = PlainMapping(0x7FFEB9DCF000, 0x7FFEB9DF0000, "rw-p", name="[stack]", kind=Kind.ANON)
    stack.index = 0x7FFFFFFFF - 33
    stack.ranges = [PlainRange(0x7FFEB9DEF, 1, PRESENT, PRESENT, (1, 1))]
    objects = [PlainObject("/lib/libfoo.so", (0xFE, 1), 7, 0, 0, [(0, 0x100000, 0x104000)])]
    nameless = PlainMapping(0x300000, 0x301000, "---p", kind=Kind.ANON, index=0x300)
    return PlainSnapshot([file, heap, nameless, stack], objects, sources=(Source.PTE,))


# What is likely to be taken for something else.
PIECES = (
    *("0", "1", "-1", "4294967295", "18446744073709551615", "18446744073709551616", "9" * 30),
    *("0x1", "1e9", "1.5", "true", "null", "NaN", "[", "]", "{", "}", '"', ",", ":", "..", "?"),
    *("\n", "\r\n", "\r", "\t", " ", "\0", "\x0b", "\x85", "\u2028", "\ud800", "\udc80", "٣"),
    *("#", "[...]", "_", "Y", "-", "rw-p", "/", "\\012", "\\", '"pid": 3, ', "?*", "!huge "),
)


def cut(text, rng):
    """Some characters are gone."""
    at, length = rng.randrange(len(text)), rng.choice([1, 1, 1, 2, 10])
    return text[:at] + text[at + length :]


def put(text, rng):
    """Something is put in."""
    at = rng.randrange(len(text))
    return text[:at] + rng.choice(PIECES) + text[at:]


def replace_word(text, rng):
    """A word becomes another, or something odd."""
    words = text.split(" ")
    words[rng.randrange(len(words))] = rng.choice([*PIECES, rng.choice(words)])
    return " ".join(words)


def replace_field(text, rng):
    """The same between tabs."""
    fields = text.split("\t")
    fields[rng.randrange(len(fields))] = rng.choice([*PIECES[:7], rng.choice(fields)])
    return "\t".join(fields)


def replace_number(text, rng):
    """One digit differs."""
    places = [i for i, c in enumerate(text) if c in "0123456789abcdef"]
    at = rng.choice(places or [0])
    return text[:at] + rng.choice("0123456789abcdef") + text[at + 1 :]


def move_lines(text, rng):
    """A line is gone, elsewhere, or there twice."""
    lines = text.split("\n")
    line = lines.pop(rng.randrange(len(lines)))
    for _ in range(rng.randrange(3)):  # gone, elsewhere, or twice
        lines.insert(rng.randrange(len(lines) + 1), line)
    return "\n".join(lines)


def shorten(text, rng):
    """The end is missing."""
    return text[: rng.randrange(1, len(text) + 1)] if rng.random() < 0.2 else text


MUTATIONS = (cut, put, replace_word, replace_field, replace_number, move_lines, shorten)


def mutants(text, seed):
    """Broken texts, the same ones in every run."""
    rng = random.Random(seed)
    for _ in range(ROUNDS):
        broken = text
        for _ in range(rng.choice([1, 1, 2, 3])):
            broken = rng.choice(MUTATIONS)(broken, rng) or "x"
        yield broken


def outcome(read, text):
    """What it reads as, or None if it is refused; any other exception is a failure."""
    try:
        return read(text)
    except FormatError as error:
        line = error.line
    assert line is None or 1 <= line <= text.count("\n") + 1
    return None


def own_maps():
    """Mappings of this process, as text without any range."""
    maps = Path("/proc/self/maps").read_bytes().decode("utf-8", "surrogateescape")
    return "".join(maps.splitlines(keepends=True)[-12:])


RFC_TEXT = rfctext.render(corpus())


@pytest.mark.parametrize(
    "text",
    [RFC_TEXT, RFC_TEXT.replace("\n", "\r\n"), own_maps()],
    ids=["rendered", "crlf", "maps"],
)
def test_broken_rfc_texts(text):
    """Read exactly if the reference reads them, and then alike."""
    read = 0
    for broken in mutants(text, seed=2007):
        ours = outcome(rfctext.parse, broken)
        theirs = reference.rfc(broken)
        expected = None if theirs is None else [(header, joined(rows)) for header, rows in theirs]
        assert (None if ours is None else rfc_fields(ours)) == expected, broken
        read += ours is not None
    assert ROUNDS * 0.05 < read < ROUNDS * 0.95


def test_broken_json_files():
    """Refused, or read as the reference reads them."""
    text = jsonfile.dump(corpus())
    read = 0
    for broken in mutants(text, seed=2007):
        ours = outcome(jsonfile.parse, broken)
        if ours is not None:
            read += 1
            assert everything(ours) == reference.snapshot(broken), broken
    assert ROUNDS * 0.02 < read < ROUNDS * 0.95
