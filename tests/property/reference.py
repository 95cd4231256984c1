"""The file formats read a second time, as plainly as possible.

Written from the format's description alone, to agree or disagree with ``pytest_pmaps``.
Each reader gives builtins, or None for what it does not accept.
"""

import json
from itertools import pairwise

PAGE = 4096
LETTERS = "YRAUPDW"
FACTS = (
    *(
        "young",
        "referenced",
        "active",
        "uptodate",
        "ptedirty",
        "pagedirty",
        "writeback",
    ),
    *(
        "present",
        "normal",
        "swapped",
        "file",
        "anon",
        "exclusive",
        "huge",
    ),
    *(
        "zero",
        "softdirty",
        "uffdwp",
        "ksm",
        "guard",
        "lazyfree",
        "dirty",
    ),
    *(
        "touched",
        "pord",
        "raced",
        "shared",
    ),
)


class No(Exception):
    """Not in the format."""


def need(condition):
    """Refuse the text unless this holds."""
    if not condition:
        raise No


# ---- the RFC's text


def rfc(text):
    """Mappings as (header fields, rows); a row is (index, count, flags, lowest, highest)."""
    try:
        return _rfc(text)
    except No:
        return None


def _rfc(text):
    need("\0" not in text)
    lines = text.split("\n")
    if lines[-1] == "":
        lines = lines[:-1]
    if lines and all(line[-1:] == "\r" for line in lines):
        lines = [line[:-1] for line in lines]
    mappings = []
    for line in lines:
        words = line.replace("\t", " ").strip(" \r")
        if words == "" or words[0] == "#" or words == "[...]":
            continue
        if "-" in words.split(" ")[0]:
            mappings.append((header(line), []))
            if len(mappings) > 1:
                need(mappings[-2][0]["end"] <= mappings[-1][0]["start"])
        else:
            need(mappings)
            mappings[-1][1].append(row(words))
    for fields, rows in mappings:
        need(all(a[0] + a[1] <= b[0] for a, b in pairwise(rows)))
        need(not rows or any(fits(base, fields, rows) for base in bases(fields, rows)))
    return mappings


def header(line):
    """A mapping's fields by name."""
    words = line.split(" ", 1)
    need(len(words) == 2)
    start, _, end = words[0].partition("-")
    need("-" not in end)
    fields = {"start": hexadecimal(start), "end": hexadecimal(end)}
    rest = words[1]
    parts = []
    for _ in range(4):
        part, _, rest = rest.lstrip(" ").partition(" ")
        parts.append(part)
    perms, offset, dev, inode = parts
    need(
        len(perms) == 4
        and all(p in ok for p, ok in zip(perms, ("r-", "w-", "x-", "ps"), strict=True))
    )
    major, colon, minor = dev.partition(":")
    need(colon)
    fields["perms"], fields["offset"] = perms, hexadecimal(offset)
    fields["dev"] = hexadecimal(major, 8), hexadecimal(minor, 8)
    fields["inode"] = decimal(inode, 2**64)
    fields["name"] = rest.lstrip(" ").replace("\\012", "\n")
    need(all(not 0xD800 <= ord(c) < 0xDC80 and not 0xDD00 <= ord(c) < 0xE000 for c in rest))
    need(fields["start"] < fields["end"])
    need(all(fields[name] % PAGE == 0 for name in ("start", "end", "offset")))
    return fields


def row(words):
    """A range's index, count, flags, and the ends of its mapcount."""
    parts = [part for part in words.split(" ") if part]
    need(len(parts) == 4)
    index, count, flags, mapcount = parts
    index, count = decimal(index, 2**64), decimal(count, 2**64)
    need(count > 0 and index + count <= 2**64)
    need(len(flags) == 7)
    need(all(flag in (letter, "_", "?") for flag, letter in zip(flags, LETTERS, strict=True)))
    return (index, count, flags, *ends(mapcount))


