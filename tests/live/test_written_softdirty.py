"""What this process writes, by soft-dirty bits: where userfaultfd is too old, or forbidden."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oracle.agreement import as_nobody, unprivileged_python
from oracle.writes import FORBID, NO_HUGE_PAGES, RANDOM, random_folder
from pytest_pmaps import host


@pytest.fixture(scope="module", autouse=True)
def softdirty() -> None:
    """These tests are of them."""
    source = next(source for source in host.sources() if source.name == "softdirty")
    if not source.works:
        pytest.skip(source.reason)
    if os.uname().machine != "x86_64":
        pytest.skip("system call numbers of x86-64")


def run(code: str, *words: object, nobody: bool = False) -> Any:
    """What a program said that may have no userfaultfd."""
    python = [*as_nobody(), unprivileged_python()] if nobody else [sys.executable]
    done = subprocess.run(
        [*python, "-P", "-c", FORBID + code, *map(str, words)],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("nobody", [False, True], ids=["as we are", "nobody"])
def test_ten_thousand_random_writes(public: Path, nobody: bool):
    """As with userfaultfd, where there are no huge pages: no page too many, and none too few."""
    said = run(NO_HUGE_PAGES + RANDOM, random_folder(public), 2, nobody=nobody)
    assert said["method"] == "soft-dirty"
    for name, (true, wrong, bounds) in said["kinds"].items():
        assert wrong == [], name
        assert bounds == [true, true], name
        assert true > 1000


TOLD = """
import json, mmap, sys
import pytest_pmaps
PAGE, PRIVATE = mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

def memory(pages, advice=mmap.MADV_NOHUGEPAGE):
    made = mmap.mmap(-1, pages * PAGE, flags=PRIVATE)
    made.madvise(advice)
    return made

def told(w, of):
    pages, found = w.of(of), {True: [], None: []}
    for r in pages.written_ranges():
        at = (r.address - pages.start) // PAGE
        found[r.written or None] += range(at, at + r.count)
    return found[True], found[None]
"""


def test_it_says_so():
    """Why not the other, and what is not exact."""
    said = run(
        TOLD
        + """
with pytest_pmaps.written() as w:
    pass
print(json.dumps([w.method.value, *w.reasons]))
"""
    )
    assert said[0] == "soft-dirty"
    assert "userfaultfd" in said[1]
    assert any("became part of a huge page" in reason for reason in said[2:])


def test_what_came_meanwhile_is_open():
    """A mapping that is new is soft-dirty as a whole."""
    said = run(
        TOLD
        + """
old = memory(8)
old[0] = 1
with pytest_pmaps.written() as w:
    old[3 * PAGE] = 1
    new = memory(8)
    new[5 * PAGE] = 1
print(json.dumps([told(w, old), told(w, new)]))
"""
    )
    assert said[0] == [[3], []]
    assert said[1][0] == []
    assert 5 in said[1][1]


def test_what_was_given_back_is_told_by_what_it_holds():
    """Nothing: it may have been written before.  Something new: written.  The zero page: it was
    not, as far as this can tell.
    """
    said = run(
        TOLD
        + """
data = memory(8)
data[: 8 * PAGE] = b"x" * 8 * PAGE
with pytest_pmaps.written() as w:
    data[PAGE] = 1
    for page in (1, 2, 3):
        data.madvise(mmap.MADV_DONTNEED, page * PAGE, PAGE)
    data[2 * PAGE] = 1
    data[3 * PAGE]
    data[5 * PAGE] = 1
print(json.dumps(told(w, data)))
"""
    )
    assert said == [[2, 5], [1]]


def test_one_write_counts_for_all_of_a_huge_page():
    """There is one bit of it; none if nothing was written, and the count's note says so."""
    said = run(
        TOLD
        + """
data = memory(2048, mmap.MADV_HUGEPAGE)
for page in range(2048):
    data[page * PAGE] = 1
whole = pytest_pmaps.snapshot().of(data).anon_huge_pages.bytes.bounds[0] // PAGE
with pytest_pmaps.written() as idle:
    data[5 * PAGE]
with pytest_pmaps.written() as w:
    data[1000 * PAGE] = 1
print(json.dumps([whole, told(idle, data), told(w, data), w.of(data).written.note]))
"""
    )
    whole, idle, (sure, left_open), note = said
    if whole < 1024:
        pytest.skip("no huge pages to be had here (transparent_hugepage/enabled)")
    assert idle == [[], []]
    assert (len(sure), left_open) == (512, [])
    assert 1000 in sure
    assert "part of a huge page" in note


def test_one_window_at_a_time():
    """There is one bit per page for everybody."""
    said = run(
        TOLD
        + """
data = memory(8)
with pytest_pmaps.written() as w:
    data[PAGE] = 1
    try:
        with pytest_pmaps.written():
            pass
    except pytest_pmaps.PmapsError as error:
        why = str(error)
    data[2 * PAGE] = 1
with pytest_pmaps.written() as later:
    data[7 * PAGE] = 1
print(json.dumps([why, told(w, data), told(later, data)]))
"""
    )
    assert said == [
        "another window is open, and soft-dirty bits tell of one at a time",
        [[1, 2], []],
        [[7], []],
    ]
