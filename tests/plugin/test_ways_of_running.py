"""The same failing test under everything that runs, wraps or reports tests."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from plugin.shared import DIRTY, PREAMBLE, Run, needs_subtests

HEADLINE = "libfoo.so.1 data: 1 new dirty page (4 KiB), allowed 0"
SECTION = [
    f"E*FootprintError: {HEADLINE}",
    "*- pmaps -*",
    "new dirty pages of libfoo.so.1 data *",
    "*rw-p*libfoo.so.1",
    "process * since the test's first snapshot:",
    "maps are in */pmaps/maps",
]


@pytest.mark.parametrize("capture", ["no", "stdout", "stderr", "log", "all"])
@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "n2"])
def test_show_capture(run: Run, capture: str, workers: list[str]) -> None:
    """The section stays under every --show-capture, with and without workers."""
    result = run(DIRTY, f"--show-capture={capture}", *workers)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(SECTION)


def test_no_cacheprovider(run: Run) -> None:
    """Nothing of it needs pytest's cache."""
    run(DIRTY, "-p", "no:cacheprovider").stdout.fnmatch_lines(SECTION)


def test_no_tmpdir_plugin(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without pytest's temporary folders maps go to a folder of their own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # --basetemp is that plugin's, too.
    pytester.makepyfile(test_it=PREAMBLE + DIRTY)
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "no:tmpdir")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            *SECTION[:5],
            f"maps are in {tmp_path}/pytest-pmaps-*/maps",
            f"run.json and maps: {tmp_path}/*",
        ]
    )


def test_junit(run: Run, pytester: pytest.Pytester) -> None:
    """JUnit has the headline as message, the section in the text, numbers as properties."""
    run(DIRTY, "--junit-xml=j.xml")
    case = ET.parse(pytester.path / "j.xml").getroot().find(".//testcase")
    assert case is not None
    failure = case.find("failure")
    assert failure is not None
    assert failure.get("message") == f"FootprintError: {HEADLINE}"
    assert "new dirty pages of libfoo.so.1 data" in (failure.text or "")
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert properties["pmaps_headline"] == HEADLINE
    assert int(properties["pmaps_rss_bytes"] or "") > 1 << 20
    assert int(properties["pmaps_new_dirty_bytes"] or "") >= 4096


def test_junit_of_workers(run: Run, pytester: pytest.Pytester) -> None:
    """The same from a worker."""
    run(DIRTY, "--junit-xml=j.xml", "-n2")
    root = ET.parse(pytester.path / "j.xml").getroot()
    names = [p.get("name") for p in root.iter("property")]
    assert names.count("pmaps_headline") == names.count("pmaps_rss_bytes") == 1


