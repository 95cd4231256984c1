"""What a run gives: moments, and what was seen of the process at each."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

from .counts import Count
from .errors import PmapsError
from .hwm import slack
from .launching import Args
from .select import Selector
from .snapshots import Snapshot

__all__ = ["Child", "Moment", "Moments", "NoSuchMoment", "Run", "Runs", "Spread"]

_LONGEST_NAME = 40

#: Moments that only a process that is followed has.
TRACED = ("exec", "exit")


class NoSuchMoment(PmapsError, KeyError):
    """A run has no snapshot by that name; the message says why, or which there are."""

    __str__ = Exception.__str__


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment at which a process was to be captured.

    ``seconds`` since the run's program was let start; ``snapshot`` None where there is none, and
    ``reason`` why.
    """

    pid: int
    name: str
    seconds: float
    snapshot: Snapshot | None
    reason: str = ""


class Moments(Mapping[str, Snapshot]):
    """Snapshots by the name of their moment; of several by one name the last.

    A name that was missed, never came, or was not asked for raises NoSuchMoment, which says so.
    """

    def __init__(self, moments: Sequence[Moment], missed: Mapping[str, str] | None = None) -> None:
        self._taken: dict[str, Snapshot] = {}
        self._missed = dict(missed or {})
        for moment in moments:
            self._taken.pop(moment.name, None)  # one that was missed is not the one before it
            if moment.snapshot is not None:
                self._taken[moment.name] = moment.snapshot
            else:
                self._missed[moment.name] = moment.reason

    def __getitem__(self, name: str) -> Snapshot:
        __tracebackhide__ = True
        if name in self._taken:
            return self._taken[name]
        if name in self._missed:
            raise NoSuchMoment(f"no snapshot at {name!r}: {self._missed[name]}")
        there = ", ".join(map(repr, self._taken)) or "none"
        raise NoSuchMoment(f"no moment {name!r} was asked for or reached; there are: {there}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._taken)

    def __len__(self) -> int:
        return len(self._taken)

    def __repr__(self) -> str:
        return f"<at {', '.join(self._taken) or 'no moment'}>"


@dataclass(frozen=True)
class Child:
    """A descendant of the run's program, as ``follow=True`` saw it.

    ``ppid`` is its parent when it was first seen, which of a daemon may be init already.
    ``args`` is its command line, ``[]`` where it could not be read.  ``returncode`` is as
    subprocess has it, None for one that ran on when the run was over, or whose end nobody saw.
    ``peak_rss`` is as in :class:`Run`.
    """

    pid: int
    ppid: int
    args: tuple[str, ...]
    returncode: int | None
    at: Moments
    moments: tuple[Moment, ...]
    peak_rss: Count

    def __repr__(self) -> str:
        name = " ".join(self.args[:1]) or "?"
        end = "ran on" if self.returncode is None else f"ended with {self.returncode}"
        return f"<child {self.pid} ({name}), {end}>"


@dataclass(frozen=True)
class Run:
    """A program that was run to its end, and its memory at the moments asked for.

    ``args pid returncode stdout stderr`` are as subprocess has them.

    ``at["exit"]`` is a snapshot; ``moments`` lists all of them, in order, with those that were
    missed and why.  ``samples`` are what ``every`` asked for.

    ``peak_rss`` is the largest RSS since its last exec, from VmHWM, an interval: the kernel counts
    in batches per CPU.  Looked at from time to time only (``trace=False``), it has no upper end.

    ``aslr`` says whether addresses were randomised, None where that could not be read;
    ``pinned`` which environment variables ``pin`` set.  ``notes`` say what disturbed the run.
    """

    args: Args
    pid: int
    returncode: int
    stdout: Any
    stderr: Any
    at: Moments
    moments: tuple[Moment, ...]
    samples: tuple[Moment, ...]
    peak_rss: Count
    children: tuple[Child, ...] = ()
    aslr: bool | None = None
    pinned: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def check_returncode(self) -> None:
        """Raise subprocess.CalledProcessError unless it ended with 0."""
        if self.returncode:
            error = subprocess.CalledProcessError(
                self.returncode, self.args, self.stdout, self.stderr
            )
            error.run = self  # type: ignore[attr-defined]  # ours to add
            raise error

    def __repr__(self) -> str:
        notes = "".join(f"; {note}" for note in self.notes)
        return f"<run of {_name(self.args)}, ended with {self.returncode}: {self.at!r}{notes}>"


class Spread(NamedTuple):
    """Of several runs: each an interval where the counts are."""

    min: Count
    median: Count
    max: Count

    @property
    def width(self) -> Count:
        """From the smallest to the largest."""
        return self.max - self.min

    def __repr__(self) -> str:
        return f"<min {self.min}, median {self.median}, max {self.max}>"


class Runs(Sequence[Run]):
    """Fresh runs of one program."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = tuple(runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | Sequence[Run]:
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def spread(self, metric: str, at: str = "exit", select: Selector | None = None) -> Spread:
        """Minimum, median and maximum of a metric of all runs.

        ``metric``: a name that snapshots have, or ``"peak_rss"``, which is of no moment.
        ``select``: of those mappings alone.
        """
        __tracebackhide__ = True
        counts = [self._count(run, metric, at, select) for run in self._runs]
        return Spread(*(_ordered(counts, metric, pick) for pick in (min, _median, max)))

    def median(self, metric: str, at: str = "exit", select: Selector | None = None) -> Count:
        """The median of a metric; of an even number of runs the lower one of the two."""
        __tracebackhide__ = True
        return self.spread(metric, at, select).median

    @staticmethod
    def _count(run: Run, metric: str, at: str, select: Selector | None) -> Count:
        __tracebackhide__ = True
        if metric == "peak_rss":
            return run.peak_rss
        snapshot = run.at[at]
        return (snapshot if select is None else snapshot[select]).metric(metric)

    def __repr__(self) -> str:
        return f"<{len(self)} runs of {_name(self[0].args)}>" if self._runs else "<no runs>"


def _median(ends: Sequence[int]) -> int:
    return statistics.median_low(ends)


def _ordered(counts: Sequence[Count], metric: str, pick: Callable[[Sequence[int]], int]) -> Count:
    """The k-th of intervals lies between the k-th of their ends."""
    lows = [count.bytes.bounds[0] or 0 for count in counts]
    highs = [count.bytes.bounds[1] for count in counts]
    bounded = [high for high in highs if high is not None]
    # One without an end stands behind all others.
    endless = [1 << 64] * (len(highs) - len(bounded))
    high = pick(bounded + endless)
    first = counts[0]
    return Count(
        pick(lows),
        None if high == 1 << 64 else high,
        unit=first.unit,
        page_size=first.page_size,
        label=f"{metric} of {len(counts)} runs",
        remedy=first.remedy,
    )


# ---- peaks


class Peak:
    """What VmHWM said of a process since its last exec, and what that means."""

    def __init__(self) -> None:
        self.hwm = 0  # bytes
        self.least = 0  # that were seen resident at one moment
        self.threads = 1
        self.final = False  # looked at when nothing could be added any more
        self.looked = False

    def look(self, status: str, *, final: bool) -> None:
        """Take what /proc/PID/status says."""
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "VmHWM" in fields:
            self.looked = True
            self.hwm = max(self.hwm, int(fields["VmHWM"].split()[0]) * 1024)
            self.threads = max(self.threads, int(fields.get("Threads", "1")))
            self.final = final

    def count(self, why_not: str) -> Count:
        """The interval."""
        size = os.sysconf("SC_PAGESIZE")
        off = slack(self.threads)
        low = max(self.hwm - off.less, self.least, 0)
        high = max(self.hwm + off.more, low) if self.final else None
        return Count(
            low, high, page_size=size, label="peak rss", remedy="" if self.final else why_not
        )


def _name(args: Args) -> str:
    words = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
    return os.fsdecode(words[0])[-_LONGEST_NAME:] if words else "nothing"


def returncode_of(status: int) -> int:
    """As ``subprocess`` has it: negative for a signal."""
    signal = status & 0x7F
    return -signal if signal else status >> 8 & 0xFF