def ends(mapcount):
    """Lowest and highest; None where there is no bound."""
    if mapcount == "?":
        return 1, None
    lo, dots, hi = mapcount.partition("..")
    hi = lo if not dots else hi
    lo = decimal(lo, 2**32 - 1)
    hi = None if hi == "?" and dots else decimal(hi, 2**32 - 1)
    need(hi is None or lo <= hi)
    return lo, hi


def bases(fields, rows):
    """Where the indexes may begin; anonymous memory may have been moved from anywhere."""
    if fields["inode"] or fields["name"][:1] == "/":
        return [fields["offset"] // PAGE]
    return [fields["offset"] // PAGE, fields["start"] // PAGE, 0, rows[0][0]]


def fits(base, fields, rows):
    """Whether all rows lie in the mapping if its first page has this index."""
    pages = (fields["end"] - fields["start"]) // PAGE
    return base <= rows[0][0] and rows[-1][0] + rows[-1][1] <= base + pages


def hexadecimal(text, digits=16):
    """A number as maps prints addresses."""
    need(1 <= len(text) <= digits and all(c in "0123456789abcdefABCDEF" for c in text))
    return int(text, 16)


def decimal(text, limit):
    """A number below the limit."""
    need(1 <= len(text) <= 20 and all(c in "0123456789" for c in text))
    need(int(text) < limit)
    return int(text)


# ---- JSON: only what the values mean; what is refused is the package's own to say


def snapshot(text):
    """What a well-formed snapshot holds, by name."""
    data = json.loads(text)
    plain = {key: data[key] for key in _HEAD}
    plain["sources"] = data["sources"].split()
    plain["objects"] = [_object(item) for item in data["objects"]]
    plain["mappings"] = [_mapping(item, data["page_size"]) for item in data["mappings"]]
    return plain


_HEAD = (
    "pid",
    "comm",
    "start_time",
    "captured_ns",
    "page_size",
    "complete",
    "self_capture",
    "appeared",
    "raced_pages",
    "status",
)

_USUAL = {
    **dict.fromkeys(("offset", "inode", "trouble", "raced_pages", "drifted_pages"), 0),
    **dict.fromkeys(("vmflags", "extra"), ""),
    **dict.fromkeys(("index_exact", "counters_moved"), False),
    **dict.fromkeys(("dirty_bounds", "object")),
}


def _dev(text):
    return [int(part, 16) for part in text.split(":")]


def _object(item):
    parts = [[name, int(start, 16), int(end, 16)] for name, start, end in item["parts"]]
    return {**item, "dev": _dev(item["dev"]), "parts": parts}


def _mapping(item, page_size):
    start, end = int(item["start"], 16), int(item["end"], 16)
    plain = {name: item.get(name, usual) for name, usual in _USUAL.items()}
    plain |= {name: item[name] for name in ("perms", "name", "kind", "index")}
    plain |= {"start": start, "end": end, "dev": _dev(item.get("dev", "0:0"))}
    plain["before"] = item.get("counters", {})
    plain["after"] = item.get("counters_after", plain["before"])
    plain["evidence"] = _evidence(item.get("evidence", {}))
    plain["ranges"] = [_range(r, start // page_size - item["index"]) for r in item["ranges"]]
    return plain


def _evidence(item):
    return {
        fact: sorted(set(sources.split()))
        for sources, facts in item.items()
        for fact in facts.split()
    }


def _range(item, shift):
    index, count, flags, mapcount, words = item
    lo, hi = mapcount if isinstance(mapcount, list) else (mapcount, mapcount)
    words = words.split()
    facts = dict.fromkeys(FACTS[7:], None if "?*" in words else False)
    for word in words:
        if word != "?*":
            facts[word.lstrip("?!")] = {"?": None, "!": False}.get(word[0], True)
    for name, flag in zip(FACTS, flags, strict=False):
        facts[name] = {"?": None, "_": False}.get(flag, True)
    return [index + shift, count, lo, hi, facts]
