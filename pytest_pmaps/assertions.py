"""Statements about footprints.  Each passes, fails with the story in its first line, or is
undetermined: then it raises :class:`~pytest_pmaps.errors.Undetermined`, which neither passes
nor counts as a footprint failure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ._native import Window
from .counts import Count, parse_amount
from .delta import New, check_same_process
from .errors import FootprintError, NoSuchMapping, undetermined
from .metrics import Counted
from .model import Depth, Fact
from .select import Selector
from .snapshots import Pages, Selection, Snapshot

__all__ = [
    "Evidence",
    "assert_at_most",
    "assert_no_dirty",
    "assert_not_mapped",
    "assert_shared",
    "assert_unchanged",
]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a failed assertion was about, for reports: the selection, and the fact by which
    pages offend; ``since`` where only pages new against it do.
    """

    selection: Counted
    fact: Fact
    since: Counted | None = None


def assert_no_dirty(selection: Counted, since: Snapshot | Selection | None = None) -> None:
    """No page of the selection is dirty; with ``since``, none that was not dirty then.

    Private memory is dirty where it was copied or written, swapped-out copies included; shared
    memory where its page table entry is dirty.  docs/dirty.md tells the two honest limits.
    Raises FootprintError, or Undetermined where pages are unknown.
    """
    __tracebackhide__ = True
    assert_at_most(selection, 0, since=since)


def assert_at_most(
    selection: Counted,
    amount: int | str,
    metric: str = "dirty",
    since: Snapshot | Selection | None = None,
) -> None:
    """A metric of the selection is at most ``amount``: pages, or a string such as ``"64 KiB"``.

    With ``since``, only pages count that are new against that snapshot, one by one.
    Raises FootprintError, Undetermined, FormatError for an amount that cannot be read,
    ValueError for a metric that does not exist.
    """
    __tracebackhide__ = True
    _need(selection, Counted, "selection")
    new = _new(selection, since)
    count = new.metric(metric) if new else selection.metric(metric)
    if count <= amount:
        return
    allowed = f"{amount:,}" if isinstance(amount, int) else amount
    what = f"{'new ' if new else ''}{metric.replace('_', ' ')}"
    fact = fact_of(metric)
    message = f"{selection.label or 'process'}: {_amount(count, what)}, allowed {allowed}"
    hint = _hint(selection, metric, new) or _edge_hint(
        selection,
        lambda part: New(part, since.columns).metric(metric) if since else part.metric(metric),
        amount,
    )
    raise FootprintError(message + hint, Evidence(selection, fact, since))


_FACTS = {
    "dirty": Fact.DIRTY,
    "swap": Fact.SWAPPED,
    "anonymous": Fact.ANON,
    "shared": Fact.SHARED,
    "written": Fact.SOFTDIRTY,  # whatever bits told of it
    "touched": Fact.YOUNG,
}


def fact_of(metric: str) -> Fact:
    """By which pages count for a metric; those that are resident where it is no such metric."""
    return _FACTS.get(metric, Fact.NORMAL)


