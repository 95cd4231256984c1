"""What a failing test shows."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from plugin.shared import DIRTY, Run

import pytest_pmaps
from pytest_pmaps._plugin import failures, records


def test_summary_line_says_it_all(run: Run) -> None:
    """The exception's short name and first line are what pytest's summary shows."""
    result = run(
        """
def test_patched(pmaps_snapshot):
    assert foo.foo_patch() == 0
    assert_no_dirty(pmaps_snapshot()["libfoo.text"])
""",
        "-rf",
        "-vv",
    )
    headline = "libfoo.so.1 text: 1 dirty page (4 KiB), allowed 0"
    result.stdout.fnmatch_lines([f"FAILED test_it.py::test_patched - FootprintError: {headline}"])


def test_written_pages_stand_under_their_mapping(run: Run) -> None:
    """Of a window, page by page; what is not known says why."""
    result = run(
        """
import mmap
from pytest_pmaps import assert_at_most

def test_it(pmaps):
    data = mmap.mmap(-1, 64 << 12, flags=mmap.MAP_PRIVATE)
    data.madvise(mmap.MADV_NOHUGEPAGE)
    data[:] = bytes(64 << 12)
    try:
        with pmaps.written() as w:
            data[3 << 12] = data[4 << 12] = data[9 << 12] = 1
            data.madvise(mmap.MADV_DONTNEED, 20 << 12, 4096)
    except pytest_pmaps.Unsupported as exc:
        pytest.skip(str(exc))
    if w.reasons[1:]:
        pytest.skip(w.reasons[-1])
    pmaps.snapshot()
    assert_at_most(w.of(data), 1, "written")
"""
    )
    if "1 skipped" in result.stdout.str():
        pytest.skip("no windows with userfaultfd here")
    result.stdout.fnmatch_lines(
        ["*FootprintError: mmap of 256 KiB at *: 3..4 written pages (12..16 KiB), allowed 1*"]
    )
    lines = result.stdout.lines
    head = next(i for i, line in enumerate(lines) if line.startswith("written pages of mmap"))
    assert lines[head].endswith("(page index, pages):")
    assert "rw-p" in lines[head + 1]
    ranges = [line.split("\t") for line in lines[head + 2 : head + 5]]
    first = int(ranges[0][0]) - 3
    assert [(int(a) - first, b) for a, b in ranges] == [
        (3, "2"),
        (9, "1"),
        (20, "1  (unknown: given back to the kernel meanwhile)"),
    ]


def test_touched_pages_stand_under_their_mapping(run: Run) -> None:
    """Of a window, page by page; or all that may have been, and why that is not known."""
    result = run(
        """
import mmap
from pytest_pmaps import TouchedMethod, assert_at_most

def test_it(pmaps):
    data = mmap.mmap(-1, 64 << 12, flags=mmap.MAP_PRIVATE)
    data.madvise(mmap.MADV_NOHUGEPAGE)
    data[:] = bytes(64 << 12)
    for _ in range(50):
        with pmaps.touched() as t:
            data[3 << 12] = data[4 << 12] = data[9 << 12] = 1
        if not t.reasons:
            break
    if t.method is not TouchedMethod.PAGE_TABLES or t.reasons:
        pytest.skip(str(t.reasons))
    pmaps.snapshot()
    assert_at_most(t.of(data), 1, "touched")
