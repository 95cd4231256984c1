"""Soft-dirty: pages written since 4 was written to clear_refs, where the kernel has it."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import pytest

from oracle import targets
from pytest_pmaps import Fact, cli, host, snapshot

PAGES = 64
TARGET = """
import ctypes, json, mmap, sys
memory = mmap.mmap(-1, 64 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory[::4096] = b"x" * 64
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print(json.dumps({"start": start}), flush=True)
for line in sys.stdin:
    memory[4096 * int(line)] = 1
    print(json.dumps({"start": start}), flush=True)
"""


def kernel_has_it() -> bool:
    """Found out apart from the engine: bit 55 of the entry of a page that was just written."""
    memory = mmap.mmap(-1, 4096)
    memory[0] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        file.seek(address // 4096 * 8)
        return bool(int.from_bytes(file.read(8), "little") >> 55 & 1)


def written(pid: int, start: int) -> set[int]:
    """Pages of the target's memory that are soft-dirty; none may be unknown."""
    pages = set()
    for mapping in snapshot(pid).mappings:
        for one in mapping.ranges():
            for number in range(one.count):
                page = (one.address + number * 4096 - start) // 4096
                if 0 <= page < PAGES:
                    assert one.fact(Fact.SOFTDIRTY) is not None
                    pages |= {page} if one.fact(Fact.SOFTDIRTY) else set()
    return pages


def test_pages_written_since_then():
    """All of them; of memory that is not written to nothing else either."""
    if not kernel_has_it():
        pytest.skip("this kernel has no CONFIG_MEM_SOFT_DIRTY")
    with targets.running("-c", TARGET, python=sys.executable) as target:
        start = target.info["start"]
        assert written(target.pid, start) == set(range(PAGES))
        Path(f"/proc/{target.pid}/clear_refs").write_text("4\n")
        assert written(target.pid, start) == set()
        for page in (3, 17, 63):
            target.ask(str(page))
        assert written(target.pid, start) == {3, 17, 63}


def test_doctor_says_what_the_kernel_has(capsys: pytest.CaptureFixture[str]):
    """Either way."""
    assert {s.name: s.works for s in host.sources()}["softdirty"] == kernel_has_it()
    assert cli.main(["doctor"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "softdirty" in line)
    assert line.split()[0] == ("yes" if kernel_has_it() else "no")
