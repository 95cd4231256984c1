"""A Python process of about 55 MiB that sits idle: ``python_target.py MIB SIBLINGS``.

It imports what a service imports, then makes objects until it is as large as asked.  With
siblings, it forks one child to be looked at and so many others, all of them idle.  Prints
"ready PID" and ends, with its children, when its standard input does.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

MODULES = (
    "asyncio",
    "concurrent.futures",
    "decimal",
    "difflib",
    "email.mime.multipart",
    "http.server",
    "json",
    "logging.config",
    "multiprocessing",
    "sqlite3",
    "ssl",
    "unittest.mock",
    "urllib.request",
    "xml.dom.minidom",
    "numpy",
)


def resident() -> int:
    """Rss in bytes."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def grow(size: int) -> list[object]:
    """Import until so large, then make small objects of several kinds."""
    for name in MODULES:
        if resident() < size - (8 << 20):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    kept: list[object] = []
    while resident() < size:
        kept.extend({"number": i, "text": f"item {i}", "pair": (i, str(i))} for i in range(500))
    return kept


def fork(siblings: int) -> int:
    """Fork idle children, which end when this process does; the pid of the first."""
    reader, writer = os.pipe()  # nobody writes: the end of the parent is what comes
    pids = []
    for _ in range(siblings + 1):
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        pids.append(pid)
    os.set_inheritable(writer, False)
    return pids[0]


def main() -> None:
    """Grow, fork, say so, wait."""
    size, siblings = int(sys.argv[1]) << 20, int(sys.argv[2])
    kept = grow(size)
    pid = fork(siblings) if siblings else os.getpid()
    sys.stdout.write(f"ready {pid}\n")
    sys.stdout.flush()
    sys.stdin.read()
    del kept


main()