"""
    )
    if "1 skipped" in result.stdout.str():
        pytest.skip("no page tables here, or something clears Y all the time")
    result.stdout.fnmatch_lines(
        ["*FootprintError: mmap of 256 KiB at *: 3 touched pages (12 KiB), allowed 1*"]
    )
    lines = result.stdout.lines
    head = next(i for i, line in enumerate(lines) if line.startswith("touched pages of mmap"))
    assert lines[head].endswith("(page index, pages):")
    assert "rw-p" in lines[head + 1]
    ranges = [line.split("\t") for line in lines[head + 2 : head + 4]]
    first = int(ranges[0][0]) - 3
    assert [(int(a) - first, b) for a, b in ranges] == [(3, "2"), (9, "1")]


def test_offending_ranges_stand_under_their_mapping(run: Run) -> None:
    """In the RFC's form: the line of maps, then page index, pages, flags and mapcount."""
    lines = run(DIRTY).stdout.lines
    head = next(i for i, line in enumerate(lines) if line.startswith("new dirty pages of"))
    assert re.fullmatch(
        r"[0-9a-f]+-[0-9a-f]+ rw-p [0-9a-f]{8} .* \S+/libfoo\.so\.1", lines[head + 1]
    )
    index, count, flags, mapcount = lines[head + 2].split("\t")
    assert (count, mapcount) == ("1", "1")
    assert re.fullmatch(r"[Y?_][R?_][A?_][U?_][P?][D?_][W?_]", flags)
    # The fourth page of foo_data, which begins on a page of its own behind the GOT's.
    offset = int(lines[head + 1].split()[2], 16)
    assert int(index) >= offset // 4096 + 3


@pytest.mark.parametrize(("flag", "shown"), [(None, 20), ("-v", 200), ("-vv", 240)])
def test_verbosity_says_how_many_ranges(run: Run, flag: str | None, shown: int) -> None:
    """20 ranges, at -v 200, at -vv all; what is left out is counted."""
    result = run(
        """
import mmap
def test_comb(pmaps_snapshot):
    memory = mmap.mmap(-1, 480 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in range(0, 480, 2):
        memory[page * 4096] = 1
    snap = pmaps_snapshot()
    mapping = next(m for m in snap.mappings if m.start <= at < m.end)
    assert_at_most(mapping, 0)
""",
        *([flag] if flag else []),
    )
    ranges = [line for line in result.stdout.lines if re.match(r"\d+\t\d+\t", line)]
    more = [line for line in result.stdout.lines if line.startswith("… ") and "range" in line]
    if flag == "-vv":
        assert len(ranges) >= shown
        assert not more
    else:
        assert len(ranges) == shown
        assert len(more) == 1


def test_parts_of_a_whole_library(run: Run) -> None:
    """A failing whole library is shown by its parts, new dirty pages too."""
    result = run(
        """
def test_all(pmaps_snapshot):
    before = pmaps_snapshot()
    foo.foo_write(3)
    assert_no_dirty(pmaps_snapshot()["libfoo"], since=before)
"""
    )
    result.stdout.re_match_lines(
        [r"part +size +rss +dirty +new dirty", r"text .* 0 +0$", r"data .* 4 KiB$"]
    )


def test_change_since_the_first_snapshot(run: Run) -> None:
    """A plain assert shows what changed between the test's first and last snapshot."""
    result = run(
        """
import mmap
def test_grows(pmaps_snapshot):
    before = pmaps_snapshot()
    memory = mmap.mmap(-1, 4 << 20)
    memory.write(bytes(4 << 20))
    after = pmaps_snapshot()
    assert (after - before).rss <= "1 MiB"
"""
    )
    result.stdout.fnmatch_lines(["E*rss growth: *allowed <= 1 MiB"])
    result.stdout.re_match_lines(
        [
            r"process \d+ \(.*\) since the test's first snapshot:",
            r"mapping +new dirty +dirty +rss growth +rss",
            r"/?dev/zero|zero .* \+4 MiB|.*\+4 MiB +4 MiB",
            r"total .*",
        ]
    )
    assert all(len(line) <= 80 for line in result.stdout.lines if "KiB" in line and "  " in line)


