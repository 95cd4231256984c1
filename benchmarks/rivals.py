"""Other ways to read the pages of a process, to be timed beside ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from host import Unavailable, build

try:
    import psutil
except ImportError:
    psutil = None

_PRESENT, _FRAME = 1 << 63, (1 << 55) - 1

#: What rivals.c knows, and what it is called in tables.
COMPILED = {
    "floor": "floor",
    "floor-twice": "twice",
    "floor-pages": "pagemap",
    "page-types": "page-types",
    "smaps": "smaps",
}


class Compiled:
    """rivals.c, looking at one process; it answers by name."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.calls: dict[str, int] = {}
        self._expect()

    def _expect(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line or line.startswith("cannot: "):
            raise Unavailable(line.removeprefix("cannot: ") or "rivals.c ended early")
        return line

    def run(self, name: str) -> int:
        """Nanoseconds of CPU time of one go."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        ns, calls = self._expect().split()
        self.calls[name] = int(calls)
        return int(ns)


class NotCompiled(Compiled):
    """Where there is no compiler."""

    def __init__(self, why: Unavailable) -> None:
        self._why = why
        self.calls = {}

    def run(self, name: str) -> int:
        """Never."""
        raise self._why


class Rivals:
    """Builds rivals.c when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program: Path | None = None

    @contextmanager
    def of(self, pid: int) -> Iterator[Compiled]:
        """rivals.c, looking at a process."""
        try:
            self._program = self._program or build("rivals", self._folder)
        except Unavailable as exc:
            yield NotCompiled(exc)
            return
        with subprocess.Popen(
            [self._program, str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:  # leaving closes the pipes, whereupon it ends, and waits
            yield Compiled(process)


# ---- in Python


def read_smaps(pid: int) -> None:
    """The text of smaps as psutil reads it, unparsed."""
    with open(f"/proc/{pid}/smaps", "rb") as f:
        f.read()


def memory_maps(pid: int) -> None:
    """What psutil makes of smaps."""
    if psutil is None:
        raise Unavailable("psutil is not installed")
    psutil.Process(pid).memory_maps()


def pure_python(pid: int) -> dict[tuple[int, int], int]:
    """Flags and counts of every page, grouped, as one would write it down first."""
    found: dict[tuple[int, int], int] = {}
    flags = _open("/proc/kpageflags")
    counts = _open("/proc/kpagecount")
    pagemap = _open(f"/proc/{pid}/pagemap")
    try:
        for entry in _entries(pid, pagemap):
            if entry & _PRESENT and entry & _FRAME:
                at = (entry & _FRAME) * 8
                state = (_number(os.pread(flags, 8, at)), _number(os.pread(counts, 8, at)))
                found[state] = found.get(state, 0) + 1
    finally:
        for fd in (flags, counts, pagemap):
            os.close(fd)
    return found


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except PermissionError:
        raise Unavailable("needs CAP_SYS_ADMIN to see page frames") from None


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _entries(pid: int, pagemap: int) -> Iterator[int]:
    page = os.sysconf("SC_PAGESIZE")
    with open(f"/proc/{pid}/maps") as f:
        for line in f:
            start, _, end = line.partition(" ")[0].partition("-")
            if int(start, 16) >> 63:
                continue
            first, stop = int(start, 16) // page, int(end, 16) // page
            data = os.pread(pagemap, (stop - first) * 8, first * 8)
            for at in range(0, len(data), 8):
                yield _number(data[at : at + 8])
