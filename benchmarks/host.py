"""What this host has, and what it is: never its name, nor a path of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from pytest_pmaps import _native, host

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"


class Unavailable(Exception):
    """Something cannot be measured here, and why."""


def build(name: str, folder: Path) -> Path:
    """Compile ``NAME.c`` into a folder."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Unavailable("no C compiler (gcc)")
    made = folder / name
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread", f"-I{CSRC}"]
    command = [compiler, *flags, "-o", str(made), str(HERE / f"{name}.c")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{name}.c does not compile: {done.stderr.strip().splitlines()[0]}")
    return made


def free_memory() -> int:
    """Bytes that can be had without pushing anything out, in this cgroup too."""
    meminfo = Path("/proc/meminfo").read_text()
    available = next(line for line in meminfo.splitlines() if line.startswith("MemAvailable"))
    return min(int(available.split()[1]) << 10, _cgroup_headroom())


def _cgroup_headroom() -> int:
    try:
        own = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2]
        folder = Path("/sys/fs/cgroup", own.lstrip("/"))
        most, used = ((folder / f"memory.{name}").read_text() for name in ("max", "current"))
    except OSError:
        return 1 << 62
    return 1 << 62 if most.strip() == "max" else int(most) - int(used)


def max_mappings() -> int:
    """How many mappings the kernel allows a process."""
    return int(Path("/proc/sys/vm/max_map_count").read_text())


def sees_frames() -> bool:
    """Whether physical pages are visible: CAP_SYS_ADMIN."""
    seen = _native.probe()
    return all(seen[name] == 0 for name in ("pfn", "kpageflags", "kpagecount"))


def rollup(pid: int | str, name: str = "Rss") -> int:
    """A counter of smaps_rollup, in bytes; exact, while status counts in batches."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) << 10
    raise Unavailable(f"smaps_rollup has no {name}")


def environment() -> dict[str, object]:
    """What figures depend on."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    seen = _native.probe()
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "page_size": os.sysconf("SC_PAGESIZE"),
        "python": platform.python_version(),
        "root": os.geteuid() == 0,
        "frames": sees_frames(),
        "sources": [name for name, code in seen.items() if code == 0],
        "moving": [f"{c.name} {c.state}" for c in host.confounders()],
    }
