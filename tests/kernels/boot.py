"""Booting one guest: start it, give it its time, and read what it said."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from kernels.fetch import Kernel, Missing, tool

MEMORY = "3G"  # 1 GiB of it is one huge page, if the kernel is not in its way
CPUS = int(os.environ.get("PMAPS_KERNELS_CPUS", "2"))
BEGIN, END = "=== begin", "=== end: "  # guest/run says so

_WRONG = re.compile(
    r"cut here|BUG:|WARNING:|Oops|general protection|Kernel panic|Call Trace|soft lockup"
    r"|blocked for more than|detected stalls"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A kernel, and how it is booted."""

    kernel: Kernel
    initramfs: Path
    disks: tuple[Path, ...]
    random: bool
    levels: int
    plan: str
    expect: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The command line of qemu: emulated throughout, no network."""
        words = ["console=ttyS0", "panic=-1", "oops=panic", "hugepagesz=1G", "hugepages=1",
                 f"pmaps.plan={self.plan}", f"pmaps.levels={self.levels}",
                 f"pmaps.random={int(self.random)}", f"pmaps.expect={','.join(self.expect)}",
                 *([] if self.random else ["nokaslr"])]  # fmt: skip
        disks = [f"file={disk},format=raw,if=virtio,snapshot=on" for disk in self.disks]
        # Or KSM of the host, while a live test has it run, merges pages of targets with a guest's.
        machine = "pc,mem-merge=off"
        return [tool("qemu-system-x86_64"), "-accel", "tcg", "-machine", machine,
                "-cpu", "max" if self.levels == 5 else "max,la57=off",
                "-smp", str(CPUS), "-m", MEMORY, "-nodefaults", "-display", "none", "-no-reboot",
                "-kernel", str(self.kernel.image), "-initrd", str(self.initramfs),
                "-append", " ".join(words),
                *(word for disk in disks for word in ("-drive", disk))]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a guest said until it ended, or until its time was up."""

    qemu: str
    console: str
    tests: str
    seconds: float
    in_time: bool

    @property
    def status(self) -> int | None:
        """The worst exit status of its tests; None: it did not come to the end."""
        last = self.tests.rstrip().rpartition("\n")[2]
        return int(last.removeprefix(END)) if last.startswith(END) else None

    @property
    def complaints(self) -> list[str]:
        """Lines of the kernel's log that no test may cause."""
        return [line for line in self.console.splitlines() if _WRONG.search(line)]


def boot(machine: Machine, logs: Path, limit: float) -> Said:
    """Run a guest to its end, or for ``limit`` seconds."""
    console, tests = Path(f"{logs}.console.log"), Path(f"{logs}.tests.log")
    serials = ["-serial", f"file:{console}", "-serial", f"file:{tests}"]
    began = time.monotonic()
    guest = subprocess.Popen(
        [*machine.command, *serials],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    in_time = True
    try:
        output, _ = guest.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        in_time = False
        guest.kill()
        output, _ = guest.communicate()
    finally:
        if guest.poll() is None:
            guest.kill()
            guest.wait()
    if in_time and guest.returncode:
        raise Missing(f"qemu ended with {guest.returncode}: {output.strip()}")
    return Said(
        qemu=output,
        console=_text(console),
        tests=_text(tests),
        seconds=time.monotonic() - began,
        in_time=in_time,
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").replace("\r", "")
