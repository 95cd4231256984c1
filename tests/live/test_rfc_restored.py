"""``pmaps show`` as root: the proposal's output, whole.

Byte for byte its layout, with all seven flags and no ``?``, of a process that is idle.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oracle import reader
from pytest_pmaps import loads
from pytest_pmaps.host import sources

PAGE = os.sysconf("SC_PAGESIZE")
RANGE = re.compile(r"(\d+)\t([1-9]\d*)\t([Y_][R_][A_][U_][P_][D_][W_])\t([1-9]\d*)")


@pytest.fixture
def idle() -> Iterator[int]:
    """A Python that sleeps."""
    reader.require_frames()
    pte = next(s for s in sources() if s.name == "pte")
    if not pte.works:
        pytest.skip(f"page tables cannot be read: {pte.reason}")
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(1000)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        was = None
        while was != (now := clock(process.pid)) or not now[0].endswith("S"):
            was = now
            time.sleep(0.02)
        yield process.pid
        process.kill()


def clock(pid: int) -> tuple[str, list[str]]:
    """Its state, and the faults and time that it has used."""
    head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    fields = tail.split()
    return head + fields[0], fields[7:15]


def show(pid: int) -> str:
    """What the command prints."""
    command = [str(Path(sys.executable).with_name("pmaps")), "show", str(pid)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout


def parsed(text: str) -> Iterator[tuple[str, list[tuple[int, int, str, int]]]]:
    """Mapping lines with their ranges; every line is one or the other."""
    header, ranges = "", []
    for line in text.splitlines():
        if "\t" not in line:
            if header:
                yield header, ranges
            header, ranges = line, []
            continue
        match = RANGE.fullmatch(line)
        assert match, line
        ranges.append((int(match[1]), int(match[2]), match[3], int(match[4])))
    yield header, ranges


def maps_of(pid: int) -> list[str]:
    """The kernel's lines."""
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


def test_all_seven_flags(idle: int):
    """Nothing is unknown; mapping lines are the kernel's own."""
    for _ in range(5):  # others may unmap a library meanwhile, whose counts then are bounds
        text = show(idle)
        if "?" not in text:
            break
    found = dict(parsed(text))
    assert [h.rstrip() for h in found] == [line.rstrip() for line in maps_of(idle)]
    flags = {flags for ranges in found.values() for _, _, flags, _ in ranges}
    assert {f[0] for f in flags} >= {"Y"}
    assert {f[4] for f in flags} == {"P", "_"}
    assert sum(n for ranges in found.values() for _, n, _, _ in ranges) == rss(idle)
    assert loads(text).rss == rss(idle)


def rss(pid: int) -> int:
    """Pages, by the kernel's sum of the mappings."""
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Rss:")) * 1024 // PAGE


def test_indexes(idle: int):
    """Of the file; of the address; of [stack] from where exec put it; of [vdso] from 0."""
    for header, ranges in parsed(show(idle)):
        fields = header.split(maxsplit=5)
        start, end = (int(x, 16) for x in fields[0].split("-"))
        offset, name = int(fields[2], 16), fields[5] if len(fields) > 5 else ""
        pages = (end - start) // PAGE
        first = offset // PAGE if fields[4] != "0" else start // PAGE
        if name == "[stack]":
            first = top_of_stack() - (end - start) // PAGE
        elif name in ("[vdso]", "[vvar]", "[vvar_vclock]"):
            first = 0
        for index, count, _, _ in ranges:
            assert first <= index, header
            assert index + count <= first + pages, header


def top_of_stack() -> int:
    """The page behind the stack as exec first puts it: the last but one of user space."""
    return 0x7FFFFFFFF


def test_p_is_what_smaps_counts(idle: int):
    """P or D of each mapping, to the page; Y within Referenced, which others' R only adds to."""
    text = Path(f"/proc/{idle}/smaps").read_text()
    found = list(parsed(show(idle)))
    entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE)[1:]
    for (header, ranges), entry in zip(found, entries, strict=True):
        counters = dict(re.findall(r"^(\w+): +(\d+) kB$", entry, re.MULTILINE))
        if "Rss" not in counters:
            continue
        kib = PAGE // 1024
        dirty = sum(n for _, n, f, _ in ranges if f[4] == "P" or f[5] == "D") * kib
        young = sum(n for _, n, f, _ in ranges if f[0] == "Y") * kib
        assert dirty == int(counters["Private_Dirty"]) + int(counters["Shared_Dirty"]), header
        assert young <= int(counters["Referenced"]), header
