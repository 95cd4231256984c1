"""Several processes captured together, and what they hold between them.

Adding up what each process has counts shared pages again and again.  A :class:`Group` counts
each physical page once, and each memory once that several processes share (vfork, CLONE_VM).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, overload

from ._native import Columns, Member, Request, cpu_time, migrated, same_mm, union
from .cached import cached_property
from .capture import pid_of
from .counts import Count
from .errors import AccessDenied, NoSuchMapping, PmapsError, ProcessGone
from .kinship import Kin
from .metrics import Counted
from .model import Fact, Source, Verdict
from .procfs import getpid, has_ended, stat_of
from .select import Selector
from .snapshots import Selection, Snapshot

__all__ = ["NO_KCMP", "Group", "GroupSelection", "Missing", "Totals", "group"]

#: More pages than can have moved: what is passed where the kernel does not say how many did.
_ANY_NUMBER = 1 << 62

#: Given what was captured so far: processes that belong to it, too.
Find = Callable[[dict[int, Snapshot]], list[int]]

_RAN = "capture them again while they are idle: they ran meanwhile"
NO_KCMP = "let kcmp(2) through, which tells processes that share one memory (a seccomp filter?)"
_LISTED = 8


class Missing(NamedTuple):
    """A process that was asked for and could not be captured.

    ``pid`` is 0 where the target had none.  ``over``: it has exited for good, or holds no
    memory, so that totals lack nothing.
    """

    pid: int
    error: PmapsError
    over: bool


class _Process:
    """One member: its snapshot, and what is known of the time after it was taken."""

    def __init__(self, snapshot: Snapshot, pid: int, place: int, cpu: int | None) -> None:
        self.snapshot = snapshot
        self.pid = pid
        self.place = place
        self.cpu = cpu
        #: After it was captured; and from before the first of all was.
        self.ran = self.ran_at_all = False
        self.again: Columns | None = None

    def look_again(self, at_first: int | None) -> None:
        """See whether it ran since, and if so which of its pages stayed where they were."""
        now = cpu_time(self.pid)
        self.ran_at_all = now is None or now != at_first
        self.ran = self.pid != getpid() and (now is None or now != self.cpu)
        columns = self.snapshot.columns
        if not self.ran or Source.KPAGEFLAGS not in columns.sources:
            return
        try:
            again = Columns.capture(Request(self.pid))
        except PmapsError:
            return
        if again.start_time == columns.start_time:
            self.again = again


class Totals:
    """What several processes hold between them; every total is a Count.

    ``unique_rss`` counts each physical page once.  Where that a page is the same in two
    processes can be neither proved nor excluded, it is an interval that contains the truth:
    without CAP_SYS_ADMIN the anonymous memory of forked processes is not told apart.

    Processes that share one mm are counted once in everything.
    """

    def __init__(self, members: Members, parts: dict[int, Counted], label: str) -> None:
        self._members = members
        self._parts = parts
        self.label = label

    @cached_property
    def unique_rss(self) -> Count:
        """Resident memory, each physical page counted once, whoever maps it and how often.

        Pages of files and memory objects are recognised by file and page index, anonymous
        pages that are shared by their frames, which never leave the engine.
        """
        spaces = self._spaces
        pages = union([self._member(p) for space in spaces for p in space], self._members.migrated)
        lo, hi = pages
        if any(len(space) > 1 for space in spaces):
            firm = union([self._member(space[0]) for space in spaces], self._members.migrated)
            lo = firm.lo
        lo, hi = lo * self._page_size, hi * self._page_size
        if lo != hi:
            lo, hi = self._narrowed(lo, hi)
        return self._count(lo, hi, "unique_rss", Fact.SHARED)

    def _narrowed(self, lo: int, hi: int) -> tuple[int, int]:
        """A page's shares in Pss add up to one page at most, if nobody came to map it between
        two captures; and no page is in Rss less than once.
        """
        size = self._page_size
        still = [space[0] for space in self._spaces if not space[0].ran_at_all]
        shares = sum(self._parts[p.pid].pss.bytes.bounds[0] or 0 for p in still)
        most = self.sum_rss.bytes.bounds[1]
        better = max(lo, -(-shares // size) * size), hi if most is None else min(hi, most)
        return better if better[0] <= better[1] else (lo, hi)

    @property
    def sum_rss(self) -> Count:
        """The sum of each one's Rss, in which a page counts once for each that maps it: what
        adding up ``ps`` gives, and more than there is.
        """
        return self._sum("rss")

    @property
    def pss(self) -> Count:
        """The sum of each one's Pss: its share in pages that processes outside map too."""
        return self._sum("pss")

    @property
    def uss(self) -> Count:
        """Resident memory that one process alone maps, each its own (Private_Clean + Dirty)."""
        return self._sum("uss")

    @property
    def private_clean(self) -> Count:
        """Pages mapped once with neither P nor D (the sum of smaps Private_Clean)."""
        return self._sum("private_clean")

    @property
    def private_dirty(self) -> Count:
        """Pages mapped once with P or D (the sum of smaps Private_Dirty)."""
        return self._sum("private_dirty")

    # ---- below the surface

    @property
    def _spaces(self) -> list[list[_Process]]:
        """Its members, those that may be one memory together."""
        kept = ([p for p in space if p.pid in self._parts] for space in self._members.spaces)
        return [space for space in kept if space]

    @property
    def _page_size(self) -> int:
        return next(iter(self._parts.values())).page_size

    def _member(self, process: _Process) -> Member:
        part = self._parts[process.pid]
        windows = None if part is process.snapshot else part.windows
        return Member(part.columns, process.again, windows, process.place, process.ran)

    def _sum(self, name: str) -> Count:
        lo = hi = 0
        for space in self._spaces:
            bounds = [self._parts[p.pid].metric(name).bytes.bounds for p in space]
            lo += min(low or 0 for low, _ in bounds)
            hi += sum(high or 0 for _, high in bounds)
        return self._count(lo, hi, name)

    def _count(self, lo: int, hi: int, name: str, fact: Fact | None = None) -> Count:
        open_end = self._open
        return Count(
            lo,
            None if open_end else hi,
            page_size=self._page_size,
            label=f"{self.label}: {name}",
            remedy=open_end or ("" if lo == hi else self._remedy(fact)),
        )

    @property
    def _open(self) -> str:
        """Why there may be more than was seen; "" if there is not."""
        return self._members.lacking

    def _remedy(self, fact: Fact | None) -> str:
        """What would decide a total that is still open."""
        if self._members.unsure:
            return NO_KCMP
        remedies = (part._remedy(fact) for part in self._parts.values())
        found = next((remedy for remedy in remedies if remedy), "")
        return found or (_RAN if any(p.ran for p in self._members.processes) else "")


