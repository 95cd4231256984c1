"""Nothing watches tests that need nothing; one that asks in its midst is watched from there on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plugin.shared import Run, needs_subtests
from plugin.test_forks import FORKED

#: A test that asks while it runs, and fails for one page of libfoo's data.
ASKS = """
def test_asks(request):
    take = request.getfixturevalue("pmaps_snapshot")
    before = take()
    foo.foo_write(3)
    assert_no_dirty(take()["libfoo.data"], since=before)
"""
SECTION = [
    "E*FootprintError: libfoo.so.1 data: 1 new dirty page (4 KiB), allowed 0",
    "*- pmaps -*",
    "process * since the test's first snapshot:",
]
#: Says at the end who is there.
WHO = """
import pytest
@pytest.fixture(scope="session")
def nothing(): pass
def pytest_sessionfinish(session):
    manager = session.config.pluginmanager
    print("\\nTHERE", [n for n in ("standby", "session") if manager.has_plugin(f"pmaps-{n}")])
"""


def told(folder: Path) -> dict[str, dict[str, Any]]:
    """The tests in run.json, by name."""
    tests = json.loads((folder / "run.json").read_text())["tests"]
    return {test["nodeid"].rpartition("::")[2]: test for test in tests}


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("@pytest.mark.parametrize('n', [1, 2])\ndef test_it(n, nothing): pass", []),
        ("def test_it(request): pass", ["standby"]),
        ("def test_it(tmp_path): pass", ["standby"]),
        ("def test_it(pmaps_snapshot): pass", ["standby", "session"]),
        ("def test_it(pmaps): pass", ["standby", "session"]),
        ("@pytest.mark.pmaps_undetermined('skip')\ndef test_it(): pass", ["standby", "session"]),
        (
            "@pytest.mark.pmaps_undetermined('skip')\nclass TestIt:\n  def test_it(self): pass",
            ["standby", "session"],
        ),
        (
            "import hypothesis as h\n@h.given(h.strategies.none())\ndef test_it(request, n): pass",
            ["standby", "session"],
        ),
    ],
)
def test_only_what_is_needed(
    run: Run, pytester: pytest.Pytester, text: str, there: list[str]
) -> None:
    """Nobody is there for tests that cannot ask, and all for those that are seen to."""
    pytester.makeconftest(WHO)
    result = run(text, "-s")
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"THERE {there}".replace("[", "[[]")])


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "n2"])
def test_in_a_test(run: Run, folder: Path, workers: list[str]) -> None:
    """Section, saved maps, numbers and headline are those of one that asked at once.

    So is what failed before: it is in run.json.
    """
    result = run("def test_before(): assert 0\n" + ASKS, *workers)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([*SECTION, "*= page maps =*"])
    tests = told(folder)
    dirty = tests["test_asks"]
    assert (dirty["phase"], dirty["outcome"], dirty["attempt"]) == ("call", "failed", 1)
    assert (dirty["kind"], len(dirty["maps"])) == ("footprint", 2)
    assert dirty["measured"][0]["new_dirty"][0] >= 4096
    # Of a worker nobody knows whether it was before.
    assert workers or tests["test_before"]["outcome"] == "failed"


def test_numbers_of_one_that_passes(run: Run, folder: Path) -> None:
    """Nothing fails: the numbers come all the same, of this test and of the next."""
    run(
        """