def test_maps_are_saved_and_read_back(run: Run, folder: Path) -> None:
    """The snapshot that failed and a fresh one, as RFC text and as JSON."""
    result = run(DIRTY)
    result.stdout.fnmatch_lines([f"maps are in {folder}/maps"])
    saved = sorted(path.name for path in (folder / "maps").iterdir())
    assert [re.sub(r"[0-9a-f]{8}-call-1-\d+", "X", name) for name in saved] == [
        "test_it.py-test_dirty-X-failed.json",
        "test_it.py-test_dirty-X-failed.pmaps",
        "test_it.py-test_dirty-X.json",
        "test_it.py-test_dirty-X.pmaps",
    ]
    for path in (folder / "maps").iterdir():
        assert "libfoo" in pytest_pmaps.load(path)


def test_failures_without_snapshots_are_left_alone(run: Run, folder: Path) -> None:
    """Without --pmaps-report a test that captured nothing shows nothing of ours."""
    result = run("def test_plain(): assert 0")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*pmaps ---*")
    result.stdout.no_fnmatch_line("*page maps*")
    assert not folder.exists()


def test_passing_tests_show_nothing(run: Run) -> None:
    """A test that captured and passed leaves the output as it was."""
    result = run("def test_ok(pmaps_snapshot): assert pmaps_snapshot().rss > 0")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*page maps*")


def test_child_is_dumped_while_it_lives(run: Run, folder: Path) -> None:
    """A process that the test captured is captured afresh, after the test's last line."""
    result = run(
        """
@pytest.fixture
def child():
    text = "import sys; print(flush=True); sys.stdin.read(1); b = bytearray(b'x' * (8 << 20))"
    text += "; print(flush=True); sys.stdin.read(1)"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", text], **pipes) as child:
        yield child
        child.stdin.close()

def test_child(pmaps_snapshot, child):
    child.stdout.readline()
    pmaps_snapshot(child)
    child.stdin.write(b"xx"[:1]); child.stdin.flush()
    child.stdout.readline()
    assert 0
"""
    )
    result.stdout.re_match_lines(
        [
            r"process (\d+) \(.*\) since the test's only snapshot.*:",
            r"total .*\+8(\.\d)?(\.\.\d+(\.\d)?)? MiB.*",
            r"process \d+ \(.*\), now: rss .*",
        ]
    )
    assert len(list((folder / "maps").glob("*.pmaps"))) == 1


def test_child_that_is_gone_is_named(run: Run, folder: Path) -> None:
    """A process that has exited: its last snapshot is saved, and one line says so."""
    result = run(
        """
def test_child(pmaps_snapshot):
    with subprocess.Popen(["sleep", "100"]) as child:
        pmaps_snapshot(child)
        child.kill()
    assert 0
"""
    )
    result.stdout.re_match_lines(
        [
            r"process \d+ \(.*\), at the test's last snapshot: rss .*",
            r"  process \d+ does not exist, has exited, .*",
        ]
    )
    assert len(list((folder / "maps").glob("*.pmaps"))) == 1


def test_a_pid_used_again_is_another_process() -> None:
    """A process is known by pid and start time: nobody else's map is shown for its."""
    process = records.Process(os.getpid(), start_time=1)
    taken, note = failures._captured(failures._Target("process", os.getpid(), process))
    assert taken is None
    assert note.startswith(f"it is gone: pid {os.getpid()} is now another process")


def test_membership_explains_itself(run: Run) -> None:
    """``in`` shows near matches, ``not in`` what is mapped."""
    result = run(
        """
def test_in(pmaps_snapshot): assert "libfo" in pmaps_snapshot()
def test_not_in(pmaps_snapshot): assert "libfoo" not in pmaps_snapshot()
"""
    )
    result.stdout.re_match_lines(
        [
            r"E .*assert 'libfo' in the map of process \d+ \(.*\)",
            r"E .*libfoo\.so\.1.*",
            r"E .*assert 'libfoo' not in the map of process \d+ \(.*\)",
            r"E +libfoo\.so\.1: \d+ mappings, rss .*",
        ]
    )