def test_unittest(run: Run) -> None:
    """A TestCase, with a fixture from usefixtures' kind of injection."""
    result = run(
        """
import unittest
class TestFoo(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _take(self, pmaps):
        self.pmaps = pmaps

    def test_dirty(self):
        before = self.pmaps.snapshot()
        foo.foo_write(3)
        self.pmaps.assert_no_dirty(self.pmaps.snapshot()["libfoo.data"], since=before)
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(SECTION)


@needs_subtests
def test_subtests(run: Run) -> None:
    """Each failing subtest shows its own section; the test's own line has none."""
    result = run(
        """
def test_pages(pmaps_snapshot, subtests):
    before = pmaps_snapshot()
    for page in (3, 4):
        with subtests.test(page=page):
            foo.foo_write(page)
            assert_no_dirty(pmaps_snapshot()["libfoo.data"], since=before)
"""
    )
    result.stdout.fnmatch_lines(
        [
            "E*libfoo.so.1 data: 1 new dirty page (4 KiB), allowed 0",
            "*- pmaps -*",
            "E*libfoo.so.1 data: 2 new dirty pages (8 KiB), allowed 0",
            "*- pmaps -*",
        ]
    )
    assert sum("- pmaps -" in line for line in result.stdout.lines) == 2
    assert len({line for line in result.stdout.lines if "-failed" in line}) == 2


@pytest.mark.parametrize("arguments", ["", "raises=AssertionError", "raises=FootprintError"])
def test_xfail(run: Run, folder: Path, arguments: str) -> None:
    """An expected failure is XFAIL, shows nothing, and saves no map."""
    result = run(f"@pytest.mark.xfail({arguments})" + DIRTY, "-rx", "--xfail-tb")
    result.assert_outcomes(xfailed=1)
    assert not (folder / "maps").exists()
    result.stdout.no_fnmatch_line("*- pmaps -*")
    result.stdout.no_fnmatch_line("*page maps*")


def test_xfail_strict(run: Run) -> None:
    """A strict xfail that passes fails, though no page map is to blame."""
    result = run(
        """
@pytest.mark.xfail(strict=True)
def test_clean(pmaps_snapshot):
    assert pmaps_snapshot().rss > 0
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*"])


def test_pdb(pytester: pytest.Pytester, run: Run) -> None:
    """--pdb stops after the section was shown, with the test's processes still there."""
    run(
        """
@pytest.fixture
def child():
    pipe = subprocess.PIPE
    with subprocess.Popen(["cat"], stdin=pipe, stdout=pipe, bufsize=0) as child:
        child.stdin.write(b"\\n")
        child.stdout.readline()  # it has libc by now
        yield child
        child.kill()

def test_child(pmaps_snapshot, child):
    pmaps_snapshot(child)
    assert_not_mapped(pmaps_snapshot(child), "libc*")
""",
        "--collect-only",
    )
    commands = b"p 'poll', child.poll()\nc\n"
    result = pytester.run(sys.executable, "-m", "pytest", "--pdb", stdin=commands)
    result.stdout.re_match_lines(
        [
            r".*- pmaps -.*",
            r"process \d+ \(.*\), now: rss .*",
            r".*entering PDB.*",
            r".*\('poll', None\)",
        ]
    )
    result.assert_outcomes(failed=1)


def test_rerun(run: Run, pytester: pytest.Pytester) -> None:
    """Each attempt is judged against its own first snapshot, and has its own maps."""
    result = run(
        """
pages = iter([3, 4, 5])
def test_dirty(pmaps_snapshot):
    before = pmaps_snapshot()
    foo.foo_write(next(pages))
    assert_no_dirty(pmaps_snapshot()["libfoo.data"], since=before)
""",
        "--reruns=2",
    )
    assert re.search(r"1 failed.*2 rerun", result.stdout.lines[-1])
    # Had the first attempt's snapshot been kept, three pages would be new.
    result.stdout.re_match_lines([r"E.*1 new dirty page ", r"libfoo\.so\.1 +4 KiB .*"])
    maps = (pytester.path / "tmp" / "pmaps" / "maps").glob("*-failed.pmaps")
    assert sorted(re.findall(r"-call-(\d)-", " ".join(map(str, maps)))) == ["1", "2", "3"]


def test_rerun_until_it_passes(run: Run) -> None:
    """A test that passes in the end fails nothing: no headline."""
    result = run(
        """
pages = iter([3])
def test_dirty(pmaps_snapshot):
    before = pmaps_snapshot()
    for page in pages:
        foo.foo_write(page)
    assert_no_dirty(pmaps_snapshot()["libfoo.data"], since=before)
""",
        "--reruns=2",
    )
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*page maps*")


def test_given(run: Run) -> None:
    """@given with all health checks; the section speaks of the last example only."""
    result = run(
        """
from hypothesis import given, settings, strategies as st
@settings(database=None, max_examples=50, derandomize=True, deadline=None)
@given(page=st.integers(0, 7))
def test_page(pmaps_snapshot, page):
    before = pmaps_snapshot()
    memory = bytearray(4096 * 50 * 5) if page >= 5 else None
    assert memory is None, "page %d" % page
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E*page 5*", "*page=5*", "*- pmaps -*", "process * since the test's only snapshot*"]
    )
    result.stdout.no_fnmatch_line("*HealthCheck*")
    result.stdout.no_fnmatch_line("*session.py*")


def test_given_keeps_what_came_before(run: Run) -> None:
    """What a fixture captured before the first example is compared with in every example."""
    result = run(
        """
from hypothesis import given, settings, strategies as st
@pytest.fixture(scope="module")
def early(pmaps_snapshot):
    pmaps_snapshot()
    foo.foo_write(6)

@settings(database=None, max_examples=5, derandomize=True, deadline=None)
@given(flag=st.booleans())
def test_page(early, pmaps_snapshot, flag):
    pmaps_snapshot()
    assert 0
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [r"process .* since the test's first snapshot:", r"libfoo\.so\.1 +4 KiB .*"]
    )


def test_two_workers_do_not_share_names(run: Run, pytester: pytest.Pytester) -> None:
    """The same tests on both workers (--dist=each): each saves its own maps."""
    result = run(
        """
def test_shared(pmaps_snapshot):
    pmaps_snapshot(os.getppid())
    assert 0
""",
        "--dist=each",
        "--tx=2*popen",
    )
    result.assert_outcomes(failed=2)
    maps = list((pytester.path / "tmp" / "pmaps" / "maps").glob("*.pmaps"))
    assert len(maps) == 2
    assert all(path.stat().st_size for path in maps)