def assert_shared(
    selection: Selection, other: Snapshot | Selection, at_least: int | str | float = 1.0
) -> None:
    """Pages of the selection are shared with another process: the very same physical pages.

    ``at_least`` is a share (a float: 0.8), pages (an int) or an amount.
    Raises FootprintError, or Undetermined (without CAP_SYS_ADMIN private memory cannot be
    compared after a fork).
    """
    __tracebackhide__ = True
    _need(selection, Selection, "selection")
    _need(other, Counted, "other")
    if (selection.columns.pid, selection.columns.start_time) == (
        other.columns.pid,
        other.columns.start_time,
    ):
        raise ValueError("both are of one process: sharing is with another one")
    common = selection.shared_with(other)
    rss = selection.rss
    if rss == 0:
        raise undetermined(f"{selection.label}: nothing of it is resident, to be shared or not")
    enough: int | str | Count = at_least  # type: ignore[assignment]
    if isinstance(at_least, float):
        if not 0 <= at_least <= 1:
            raise ValueError(f"a share lies between 0 and 1, not at {at_least}")
        enough = -int(-int(rss.pages) * at_least // 1)
    elif isinstance(at_least, int) and at_least < 1:
        raise ValueError(f"at least {at_least} pages is no demand; a share is a float: 0.8")
    if common >= enough:
        return
    raise FootprintError(
        f"{selection.label}: {_amount(common, 'shared')} with process "
        f"{other.columns.pid} of {rss}, expected at least {_share(at_least)}"
        + _edge_hint(
            selection,
            lambda part: part.rss - part.shared_with(other),
            # Of a number of pages the edges may be what is wanted.
            0 if isinstance(at_least, float) else -1,
        ),
        Evidence(selection, Fact.EXCLUSIVE),
    )


_KINDS = {
    Counted: "a snapshot, or a selection of one",
    Selection: 'a selection: snapshot["libfoo"]',
    Snapshot: "a snapshot",
}


def _need(given: object, kind: type[Counted], name: str) -> None:
    __tracebackhide__ = True
    if not isinstance(given, kind):
        raise TypeError(f"{name} is {_KINDS[kind]}, not {type(given).__name__}")


def _check_miss(snapshot: Snapshot, selector: Selector) -> None:
    """A selector that could not match anything is a mistake, and no proof; nor is a map with
    gaps in it.
    """
    __tracebackhide__ = True
    try:
        snapshot[selector]
    except NoSuchMapping as miss:
        if selector == "" or miss.misspelt:
            raise
    columns = snapshot.columns
    if columns.partial or columns.depth is Depth.TOTALS:
        raise undetermined("this capture does not list all mappings: capture the whole process")
    if columns.appeared or columns.missed_pages or not columns.complete:
        raise undetermined(
            "memory moved while the process was captured, or not all of it is listed: "
            "capture it again while it is idle"
        )


def _share(at_least: int | str | float) -> str:
    return f"{at_least:.0%}" if isinstance(at_least, float) else str(at_least)


def assert_not_mapped(snapshot: Snapshot, selector: Selector) -> None:
    """Nothing that the selector means is mapped.  Raises FootprintError."""
    __tracebackhide__ = True
    _need(snapshot, Snapshot, "snapshot")
    if selector not in snapshot:
        _check_miss(snapshot, selector)
        return
    found = snapshot.select(selector)
    text = f"{found.label} is mapped: {len(found.windows)} mappings, rss {found.rss}"
    raise FootprintError(text, Evidence(found, Fact.NORMAL))


def assert_unchanged(selection: Selection, since: Snapshot | Selection) -> None:
    """No page of the selection came, went, or became dirty since.

    A dirty page that was written again looks the same: see docs/dirty.md.
    Raises FootprintError, or Undetermined.
    """
    __tracebackhide__ = True
    _need(selection, Selection, "selection")
    _need(since, Counted, "since")
    new = _new(selection, since)
    earlier = _same_in(since, selection)
    assert new is not None

    def gone(part: Selection) -> Count:
        return New(_same_in(since, part), selection.columns).rss

    for count_of, what, evidence in (
        (lambda part: New(part, since.columns).dirty, "became dirty",
         Evidence(selection, Fact.DIRTY, since)),
        (lambda part: New(part, since.columns).rss, "came",
         Evidence(selection, Fact.NORMAL, since)),
        (gone, "went", Evidence(earlier, Fact.NORMAL, selection)),
    ):  # fmt: skip
        count = count_of(selection)
        if count > 0:
            text = f"{selection.label}: {_amount(count, '')} {what}, expected none"
            text += _edge_hint(selection, count_of, 0)
            raise FootprintError(" ".join(text.split()), evidence)


def _same_in(since: Snapshot | Selection, selection: Selection) -> Counted:
    """The windows of the selection that the earlier snapshot has too."""
    spans = [(w.start, w.end) for w in selection.windows]
    windows = tuple(
        Window(i, max(start, m.start), min(end, m.end))
        for i, m in enumerate(since.columns.mappings)
        for start, end in spans
        if start < m.end and m.start < end
    )
    return Counted(since.columns, windows, selection.label)


def _new(selection: Counted, since: Snapshot | Selection | None) -> New | None:
    __tracebackhide__ = True
    if since is None:
        return None
    _need(since, Counted, "since")
    check_same_process(selection.columns, since.columns)
    return New(selection, since.columns)


def _amount(count: Count, what: str) -> str:
    """``3 dirty pages (12 KiB)``."""
    number, _, rest = str(count).partition(" page")
    return f"{number} {what} page{rest}".replace("  ", " ") if rest or _ else f"{what} {count}"


def _hint(selection: Counted, metric: str, new: New | None) -> str:
    """For a whole library: which parts it is, since a loader always writes some."""
    if metric != "dirty" or new is not None or not isinstance(selection, Selection):
        return ""
    if selection.part is not None:
        return ""
    found = []
    for name, part in selection.parts().items():
        # Looked at, not compared: what is open here must not hide the failure.
        lo, hi = part.dirty.bounds
        if hi != 0:
            found.append(f"{name} {lo or '?'}")
    return f" ({', '.join(found)}; the loader writes some: name a part, or since=)" if found else ""


def _edge_hint(
    selection: Counted, count_of: Callable[[Selection], Count], amount: int | str
) -> str:
    """For pages of an object: whether those are to blame that are only partly its own."""
    if not isinstance(selection, Pages):
        return ""
    blamed = [edge for edge in selection.edges if _most(count_of(selection.at(edge))) != 0]
    if not blamed:
        return ""
    names = " and ".join(f"{edge}" for edge in blamed)
    inside, size = selection.inside, selection.page_size
    allowed = parse_amount(amount, size) if isinstance(amount, str) else amount * size
    most = _most(count_of(inside))
    if inside.windows and most is not None and most <= allowed:
        return f'; without {names} it would pass: edges="exclude"'
    return f"; not all its own: {names}"


def _most(count: Count) -> int | None:
    """Bytes at most; looked at for the same reason."""
    return count.bytes.bounds[1]
