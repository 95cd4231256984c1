"""What a failing test shows of its page maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from .._native import NewRange, Window
from ..assertions import Evidence
from ..delta import Delta, New
from ..errors import PmapsError
from ..metrics import Counted
from ..model import Fact
from ..select import Selector, printable
from ..snapshots import Mapping, Selection, Snapshot
from ..touching import ToldTouched
from ..writing import Told
from .text import (
    amount,
    rfc_lines,
    signed,
    summary_table,
    table,
    touched_lines,
    verdict_lines,
    written_lines,
)

__all__ = ["Change", "Dump", "Story", "View", "explain_membership", "plain", "section"]

#: What a hook calls a mapping, None for its own name.
Classify = Callable[[Mapping], str | None]

_RANGES_SHOWN = (20, 200)
_ROWS_SHOWN = (10, 40)

_WORDS = {
    Fact.NORMAL: "resident",
    Fact.ANON: "anonymous",
    Fact.SWAPPED: "swapped-out",
    Fact.EXCLUSIVE: "unshared",
}


@dataclass(frozen=True, slots=True)
class View:
    """How much is shown, and how; ``tables``: of every process that is dumped."""

    verbosity: int = 0
    width: int = 80
    tables: bool = False
    classify: Classify | None = None

    def limit(self, steps: tuple[int, int]) -> int | None:
        """A limit by verbosity; None for all."""
        return steps[max(0, self.verbosity)] if self.verbosity < len(steps) else None


@dataclass(frozen=True, slots=True)
class Change:
    """A process between two snapshots; ``since`` names the earlier one."""

    who: str
    since: str
    earlier: Snapshot
    later: Snapshot


@dataclass(frozen=True, slots=True)
class Dump:
    """A snapshot that belongs to the failure, and the name of the file that holds it.

    ``note`` says why there is none, or what is wrong with it.
    """

    who: str
    snapshot: Snapshot | None = None
    saved: str = ""
    note: str = ""


@dataclass(slots=True)
class Story:
    """Everything that a section tells; ``folder`` is where the saved maps lie."""

    evidence: list[Evidence] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    dumps: list[Dump] = field(default_factory=list)
    folder: str = ""


def section(story: Story, view: View) -> str:
    """The whole section; a part that cannot be made leaves a line and does not hide the others."""
    blocks = [
        *(_safely(partial(_evidence, evidence, view)) for evidence in story.evidence),
        *(_safely(partial(_change, change, view)) for change in story.changes),
        *(_safely(partial(_dump, dump, view)) for dump in story.dumps),
        _where(story),
    ]
    return plain("\n\n".join("\n".join(block) for block in blocks if block))


def _safely(make: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return list(make())
    except Exception as exc:  # the test's own failure matters more than this part
        return [f"(this part of the report could not be made: {type(exc).__name__}: {exc})"]


def plain(text: str) -> str:
    """Text that any terminal and any encoding takes: file names may hold anything."""
    return "".join(c if c in "\n\t" else printable(c) for c in text)


# ---- the pages that offend


def _evidence(evidence: Evidence, view: View) -> Iterator[str]:
    word = _WORDS.get(evidence.fact, evidence.fact.name.lower())
    new = "new " if evidence.since is not None else ""
    name = evidence.selection.label or "the process"
    if isinstance(evidence.selection, Told) and evidence.fact is Fact.SOFTDIRTY:
        yield f"written pages of {name} (page index, pages):"
        yield from _limited(list(written_lines(evidence.selection)), view.limit(_RANGES_SHOWN))
        return
    if isinstance(evidence.selection, ToldTouched) and evidence.fact is Fact.YOUNG:
        yield f"touched pages of {name} (page index, pages):"
        yield from _limited(list(touched_lines(evidence.selection)), view.limit(_RANGES_SHOWN))
        return
    yield f"{new}{word} pages of {name} (page index, pages, YRAUPDW, mapcount):"
    yield from _offenders(evidence, view.limit(_RANGES_SHOWN))
    yield from _parts(evidence)


def _offenders(evidence: Evidence, limit: int | None) -> Iterator[str]:
    if evidence.since is None:
        lines = list(rfc_lines(evidence.selection, evidence.fact))
        yield from _limited(lines, limit)
        return
    found, total = _new_ranges(evidence, limit)
    yield from _without_repeats(
        line for new in found for line in _new_lines(evidence.selection, evidence.fact, new)
    )
    yield from _more(total - len(found))


def _limited(lines: Sequence[str], limit: int | None) -> Iterator[str]:
    ranges = sum(not _is_mapping(line) for line in lines)
    left = ranges if limit is None else limit
    for line in lines:
        if not _is_mapping(line):
            left -= 1
        elif not left:
            break
        if left < 0:
            break
        yield line
    yield from _more(ranges - (ranges if limit is None else limit))


def _is_mapping(line: str) -> bool:
    return "\t" not in line.partition(" ")[0]


def _more(number: int) -> Iterator[str]:
    if number > 0:
        yield f"… {number:,} more range{'s' if number > 1 else ''} (-v shows more, -vv all)"


def _new_ranges(evidence: Evidence, limit: int | None) -> tuple[list[NewRange], int]:
    assert evidence.since is not None
    new = New(evidence.selection, evidence.since.columns)
    if limit is None:
        limit = new.ranges(evidence.fact, 1)[1] or 1
    return new.ranges(evidence.fact, limit)


def _new_lines(selection: Counted, fact: Fact, new: NewRange) -> Iterator[str]:
    start, end = (page * selection.page_size for page in (new.page, new.page + new.count))
    windows = tuple(
        Window(w.mapping, max(start, w.start), min(end, w.end))
        for w in selection.windows
        if start < w.end and w.start < end
    )
    for line in rfc_lines(Counted(selection.columns, windows, selection.label), fact):
        yield line if new.sure or _is_mapping(line) else f"{line}  (perhaps not new)"


def _without_repeats(lines: Iterable[str]) -> Iterator[str]:
    """A mapping's line only once for all its ranges."""
    last = ""
    for line in lines:
        if not _is_mapping(line):
            yield line
        elif line != last:
            yield (last := line)