class GroupSelection(Totals):
    """The same mappings of several processes: ``group["libfoo"]``.

    Iterating gives the :class:`Selection` of each process that maps them, ``sel[pid]`` one.
    """

    def __init__(self, members: Members, found: dict[int, Selection], lacking: str) -> None:
        names = list(dict.fromkeys(sel.label for sel in found.values()))
        super().__init__(members, {**found}, f"{names[0]} in {_processes(len(found))}")
        self._found = found
        self._lacking = lacking

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that map it."""
        return tuple(self._found)

    def __getitem__(self, pid: int) -> Selection:
        return self._found[pid]

    def __iter__(self) -> Iterator[Selection]:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"<{self.label}: unique_rss {self.unique_rss}>"

    @property
    def _open(self) -> str:
        return super()._open or self._lacking


class Group(Totals):
    """Snapshots of several processes, taken one right after the other.

    Iterating gives the snapshots in the order in which the processes were named,
    ``group[pid]`` one of them, ``group["libfoo"]`` those mappings of all that have them.
    It is immutable.
    """

    def __init__(self, members: Members) -> None:
        parts: dict[int, Counted] = {p.pid: p.snapshot for p in members.processes}
        super().__init__(members, parts, _processes(len(parts)))
        self._snapshots = {p.pid: p.snapshot for p in members.processes}

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids, in the order given."""
        return tuple(self._snapshots)

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What was left out with ``missing="skip"``."""
        return self._members.missing

    @overload
    def __getitem__(self, key: int) -> Snapshot: ...
    @overload
    def __getitem__(self, key: Selector) -> GroupSelection: ...
    def __getitem__(self, key: int | Selector) -> Snapshot | GroupSelection:
        """The snapshot of a pid (KeyError if it is no member), or a selection of all members.

        A selector raises as ``snap[selector]`` does; NoSuchMapping only if no member has it.
        """
        __tracebackhide__ = True
        return self._snapshots[key] if isinstance(key, int) else self._select(key, many=False)

    def select(self, selector: Selector) -> GroupSelection:
        """Like ``group[selector]``, but takes the mappings of all files that match."""
        __tracebackhide__ = True
        return self._select(selector, many=True)

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self._snapshots.values())

    def __len__(self) -> int:
        return len(self._snapshots)

    def __contains__(self, key: int | Selector) -> bool:
        """Whether a pid is a member, or anything that a selector means is mapped by one."""
        if isinstance(key, int):
            return key in self._snapshots
        return any(key in snapshot for snapshot in self)

    @cached_property
    def verdict(self) -> Verdict:
        """How far it may be trusted: the members' verdicts, and whether the group held still.

        ``raced`` also where a process ran after it was captured, while others were.
        """
        verdicts = {pid: snapshot.verdict for pid, snapshot in self._snapshots.items()}
        reasons = [f"process {pid}: {why}" for pid, v in verdicts.items() for why in v.reasons]
        ran = [p.pid for p in self._members.processes if p.ran]
        if ran:
            reasons.append(f"{_named(ran)} ran while others were captured")
        if self._members.unsure:
            reasons.append("which processes share one memory is unknown: kcmp is refused")
        reasons += [f"{_who(m)} is missing: {m.error}" for m in self.missing]
        if self._members.unlisted:
            reasons.append(self._members.unlisted)
        told = [v.reconciled for v in verdicts.values()]
        return Verdict(
            complete=all(v.complete for v in verdicts.values()) and not self._members.lacking,
            reconciled=None if None in told else all(told),
            raced=bool(ran) or any(v.raced for v in verdicts.values()),
            reasons=tuple(reasons),
        )

    def __repr__(self) -> str:
        return f"<Group of {_processes(len(self))}: {self.verdict.label}>"

    def _select(self, selector: Selector, *, many: bool) -> GroupSelection:
        __tracebackhide__ = True
        found, misses = {}, []
        for pid, snapshot in self._snapshots.items():
            try:
                found[pid] = snapshot.select(selector) if many else snapshot[selector]
            except NoSuchMapping as miss:
                misses.append((snapshot, miss))
        if not found:
            raise _nowhere([miss for _, miss in misses])
        gaps = [s.pid for s, _ in misses if _has_gaps(s.columns)]
        lacking = f"capture again while idle: {_named(gaps)} may map it too" if gaps else ""
        return GroupSelection(self._members, found, lacking)


# ---- taking one


def group(targets: Iterable[object], *, missing: Literal["raise", "skip"] = "raise") -> Group:
    """Capture several processes, one right after the other: ``targets`` are what
    :func:`snapshot` takes.  A process named twice is one member.

    A process that has exited, or may not be read, raises as :func:`snapshot` does.  With
    ``missing="skip"`` it is left out and listed in ``group.missing``; unless it is proved to
    have exited, totals then have no upper end.  If nothing is left, that raises.

    Our own process is captured last.  Raises ValueError for no targets, TypeError for what
    is none.
    """
    __tracebackhide__ = True
    skip = is_skip(missing)
    if isinstance(targets, str | bytes) or not isinstance(targets, Iterable):
        raise TypeError(f"targets are several processes, not one {type(targets).__name__}")
    return Group(Capturing(lambda _: skip).members(targets))


def is_skip(missing: str) -> bool:
    """What the option ``missing`` says; ValueError for what is none."""
    __tracebackhide__ = True
    if missing not in ("raise", "skip"):
        raise ValueError(f"missing is 'raise' or 'skip', not {missing!r}")
    return missing == "skip"


class Members:
    """The processes of a group, and how they belong together."""

    def __init__(
        self, processes: list[_Process], missing: tuple[Missing, ...], moved: int | None
    ) -> None:
        self.processes = processes
        self.missing = missing
        self.migrated = _ANY_NUMBER if moved is None else moved
        #: Processes of one memory, of which the first stands for all.
        self.spaces: list[list[_Process]] = []
        #: Whether processes stand together that may be of one memory, or not.
        self.unsure = False
        #: Why there may be members that nobody knows of; "" if there are none.
        self.unlisted = ""

    @property
    def lacking(self) -> str:
        """Why totals have no upper end; "" if they have one."""
        open_ones = [m for m in self.missing if not m.over]
        if not open_ones:
            return self.unlisted
        named = ", ".join(_who(m) for m in open_ones[:_LISTED])
        more = ", ..." if len(open_ones) > _LISTED else ""
        return f"capture all of them: {named}{more} could not be"


def _nobody(_: dict[int, Snapshot]) -> list[int]:
    return []


class Capturing:
    """The capture of one group."""

    def __init__(self, skips: Callable[[Missing], bool]) -> None:
        self.skips = skips
        #: When processes were started, as far as that is known: else another has their pid now.
        self.expected: dict[int, int] = {}
        self.missing: list[Missing] = []
        self.places: dict[tuple[str, ...], int] = {}

    def members(self, targets: Iterable[object], more: Find = _nobody) -> Members:
        """Capture them, and then again those that ``more`` finds, until it finds none."""
        __tracebackhide__ = True
        pids = self._pids(targets)
        if not pids and not self.missing:
            raise ValueError("a group of no processes")
        before, cpu, kin = migrated(), dict[int, int | None](), _Kin()
        taken: dict[int, _Process] = {}
        order: list[int] = []
        found = pids
        while found:
            cpu.update((pid, cpu_time(pid)) for pid in found)
            kin.add(found)
            # Ourselves last: others hold still while they are captured, we cannot.
            found = sorted(found, key=lambda pid: pid == getpid())
            taken.update((pid, process) for pid in found if (process := self._capture(pid)))
            order += found
            found = more({pid: process.snapshot for pid, process in taken.items()})
            pids += found
        for pid, process in taken.items():
            process.look_again(cpu[pid])
        if not taken:
            raise self.missing[0].error
        after = migrated()
        moved = None if before is None or after is None else after - before
        members = Members([taken[p] for p in pids if p in taken], tuple(self.missing), moved)
        kin.sort_out(members, [pid for pid in order if pid in taken])
        return members

    def _pids(self, targets: Iterable[object]) -> list[int]:
        __tracebackhide__ = True
        pids = []
        for target in targets:
            try:
                pids.append(pid_of(target) or getpid())
            except ProcessGone as exc:  # not started, or waited for: it has no memory
                self._note(Missing(0, exc, over=True))
        return list(dict.fromkeys(pids))

    def _capture(self, pid: int) -> _Process | None:
        __tracebackhide__ = True
        place, cpu = self._place(pid), cpu_time(pid)
        try:
            columns = Columns.capture(Request(0 if pid == getpid() else pid))
        except (ProcessGone, AccessDenied) as exc:
            over = _is_over(pid)
            self._note(Missing(pid, exc if over or stat_of(pid) else _hidden(pid), over))
            return None
        if self.expected.get(pid, columns.start_time) != columns.start_time:
            self._note(Missing(pid, ProcessGone(f"process {pid} has exited"), over=True))
            return None
        return _Process(Snapshot(columns), pid, place, cpu)

    def _note(self, missing: Missing) -> None:
        __tracebackhide__ = True
        if not self.skips(missing):
            raise missing.error
        self.missing.append(missing)

    def _place(self, pid: int) -> int:
        """Equal for processes for which a path, and a System V id, mean the same."""
        try:
            key = tuple(os.readlink(f"/proc/{pid}/ns/{name}") for name in ("mnt", "ipc"))
        except OSError:
            key = (str(pid),)
        return self.places.setdefault(key, len(self.places))


class _Kin:
    """Which of some processes share one mm.

    That can end, by exec or exit, and does not begin: those that do share it after they were
    captured did all the time, those that do not before never did.
    """

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.may_share: list[tuple[int, int]] = []

    def add(self, pids: list[int]) -> None:
        """Some more, of which none was captured yet."""
        for pid in pids:
            self.may_share += [
                (pid, other) for other in self.pids if same_mm(pid, other) is not False
            ]
            self.pids.append(pid)

    def sort_out(self, members: Members, order: list[int]) -> None:
        """Put processes that share one memory, or may, together."""
        taken = {p.pid: p for p in members.processes}
        pairs = [(a, b) for a, b in self.may_share if a in taken and b in taken]
        sure = [pair for pair in pairs if same_mm(*pair)]
        twins = _joined(order, sure)
        firsts = []
        for pids in twins:
            # The last that was captured: all others were watched since before that.
            first = taken[pids[-1]]
            first.ran = any(taken[pid].ran for pid in pids)
            first.ran_at_all = any(taken[pid].ran_at_all for pid in pids)
            firsts.append(first.pid)
        home = {pid: first for pids, first in zip(twins, firsts, strict=True) for pid in pids}
        open_pairs = [
            (home[a], home[b])
            for a, b in pairs
            if home[a] != home[b] and not _differ(taken[home[a]], taken[home[b]])
        ]
        spaces = _joined(firsts, open_pairs)
        members.spaces = [[taken[pid] for pid in pids] for pids in spaces]
        members.unsure = bool(open_pairs)
        perhaps = {first: number for number, pids in enumerate(spaces) for first in pids}
        kin = Kin(home, {pid: perhaps[first] for pid, first in home.items()})
        for process in taken.values():
            process.snapshot.columns.kin = kin


def _joined(pids: list[int], pairs: list[tuple[int, int]]) -> list[list[int]]:
    """The pids, those that pairs connect together, in the order given."""
    home = {pid: pid for pid in pids}
    for a, b in pairs:
        old, new = home[a], home[b]
        home = {pid: new if h == old else h for pid, h in home.items()}
    sets: dict[int, list[int]] = {}
    for pid in pids:
        sets.setdefault(home[pid], []).append(pid)
    return list(sets.values())


def _differ(a: _Process, b: _Process) -> bool:
    """Whether two that did not run, and of which kcmp says nothing, cannot be one memory."""
    if a.ran or b.ran or a.snapshot.verdict.raced or b.snapshot.verdict.raced:
        return False
    here, there = (
        ([(m.start, m.end, m.inode) for m in p.snapshot.columns.mappings], p.snapshot.present)
        for p in (a, b)
    )
    counted = here[1].exact and there[1].exact and here[1] != there[1]
    return here[0] != there[0] or counted


def _hidden(pid: int) -> AccessDenied:
    return AccessDenied(
        f"process {pid} is there, but /proc does not show it: processes of others are hidden "
        "(hidepid)"
    )


def _is_over(pid: int) -> bool:
    """Whether no thread of a process is left: it is gone, or waits to be reaped."""
    try:
        os.kill(pid, 0)  # sees processes that /proc hides from us
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return has_ended(pid, stat_of(pid))


def _has_gaps(columns: Columns) -> bool:
    return bool(columns.appeared or columns.missed_pages or not columns.complete)


# ---- words


def _processes(number: int) -> str:
    return f"{number:,} process{'' if number == 1 else 'es'}"


def _named(pids: list[int]) -> str:
    shown = ", ".join(map(str, pids[:_LISTED])) + (", ..." if len(pids) > _LISTED else "")
    return f"process{'' if len(pids) == 1 else 'es'} {shown}"


def _who(missing: Missing) -> str:
    return f"process {missing.pid}" if missing.pid else "a process without a pid"


def _nowhere(misses: list[NoSuchMapping]) -> NoSuchMapping:
    """What each member says; that of one with near matches, or a wrong part, says most."""
    said = list(dict.fromkeys(map(str, misses)))
    best = next((miss for miss in misses if miss.misspelt), None)
    text = str(best) if best else next((s for s in said if "; near: " in s), said[0])
    where = f" (in none of {_processes(len(misses))})" if len(misses) > 1 else ""
    error = NoSuchMapping(f"{text}{where}")
    error.misspelt = best is not None
    return error