def test_counts_explain_themselves(run: Run) -> None:
    """Any operator, a count on either side: one line with the number and what was allowed."""
    expected = {
        'snap.rss <= "4 KiB"': "allowed <= 4 KiB",
        'snap.rss < "4 KiB"': "allowed < 4 KiB",
        "snap.rss == 1": "expected == 1 page",
        '"4 KiB" >= snap.rss': "allowed <= 4 KiB",
        'snap.rss >= "1 TiB"': "expected >= 1 TiB",
        "1 == snap.rss": "expected == 1 page",
    }
    tests = (
        f"def test_{i}(pmaps_snapshot):\n    snap = pmaps_snapshot()\n    assert {statement}\n"
        for i, statement in enumerate(expected)
    )
    result = run("\n".join(tests))
    result.assert_outcomes(failed=len(expected))
    result.stdout.re_match_lines([rf"E .*\brss: .*{end}" for end in expected.values()])


def test_our_frames_are_hidden(run: Run) -> None:
    """The traceback ends in the test's own line."""
    result = run(
        """
def test_gone(pmaps_snapshot):
    pmaps_snapshot(2 ** 30)
"""
    )
    result.stdout.fnmatch_lines([">*pmaps_snapshot(2 ** 30)", "E*ProcessGone: *"])
    result.stdout.no_fnmatch_line("*fixtures.py*")


def test_setup_and_teardown_are_told_too(run: Run) -> None:
    """An assertion in a fixture, before or after the test, shows the same."""
    result = run(
        """
@pytest.fixture
def early(pmaps_snapshot):
    assert_not_mapped(pmaps_snapshot(), "libfoo")

@pytest.fixture
def late(pmaps_snapshot):
    before = pmaps_snapshot()
    yield
    assert_no_dirty(pmaps_snapshot()["libfoo.data"], since=before)

def test_early(early): pass
def test_late(late): foo.foo_write(4)
"""
    )
    result.assert_outcomes(errors=2, passed=1)
    result.stdout.fnmatch_lines(
        ["E*FootprintError: libfoo.so.1 is mapped*", "*pmaps -*", "*-setup-1-*"], consecutive=False
    )
    result.stdout.fnmatch_lines(
        ["E*FootprintError: libfoo.so.1 data: 1 new dirty page*", "*pmaps -*", "*-teardown-1-*"]
    )


def test_trouble_of_ours_is_one_line(run: Run, pytester: pytest.Pytester) -> None:
    """If the report cannot be made, the test's own failure stays what it was."""
    pytester.makeconftest(
        """
from pytest_pmaps.report import failure
def broken(*args):
    raise ZeroDivisionError("on purpose")
failure.section = broken
"""
    )
    result = run(DIRTY)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*FootprintError: libfoo.so.1 data: 1 new dirty page*",
            "the report could not be finished: ZeroDivisionError: on purpose",
        ]
    )


def test_maps_that_cannot_be_saved(run: Run, pytester: pytest.Pytester) -> None:
    """No room for maps: a line says so, and everything else is shown."""
    (pytester.path / "full").mkdir()
    (pytester.path / "full" / "maps").write_text("in the way")
    result = run(DIRTY, "--pmaps-report-dir=full")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["new dirty pages of*", "*its map could not be saved: *"])


def test_odd_file_names_harm_nobody(run: Run, pytester: pytest.Pytester, libfoo: Path) -> None:
    """A library called with bytes that are no text, under xdist, which sends text only."""
    odd = bytes(pytester.path) + b"/lib\xff\x1b[31modd.so"
    with open(odd, "wb") as file:
        file.write(libfoo.read_bytes())
    result = run(
        f"""
odd = ctypes.CDLL({odd!r}.decode("utf-8", "surrogateescape"))
def test_odd(pmaps_snapshot):
    before = pmaps_snapshot()
    odd.foo_write(3)
    assert (pmaps_snapshot() - before).new.dirty == 0
""",
        "-n2",
    )
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"lib\\xff\\x1b\[31modd\.so +4 KiB .*"])