def _parts(evidence: Evidence) -> Iterator[str]:
    """What is where in a library: some of its parts are always written by the loader."""
    selection = evidence.selection
    if not isinstance(selection, Selection) or selection.part is not None:
        return
    parts = selection.parts()
    if not parts:
        return
    head = ["part", "size", "rss", "dirty"]
    rows = [[name, *(amount(p.metric(m)) for m in head[1:])] for name, p in parts.items()]
    if evidence.since is not None:
        head.append("new dirty")
        for row, part in zip(rows, parts.values(), strict=True):
            row.append(amount(New(part, evidence.since.columns).dirty))
    yield ""
    yield from table(head, rows)


# ---- what changed


def _change(change: Change, view: View) -> Iterator[str]:
    rows = _change_rows(change, view.classify)
    yield f"{change.who} since {change.since}:"
    if not rows:
        yield "  no page became dirty, none came or went"
        return
    limit = view.limit(_ROWS_SHOWN)
    shown = [[name, *cells] for _, name, cells in islice(rows, limit)]
    _, _, total = _change_row("total", Delta(change.later, change.earlier))
    head = ["mapping", "new dirty", "dirty", "rss growth", "rss"]
    yield from table(head, [*shown, ["total", *total]], view.width)
    if len(rows) > len(shown):
        yield f"… {len(rows) - len(shown):,} more mappings changed"


#: Sort key, name, cells.
_Row = tuple[tuple[int, int, int], str, list[str]]


def _change_rows(change: Change, classify: Classify | None) -> list[_Row]:
    """A row for each name of mappings that changed, most new dirty pages first."""

    def called(side: Counted, number: int) -> str | None:
        snapshot = change.later if side is change.later else change.earlier
        return classify(snapshot.mappings[number]) if classify else None

    deltas = Delta(change.later, change.earlier).by_name(called if classify else None)
    rows = [_change_row(name, delta) for name, delta in deltas.items()]
    return sorted((row for row in rows if any(row[0])), key=lambda row: row[0], reverse=True)


def _change_row(name: str, delta: Delta) -> _Row:
    new, growth = delta.new.dirty, delta.rss
    lo, hi = (end or 0 for end in new.bytes.bounds)
    grown = max(abs(end or 0) for end in growth.bytes.bounds)
    cells = [
        amount(new),
        amount(delta.later.dirty),
        signed(*growth.bytes.bounds),
        amount(delta.later.rss),
    ]
    return (lo, grown, hi), name, cells


# ---- whole maps


def _dump(dump: Dump, view: View) -> Iterator[str]:
    snapshot = dump.snapshot
    if snapshot is not None:
        numbers = f"rss {amount(snapshot.rss)}, dirty {amount(snapshot.dirty)}"
        yield f"{dump.who}: {numbers}; capture {snapshot.verdict.label}"
        yield from verdict_lines(snapshot)[1:]
    if dump.note:
        yield f"{dump.who}: {dump.note}" if snapshot is None else f"  {dump.note}"
    if dump.saved:
        yield f"  map: {dump.saved}"
    if snapshot is not None and (view.tables or view.verbosity > 0):
        yield from _cut_table(summary_table(snapshot, view.width), view.limit(_ROWS_SHOWN))


def _cut_table(lines: list[str], limit: int | None) -> Iterator[str]:
    head, *rows, total = lines
    yield head
    yield from islice(rows, limit)
    if limit is not None and len(rows) > limit:
        yield f"… {len(rows) - limit:,} more rows (-v shows more, -vv all)"
    yield total


def _where(story: Story) -> list[str]:
    if not any(dump.saved for dump in story.dumps):
        return []
    return [f"maps are in {story.folder}", "(.pmaps: the RFC's text; .json beside it: everything)"]


# ---- plain asserts


def explain_membership(selector: Selector, op: str, snapshot: Snapshot) -> list[str] | None:
    """Say why ``selector in snapshot`` or ``not in`` failed; None where it cannot be said."""
    who = f"process {snapshot.pid} ({snapshot.comm})" if snapshot.pid else "the saved map"
    try:
        found = snapshot.select(selector)
    except (PmapsError, TypeError) as exc:
        return [f"{selector!r} {op} the map of {who}", str(exc)] if op == "in" else None
    if op == "in":
        return None
    text = f"{found.label}: {len(found.windows)} mappings, rss {found.rss}"
    lines = [line for line in rfc_lines(found) if _is_mapping(line)]
    return [f"{selector!r} {op} the map of {who}", text, *lines[: _ROWS_SHOWN[0]]]
