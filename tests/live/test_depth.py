"""A capture looks as deep, and as far, as it is asked to: what it says then is as true, and
what it was not asked to look at is unknown.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oracle import reader, targets
from oracle.agreement import agree, around, around_as, as_nobody, pages_of, unprivileged_python
from pytest_pmaps import (
    Cancelled,
    Fact,
    FootprintError,
    NoSuchMapping,
    ProcessGone,
    Snapshot,
    Source,
    Undetermined,
    assert_no_dirty,
    assert_not_mapped,
    load,
    save,
    snapshot,
    stream,
)

DEPTHS = ("totals", "mappings", "pages", "full")
SEQUENCE = (
    "m = mmap.mmap(-1, {size}, flags=34)\nm.madvise(15)\nm[::4096] = b'x' * ({size} // 4096)\n"
)


@contextmanager
def python(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python that ran some code and waits."""
    code = f"import mmap, os, sys\n{code}\nprint('ready', flush=True)\nsys.stdin.read()\n"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        targets.wait_idle(process.pid)
        yield process
    finally:
        process.kill()
        process.communicate()


def rollup(pid: int) -> dict[str, int]:
    """smaps_rollup in bytes, by the kernel's names."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {key: int(kb) * 1024 for key, kb in re.findall(r"^(\w+): +(\d+) kB$", text, re.M)}


def states(captured: Snapshot) -> dict[int, tuple[int, int]]:
    """What is set and known of each page, by address."""
    return {address: (r.set_bits, r.known_bits) for address, _, r in pages_of(captured)}


def assert_no_contradiction(some: Snapshot, whole: Snapshot) -> None:
    """Where both know, both say the same; of pages that nobody else can move meanwhile."""
    mine, all_of_it = states(some), states(whole)
    own = {a for a, (s, k) in all_of_it.items() if s & k & 1 << Fact.EXCLUSIVE}
    # Y, R and A are moved by the kernel itself (DAMON, reclaim).
    firm = ~sum(1 << f for f in (Fact.YOUNG, Fact.REFERENCED, Fact.ACTIVE, Fact.TOUCHED))
    wrong = [
        f"{address:x}: {mine[address]} {all_of_it[address]}"
        for address in mine.keys() & own
        if (mine[address][0] ^ all_of_it[address][0])
        & mine[address][1]
        & all_of_it[address][1]
        & firm
    ]
    assert wrong == []


# ---- depth


def test_totals_are_those_of_the_kernel():
    """One mapping with the counters of smaps_rollup."""
    with python("x = bytearray(8 << 20)") as process:
        captured, kernel = snapshot(process, depth="totals"), rollup(process.pid)
    assert captured.rss.bytes.bounds == (kernel["Rss"], kernel["Rss"])
    assert captured.private_dirty.bytes.bounds == (kernel["Private_Dirty"],) * 2
    assert kernel["Pss"] - 1024 <= captured.pss.bytes.bounds[1] <= kernel["Pss"] + 1024
    assert captured.dirty.bytes.bounds[0] == 0
    with pytest.raises(NoSuchMapping, match="totals alone"):
        captured["libc"]
    with pytest.raises(Undetermined, match="does not list all mappings"):
        assert_not_mapped(captured, "libnowhere")


def test_mappings_have_counters_and_no_pages():
    """The same mappings and counters as of a full capture; of pages, nothing."""
    with python("x = bytearray(8 << 20)") as process:
        some, whole = snapshot(process, depth="mappings"), snapshot(process)
    assert [(m.start, m.end, m.path) for m in some.mappings] == [
        (m.start, m.end, m.path) for m in whole.mappings
    ]
    assert some.rss == whole.rss
    assert [m.counters["rss"] for m in some.mappings] == [m.counters["rss"] for m in whole.mappings]
    assert list(some.ranges()) == []
    assert not some.verdict.raced
    assert some.verdict.reconciled is None  # nothing was held against anything
    assert not some.verdict
    library = some["libc"]
    assert library.dirty.bytes.bounds == (0, library.size.bytes.bounds[0])
    with pytest.raises(Undetermined, match="no deeper than mappings"):
        assert_no_dirty(library)


@pytest.mark.parametrize("state", targets.ZOO_STATES)
def test_pages_agree_with_the_reader(zoo: Path, public: Path, state: str):
    """Page table entries alone, as root: nothing that they do not say."""
    reader.require_frames()
    with targets.running(zoo, state, public) as (pid, info):
        some, _ = agree(lambda: around(pid, lambda: snapshot(pid, depth="pages")), info)
    assert Source.SMAPS not in some.sources
    assert Source.KPAGEFLAGS not in some.sources


@pytest.mark.parametrize("state", targets.ZOO_STATES)
def test_without_counters(zoo: Path, public: Path, state: str):
    """Nothing is held against counters, and all the same nothing wrong is said."""
    reader.require_frames()
    with targets.running(zoo, state, public) as (pid, info):
        some, _ = agree(lambda: around(pid, lambda: snapshot(pid, counters=False)), info)
    assert not {Source.SMAPS, Source.NUMA_MAPS} & set(some.sources)
    assert some.verdict.reconciled is None
    assert not some.verdict


def test_pages_prove_a_clean_library():
    """What the flagship assertion needs is in page table entries."""
    with python("import json") as process:
        for target in (process, None):
            captured = snapshot(target, depth="pages", select="libc")
            assert_no_dirty(captured["libc.text"])
            with pytest.raises(FootprintError):
                assert_no_dirty(captured["libc.relro"])


def test_options_that_make_no_sense():
    """One line says what is wrong."""
    for wrong in ("deep", "", "FULL"):
        with pytest.raises(ValueError, match="no depth: they are totals, mappings"):
            snapshot(depth=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="totals are counters"):
        snapshot(depth="totals", counters=False)
    with pytest.raises(ValueError, match="limited in one way"):
        snapshot(select="libc", window=(0, 4096))
    for window in ((4096, 4096), (8192, 4096), (-1, 4096), (0, (1 << 64) + 1)):
        with pytest.raises(ValueError, match="no window of addresses"):
            snapshot(window=window)
    with pytest.raises(NoSuchMapping, match="libnowhere"):
        snapshot(select="libnowhere")


# ---- addresses


def test_a_window_is_a_piece_of_the_whole():
    """Pages of the window, all of them and no other; pieces of mappings at its edges."""
    with python("x = bytearray(4 << 20)") as process:
        whole = snapshot(process)
        heap = max(whole.mappings, key=lambda m: m.metric("rss").bytes.bounds[0])
        window = (heap.start + 5 * 4096 + 17, heap.end - 3 * 4096 - 1)
        some = snapshot(process, window=window)
    first, last = heap.start + 5 * 4096, heap.end - 3 * 4096
    assert [(m.start, m.end) for m in some.mappings] == [(first, last)]
    assert states(some).keys() == {a for a in states(whole) if first <= a < last}
    assert_no_contradiction(some, whole)
    assert some.partial
    assert not whole.partial
    indexes = {a: i for a, i, _ in pages_of(whole)}
    assert all(indexes[a] == i for a, i, _ in pages_of(some))


def test_a_selection_is_all_that_it_means():
    """A library with its parts and its bss, and nothing else."""
    with python("import json") as process:
        whole, some = snapshot(process), snapshot(process, select="libc")
    assert {m.path for m in some.mappings} - {""} == {m.path for m in whole["libc"].mappings} - {""}
    for part in ("text", "rodata", "relro", "data", "bss"):
        mine, its = some[f"libc.{part}"], whole[f"libc.{part}"]
        assert [(w.start, w.end) for w in mine.windows] == [(w.start, w.end) for w in its.windows]
        assert mine.dirty.bytes.bounds == its.dirty.bytes.bounds
    with pytest.raises(NoSuchMapping, match="only some addresses were captured"):
        some["[heap]"]
    with pytest.raises(Undetermined):
        assert_not_mapped(some, "libnowhere")


def test_partial_maps_are_kept_as_such(tmp_path: Path):
    """Saved and loaded again, a piece is a piece."""
    captured = snapshot(select="libc", depth="pages")
    save(captured, tmp_path / "map.json")
    again = load(tmp_path / "map.json")
    assert (again.partial, again.depth) == (True, captured.depth)
    assert states(again) == states(captured)


# ---- streams


def pieces_of(pid: int, **options: object) -> list[Snapshot]:
    """All pieces of a stream."""
    return list(stream(pid, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", ["pages", "full"])
def test_pieces_are_the_whole(depth: str):
    """Together they have every page, once, and contradict nothing."""
    with python(SEQUENCE.format(size=4 << 20)) as process:
        whole = snapshot(process)
        pieces = pieces_of(process.pid, depth=depth, pages=100)
    assert len(pieces) > 10
    assert all(sum(p.buffers()["count"]) == 100 for p in pieces[:-1])
    assert [p.next_address for p in pieces[-1:]] == [0]
    seen: dict[int, tuple[int, int]] = {}
    for piece in pieces:
        assert not seen.keys() & states(piece).keys()
        assert_no_contradiction(piece, whole)
        seen |= states(piece)
    assert seen.keys() == states(whole).keys()


def test_a_stream_goes_on_where_another_ended():
    """From ``next_address`` the rest is walked, as it would have been."""
    with python("x = bytearray(2 << 20)") as process:
        whole = [m.next_address for m in stream(process, pages=50)]
        first = stream(process, pages=50)
        begun = iter(first)
        third = [next(begun) for _ in range(3)][-1]
        begun.close()  # type: ignore[attr-defined]
        assert not first.complete
        rest = stream(process, pages=50, start=first.next_address, metrics=("rss",))
        assert [p.next_address for p in rest] == whole[3:]
        assert rest.complete
        assert third.next_address == first.next_address


def test_metrics_add_up():
    """Sums over all pieces are those of one capture."""
    with python("x = bytearray(2 << 20)") as process:
        walk = stream(process, pages=200, metrics=("rss", "dirty", "size"))
        rss = walk.metric("rss")
        assert rss.bytes.bounds == (0, None)  # nothing was looked at yet
        pieces = list(walk)
        whole = snapshot(process)
    assert len(pieces) > 2
    assert walk.metric("rss").bytes.bounds == whole.rss.bytes.bounds
    assert walk.metric("size").bytes.bounds == whole.size.bytes.bounds
    with pytest.raises(ValueError, match="no metric"):
        stream(metrics=("memory",))
    with pytest.raises(ValueError, match="of pages"):
        stream(depth="mappings")


def test_cancelled():
    """By progress or another thread: what there is is kept, and called partial."""
    with python(SEQUENCE.format(size=512 << 20)) as process:
        calls: list[tuple[int, int]] = []
        with pytest.raises(Cancelled):
            snapshot(process, progress=lambda done, total: calls.append((done, total)) or True)
        assert len(calls) == 1
        assert 0 <= calls[0][0] <= calls[0][1]
        walk = stream(process, pages=1000, metrics=("rss",))
        threading.Timer(0.01, walk.cancel).start()
        pieces = list(walk)
        assert not walk.complete
        assert walk.metric("rss").bytes.bounds[1] is None
        assert sum(sum(p.buffers()["count"]) for p in pieces) == walk.pages


def test_an_exception_in_progress_comes_out():
    """A callback's own exception ends the capture, and nothing is broken."""

    class Mine(Exception):
        pass

    def progress(done: int, total: int) -> None:
        raise Mine

    with python(SEQUENCE.format(size=512 << 20)) as process:
        with pytest.raises(Mine):
            snapshot(process, progress=progress)
        assert snapshot(process).verdict.complete


