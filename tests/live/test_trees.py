"""A process and its descendants: who they are, what they hold, what each has copied."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from oracle import reader, targets
from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import ProcessGone, Tree, group, snapshot, tree

PAGE = reader.PAGE

#: Forks as it is told, a level at a time, and says who there is; each waits until told to end.
FAMILY = """
import ctypes, mmap, os, signal, sys, time
widths = [int(word) for word in sys.argv[1:]]
memory = mmap.mmap(-1, 200 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(15)
for at in range(0, len(memory), 4096):
    memory[at] = 1
r, w = os.pipe()
def begin(widths):
    for number in range(widths[0] if widths else 0):
        if os.fork() == 0:
            for at in range(0, (number + 1) * 10 * 4096, 4096):
                memory[at] = 2
            begin(widths[1:])
            os.write(w, b"%d %d\\n" % (os.getpid(), os.getppid()))
            signal.pause()
            os._exit(0)
begin(widths)
os.write(w, b"%d %d\\n" % (os.getpid(), os.getppid()))
n = 1
for width in reversed(widths):
    n = 1 + width * n
seen = b""
while seen.count(b"\\n") < n:
    seen += os.read(r, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
pairs = [list(map(int, line.split())) for line in seen.decode().splitlines()]
print(repr([address, pairs]), flush=True)
signal.pause()
"""


class Family(NamedTuple):
    """Its root, the parent of each, and where 200 pages lie of which the nth child wrote 10 n."""

    root: int
    parents: dict[int, int]
    pages: tuple[int, int]


@contextmanager
def family(*widths: int, prefix: list[str] | None = None) -> Iterator[Family]:
    """A tree of so many children at each level."""
    python = unprivileged_python() if prefix else sys.executable
    command = [*(prefix or []), python, "-c", FAMILY, *map(str, widths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/", process_group=0) as process:
        assert process.stdout is not None
        address, pairs = json.loads(process.stdout.readline())
        try:
            yield Family(process.pid, dict(pairs), (address, 200 * PAGE))
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def still(root: int) -> Tree:
    """A tree that held still."""
    for _ in range(50):
        taken = tree(root)
        if not taken.verdict.raced:
            break
        time.sleep(0.1)
    return taken


def test_members_and_who_started_whom():
    """Every descendant, each behind its parent; and nobody else."""
    with family(3, 2) as (root, parents, _):
        taken = still(root)
        assert set(taken.pids) == set(parents)
        assert taken.pids[0] == taken.root.pid == root
        assert taken.parent_of(root) is None
        for child in list(taken)[1:]:
            parent = taken.parent_of(child)
            assert parent is not None
            assert parent.pid == parents[child.pid]
            assert taken.pids.index(parent.pid) < taken.pids.index(child.pid)
            assert child in taken.children_of(parent)
        assert [child.pid for child in taken.children] == sorted(
            pid for pid, parent in parents.items() if parent == root
        )
        assert taken.verdict.label == "complete", taken.verdict.reasons


def test_totals_are_those_of_a_group():
    """Found out by itself or named: the same."""
    with family(4) as (root, parents, _):
        found, named = still(root), group(sorted(parents))
        assert found.unique_rss == named.unique_rss
        assert found.sum_rss == named.sum_rss
        each = [snapshot(pid).rss for pid in parents]
        assert found.sum_rss == sum(each)
        if found.unique_rss.exact:
            frames = {
                page.frame
                for pid in parents
                for mapping in reader.read(pid).mappings
                for page in mapping.pages
                if page.normal
            }
            assert found.unique_rss == len(frames)


def test_what_a_child_copied():
    """Of 200 pages the first child wrote 10, the second 20, the third 30."""
    reader.require_frames()
    with family(3) as (root, _, where):
        taken = still(root)
        pages = [child.of(where) for child in taken.children]
        assert [each.rss for each in pages] == [200, 200, 200]
        # What only the last one wrote is the parent's page, and nobody's but those who did not.
        assert [each.shared_with(taken.root).bounds for each in pages] == [
            (190, 190),
            (180, 180),
            (170, 170),
        ]
        assert [each.uss.bounds for each in pages] == [(10, 10), (20, 20), (30, 30)]


def test_rows_add_up():
    """Each page of a child is in one row, with the parent that it is compared with."""
    with family(2, 1) as (root, parents, _):
        taken = still(root)
        rows = taken.sharing()
        assert {row.pid for row in rows} == set(parents) - {root}
        for child in list(taken)[1:]:
            mine = [row for row in rows if row.pid == child.pid]
            assert {row.parent for row in mine} == {parents[child.pid]}
            assert len({row.name for row in mine}) == len(mine)
            assert sum((row.resident for row in mine), start=0) == child.rss
            assert sum((row.own for row in mine), start=0) == child.uss
            for row in mine:
                assert row.shared <= row.resident
        widths = [row.own.bytes.bounds[1] for row in rows]
        assert widths == sorted(widths, reverse=True)


@contextmanager
def twins(public: Path, how: str) -> Iterator[tuple[int, int]]:
    """Two processes of one memory, the child by CLONE_VM alone, or by vfork."""
    file = public / "twins.bin"
    file.write_bytes(b"x" * 64 * PAGE)
    pipe = subprocess.PIPE
    command = [str(targets.build("family", public)), how, str(file)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd="/") as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield process.pid, said["children"][0]
        process.communicate()


@pytest.mark.parametrize("how", ["vm", "vfork"])
def test_one_memory_of_two(public: Path, how: str):
    """All that is resident is shared, and nobody has anything of its own."""
    with twins(public, how) as (root, pid):
        taken = still(root)
        child = taken[pid]
        assert child.rss > 0
        assert child.shared_with(taken.root) == child.rss
        assert child["twins.bin"].shared_with(taken.root) == child["twins.bin"].rss
        assert child["twins.bin"].shared_with(taken.root["[stack]"]) == 0
        assert child["[stack]"].shared_with(taken.root) >= 1.0
        rows = taken.sharing()
        assert rows
        assert [row.shared for row in rows] == [row.resident for row in rows]
        assert sum((row.own for row in rows), start=0) == 0
        alone = snapshot(pid), snapshot(root)
        assert alone[0].shared_with(alone[1]) == alone[0].rss
        assert alone[0].shared_with(alone[0]) != alone[0].rss  # it is no other process
        assert alone[0].shared_with(snapshot()) < 1.0
    # Whether they were one memory was not asked in time.
    for each, other in ((alone[0], alone[1]), (alone[1], alone[0])):
        least, most = each.shared_with(other).bounds
        assert least < most == int(each.rss)
    assert "vfork" in alone[0].shared_with(alone[1]).remedy


def test_perhaps_one_memory(public: Path, monkeypatch: pytest.MonkeyPatch):
    """Where kcmp is refused, that all of it is shared is not excluded."""
    for module in ("groups", "kinship"):
        monkeypatch.setattr(f"pytest_pmaps.{module}.same_mm", lambda a, b: None)
    with twins(public, "vm") as (root, pid):
        taken = still(root)
        for each, other in ((taken[pid], taken.root), (snapshot(pid), snapshot(root))):
            assert each.shared_with(other).bounds[1] == int(each.rss)
        for row in taken.sharing():
            assert row.shared.bounds[1] == int(row.resident)
            assert row.own.bounds[0] == 0
        assert sum((row.own for row in taken.sharing()), start=0).bounds[1] == taken[pid].uss


def test_snapshots_of_a_forked_child():
    """The kernel is asked whether they are one memory, as long as both are there."""
    reader.require_frames()
    with family(1) as (root, parents, where):
        (pid,) = set(parents) - {root}
        child, parent = snapshot(pid), snapshot(root)
        assert child.of(where).shared_with(parent) == 190
    assert child.of(where).shared_with(parent).bounds == (190, 200)


def test_a_share_is_a_float():
    """As in the manual: at least 80 % of the heap is the parent's still."""
    reader.require_frames()
    with family(1) as (root, _, _):
        taken = still(root)
        (worker,) = taken.children
        heap = worker["[heap]"].shared_with(taken.root)
        assert heap >= 0.2
        assert not heap >= 1.0
        assert heap < 1.0


def test_without_privileges():
    """Ours is ours; what private memory shares stays open, and what is own does not."""
    code = textwrap.dedent(
        """
        import json, sys
        from pytest_pmaps import tree
        taken = tree(int(sys.argv[1]))
        pages = [child.of((int(sys.argv[2]), 200 * 4096)) for child in taken.children]
        print(json.dumps([taken.pids, [each.uss.bounds for each in pages],
                          [each.shared_with(taken.root).bounds for each in pages],
                          taken.unique_rss.bounds]))
        """
    )
    with family(2, prefix=as_nobody()) as (root, parents, where):
        truth = still(root).unique_rss
        command = [*as_nobody(), unprivileged_python(), "-P", "-c", code, str(root), str(where[0])]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr
        pids, own, shared, unique = json.loads(done.stdout)
        assert set(pids) == set(parents)
        assert sorted(own) == [[10, 10], [20, 20]]
        assert sorted(hi for _, hi in shared) == [180, 190]
        if truth.exact:
            assert unique[0] <= int(truth) <= unique[1]


def test_zombies_are_no_members():
    """A child that has ended, not reaped, holds nothing."""
    code = "import os; pid = os.fork() or os._exit(0); print(pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        zombie = int(parent.stdout.readline())
        while b") Z" not in Path(f"/proc/{zombie}/stat").read_bytes():
            time.sleep(0.01)
        taken = tree(parent)
        parent.communicate("\n")
        assert taken.pids == (parent.pid,)
        assert taken.sum_rss.exact


def test_a_child_that_proc_hides():
    """Another user's, where /proc shows ours alone: it is not said that there is none."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a /proc that hides processes")
    code = """
import sys
from pytest_pmaps import PmapsError, tree
pid = int(sys.argv[1])
try:
    tree(pid)
except PmapsError as exc:
    print(type(exc).__name__, "hidden" in str(exc))
rest = tree(pid, missing="skip")
print(rest.pids == (pid,), rest.sum_rss.bounds[1], len(rest.missing))
"""
    as_user = " ".join(as_nobody()[:-1])
    script = f"""
mount -t proc -o hidepid=2 proc /proc || exit 77
sh -c 'sleep 100 & exec {as_user} sleep 200' & parent=$!
while [ "$(cat /proc/$parent/comm)" != sleep ]; do sleep 0.01; done
{as_user} {unprivileged_python()} -P -c "$0" $parent
kill -KILL $parent $(cat /proc/$parent/task/*/children)
"""
    command = ["unshare", "-mpf", "sh", "-c", script, code]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    if done.returncode == 77:
        pytest.skip("a /proc cannot be mounted here")
    assert done.stdout.splitlines() == ["AccessDenied True", "True None 1"], done.stderr


def test_a_root_that_is_gone():
    """Says so, as snapshot() does."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
        with pytest.raises(ProcessGone):
            tree(process)
        with pytest.raises(ProcessGone):
            tree(process.pid)


def test_children_that_come_and_go():
    """A shell that runs one short program after another: always a root, never an error, and what
    is not certain has no upper end, or is said.
    """
    code = "import subprocess\nwhile True: subprocess.run(['true'])"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        try:
            for _ in range(30):
                taken = tree(parent)
                assert taken.root.pid == parent.pid
                assert len(taken.pids) >= 1
                if taken.sum_rss.bounds[1] is None:
                    assert "started faster" in " ".join(taken.verdict.reasons)
        finally:
            parent.kill()


def test_changes_over_time():
    """Who arrived, who is gone, what those that stayed did."""
    with family(2) as (root, _, _):
        before = still(root)
        first, second = (child.pid for child in before.children)
        os.kill(first, signal.SIGKILL)
        while any(child.pid == first for child in tree(root).children):
            time.sleep(0.01)
        after = still(root)
        change = after - before
        assert change.stayed == (root, second)
        assert change.gone == (first,)
        assert change.arrived == ()
        assert change[second].rss == 0
        with pytest.raises(KeyError):
            change[first]
        assert change.sum_rss == 0 - before[first].rss
    with family(1) as (other, _, _), pytest.raises(ValueError, match="roots differ"):
        still(other) - after


# ---- pools, in each way that there is to start them


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools(method: str):
    """Workers are found below us, wherever they were forked; and can be named by their objects."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(math.factorial, [1, 2, 3])) == [1, 2, 6]
        workers = [p for p in multiprocessing.active_children() if p.pid is not None]
        pids = set(pool._processes)  # there is no public list of them
        taken = tree()
        assert pids <= set(taken.pids)
        assert taken.root.pid == os.getpid()
        assert len(workers) >= 2
        for worker in workers:
            assert snapshot(worker).pid == worker.pid
        total = sum(each.rss.bytes.bounds[0] for each in taken)
        assert taken.sum_rss.bytes.bounds[0] == total
        parents = {taken.parent_of(pid).pid for pid in pids}
        if method == "forkserver":
            assert os.getpid() not in parents  # they are the server's
        else:
            assert parents == {os.getpid()}