def test_one(request): request.getfixturevalue("pmaps").snapshot()
def test_two(request): request.getfixturevalue("pmaps").snapshot()
"""
    )
    tests = told(folder)
    assert [len(tests[name]["measured"]) for name in ("test_one", "test_two")] == [1, 1]


def test_in_a_fixture(run: Run, folder: Path) -> None:
    """In its setup it is the test's: compared with what the test captures in its call."""
    result = run(
        """
@pytest.fixture
def take(request):
    take = request.getfixturevalue("pmaps_snapshot")
    take()
    return take

def test_it(take):
    foo.foo_write(3)
    take()
    assert 0
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"process .* first snapshot:", r"libfoo\.so\.1 +4 KiB .*"])
    assert told(folder)["test_it"]["measured"][0]["new_dirty"][0] >= 4096


def test_in_a_fixture_that_fails(run: Run) -> None:
    """The phase that was joined gets its section."""
    result = run(
        """
@pytest.fixture
def broken(request):
    request.getfixturevalue("pmaps_snapshot")()
    assert 0, "in setup"
def test_it(broken): pass
"""
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E*in setup", "*- pmaps -*", "process * only snapshot*"])


def test_in_teardown(run: Run, folder: Path) -> None:
    """The same in the last phase of the last test."""
    result = run(
        """
@pytest.fixture
def late(request):
    yield
    take = request.session.take
    before = take()
    foo.foo_write(3)
    assert_no_dirty(take()["libfoo.data"], since=before)

@pytest.fixture
def first(request):
    yield
    request.session.take = request.getfixturevalue("pmaps_snapshot")

def test_it(late, first): pass
"""
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(SECTION)
    assert told(folder)["test_it"]["phase"] == "teardown"


@pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["alone", "n1"])
@pytest.mark.parametrize("scope", ["class", "module"])
def test_in_a_wide_fixture(run: Run, folder: Path, scope: str, workers: list[str]) -> None:
    """What it captures is its own, in setup and teardown, and told only to its users."""
    result = run(
        f"""
@pytest.fixture(scope="{scope}")
def wide(request):
    take = request.getfixturevalue("pmaps_snapshot")
    before = take()
    foo.foo_write(3)
    yield
    foo.foo_write(4)
    assert_no_dirty(take()["libfoo.data"], since=before)

def test_other(): assert 0, "other"
class TestIt:
    def test_uses(self, wide): assert 0, "uses"
""",
        *workers,
    )
    result.assert_outcomes(failed=2, errors=1)
    sections = [line for line in result.stdout.lines if "- pmaps -" in line]
    assert len(sections) == 2
    # In the test's call with what is there now, at the fixture's end with its second.
    result.stdout.re_match_lines(
        [
            r"E.*2 new dirty pages .*",
            r"process .* since the test's first snapshot:",
            r"libfoo\.so\.1 +8 KiB .*",
            r".*AssertionError: uses",
            r"process .* since the test's only snapshot.*",
            r"libfoo\.so\.1 +4 KiB .*",
        ]
    )
    assert told(folder)["test_uses"]["measured"] == []


def test_in_setup_of_a_class(run: Run) -> None:
    """setup_method, with what a fixture of the class left there."""
    result = run(
        """
class TestIt:
    @pytest.fixture(autouse=True, scope="class")
    def _get(self, request):
        type(self).get = staticmethod(request.getfixturevalue)
    def setup_method(self):
        self.take = self.get("pmaps_snapshot")
        self.before = self.take()
    def test_dirty(self):
        foo.foo_write(3)
        assert_no_dirty(self.take()["libfoo.data"], since=self.before)
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(SECTION)


def test_in_unittest(run: Run) -> None:
    """A method of a TestCase, which has it from a fixture."""
    result = run(
        """
import unittest
class TestFoo(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _ask(self, request):
        self.ask = request.getfixturevalue
    def test_dirty(self):
        take = self.ask("pmaps_snapshot")
        before = take()
        foo.foo_write(3)
        assert_no_dirty(take()["libfoo.data"], since=before)
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(SECTION)


@needs_subtests
def test_in_a_subtest(run: Run, folder: Path) -> None:
    """A report in the midst of the phase does not end it."""
    result = run(
        """
def test_pages(request, subtests):
    with subtests.test():
        take = request.getfixturevalue("pmaps_snapshot")
        before = take()
        assert 0
    foo.foo_write(3)
    assert_no_dirty(take()["libfoo.data"], since=before)
"""
    )
    result.stdout.fnmatch_lines(["E*assert 0", "*- pmaps -*", *SECTION])
    assert told(folder)["test_pages"]["measured"][0]["new_dirty"][0] >= 4096


@pytest.mark.parametrize("asks", [1, 2])
def test_in_an_attempt(run: Run, folder: Path, asks: int) -> None:
    """Each attempt from the one that asks first on is told under its number."""
    run(
        f"""
pages = iter(enumerate([3, 4, 5], 1))
def test_it(request):
    attempt, page = next(pages)
    assert attempt >= {asks}
    take = request.getfixturevalue("pmaps_snapshot")
    before = take()
    foo.foo_write(page)
    assert_no_dirty(take()["libfoo.data"], since=before)
""",
        "--reruns=2",
    )
    tests = json.loads((folder / "run.json").read_text())["tests"]
    measured = {test["attempt"]: len(test["measured"]) for test in tests}
    assert {n for n, found in measured.items() if found} == set(range(asks, 4))
    assert [t["headline"][:33] for t in tests if t["maps"]] == [
        "libfoo.so.1 data: 1 new dirty pag"
    ] * (4 - asks)


def test_in_a_forked_test(run: Run, folder: Path, pytester: pytest.Pytester) -> None:
    """Each in a child of its own: what it measured arrives where nobody ever asked."""
    pytester.makeconftest(FORKED)
    result = run(ASKS)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([*SECTION, "*= page maps =*"])
    assert told(folder)["test_asks"]["measured"]


def test_in_a_session_within_a_test(run: Run, folder: Path, pytester: pytest.Pytester) -> None:
    """The inner session's test is not the outer's, and what it was promised ends with it."""
    pytester.makeconftest("pytest_plugins = ['pytester']")
    result = run(
        """
from pytest_pmaps.errors import undetermined_policy
def test_outer(request, pytester):
    pytester.makepyfile('''
import pytest
@pytest.fixture
def asks(request):
    yield
    request.node.add_marker(pytest.mark.pmaps_undetermined("skip"))
    request.getfixturevalue("pmaps_snapshot")()
def test_inner(asks): pass
''')
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert undetermined_policy.get() is None
    take = request.getfixturevalue("pmaps_snapshot")
    take()
    foo.foo_write(3)
    take()
    assert 0
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"process .* first snapshot:", r"libfoo\.so\.1 +4 KiB .*"])
    assert set(told(folder)) == {"test_outer"}


