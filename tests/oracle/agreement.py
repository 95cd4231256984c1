"""Holding the engine's captures against the independent reader, page by page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from oracle import reader
from oracle.reader import Unavailable
from oracle.targets import EXPECT, NOBODY, Info, areas
from pytest_pmaps import Fact, PageRange, Snapshot, loads

_FACTS: dict[Fact, Callable[[reader.Page], bool | None]] = {
    Fact.REFERENCED: lambda p: p.normal and p.referenced,
    Fact.ACTIVE: lambda p: p.normal and p.active,
    Fact.UPTODATE: lambda p: p.normal and p.uptodate,
    Fact.PAGEDIRTY: lambda p: p.normal and p.dirty,
    Fact.WRITEBACK: lambda p: p.normal and p.writeback,
    Fact.PRESENT: lambda p: p.present,
    Fact.NORMAL: lambda p: p.normal,
    Fact.SWAPPED: lambda p: p.on_swap,
    # The huge zero page is "not anonymous" to pagemap, and yet no page of a file.
    Fact.FILE: lambda p: p.file and not p.zero,
    Fact.ANON: lambda p: p.normal and p.anon,
    Fact.EXCLUSIVE: lambda p: p.normal and p.mapcount == 1,
    Fact.SHARED: lambda p: p.normal and p.mapcount > 1,
    Fact.ZERO: lambda p: p.present and p.zero,
    Fact.HUGE: lambda p: p.pmd_mapped if p.normal else None,
    Fact.KSM: lambda p: p.normal and p.ksm,
    Fact.GUARD: lambda p: p.guard,
    Fact.UFFDWP: lambda p: p.uffd_wp if p.present else None,
}


@dataclass
class Comparison:
    """What a comparison found.  ``decided`` and ``pages`` count by fact, over normal pages.

    ``moving``: what differs in states that other processes change at any time, on pages that
    they can reach.  One comparison proves nothing there; see :func:`agree`.
    """

    contradictions: list[str] = field(default_factory=list)
    moving: dict[tuple[int, str], str] = field(default_factory=dict)
    pages: int = 0
    compared: int = 0
    decided: Counter[str] = field(default_factory=Counter)

    def share(self, fact: str) -> float:
        """Share of normal pages of which a fact is decided."""
        return self.decided[fact] / self.pages if self.pages else 1.0


def pages_of(snapshot: Snapshot) -> Iterator[tuple[int, int, PageRange]]:
    """Every captured page: address, page index, and the range that it is of."""
    size = snapshot.page_size
    for found in snapshot.ranges():
        for i in range(found.count):
            yield found.address + i * size, found.index + i, found


def compare(snapshot: Snapshot, truth: reader.ProcessState, info: Info | None = None) -> Comparison:
    """Compare on pages that the truth vouches for (equal before and after the capture)."""
    result = Comparison()
    built = _constructed(info)
    captured = {address: (index, found) for address, index, found in pages_of(snapshot)}
    for mapping in truth.mappings:
        if mapping.hugetlb:
            continue
        for page in mapping.pages:
            index, found = captured.get(page.address, (None, None))
            if found is None:
                result.contradictions.append(f"{page.address:x} {mapping.name}: not captured")
                continue
            _compare_page(result, mapping, page, index, found)
            _compare_built(result, mapping, found, built.get(page.address))
    return result


def _compare_page(
    result: Comparison,
    mapping: reader.MappingState,
    page: reader.Page,
    index: int | None,
    found: PageRange,
) -> None:
    where = f"{page.address:x} {mapping.name or '[anon]'}"
    result.compared += 1
    if found.fact(Fact.RACED):
        return
    if page.normal:
        result.pages += 1
        _count_decided(result, mapping, page, found)
    for fact, of in _FACTS.items():
        true, said = of(page), found.fact(fact)
        if said is not None and true is not None and said != true:
            _report(result, page, fact.name, f"{where}: {fact.name} is said to be {said}: {page}")
    lo, hi = found.mapcount
    if page.normal and not (lo <= page.mapcount and (hi is None or page.mapcount <= hi)):
        text = f"{where}: mapcount is said to be {found.mapcount}, is {page.mapcount}"
        _report(result, page, "MAPCOUNT", text)
    if index != page.index and page.normal:
        result.contradictions.append(f"{where}: index {index}, not {page.index}")


_OTHERS_MOVE = {"MAPCOUNT", "EXCLUSIVE", "SHARED", "REFERENCED", "ACTIVE", "PAGEDIRTY", "WRITEBACK"}


def _report(result: Comparison, page: reader.Page, fact: str, text: str) -> None:
    if fact in _OTHERS_MOVE and not (page.anon and page.mapcount == 1):
        result.moving[page.address, fact] = text
    else:
        result.contradictions.append(text)


Around = Callable[[], tuple[Snapshot, reader.ProcessState]]


def agree(around: Around, info: Info | None = None, tries: int = 8) -> tuple[Snapshot, Comparison]:
    """Compare until all agrees, or the same page contradicts the reader every time.

    On a live host libraries are mapped and unmapped by others all the time: before, during and
    after a capture a mapcount may be 18, 17, 18.  What is wrong stays wrong.
    """
    persistent: dict[tuple[int, str], str] | None = None
    for _ in range(tries):
        captured, truth = around()
        result = compare(captured, truth, info)
        assert result.contradictions == []
        known = result.moving if persistent is None else persistent
        persistent = {key: text for key, text in known.items() if key in result.moving}
        if not persistent:
            break
    assert persistent == {}
    assert result.compared > 0
    return captured, result


def _count_decided(
    result: Comparison, mapping: reader.MappingState, page: reader.Page, found: PageRange
) -> None:
    for fact in Fact:
        result.decided[fact.name] += found.fact(fact) is not None
    result.decided["MAPCOUNT"] += found.mapcount[0] == found.mapcount[1]
    if mapping.header.private and mapping.header.name.startswith("/"):
        result.decided["FILE_PRIVATE_PAGES"] += 1
        result.decided["FILE_PRIVATE_DIRTY"] += found.fact(Fact.DIRTY) is not None


def _constructed(info: Info | None) -> dict[int, tuple[bool | None, bool | None]]:
    """By address P and our dirty, as the target made them."""
    built = {}
    for area in areas(info).values() if info else ():
        expect = EXPECT.get(area.state)
        if expect is not None:
            built.update(dict.fromkeys(area.addresses, (expect.ptedirty, expect.ours_dirty)))
    return built


def _compare_built(
    result: Comparison,
    mapping: reader.MappingState,
    found: PageRange,
    built: tuple[bool | None, bool | None] | None,
) -> None:
    for fact, true in zip((Fact.PTEDIRTY, Fact.DIRTY), built or (), strict=False):
        said = found.fact(fact)
        if said is not None and true is not None and said != true and not found.fact(Fact.RACED):
            where = f"{found.address:x} {mapping.name or '[anon]'}"
            result.contradictions.append(f"{where}: {fact.name} is said to be {said}, made {true}")


def around(pid: int, capture: Callable[[], Snapshot]) -> tuple[Snapshot, reader.ProcessState]:
    """A capture, and what the reader saw the same way before and after it."""
    before = reader.read(pid)
    snapshot = capture()
    return snapshot, reader.both(before, reader.read(pid))


# ---- other privileges ---------------------------------------------------------------------------


def unprivileged_python() -> str:
    """An interpreter with pytest_pmaps that nobody can reach; skips where there is none."""
    python = os.environ.get("PMAPS_UNPRIVILEGED_PYTHON", sys.executable)
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    probe = [*as_nobody(), python, "-P", "-c", "import pytest_pmaps"]
    if subprocess.run(probe, capture_output=True, cwd="/").returncode:
        pytest.skip("nobody cannot reach the interpreter: set PMAPS_UNPRIVILEGED_PYTHON")
    return python


def as_nobody() -> list[str]:
    """Command prefix: uid and gid nobody, no groups, no capabilities."""
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]


def without_admin() -> list[str]:
    """Command prefix: root, but CAP_SYS_ADMIN dropped for good."""
    return ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]


def inside_userns_of(pid: int) -> list[str]:
    """Command prefix: root of the user namespace that a process lives in."""
    return [shutil.which("nsenter") or "nsenter", f"--user=/proc/{pid}/ns/user", "-S0", "-G0", "--"]


CAPTURER = """
import json, sys
from pytest_pmaps import files, jsonfile, snapshot
pid, options = int(sys.argv[1]), json.loads(sys.argv[2])
jsonfile.dump(snapshot(pid, **options).to_plain())
print("ready", flush=True)
sys.stdin.readline()
captured = snapshot(pid, **options)
print("captured", flush=True)
sys.stdin.readline()
print(jsonfile.dump(captured.to_plain()), flush=True)
"""


def around_as(
    prefix: list[str], pid: int, **options: object
) -> tuple[Snapshot, reader.ProcessState]:
    """A capture under other privileges, and what the reader saw the same before and after it.

    The capturing process is there, idle, at both readings: it maps the same libraries.
    """
    python, pipe = unprivileged_python(), subprocess.PIPE
    command = [*prefix, python, "-P", "-c", CAPTURER, str(pid), json.dumps(options)]
    pipes = {"stdin": pipe, "stdout": pipe, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes, text=True, cwd="/") as other:
        assert other.stdin is not None
        assert other.stdout is not None
        if other.stdout.readline() != "ready\n":
            raise Unavailable(f"process {pid} may not be looked at with {' '.join(prefix)}")
        before = reader.read(pid)
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "captured\n"
        truth = reader.both(before, reader.read(pid))
        text, _ = other.communicate("\n")
    return loads(text), truth
