"""A library's pages and parts: what its loader wrote, what a process wrote, what nobody did."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oracle import targets
from oracle.agreement import around_as, as_nobody
from pytest_pmaps import (
    AmbiguousMapping,
    Fact,
    FootprintError,
    NoSuchMapping,
    Snapshot,
    Undetermined,
    assert_no_dirty,
    assert_not_mapped,
    assert_unchanged,
    diff,
    snapshot,
)

PAGE = 4096


@pytest.fixture(params=targets.LIBRARY_VARIANTS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A libfoo written a moment ago: its page cache is dirty still."""
    folder = tmp_path_factory.mktemp("lib")
    return targets.build_library(folder, request.param, settle=False)


@pytest.fixture
def loaded(host: Path, library: Path) -> Iterator[targets.Running]:
    """A process that has it loaded."""
    with targets.running(host, library) as process:
        yield process


def inside(snap: Snapshot, part: str, area: targets.Area) -> bool:
    """Whether a part's windows cover what the library says lies in it."""
    windows = snap[f"libfoo.{part}"].windows
    return any(w.start <= area.start and area.start + area.length <= w.end for w in windows)


def test_parts_are_where_the_library_says(loaded: targets.Running):
    """By program headers, not by permissions; each variant links them differently."""
    snap, areas = snapshot(loaded.pid), targets.areas(loaded.info)
    relro = [w for o in snap.columns.objects for w in o.parts if w[0] == 2 and "libfoo" in o.name]
    assert inside(snap, "text", areas["text"])
    assert inside(snap, "data", areas["data"])
    assert inside(snap, "bss", areas["bss"])
    assert inside(snap, "relro" if relro else "data", areas["relro"])
    if "libfoo.rodata" in snap and areas["rodata"].start not in _span(snap, "text"):
        assert inside(snap, "rodata", areas["rodata"])


def _span(snap: Snapshot, part: str) -> range:
    windows = snap[f"libfoo.{part}"].windows
    return range(windows[0].start, windows[-1].end)


def test_read_only_is_clean_though_just_copied(loaded: targets.Running):
    """Dirty page cache is not ours: text and rodata are clean, whatever smaps says of them."""
    loaded.ask("read")
    snap = snapshot(loaded.pid)
    assert_no_dirty(snap["libfoo.text"])
    assert snap["libfoo.text"].rss > 0
    assert snap["libfoo.text"].dirty.exact


def test_since_shows_exactly_the_pages_written(loaded: targets.Running):
    """Four pages of .data, then four of .bss; reading .bss first makes none."""
    loaded.ask("read")
    first = snapshot(loaded.pid)
    data = targets.areas(loaded.ask("write-data"))["data"]
    second = snapshot(loaded.pid)
    ranges, n = (second - first)["libfoo"].new.ranges()
    assert [(r.page * PAGE, r.count * PAGE, r.sure) for r in ranges] == [
        (data.start, data.length, True)
    ]
    assert n == 1
    loaded.ask("read-bss")
    third = snapshot(loaded.pid)
    assert_no_dirty(third["libfoo"], since=second)
    assert_unchanged(third["libfoo.text"], since=second)
    loaded.ask("write-bss")
    fourth = snapshot(loaded.pid)
    assert (fourth - third)["libfoo"].new.dirty == 4
    assert (fourth - third)["libfoo.bss"].new.dirty == 4
    assert (fourth - third)["libfoo.data"].new.dirty == 0


def test_written_text_fails_and_shows(loaded: targets.Running):
    """Through mprotect and back: permissions are as before, the copies are not."""
    loaded.ask("write-text")
    text = snapshot(loaded.pid)["libfoo.text"]
    with pytest.raises(FootprintError, match=r"^libfoo.so.1 text: 4 dirty pages \(16 KiB\), allo"):
        assert_no_dirty(text)
    dirty = [r for r in text.ranges(Fact.DIRTY) if r.fact(Fact.DIRTY)]
    assert sum(r.count for r in dirty) == 4


def test_whole_library_names_the_parts(loaded: targets.Running):
    """The loader wrote some: the message says which parts, and what to do."""
    loaded.ask("write-bss")
    with pytest.raises(FootprintError, match=r"bss \d; the loader writes some: name a part"):
        assert_no_dirty(snapshot(loaded.pid)["libfoo"])


def test_as_nobody(host: Path, public: Path):
    """Exact without any privilege, page by page."""
    library = targets.build_library(public, "default")
    with targets.running(host, library, uid=targets.NOBODY) as process:

        def capture() -> Snapshot:
            return around_as(as_nobody(), process.pid)[0]

        process.ask("read")
        before = capture()
        process.ask("write-data")
        after = capture()
        assert_no_dirty(after["libfoo.text"])
        assert_no_dirty(after["libfoo.rodata"])
        assert diff(after, before)["libfoo"].new.dirty == 4
        process.ask("write-text")
        assert capture()["libfoo.text"].dirty == 4


def test_missing_library_names_near_ones(loaded: targets.Running):
    """A selector that matches nothing is an error, never a pass."""
    snap = snapshot(loaded.pid)
    with pytest.raises(NoSuchMapping, match="libfoo"):
        snap["libfo"]
    with pytest.raises(NoSuchMapping):
        snap["libnotthere"]
    assert_not_mapped(snap, "libnotthere")
    with pytest.raises(FootprintError, match=r"libfoo\.so\.1 is mapped"):
        assert_not_mapped(snap, "libfoo")


def test_two_versions_are_ambiguous(host: Path, public: Path):
    """Both are listed; select() takes them on purpose."""
    first = targets.build_library(public, "default")
    second = targets.build_library(public, "lto")
    code = f"import ctypes, sys; a = ctypes.CDLL({str(first)!r}); b = ctypes.CDLL({str(second)!r})"
    talk = '; print("{}", flush=True); sys.stdin.read()'
    with targets.running("-c", code + talk, python=shutil.which("python3")) as (pid, _):
        snap = snapshot(pid)
    with pytest.raises(AmbiguousMapping, match=r"2 files: \S+/libfoo.so.1, \S+/libfoo.so.1;"):
        snap["libfoo"]
    assert snap.select("libfoo.text").rss > 0
    assert snap[f"{first}.text"].label == "libfoo.so.1 text"


@pytest.mark.parametrize(
    "replace",
    [
        pytest.param(lambda path: path.unlink(), id="deleted"),
        pytest.param(
            lambda path: (path.unlink(), path.write_bytes(b"another file")), id="replaced"
        ),
    ],
)
def test_parts_of_a_file_that_is_gone_are_unknown(
    host: Path, tmp_path: Path, replace: Callable[[Path], None]
):
    """What cannot be read is not guessed; all of the file can still be selected."""
    library = targets.build_library(tmp_path)
    with targets.running(host, library) as process:
        replace(library)
        snap = snapshot(process.pid)
    with pytest.raises(Undetermined, match=r"parts of libfoo\.so\.1 are unknown"):
        snap["libfoo.text"]
    assert snap["libfoo"].rss > 0
