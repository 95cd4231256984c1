"""Y and P of a capture, held against what a target did, and against the kernel's own sums.

Nothing here reads a page table: what a page's two bits must be follows from how it was made, and
their sums from smaps, which counts P or D as dirty, and Y, R or its own note of Y as referenced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from oracle import reader, targets
from oracle.reader import PAGE
from oracle.targets import Area, Info
from pytest_pmaps import Fact, Kind, Snapshot, host, snapshot

PTE_STATES: Final = (
    "protect",
    "move",
    "advice",
    "populate",
    "kernel",
    "forced",
    "huge",
    "collapse",
    "fork",
    "fork_huge",
    "wp",
    "pkeys",
    "secret",
    "places",
)
"""States of ``ptes`` that need nothing from outside; also, by command: touched, touched_huge."""

_USED: Final = (Fact.YOUNG, Fact.REFERENCED, Fact.PTEDIRTY, Fact.PAGEDIRTY, Fact.NORMAL)


def require() -> None:
    """Skip, with the reason that doctor gives, where page tables cannot be read; fail where that
    is the engine's own doing.
    """
    status = next(s for s in host.sources() if s.name == "pte")
    assert status.works or not status.remedy.startswith("please report"), status.reason
    if not status.works:
        pytest.skip(f"page tables cannot be read here: {status.reason}")


def capture(pid: int, **options: Any) -> Snapshot:
    """A capture that has Y too."""
    return snapshot(pid, young=True, **options)


def disagreed(captured: Snapshot) -> int:
    """Pages of which the entry and pagemap did not say the same."""
    return captured.columns.pte_disagreed


def confounders() -> list[str]:
    """What clears Y on this host by itself."""
    return [found.name for found in host.confounders() if found.name in ("DAMON", "MGLRU")]


@contextmanager
def quiet_kernel() -> Iterator[None]:
    """Assert that the kernel says nothing meanwhile that it says of mistakes of its own."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise reader.Unavailable(f"/dev/kmsg: {error.strerror}") from error
    with os.fdopen(fd, "rb", buffering=0) as log:
        os.lseek(fd, 0, os.SEEK_END)
        yield
        said = []
        while True:
            try:
                said.append(os.read(log.fileno(), 8192).decode(errors="replace"))
            except BlockingIOError:
                break
            except BrokenPipeError:  # some were written over before they were read
                continue
    assert not [line for line in said if _ALARM.search(line)], said


_ALARM: Final = re.compile(
    r"\b(BUG|WARNING|Oops|general protection|Call Trace|stall|soft lockup|hung task|Bad page|"
    r"bad pmd|bad pte|RIP:|KASAN|use-after-free|invalid opcode)\b|cut here"
)


# ---- what a page is made to be ------------------------------------------------------------------

# By a state of zoo's whether Y is set; where it is not listed, as soon as it is an ordinary page:
# whatever mapped it, it starts out young on x86-64.
_ZOO_OLD: Final = frozenset({"lazyfree"})
_ZOO_CLEAN: Final = {"merged": False, "swapped_in": False}


def letters(area: Area) -> str:
    """What its entries must show, as ``ptes`` says it: two letters, ``--`` for no page."""
    if area.state in ("unknown", "hugetlb"):
        return "??"
    if re.fullmatch(r"[Y_?][P_?]|--", area.state):
        return area.state
    expect = targets.EXPECT.get(area.state)
    if expect is None or not expect.present or expect.zero:  # absent, or nothing the RFC lists
        return "--"
    dirty = _ZOO_CLEAN.get(area.state, expect.ptedirty)
    return ("_" if area.state in _ZOO_OLD else "Y") + ("?" if dirty is None else "_P"[dirty])


def members(info: Info) -> Iterator[tuple[str, int, dict[str, Area]]]:
    """Each process of an answer: who, pid, areas."""
    yield "", info["pid"], targets.areas(info)
    for who in ("child", "grandchild"):
        if who in info:
            yield who, info[who]["pid"], targets.areas(info[who])


# ---- one capture --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bits:
    """Y, R, P, D and NORMAL of some page: None where it is unknown."""

    young: bool | None
    referenced: bool | None
    ptedirty: bool | None
    pagedirty: bool | None
    normal: bool | None
    raced: bool

    @property
    def letters(self) -> str:
        """Y and P, as areas tell them."""
        if self.normal is False:
            return "--"
        return "".join(
            "?" if bit is None else letter if bit else "_"
            for letter, bit in (("Y", self.young), ("P", self.ptedirty))
        )


