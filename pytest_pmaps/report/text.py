"""Maps and tables as plain text, 80 columns unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..counts import Count, format_bytes
from ..metrics import Counted
from ..model import Fact, PageRange
from ..rfctext import header_line, range_lines
from ..snapshots import Mapping, Snapshot
from ..touching import ToldTouched
from ..writing import Told

__all__ = [
    "amount",
    "cut",
    "mapping_line",
    "rfc_lines",
    "signed",
    "span",
    "summary_table",
    "table",
    "touched_lines",
    "verdict_lines",
    "written_lines",
]


def mapping_line(mapping: Mapping) -> str:
    """One mapping as /proc/PID/maps prints it."""
    return header_line(mapping.info).rstrip("\n")


def rfc_lines(selection: Counted, fact: Fact | None = None) -> Iterator[str]:
    """The RFC's form of a selection: each mapping's line, then its ranges.

    With a fact only ranges for which it holds or may hold, and only mappings that have some;
    ranges that the RFC does not list (swapped out, say) are then marked with what they are.
    """
    for window in selection.windows:
        info = selection.columns.mappings[window.mapping]
        ranges: Iterable[PageRange] = selection.columns.ranges(window)
        if fact is not None:
            ranges = [r for r in ranges if r.fact(fact) is not False]
            if not ranges:
                continue
        yield header_line(info).rstrip("\n")
        if fact is None:
            yield from range_lines(ranges)
        else:
            yield from _marked_lines(ranges, fact)


def _marked_lines(ranges: Iterable[PageRange], fact: Fact) -> Iterator[str]:
    for found in ranges:
        line = next(range_lines([found]), None)
        note = "" if found.fact(fact) else "  (unknown)"
        if line is None:
            line, note = f"{found.index}\t{found.count}\t-------\t-", f"  ({_unlisted(found)})"
        yield line + note


def _unlisted(found: PageRange) -> str:
    if found.fact(Fact.RACED):
        return "changed while it was captured"
    if found.fact(Fact.SWAPPED):
        return "swapped out"
    return "zero page" if found.fact(Fact.ZERO) else "not present"


def written_lines(selection: Told) -> Iterator[str]:
    """What was written, or may have been: each mapping's line, then page index and pages."""
    for window in selection.windows:
        ranges = list(selection.written_ranges(window))
        if ranges:
            yield header_line(selection.columns.mapping(window.mapping)).rstrip("\n")
        for r in ranges:
            yield f"{r.index}\t{r.count}" + ("" if r.written else f"  (unknown: {r.why})")


def touched_lines(selection: ToldTouched) -> Iterator[str]:
    """What was touched, or may have been: each mapping's line, then page index and pages."""
    for window in selection.windows:
        ranges = list(selection.touched_ranges(window))
        if ranges:
            yield header_line(selection.columns.mapping(window.mapping)).rstrip("\n")
        for r in ranges:
            yield f"{r.index}\t{r.count}" + ("" if r.touched else f"  (unknown: {r.why})")


def amount(count: Count) -> str:
    """A count for a table cell: ``12 KiB``, ``8..20 KiB``, ``?`` where no bound is known."""
    return span(*count.bytes.bounds)


def span(lo: int | None, hi: int | None) -> str:
    """An interval of bytes for a table cell."""
    if lo is None or hi is None:
        return "?"
    low, high = format_bytes_short(lo), format_bytes_short(hi)
    if low == high:
        return low if lo == hi else f"~{low}"
    number, _, unit = low.partition(" ")
    return f"{number}..{high}" if not unit or high.endswith(f" {unit}") else f"{low}..{high}"


def signed(lo: int | None, hi: int | None) -> str:
    """A difference for a table cell, with its sign."""
    text = span(lo, hi)
    return f"+{text}" if lo is not None and lo > 0 else text


def format_bytes_short(number: int) -> str:
    """Bytes to three or four digits, for tables: ``1.4 MiB``; exact below 10 KiB."""
    size, unit = abs(number), "KiB"
    if size < 10 * 1024 and size % 1024 == 0:
        return format_bytes(number) if size else "0"
    value = size / 1024
    for larger in ("MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    shown = f"{value:.1f}" if value < 100 and value % 1 else f"{value:.0f}"
    return f"{'-' if number < 0 else ''}{shown} {unit}"


def table(head: list[str], rows: list[list[str]], width: int = 80) -> list[str]:
    """Rows under a head; the first column takes what room the others leave, cut in its middle."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns[1:]]
    first = max(8, min(max(map(len, columns[0])), width - sum(widths) - 2 * len(widths)))
    return [
        "  ".join([cut(cells[0], first).ljust(first)]
                  + [c.rjust(w) for c, w in zip(cells[1:], widths, strict=True)]).rstrip()
        for cells in [head, *rows]
    ]  # fmt: skip


def cut(text: str, width: int) -> str:
    """Text of so many characters at most, without its middle where it is longer."""
    if len(text) <= width:
        return text
    head = (width - 3) // 2
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"


_SUMMARY = ("rss", "pss", "dirty", "swap")


def summary_table(chosen: Counted, width: int = 80) -> list[str]:
    """What each file (and [heap], [anon], ...) holds, largest first, and the total."""
    parts = list(chosen.by_name().values())
    parts.sort(key=lambda part: part.rss.bytes.bounds[1] or 0, reverse=True)
    rows = [[part.label, *(amount(part.metric(m)) for m in _SUMMARY)] for part in parts]
    total = ["total", *(amount(chosen.metric(m)) for m in _SUMMARY)]
    return table(["mapping", *_SUMMARY], [*rows, total], width)


def verdict_lines(snapshot: Snapshot, limit: int = 5) -> list[str]:
    """The verdict in one line, and the first reasons for it where it is not a good one."""
    verdict = snapshot.verdict
    head = f"capture of {snapshot.comm} {snapshot.pid}: {verdict.label}"
    lines = [head, *(f"  {reason}" for reason in verdict.reasons[:limit])]
    more = len(verdict.reasons) - limit
    return [*lines, f"  ... and {more} more"] if more > 0 else lines