def test_exec_and_exit_end_a_stream():
    """Pieces are of one program, or there is an error."""
    again = "os.read(0, 1)\nos.execv(sys.executable, [sys.executable, '-c', 'input()'])"
    with python(f"print('ready', flush=True)\n{again}") as process:
        walk = iter(stream(process, pages=20))
        next(walk)
        process.stdin.write("x")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        deadline = time.monotonic() + 20
        while "-S" in Path(f"/proc/{process.pid}/cmdline").read_text().split("\0"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(ProcessGone, match="replaced its program"):
            next(walk)
    with python("") as process:
        walk = iter(stream(process, pages=20))
        next(walk)
        process.kill()
        process.wait()
        with pytest.raises(ProcessGone):
            next(walk)


def test_ctrl_c_ends_the_command_with_a_partial_map(tmp_path: Path):
    """Within 100 ms of the signal (and as long again for Python to end): a map marked partial,
    and where to go on.
    """
    with python(SEQUENCE.format(size=512 << 20)) as process:
        took = []
        for delay in (0.0, 0.01, 0.03):
            with (tmp_path / "out").open("w") as out:
                code = "import sys; from pytest_pmaps.cli import main; sys.exit(main(sys.argv[1:]))"
                command = [sys.executable, "-c", code, "show", str(process.pid)]
                command += ["--stream", "--pages", "1000"]
                run = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
                while not (tmp_path / "out").stat().st_size and run.poll() is None:
                    time.sleep(0.005)
                time.sleep(delay)
                begun = time.monotonic()
                run.send_signal(signal.SIGINT)
                _, err = run.communicate(timeout=20)
                took.append(time.monotonic() - begun)
            if run.returncode == 0:
                continue  # it was through already
            assert run.returncode == 130
            text = (tmp_path / "out").read_text()
            assert text.endswith("[...]\n")
            assert re.fullmatch(
                r"pmaps: interrupted: a partial map of [\d,]+ pages; "
                r"go on with --start [0-9a-f]+\n",
                err,
            )
            assert not load(tmp_path / "out").verdict.complete
            break
        else:
            pytest.skip("the map was printed before a signal could reach it")
    assert took


# ---- ourselves


@pytest.mark.parametrize("depth", DEPTHS)
def test_capturing_ourselves_adds_nothing(depth: str):
    """At any depth; not counting what Python makes of the first answer."""
    code = f"""
import mmap, sys
from pytest_pmaps._native import Columns, Depth, Request
m = mmap.mmap(-1, 96 << 20, flags=34)
m[::4096] = b'x' * (len(m) // 4096)
def anonymous():
    return sum(int(l.split()[1]) for l in open('/proc/self/smaps') if l.startswith('Anonymous'))
asked = Request(depth=Depth[{depth.upper()!r}])
from pytest_pmaps import Snapshot
for _ in range(3):
    first = Columns.capture(Request())
    kept = [Columns.capture(asked) for _ in range(3)]
    second = Columns.capture(Request())
before, after = (Snapshot(c).metric('anonymous').bytes.bounds for c in (first, second))
print(before, after)
sys.exit(before != after)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_vmrss_is_without_the_engine():
    """VmRSS of ourselves leaves out what every other number leaves out."""
    kept = [snapshot() for _ in range(3)]
    captured = snapshot()
    rss = captured.rss.bytes.bounds[0]
    # The kernel's per-CPU batches: at most 64 pages for each of its counters and CPUs.
    slack = 3 * 64 * 4096 * (os.cpu_count() or 1)
    assert abs(captured.status["vm_rss"] - rss) <= slack
    assert len(kept) == 3


# ---- as nobody


@pytest.mark.parametrize("options", [{"depth": "pages"}, {"counters": False}])
@pytest.mark.parametrize("state", targets.ZOO_STATES)
def test_as_nobody(zoo: Path, public: Path, state: str, options: dict[str, object]):
    """The same as for root, with less known."""
    reader.require_frames()
    with targets.running(zoo, state, public, uid=targets.NOBODY) as (pid, info):
        agree(lambda: around_as(as_nobody(), pid, **options), info)


def test_not_ours_to_look_at():
    """Another user's process: one line, at every depth."""
    code = (
        "import sys, pytest_pmaps as p\n"
        "for depth in ('totals', 'mappings', 'pages', 'full'):\n"
        "    try: p.snapshot(int(sys.argv[1]), depth=depth)\n"
        "    except p.AccessDenied as exc: print(exc)\n"
    )
    with python("") as process:
        command = [*as_nobody(), unprivileged_python(), "-P", "-c", code, str(process.pid)]
        run = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert len(run.stdout.splitlines()) == len(DEPTHS), run.stderr


# ---- what is said of less


def test_the_bss_belongs_to_its_file_at_every_depth():
    """Or a library would seem smaller the less was looked at."""
    with python("import json") as process:
        whole = snapshot(process)["libc"]
        for depth in ("pages", "mappings"):
            some = snapshot(process, depth=depth)["libc"]
            lo, hi = some.dirty.bytes.bounds
            assert [(w.start, w.end) for w in some.windows] == [
                (w.start, w.end) for w in whole.windows
            ]
            assert lo <= whole.dirty.bytes.bounds[0] <= hi


def test_totals_know_no_size_and_prove_nothing():
    """[rollup] spans all gaps; of any page it says nothing."""
    with python("") as process:
        totals, whole = snapshot(process, depth="totals"), snapshot(process)
        after = snapshot(process, depth="totals")
    assert totals.size.bytes.bounds == (0, None)
    assert totals.dirty.bytes.bounds == (0, None)
    with pytest.raises(Undetermined):
        assert_no_dirty(whole, since=totals)
    with pytest.raises(Undetermined):
        assert_no_dirty(whole["libc"], since=totals)
    for pair in ((whole, totals), (after, whole)):
        with pytest.raises(ValueError, match="does not list all mappings"):
            pair[0] - pair[1]
    with pytest.raises(ValueError, match="of the whole process"):
        snapshot(depth="totals", select="libc")


def test_a_piece_is_not_subtracted_from_the_whole():
    """What was not captured did not go away."""
    with python("") as process:
        whole, piece = snapshot(process), snapshot(process, select="libc")
    with pytest.raises(ValueError, match="compare what both hold"):
        piece - whole
    assert (piece["libc"] - whole["libc"]).rss == 0


def test_many_kept_snapshots_do_not_slow_a_capture_down():
    """Thousands of them are one mapping to the kernel: CPU time, the best of some."""
    code = """
import time
from pytest_pmaps._native import Columns, Depth, Request
ask = Request(depth=Depth.MAPPINGS)
def cost():
    times = []
    for _ in range(5):
        begun = time.thread_time()
        Columns.capture(ask)
        times.append(time.thread_time() - begun)
    return min(times)
first = cost()
kept = [Columns.capture(ask) for _ in range(3000)]
print(first, cost())
assert cost() < 20 * first + 0.005
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