def ranges_of(captured: Snapshot) -> Iterator[tuple[int, int, Bits]]:
    """Every range: address, pages, and its bits.  Fast: there may be a million of them."""
    seen: dict[tuple[int, int], Bits] = {}
    buffers = captured.buffers()
    rows = zip(*(buffers[name] for name in ("page", "count", "set", "known")), strict=True)
    for page, count, is_set, known in rows:
        bits = seen.get((is_set, known))
        if bits is None:
            values = (bool(is_set >> f & 1) if known >> f & 1 else None for f in _USED)
            raced = bool(is_set & known & 1 << Fact.RACED)
            bits = seen[is_set, known] = Bits(*values, raced)
        yield page * PAGE, count, bits


def by_page(captured: Snapshot, areas: Iterable[Area]) -> dict[int, Bits]:
    """The bits of each page of some areas, by address."""
    wanted = {address for area in areas for address in area.addresses}
    return {
        address: bits
        for start, count, bits in ranges_of(captured)
        for address in range(start, start + count * PAGE, PAGE)
        if address in wanted
    }


@dataclass
class Judged:
    """What is wrong with a capture; and where Y is clear though the page was touched.

    Others clear Y at any time (DAMON, MGLRU, reclaim), and nobody sets it: the one is a mistake
    only if it happens every time, or where nobody is about; the other always is.  P is clear of a
    page that was written back to its file meanwhile, and smaps says so too.
    """

    wrong: list[str] = field(default_factory=list)
    lost: set[tuple[str, int]] = field(default_factory=set)
    written_back: set[tuple[str, int]] = field(default_factory=set)
    pages: int = 0  # of which both were known


def judge(
    captured: Snapshot,
    areas: dict[str, Area],
    *,
    who: str = "",
    clean: frozenset[str] = frozenset(),
) -> Judged:
    """Hold a capture against what the target did to its pages.

    ``clean`` are areas that smaps said to have no dirty page, see ``clean_files``.
    """
    result = Judged()
    found = by_page(captured, areas.values())
    for area in areas.values():
        must = letters(area)
        if area.name in clean:
            must = must.replace("P", "p")
        for number, address in enumerate(area.addresses):
            where = f"{who} {area.name} ({area.state}) page {number}"
            bits = found.get(address)
            if must == "--":
                if bits is not None and bits.normal is not False:
                    result.wrong.append(f"{where}: is an ordinary page: {bits}")
                continue
            if bits is None:
                result.wrong.append(f"{where}: not captured")
                continue
            _judge_page(result, where, (f"{who} {area.name}", number), must, bits)
    return result


def _judge_page(result: Judged, where: str, key: tuple[str, int], must: str, bits: Bits) -> None:
    shown = bits.letters
    # Nothing is claimed of a page that may be the zero page, for all that is known.
    unknown_allowed = bits.normal is None
    result.pages += "?" not in shown
    if bits.raced or shown == "--":
        result.wrong.append(f"{where}: {bits}")
        return
    for wanted, letter in zip(must.upper(), shown, strict=True):
        if wanted == "Y" and letter == "_":
            result.lost.add(key)
        elif must[1] == "p" and (wanted, letter) == ("P", "_"):
            result.written_back.add(key)
        elif (wanted, letter) == ("P", "_") and _is_moved_to_page(bits):
            continue
        elif (letter == "?" and not unknown_allowed) or (
            letter != wanted and "?" not in (letter, wanted)
        ):
            result.wrong.append(f"{where}: shows {shown}, must be {must}")
            return


def _is_moved_to_page(bits: Bits) -> bool:
    """Whether D may be set in place of P.

    Kernels before 6.4 set D of the pages of a huge page, and clear P, when they split its entry.
    """
    return targets.kernel_version() < (6, 4) and bits.pagedirty is not False


def clean_files(pid: int, areas: Iterable[Area]) -> frozenset[str]:
    """Areas of shared files of which no page is dirty any more, to be read after a capture.

    smaps counts P or D, and writing back clears both.  Nothing makes them dirty again while their
    process stands still.
    """
    entries = reader.parse_smaps(Path(f"/proc/{pid}/smaps").read_bytes())
    clean = [
        e.header
        for e in entries
        if not e.header.private
        and e.kilobytes["Rss"]
        and not e.kilobytes["Shared_Dirty"] + e.kilobytes["Private_Dirty"]
    ]
    return frozenset(
        area.name for area in areas if any(h.start <= area.start < h.end for h in clean)
    )


def _some(lines: list[str]) -> str:
    return "\n".join([*lines[:20], *([f"and {len(lines) - 20} more"] if len(lines) > 20 else [])])


Run = Callable[[], AbstractContextManager[Info]]
Take = Callable[[int], Snapshot]
TRIES: Final = 5


