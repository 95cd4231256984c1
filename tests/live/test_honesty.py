"""What was not seen is never passed: the ways in which something once was."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oracle import targets
from oracle.agreement import unprivileged_python
from pytest_pmaps import (
    FootprintError,
    FormatError,
    NoSuchMapping,
    Snapshot,
    Undetermined,
    assert_at_most,
    assert_no_dirty,
    assert_not_mapped,
    assert_shared,
    dumps,
    load,
    loads,
    snapshot,
)


def test_memory_that_moves_is_not_missed(public: Path):
    """1,000 pages on the move: no capture says that there are fewer."""
    program = targets.build("mover", public)
    pipe = subprocess.PIPE
    with subprocess.Popen([program], stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        try:
            end = time.monotonic() + 4
            while time.monotonic() < end:
                snap = snapshot(process)
                for metric in ("rss", "dirty"):
                    with pytest.raises((FootprintError, Undetermined)):
                        assert_at_most(snap, 500, metric)
        finally:
            process.kill()


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_an_empty_file_is_no_map(tmp_path: Path, text: str):
    """The shell leaves one where ``pmaps show > map`` failed."""
    saved = tmp_path / "map"
    saved.write_text(text)
    with pytest.raises(FormatError, match="empty"):
        load(saved)


def test_text_of_a_raced_capture_says_so():
    """The RFC's text has no place for pages that changed: it ends in ``[...]``."""
    plain = snapshot().to_plain()
    plain.raced_pages = 1
    cut = loads(dumps(type(snapshot()).from_plain(plain)))
    assert not cut.verdict.complete
    with pytest.raises(Undetermined):
        assert_at_most(cut, "100 GiB", "rss")


def test_a_foreign_proc_is_refused():
    """In a pid namespace that sees the outer /proc, a pid is another process's."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a pid namespace")
    code = (
        "import subprocess, pytest_pmaps as p\n"
        "child = subprocess.Popen(['sleep', '9'])\n"
        "try: print(p.snapshot(child))\n"
        "except p.Unsupported as exc: print('refused:', exc)\n"
        "child.kill()\n"
    )
    command = ["unshare", "--fork", "--pid", unprivileged_python(), "-P", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout.startswith("refused: this /proc is another pid namespace's"), run.stderr


def test_pss_is_as_exact_as_it_can_be():
    """Each mapping's Pss is cut to whole kB; the sum may not claim to be smaller than it is."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        time.sleep(0.5)
        snap = snapshot(child)
        rollup = Path(f"/proc/{child.pid}/smaps_rollup").read_text().split("\nPss:")[1]
        child.kill()
    kernel = int(rollup.split()[0]) * 1024
    lo, hi = snap.pss.bytes.bounds
    # Between the two readings others may come and go: their share of ours moves a little.
    assert lo <= kernel + 16 * 1024
    assert kernel - 2 * 1024 <= hi
    cut = sum(m.counters["pss"] for m in snap.mappings)
    assert cut <= lo < hi or cut == kernel


def test_not_mapped_means_not_mapped(tmp_path: Path):
    """Odd names are found as they are; what could never match is an error, no proof."""
    library = targets.build_library(tmp_path)
    for name in ("lib\nline.so", "libgone.so (deleted)"):
        odd = tmp_path / name
        shutil.copy(library, odd)
        handle = ctypes.CDLL(str(odd))
        for selector in (str(odd), odd, name):
            with pytest.raises(FootprintError, match="is mapped"):
                assert_not_mapped(snapshot(), selector)
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(handle._handle))
    snap = snapshot()
    for mistake in ("libc.txet", ""):
        with pytest.raises(NoSuchMapping):
            assert_not_mapped(snap, mistake)
    with pytest.raises(TypeError, match="snapshot is a snapshot, not list"):
        assert_not_mapped([snap], "libc")


def test_a_map_with_gaps_proves_no_absence():
    """Where memory moved, a mapping may have been missed."""
    whole = snapshot().to_plain()
    assert_not_mapped(Snapshot.from_plain(whole), "libnotthere")
    for name, value in (("appeared", 1), ("missed_pages", 1), ("complete", False)):
        plain = snapshot().to_plain()
        setattr(plain, name, value)
        with pytest.raises(Undetermined, match="capture it again"):
            assert_not_mapped(Snapshot.from_plain(plain), "libnotthere")


def test_pages_met_twice_widen_every_count():
    """Down as well as up, in pages and in bytes."""
    plain = snapshot().to_plain()
    exact = Snapshot.from_plain(plain)
    plain.missed_pages = 10
    moved = Snapshot.from_plain(plain)
    for metric in ("rss", "dirty", "pss"):
        (lo, hi), wide = exact.metric(metric).bytes.bounds, moved.metric(metric).bytes.bounds
        assert wide[0] <= lo - 10 * 4096
        assert wide[1] >= hi + 10 * 4096
    with pytest.raises(Undetermined):
        assert_not_mapped(moved, "libnotthere")


def test_order_matters():
    """Two snapshots the wrong way round would never show anything new."""
    before = snapshot()
    memory = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"x" * (1 << 20))
    after = snapshot()
    assert (after - before).new.dirty >= "1 MiB"
    with pytest.raises(ValueError, match="wrong way round"):
        before - after
    with pytest.raises(ValueError, match="wrong way round"):
        assert_no_dirty(before, since=after)


def test_sharing_with_nothing():
    """Nothing resident is nothing shared; nor is a process shared with itself."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        time.sleep(0.3)
        mine, other = snapshot(), snapshot(child)
        child.kill()
    with pytest.raises(Undetermined, match="nothing of it is resident"):
        assert_shared(mine["[vvar]"], other)
    with pytest.raises(ValueError, match="one process"):
        assert_shared(mine["libc"], mine)
    with pytest.raises(ValueError, match="no demand"):
        assert_shared(mine["libc"], other, at_least=0)


def test_parts_of_an_overwritten_library_are_unknown(host: Path, tmp_path: Path):
    """Written over in place it keeps its inode; its headers say where things lie no more."""
    library = targets.build_library(tmp_path, "default")
    other = targets.build_library(tmp_path, "noseparate")
    with targets.running(host, library) as (pid, _):
        with library.open("r+b") as file:
            file.write(other.read_bytes())
        snap = snapshot(pid)
    with pytest.raises(Undetermined, match="parts of libfoo"):
        snap["libfoo.text"]


@pytest.mark.parametrize("command", [["show", "{pid}"], ["show", "--summary", "{pid}"], ["doctor"]])
def test_closed_stdout(command: list[str]):
    """One line on stderr, exit code 2."""
    code = "from pytest_pmaps.cli import main; raise SystemExit(main())"
    words = " ".join(word.format(pid=os.getpid()) for word in command)
    shell = f"'{sys.executable}' -P -c '{code}' {words} >&-"
    run = subprocess.run(shell, shell=True, stderr=subprocess.PIPE, text=True)
    assert (run.returncode, run.stderr) == (2, "pmaps: standard output is closed\n")
