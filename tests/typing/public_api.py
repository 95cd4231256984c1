"""What a user's type checker sees; never run, only judged: tox -e types."""

from __future__ import annotations

import re
import subprocess
from typing import assert_type

import pytest_pmaps as pp


def everything(popen: subprocess.Popen[bytes]) -> None:
    """Each public name, used as documented."""
    before: pp.Snapshot = pp.snapshot()
    after = pp.snapshot(popen)
    assert_type(after, pp.Snapshot)
    assert_type(pp.snapshot(popen, stop=True).stopped_ns, int)
    text: pp.Selection = after["libfoo.text"]
    after.select(re.compile("foo"))
    after[subprocess]
    assert_type(text.dirty, pp.Count)
    assert_type(text.dirty <= "64 KiB", bool)
    assert_type(text.dirty == 0, bool)
    assert_type(text.rss.pages.bounds, tuple[int | None, int | None])
    change = after - before
    assert_type(change, pp.Delta)
    assert_type(change.new.dirty, pp.Count)
    assert_type(change["libfoo"].rss, pp.Count)
    assert_type(pp.diff(after, before), pp.Delta)
    pp.assert_no_dirty(text, since=before)
    pp.assert_at_most(after, "1 MiB", "rss")
    pp.assert_shared(text, before, at_least=0.8)
    pp.assert_not_mapped(after, "libbar")
    pp.assert_unchanged(text, since=before)
    for found in text.ranges(pp.Fact.DIRTY):
        assert_type(found, pp.PageRange)
        assert_type(found.fact(pp.Fact.DIRTY), bool | None)
    for mapping in after.mappings:
        assert_type(mapping, pp.Mapping)
        assert_type(mapping.evidence(pp.Fact.ACTIVE), tuple[pp.Source, ...])
        assert_type(mapping.kind, pp.Kind)
    assert_type(after.verdict, pp.Verdict)
    run = pp.run(["./tool", "--big"], at=("exec", "exit"), timeout=30, stdin=subprocess.DEVNULL)
    assert_type(run, pp.Run)
    assert_type(run.at["exit"], pp.Snapshot)
    assert_type(run.peak_rss <= "48 MiB", bool)
    assert_type(run.moments[0].snapshot, pp.Snapshot | None)
    assert_type(run.children[0].returncode, int | None)
    runs = pp.run("./tool", repeat=3, pin=True)
    assert_type(runs, pp.Runs)
    assert_type(runs[0], pp.Run)
    assert_type(runs.spread("rss").width, pp.Count)
    assert_type(pp.checkpoint("loaded"), bool)
    assert_type(pp.loads(pp.dumps(after)), pp.Snapshot)
    assert_type(pp.load("map.json"), pp.Snapshot)
    assert_type(pp.record(1, "map.rec"), pp.Snapshot)
    pp.save(after, "map.json")
    assert_type(after.buffers(), dict[str, memoryview])
    several = pp.group([popen, None], missing="skip")
    assert_type(several, pp.Group)
    assert_type(several.unique_rss, pp.Count)
    assert_type(several[popen.pid], pp.Snapshot)
    assert_type(several["libfoo"], pp.GroupSelection)
    assert_type(several["libfoo"][popen.pid], pp.Selection)
    assert_type(several.missing, tuple[pp.Missing, ...])
    for member in several:
        assert_type(member, pp.Snapshot)
    pages = after.of(bytearray(5), edges="exclude")
    assert_type(pages, pp.Pages)
    assert_type(after.of((0x1000, 5)).edges, tuple[pp.Edge, ...])
    assert_type(pages.start, int)
    assert_type(pages.shared_with(before), pp.Count)
    assert_type(change.of(memoryview(b"")).new.dirty, pp.Count)
    pp.assert_no_dirty(pages, since=before)
    family = pp.tree(popen)
    assert_type(family, pp.Tree)
    assert_type(family.root, pp.Snapshot)
    assert_type(family.children, tuple[pp.Snapshot, ...])
    assert_type(family.parent_of(1), pp.Snapshot | None)
    assert_type(family.sharing(), tuple[pp.Share, ...])
    assert_type(family - family, pp.TreeChange)
    assert_type((family - family)[1], pp.Delta)
    assert_type(family.root.shared_with(before) >= 0.8, bool)
    with pp.written(select="libfoo") as window:
        pass
    assert_type(window, pp.Written)
    assert_type(window.written <= "8 KiB", bool)
    assert_type(window["libfoo"], pp.WrittenSelection)
    assert_type(window["libfoo"].written, pp.Count)
    assert_type(window.of(bytearray(5)), pp.WrittenPages)
    assert_type(window.method, pp.WrittenMethod)
    assert_type(window.unwatched, tuple[pp.Unwatched, ...])
    for written in window.written_ranges():
        assert_type(written, pp.WrittenRange)
    pp.assert_at_most(window["libfoo"], "8 KiB", "written")
    with pp.touched(popen, only="anon", clear_soft_dirty=True) as used:
        pass
    assert_type(used, pp.Touched)
    assert_type(used.touched <= "8 KiB", bool)
    assert_type(used["libfoo"], pp.TouchedSelection)
    assert_type(used["libfoo"].touched, pp.Count)
    assert_type(used.of(bytearray(5)), pp.TouchedPages)
    assert_type(used.method, pp.TouchedMethod)
    assert_type(used.reasons, tuple[str, ...])
    for touched in used.touched_ranges():
        assert_type(touched, pp.TouchedRange)
    pp.assert_at_most(used["libfoo"], "8 KiB", "touched")
    pp.assert_no_growth(popen.poll, calls=10, tolerance="1 KiB", settle=popen.poll)
    assert_type(pp.settle(popen.poll), tuple[str, ...])
    with pp.peak(popen) as most:
        pass
    assert_type(most, pp.Peak)
    assert_type(most.rss, pp.Count)
    assert_type(most.growth <= "1 MiB", bool)
    assert_type(most.at_start - most.at_end, pp.Count)
    assert_type(most.reasons, tuple[str, ...])
    assert_type(pp.peak_of(popen), pp.Count)
    with pp.tree_peak(popen, every=0.5, missing="skip") as together:
        pass
    assert_type(together, pp.TreePeak)
    assert_type(together.sampled <= "1 MiB", bool)
    assert_type(together.tree, pp.Tree | None)
    for file in pp.held(popen):
        assert_type(file, pp.Held)
        assert_type(file.bytes, pp.Count)
    charged = pp.cgroup(popen)
    assert_type(charged, pp.Cgroup)
    assert_type(charged.current <= "1 GiB", bool)
    assert_type(charged.peak, pp.Count | None)
    with charged.watch() as watched:
        pass
    assert_type(watched, pp.CgroupPeak)
    assert_type(watched.peak, pp.Count)
    budget = pp.parse_budget("libfoo.text: dirty <= baseline + 5%")
    assert_type(budget, pp.Budget)
    assert_type(budget.limit, pp.Limit)
    assert_type(budget.limit.at(4096, 1 << 20), int)
