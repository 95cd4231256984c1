"""A process and all its descendants, captured together.

A :class:`Tree` is a :class:`~pytest_pmaps.Group` that finds its members, and knows who
started whom.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ._native import Window
from .cached import cached_property
from .capture import pid_of
from .counts import Count
from .delta import Delta
from .groups import NO_KCMP, Capturing, Group, Members, is_skip
from .kinship import one_memory
from .procfs import PARENT, START, getpid, has_ended, read_text, stat_of
from .snapshots import Selection, Snapshot

__all__ = ["Share", "Tree", "TreeChange", "tree"]

#: How often it is looked for processes that were started meanwhile.
_ROUNDS = 8

_GREW = "capture again while it starts no processes: some were started faster than captured"


class Share(NamedTuple):
    """What one mapping of a child has in common with its parent.

    ``name`` is the mapping's, as a selector takes it; ``resident`` its Rss, ``shared`` pages that
    are the very same in the parent (an interval for private memory where frames are hidden),
    ``own`` pages that nobody else maps: copied since the fork, or made since (exact everywhere).
    A child that is one memory with its parent (vfork, CLONE_VM) shares all of it, and one that
    is with any member has nothing of its own.
    """

    name: str
    pid: int
    parent: int
    resident: Count
    shared: Count
    own: Count


class Tree(Group):
    """Snapshots of a process and all its descendants; everything of a Group applies.

    Iterating gives the root first, and each process behind the one that started it.
    """

    def __init__(self, members: Members, root: int, parents: dict[int, int]) -> None:
        super().__init__(members)
        self._root = root
        self._parents = parents

    @property
    def root(self) -> Snapshot:
        """The process that the tree was asked of."""
        return self[self._root]

    @property
    def children(self) -> tuple[Snapshot, ...]:
        """The processes that the root started, in the order of their pids."""
        return self.children_of(self._root)

    def children_of(self, process: Snapshot | int) -> tuple[Snapshot, ...]:
        """The processes that a member started; KeyError where it is none."""
        pid = self._member_pid(process)
        return tuple(snapshot for snapshot in self if self._parents.get(snapshot.pid) == pid)

    def parent_of(self, process: Snapshot | int) -> Snapshot | None:
        """The member that started a member; None of the root.  KeyError where it is no member."""
        parent = self._parents.get(self._member_pid(process))
        return None if parent is None or parent not in self.pids else self[parent]

    def sharing(self) -> tuple[Share, ...]:
        """Who shares what with whom: a row for each child and each file, heap, stack, ... of it
        that is resident; those with most of their own first.
        """
        rows = [row for child in self for row in self._shares(child)]
        return tuple(sorted(rows, key=lambda row: -(row.own.bytes.bounds[1] or 0)))

    def __sub__(self, earlier: object) -> TreeChange:
        """What changed since an earlier capture of the same tree; ValueError for another's."""
        if not isinstance(earlier, Tree):
            return NotImplemented
        return TreeChange(self, earlier)

    def __repr__(self) -> str:
        return f"<Tree of {self.root.comm} {self._root}: {self.label}, {self.verdict.label}>"

    def _member_pid(self, process: Snapshot | int) -> int:
        pid = process if isinstance(process, int) else process.pid
        if pid not in self.pids:
            raise KeyError(pid)
        return pid

    def _shares(self, child: Snapshot) -> Iterator[Share]:
        parent = self.parent_of(child)
        if parent is None:
            return
        kin = {one_memory(child.columns, each.columns) for each in self if each is not child}
        for selection in _by_name(child):
            if selection.rss.bytes.bounds == (0, 0):
                continue
            yield Share(
                selection.label,
                child.pid,
                parent.pid,
                selection.rss,
                selection.shared_with(parent),
                _own(selection, kin),
            )


def _own(selection: Selection, kin: set[bool | None]) -> Count:
    """What the kernel counts as mapped once is not all one's own in a memory of several."""
    hi = selection.uss.bytes.bounds[1]
    if kin <= {False}:
        return selection.uss
    return Count(
        0,
        0 if True in kin else hi,
        page_size=selection.page_size,
        label=f"{selection.label}: own",
        remedy="" if True in kin or hi == 0 else NO_KCMP,
    )


