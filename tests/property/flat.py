"""Plain snapshots as builtins, to compare with what the reference readers give."""

from pytest_pmaps.model import MAPCOUNT, PARTS, Fact, PageRange, Source
from pytest_pmaps.plain import PlainSnapshot


def rfc_fields(snapshot: PlainSnapshot):
    """All that the RFC's text tells: headers, and listed ranges with equal neighbours joined."""
    return [(_header(mapping), joined(_rows(mapping, snapshot))) for mapping in snapshot.mappings]


def _header(mapping):
    names = ("start", "end", "perms", "offset", "dev", "inode", "name")
    return {name: getattr(mapping, name) for name in names}


def _rows(mapping, snapshot):
    shift = mapping.index - mapping.start // snapshot.page_size
    for item in mapping.ranges:
        seen = PageRange(item.page + shift, 0, item.count, item.mapcount, *_bits(item))
        if seen.listed:
            yield (seen.index, seen.count, seen.flags, *item.mapcount)


def _bits(item):
    return item.set_bits, item.known_bits


def joined(rows):
    """Rows with equal neighbours made one."""
    result = []
    for row in rows:
        last = result[-1] if result else None
        if last and last[0] + last[1] == row[0] and last[2:] == row[2:]:
            result[-1] = (last[0], last[1] + row[1], *row[2:])
        else:
            result.append(row)
    return result


def everything(snapshot: PlainSnapshot):
    """All that a snapshot holds, by name."""
    names = "pid comm start_time captured_ns page_size complete self_capture appeared raced_pages"
    plain = {name: getattr(snapshot, name) for name in (*names.split(), "status")}
    plain["sources"] = [source.name.lower() for source in snapshot.sources]
    plain["objects"] = [_object(item) for item in snapshot.objects]
    plain["mappings"] = [_mapping(item) for item in snapshot.mappings]
    return plain


def _object(item):
    names = ("name", "inode", "status", "err")
    plain = {name: getattr(item, name) for name in names}
    parts = [[PARTS[kind], start, end] for kind, start, end in item.parts]
    return {**plain, "dev": list(item.dev), "parts": parts}


def _mapping(mapping):
    names = "offset inode trouble raced_pages drifted_pages vmflags extra index_exact perms name"
    more = "counters_moved object index start end before after"
    plain = {name: getattr(mapping, name) for name in (*names.split(), *more.split())}
    plain["kind"] = mapping.kind.name.lower()
    plain["dev"] = list(mapping.dev)
    plain["dirty_bounds"] = None if mapping.dirty_bounds is None else list(mapping.dirty_bounds)
    plain["evidence"] = _evidence(mapping.evidence)
    plain["ranges"] = [_range(item) for item in mapping.ranges]
    return plain


def _evidence(masks):
    names = [*(fact.name.lower() for fact in Fact), "mapcount"]
    assert len(masks) == len(names) == MAPCOUNT + 1
    return {
        name: sorted(source.name.lower() for source in Source if mask >> source & 1)
        for name, mask in zip(names, masks, strict=True)
        if mask
    }


def _range(item):
    facts = PageRange(0, 0, 0, (0, None), *_bits(item))
    told = {fact.name.lower(): facts.fact(fact) for fact in Fact}
    return [item.page, item.count, *item.mapcount, told]
