"""Processes to look at: what shapes there are, how to start one and how to end it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import host
from host import Unavailable

MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
_RESERVE = 512 * MIB  # left to everything else on the host


@dataclass(frozen=True)
class Workload:
    """One target: ``argv`` behind the program's name, and what it needs to exist."""

    name: str
    label: str
    argv: tuple[str, ...]
    needs: int  # bytes of memory
    small: bool = False  # pages enough for pure Python
    labelled: Callable[[int], str] | None = field(default=None, compare=False)


@dataclass
class Target:
    """A running one."""

    workload: Workload
    pid: int
    note: str = ""

    @property
    def label(self) -> str:
        """What it is, with sizes."""
        return self.workload.label


def size(n: int) -> str:
    """``1 GiB``."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB")):
        if n >= unit and n % unit == 0:
            return f"{n // unit} {name}"
    return f"{n} B"


def _that_fits(wanted: int) -> int:
    """Half, and half of that, as long as memory is too short."""
    while wanted > 64 * MIB and wanted + wanted // 8 + _RESERVE > host.free_memory():
        wanted //= 2
    return wanted


def _shape(name: str, shape: str, nbytes: int, label: str) -> Workload:
    argv = ("workloads", shape, str(nbytes))
    return Workload(name, f"{size(nbytes)} {label}", argv, nbytes + nbytes // 8)


def _mappings(name: str, count: int) -> Workload:
    count = min(count, host.max_mappings() - 200)
    argv = ("workloads", "mappings", str(count))
    return Workload(name, f"{count:,} mappings", argv, count * 8192, count <= 20_000)


def _python(name: str, label: str, mib: int, siblings: int) -> Workload:
    argv = ("python", str(mib), str(siblings))
    return Workload(name, label, argv, (mib + siblings * 4) * MIB, small=True)


def _sparse(nbytes: int, count: int) -> Workload:
    argv = ("workloads", "sparse", str(nbytes), str(count))
    label = f"{size(nbytes)}, {count:,} pages"
    return Workload("sparse", label, argv, count * 8192)


def workloads(quick: bool) -> list[Workload]:
    """All of the table; ``quick``: as small as still shows that they work."""
    gib = 64 * MIB if quick else GIB
    return [
        _python("python", "python, 55 MiB", 55, 0),
        _python(
            "forks",
            "child of 50 forks" if not quick else "child of 5 forks",
            55,
            5 if quick else 50,
        ),
        _shape("sequential", "sequential", gib, "sequential"),
        _shape("random", "random", gib, "random order"),
        _shape("huge", "huge", gib, "huge pages"),
        _shape("file", "file", _that_fits(2 * gib if quick else 4 * gib), "file"),
        _mappings("mappings-20000", 1_000 if quick else 20_000),
        _mappings("mappings-65000", 2_000 if quick else 65_000),
        _sparse(TIB // 64 if quick else TIB, 1_000 if quick else 10_000),
    ]


def comb(quick: bool) -> Workload:
    """Every other page present: nothing but page ranges of one page."""
    return _shape("comb", "comb", 64 * MIB if quick else GIB, "every other page")


def stall(quick: bool, publish: Path) -> Workload:
    """A target with a thread that maps and unmaps, and publishes how long that took at most."""
    nbytes = _that_fits(128 * MIB if quick else 4 * GIB)
    argv = ("workloads", "stall", str(nbytes), str(publish))
    return Workload("stall", size(nbytes), argv, nbytes + nbytes // 8)


class Launcher:
    """Starts targets; keeps the compiled program and a folder for files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program: Path | None = None

    def _command(self, workload: Workload) -> list[str]:
        program, *rest = workload.argv
        if program == "python":
            return [sys.executable, "-P", str(host.HERE / "python_target.py"), *rest]
        if self._program is None:
            self._program = host.build("workloads", self.folder)
        return [str(self._program), *rest]

    @contextmanager
    def run(self, workload: Workload) -> Iterator[Target]:
        """Start one, wait until it is ready, and end it afterwards.

        Raises Unavailable where the host has no room for it, or cannot show it.
        """
        free = host.free_memory()
        if workload.needs + _RESERVE > free:
            needs = (workload.needs + _RESERVE) // MIB
            raise Unavailable(f"needs {needs:,} MiB of free memory, and {free // MIB:,} are there")
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            command = self._command(workload)
            if workload.name == "file":
                command.append(str(Path(folder, "file")))
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            )
            try:
                yield _ready(workload, process)
            finally:
                _end(process)


def _ready(workload: Workload, process: subprocess.Popen[str]) -> Target:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line.startswith("cannot: "):
        raise Unavailable(line.removeprefix("cannot: "))
    if not line.startswith("ready"):
        raise Unavailable("the target did not start" + ("" if line else " (out of memory?)"))
    _, _, pid = line.partition(" ")
    target = Target(workload, int(pid or process.pid))
    if workload.name == "huge":
        really = host.rollup(target.pid, "AnonHugePages")
        target.note = f"{really / GIB:.2f} GiB of it really huge"
    return target


def _end(process: subprocess.Popen[str]) -> None:
    """It ends by itself when nobody is left to talk to; with so much memory that takes a while."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