def test_markers_that_fixtures_add(run: Run) -> None:
    """They hold from the call on; one that does not read is an error of the setup."""
    result = run(
        """
@pytest.fixture(params=["nonsense", "skip"])
def adds(request):
    request.node.add_marker(pytest.mark.pmaps_undetermined(request.param))
def test_it(adds): assert loads(UNKNOWN)["libbar"].dirty == 0
""",
        "-rs",
    )
    result.assert_outcomes(skipped=1, errors=1)
    result.stdout.fnmatch_lines(["*takes 'error' or 'skip', not ('nonsense')"])


def test_marker_before_the_fixture(run: Run) -> None:
    """A marker that was added in the call before it asked holds at once."""
    result = run(
        """
def test_it(request):
    request.node.add_marker(pytest.mark.pmaps_undetermined("skip"))
    request.getfixturevalue("pmaps")
    assert loads(UNKNOWN)["libbar"].dirty == 0
"""
    )
    result.assert_outcomes(skipped=1)


@pytest.mark.parametrize(
    "text",
    [
        "@pytest.mark.parametrize('n', [1, pytest.param(2, marks=BAD)])\ndef test_it(n): pass",
        "@BAD\nclass TestIt:\n    def test_it(self): pass",
        "pytestmark = BAD\ndef test_it(): pass",
    ],
    ids=["param", "class", "module"],
)
@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "n2"])
def test_bad_markers_everywhere(run: Run, text: str, workers: list[str]) -> None:
    """Wherever a marker was put, that it does not read is an error of collection."""
    result = run(f"BAD = pytest.mark.pmaps_undetermined('pass')\n{text}", *workers)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_it*: pmaps_undetermined takes 'error' or 'skip', not (*"])


def test_collect_only(run: Run, folder: Path) -> None:
    """Nothing runs, nothing is written."""
    assert run(ASKS, "--collect-only").ret == 0
    assert not folder.exists()