def settle(
    run: Run,
    take: Take = capture,
    checks: Callable[[int, Snapshot], None] | None = None,
    *,
    slow: bool = False,
) -> int:
    """Run a target, and hold captures of it against what it did; gives the pages judged.

    Where something on this host clears Y by itself, again, until each page kept its own once; not
    if that is ``slow``, as DAMON looks at every huge page about once a second.  Again as well
    where pages of a file were written back before they were looked at.
    """
    lost: set[tuple[str, int]] | None = None
    clean: set[tuple[str, int]] | None = None
    for _ in range(TRIES):
        with run() as info:
            now: set[tuple[str, int]] = set()
            now_clean: set[tuple[str, int]] = set()
            pages = 0
            for who, pid, areas in members(info):
                captured = take(pid)
                result = judge(captured, areas, who=who, clean=clean_files(pid, areas.values()))
                assert not result.wrong, _some(result.wrong)
                now |= result.lost
                now_clean |= result.written_back
                pages += result.pages
                if checks is not None:
                    checks(pid, captured)
        lost = now if lost is None else lost & now
        clean = now_clean if clean is None else clean & now_clean
        if clean:
            continue
        if not lost or not confounders():
            break
        if slow:
            return pages
    assert lost == set(), f"Y is clear on touched pages, every time: {sorted(lost or ())}"
    assert clean == set(), f"written back before they were seen, every time: {sorted(clean or ())}"
    return pages


# ---- sums ---------------------------------------------------------------------------------------


_COUNTED: Final = ("Rss", "Private_Dirty", "Shared_Dirty", "Referenced")


def _smaps(pid: int) -> dict[int, dict[str, int]]:
    """The counters that Y, R, P and D make up, of each mapping by address; of hugetlb none."""
    entries = reader.parse_smaps(Path(f"/proc/{pid}/smaps").read_bytes())
    return {
        e.header.start: {name: e.kilobytes[name] for name in _COUNTED}
        for e in entries
        if "ht" not in e.vmflags and e.kilobytes
    }


@dataclass
class Sums:
    """Bytes of a mapping's pages; ``unknown`` are those that cannot be counted."""

    rss: int = 0
    dirty: int = 0
    touched: int = 0
    unknown: int = 0

    def add(self, count: int, bits: Bits) -> None:
        """Count some pages."""
        if bits.normal is False:
            return
        if None in (bits.normal, bits.young, bits.referenced, bits.ptedirty, bits.pagedirty):
            self.unknown += count * PAGE
        self.rss += count * PAGE
        self.dirty += count * PAGE * bool(bits.ptedirty or bits.pagedirty)
        self.touched += count * PAGE * bool(bits.young or bits.referenced)

    def agree(self, kernel: dict[str, int]) -> bool:
        """Whether they are what smaps says."""
        return (
            self.unknown == 0
            and self.rss == kernel["Rss"]
            and self.dirty == kernel["Private_Dirty"] + kernel["Shared_Dirty"]
            and self.touched <= kernel["Referenced"]
        )


def sums_of(captured: Snapshot) -> dict[int, Sums]:
    """By address of the mapping; of hugetlb none."""
    found: dict[int, Sums] = {}
    mappings = iter(captured.mappings)
    end, sums = 0, Sums()
    for address, count, bits in ranges_of(captured):
        while end <= address:
            mapping = next(mappings)
            end, sums = mapping.end, found.setdefault(mapping.start, Sums())
        sums.add(count, bits)
    for mapping in captured.mappings:
        found.setdefault(mapping.start, Sums())
        if mapping.kind is Kind.HUGETLB:
            assert found.pop(mapping.start) == Sums()
    return found


def _is_left_out(captured: Snapshot, start: int, counted: Mapping[str, int]) -> bool:
    """Whether these are huge pages under PROT_NONE, which kernels before 6.6 do not count."""
    (mapping,) = (m for m in captured.mappings if m.start == start)
    hidden = mapping.perms.startswith("---") and not any(counted.values())
    return targets.kernel_version() < (6, 6) and hidden


def add_up(pid: int, take: Take = capture, tries: int = 8) -> Snapshot:
    """Hold the sums of each mapping of a process that stands still against smaps.

    Others move R and D of what they share with it, and the kernel may page out what it does not
    use: a mapping is compared where smaps read the same before and after a capture.
    """
    left: dict[int, str] | None = None
    for _ in range(tries):
        before = _smaps(pid)
        captured = take(pid)
        after = _smaps(pid)
        ours = sums_of(captured)
        left = dict.fromkeys(ours, "") if left is None else left
        for start in list(left):
            if before.get(start) != after.get(start):
                left[start] = left[start] or "smaps never read the same twice"
            elif start in ours.keys() & after.keys() and (
                ours[start].agree(after[start]) or _is_left_out(captured, start, after[start])
            ):
                del left[start]
            else:
                left[start] = f"{ours.get(start)}, but {after.get(start)}"
        if not left:
            break
    assert not left, _some([f"{start:x}: {text}" for start, text in (left or {}).items()])
    return captured