class TreeChange:
    """``later - earlier`` of two captures of one tree.

    ``change[pid]`` is the :class:`~pytest_pmaps.Delta` of a process that is in both.
    """

    def __init__(self, later: Tree, earlier: Tree) -> None:
        if _identity(later.root) != _identity(earlier.root):
            raise ValueError("these are trees of two processes: their roots differ")
        self.later = later
        self.earlier = earlier

    @cached_property
    def stayed(self) -> tuple[int, ...]:
        """The processes that are in both."""
        before = {_identity(snapshot) for snapshot in self.earlier}
        return tuple(snapshot.pid for snapshot in self.later if _identity(snapshot) in before)

    @cached_property
    def arrived(self) -> tuple[int, ...]:
        """The processes that were started since."""
        return tuple(pid for pid in self.later.pids if pid not in self.stayed)

    @cached_property
    def gone(self) -> tuple[int, ...]:
        """The processes that have ended since, or are no descendants any more."""
        return tuple(pid for pid in self.earlier.pids if pid not in self.stayed)

    def __getitem__(self, pid: int) -> Delta:
        """What changed in one that is in both; KeyError for others."""
        if pid not in self.stayed:
            raise KeyError(pid)
        return self.later[pid] - self.earlier[pid]

    @property
    def unique_rss(self) -> Count:
        """Net: each physical page counted once."""
        return self.later.unique_rss - self.earlier.unique_rss

    @property
    def sum_rss(self) -> Count:
        """Net: the sum of each one's Rss."""
        return self.later.sum_rss - self.earlier.sum_rss

    @property
    def pss(self) -> Count:
        """Net: the sum of each one's Pss."""
        return self.later.pss - self.earlier.pss

    @property
    def uss(self) -> Count:
        """Net: pages that one process alone maps.  In forked workers that is what they copy."""
        return self.later.uss - self.earlier.uss

    def __repr__(self) -> str:
        stayed, arrived, gone = len(self.stayed), len(self.arrived), len(self.gone)
        return f"<change of a tree: {stayed} stayed, {arrived} arrived, {gone} gone>"


def tree(target: object = None, *, missing: Literal["raise", "skip"] = "raise") -> Tree:
    """Capture a process and all its descendants: ``target`` is what :func:`snapshot` takes.

    Descendants are found by their parent's pid (``/proc/PID/stat``), before they are captured and
    again afterwards, until no new one turns up.  Processes that have ended are no members.
    A process whose parent has ended belongs to init, or a subreaper, and is no descendant:
    ``pmaps.run(follow=True)`` sees such.

    A descendant that may not be read, or that /proc hides, raises AccessDenied; with
    ``missing="skip"`` it is left out and listed in ``tree.missing``, and totals have no upper end.
    The root has to be there.
    Where processes were started faster than they could be captured, the verdict says so, and
    totals have no upper end either.
    """
    __tracebackhide__ = True
    skip = is_skip(missing)
    root = pid_of(target) or getpid()
    capturing = Capturing(lambda lost: lost.pid != root and (lost.over or skip))
    family = _Family(root, capturing.expected)
    members = capturing.members([root], family.find)
    places = {pid: place for place, pid in enumerate(family.order)}
    members.processes.sort(key=lambda process: places[process.pid])
    if family.grew:
        members.unlisted = _GREW
    return Tree(members, root, family.parents)


class _Family:
    """Who descends from a process."""

    def __init__(self, root: int, starts: dict[int, int]) -> None:
        self.root = root
        self.starts = starts
        self.parents: dict[int, int] = {}
        self.rounds = 0
        self.grew = False

    def find(self, taken: dict[int, Snapshot]) -> list[int]:
        """Descendants that were not known yet."""
        self.rounds += 1
        seen = _processes()
        parents = {pid: process.parent for pid, process in seen.items()}
        for parent in taken:
            parents |= dict.fromkeys(_hidden_children(parent), parent)
        found = [pid for pid in _below(self.root, parents) if pid not in self.parents]
        self.grew = bool(found) and self.rounds > _ROUNDS
        if self.grew:
            return []
        self.parents |= {pid: parents[pid] for pid in found}
        self.starts |= {pid: seen[pid].start for pid in found if pid in seen}
        return found

    @property
    def order(self) -> list[int]:
        """All of them, parents before children."""
        return [self.root, *_below(self.root, self.parents)]


def _below(root: int, parents: dict[int, int]) -> list[int]:
    """All descendants, parents before children."""
    found = [root]
    children: dict[int, list[int]] = {}
    for pid, parent in sorted(parents.items()):
        children.setdefault(parent, []).append(pid)
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


class _Seen(NamedTuple):
    parent: int
    start: int


def _processes() -> dict[int, _Seen]:
    """Every process that is shown, but those that have ended and wait to be reaped."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return {pid: seen for pid in pids if (seen := _look_at(pid))}


def _look_at(pid: int) -> _Seen | None:
    fields = stat_of(pid)
    if fields is None or has_ended(pid, fields):
        return None
    return _Seen(int(fields[PARENT]), int(fields[START]))


def _hidden_children(pid: int) -> set[int]:
    """Children that the kernel names, and that /proc does not show (hidepid)."""
    tasks = glob.glob(f"/proc/{pid}/task/*/children")
    named = {int(child) for task in tasks for child in read_text(task).split()}
    return {child for child in named if stat_of(child) is None}


def _identity(snapshot: Snapshot) -> tuple[int, int]:
    """A process for good: pids are used again, start times are not."""
    return snapshot.pid, snapshot.columns.start_time


def _by_name(snapshot: Snapshot) -> Iterator[Selection]:
    """Its mappings, those of one name and one file together."""
    windows: dict[tuple[object, ...], list[Window]] = {}
    labels: dict[tuple[object, ...], str] = {}
    for number, mapping in enumerate(snapshot.mappings):
        info = mapping.info
        key: tuple[object, ...] = (mapping.label, info.dev, info.inode)
        windows.setdefault(key, []).append(Window(number, info.start, info.end))
        labels[key] = mapping.label
    for key, found in windows.items():
        yield Selection(snapshot, tuple(found), labels[key])
