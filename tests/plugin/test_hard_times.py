"""A test's own failure is what is reported, whatever is in the way of our report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plugin.shared import DIRTY, Run

PATCHES = ("builtins.open", "pathlib.Path.read_text", "json.dumps", "json.loads", "re.sub")


@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.parametrize("option", [[], ["--pmaps-report"]])
@pytest.mark.parametrize("fixture", ["", "pmaps_snapshot, "])
def test_patches_that_are_still_in_place(
    run: Run, name: str, fixture: str, option: list[str]
) -> None:
    """While a test's report is made its patches hold; with and without our fixture."""
    result = run(
        f"""
def test_a({fixture}monkeypatch):
    {"pmaps_snapshot()" if fixture else ""}
    def no(*args, **more): raise AssertionError("must not be called")
    monkeypatch.setattr({name!r}, no)
    assert 1 == 2

def test_b(): pass
""",
        *option,
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_a - assert 1 == 2"])


@pytest.mark.parametrize("raised", ["pytest.importorskip('nope')", "sys.exit(3)", "1 / 0"])
@pytest.mark.parametrize(
    "hook",
    [
        "pytest_pmaps_targets(item)",
        "pytest_pmaps_classify(mapping)",
        "pytest_pmaps_report_sections(item)",
    ],
)
def test_hooks_that_raise(
    run: Run, pytester: pytest.Pytester, folder: Path, hook: str, raised: str
) -> None:
    """One line that names the hook, also in run.json; the rest of the report is there."""
    pytester.makeconftest(f"import pytest, sys\ndef {hook}: {raised}\n")
    result = run(DIRTY)
    result.assert_outcomes(failed=1)
    name = hook.partition("(")[0]
    result.stdout.re_match_lines([rf"{name} failed: \w+: .*"])
    result.stdout.fnmatch_lines(["maps are in *"])
    problems = json.loads((folder / "run.json").read_text())["tests"][0]["problems"]
    assert any(problem.startswith(name) for problem in problems)


def test_teardown_does_not_hide_the_call(run: Run, folder: Path) -> None:
    """Both failures are told, the test's own first."""
    run(
        DIRTY.replace("(pmaps_snapshot)", "(pmaps_snapshot, late)")
        + """
@pytest.fixture
def late():
    yield
    assert 0, "in teardown"
"""
    )
    told = json.loads((folder / "run.json").read_text())["tests"][0]
    assert (told["phase"], told["kind"]) == ("call", "footprint")
    assert told["headline"].startswith("libfoo.so.1 data: 1 new dirty page")


def test_plain_asserts_are_footprint_failures_too(run: Run, folder: Path) -> None:
    """A comparison that explained itself is a headline, in the summary and in run.json."""
    result = run(
        """
def test_plain(pmaps_snapshot):
    assert pmaps_snapshot()["[heap]"].rss <= "1 KiB"
"""
    )
    result.stdout.re_match_lines([r"  \[heap\]: rss is .* allowed <= 1 KiB"])
    told = json.loads((folder / "run.json").read_text())["tests"][0]
    assert told["kind"] == "footprint"
    assert told["headline"].startswith("[heap]: rss is ")


def test_strict_xpass_has_its_section(run: Run) -> None:
    """A failure without traceback too, under every --show-capture."""
    result = run(
        """
@pytest.mark.xfail(strict=True, reason="known")
def test_xpass(pmaps_snapshot): pmaps_snapshot()
""",
        "--show-capture=no",
    )
    result.stdout.fnmatch_lines(["*XPASS(strict)*", "*, now: rss *"])


def test_sharing_is_with_what_was_selected(run: Run) -> None:
    """Another process's heap shares nothing of our libc."""
    result = run(
        """
def test_shared(pmaps_snapshot):
    with subprocess.Popen(["sleep", "9"], stdout=subprocess.PIPE) as child:
        import time; time.sleep(0.3)
        mine, other = pmaps_snapshot(), pmaps_snapshot(child)
        child.kill()
    assert_shared(mine["libc.text"], other["libc.text"], at_least=1)
    assert_shared(mine["libc.text"], other["[stack]"], at_least=1)
"""
    )
    result.stdout.re_match_lines([r"E +FootprintError: libc.* text: 0 shared pages .*"])
