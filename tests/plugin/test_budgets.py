"""Budgets: what a test may hold when it was called, judged in its call phase."""

from __future__ import annotations

import re
import sys

import pytest
from plugin.shared import Run, needs_subtests

#: Grows by some pages, in memory of its own that nothing else fills up.
GROW = """
import mmap
kept = []
def grow(pages):
    if pages:
        kept.append(mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE))
        kept[-1].madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, pages * 4096, 4096):
            kept[-1][at] = 1
"""
#: One that stays within, one that does not, and one that has no budget.
THREE = (
    GROW
    + """
@pytest.mark.pmaps_budget("anonymous growth <= 64 KiB")
def test_small():
    grow(1)

@pytest.mark.pmaps_budget("anonymous growth <= 64 KiB")
def test_large():
    grow(100)

def test_free():
    grow(100)
"""
)


def headline(result: pytest.RunResult) -> str:
    """The first line of the failure."""
    (line,) = (line for line in result.outlines if line.startswith("E  ") or "Budget" in line[:14])
    return line


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_what_is_exceeded_fails(run: Run, workers: list[str]) -> None:
    """In one line, without a traceback; what passed is still counted, and the exit status is 1."""
    result = run(THREE, *workers)
    result.assert_outcomes(passed=2, failed=1)
    assert result.ret == 1
    text = result.stdout.str()
    found = re.search(r"growth: (4\d\d) KiB, allowed 64 KiB \(measured 3 times(: [^)]*)?\)", text)
    assert found
    # The lowest that was measured is what is told.
    samples = [int(number) for number in re.findall(r"\d+", found[2] or found[1])]
    assert int(found[1]) == min(samples)
    assert "Traceback" not in text
    assert "grow(100)" not in text
    assert "INTERNALERROR" not in text
    assert re.search(r"FAILED test_it.py::test_large - BudgetExceeded: anonymous growth: ", text)


def test_what_offends_is_shown(run: Run) -> None:
    """The pages, as of any footprint failure."""
    result = run(
        """
@pytest.mark.pmaps_budget("libfoo.text: dirty <= 0", "libfoo.data: dirty growth <= 0")
def test_it():
    foo.foo_write(3)
    foo.foo_patch()
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "libfoo.text: dirty: 1 page (4 KiB), allowed 0 (measured 3 times) (and 1 more)",
            "libfoo.data: dirty growth: 1 page (4 KiB), allowed 0 (measured 3 times)",
            "dirty pages of libfoo.so.1 text *",
            "new dirty pages of libfoo.so.1 data *",
        ]
    )


def test_a_tests_own_failure_comes_first(run: Run) -> None:
    """A budget is of no interest then."""
    result = run(
        THREE
        + """
@pytest.mark.pmaps_budget("anonymous growth <= 0")
def test_fails():
    grow(100)
    assert "own" == "failure"

import unittest
class TestUnit(unittest.TestCase):
    @pytest.mark.pmaps_budget("anonymous growth <= 0")
    def test_unit(self):
        grow(100)
        self.fail("own failure")
""",
        "-k",
        "fails or unit",
    )
    result.assert_outcomes(failed=2)
    assert "BudgetExceeded" not in result.stdout.str()
    assert result.stdout.str().count("own failure") >= 1


def test_growth_is_from_a_settled_start(run: Run) -> None:
    """Garbage of tests before it is nobody's growth, nor does it hide any."""
    result = run(
        """
import gc
def test_first():
    gc.disable()
    for _ in range(20_000):
        a = [bytearray(50)]
        a.append(a)

@pytest.mark.pmaps_budget("anonymous growth <= 128 KiB")
def test_second():
    pass

@pytest.mark.pmaps_budget("anonymous growth <= 512 KiB")
def test_third():
    for _ in range(20):
        a = [bytearray(1 << 20)]
        a.append(a)

@pytest.mark.pmaps_budget("anonymous growth <= 512 KiB")
def test_fourth():
    global kept
    kept = [bytearray(1 << 20) for _ in range(20)]
"""
    )
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["FAILED *::test_fourth*"])


def test_marker_over_command_line_over_ini(run: Run, pytester: pytest.Pytester) -> None:
    """Of two of the same; others add up."""
    pytester.makeini(
        """
[pytest]
pmaps_budgets =
    anonymous growth <= 64 KiB
    mappings growth <= 50
"""
    )
    text = (
        GROW
        + """
def test_ini():
    grow(100)

@pytest.mark.pmaps_budget("anonymous growth <= 10 MiB")
def test_marker():
    grow(100)

@pytest.mark.pmaps_budget("anonymous growth <= 10 MiB")
class TestClass:
    def test_class(self):
        grow(100)

    @pytest.mark.pmaps_budget("anonymous growth <= 4 KiB")
    def test_nearest(self):
        grow(100)

    def test_other(self):
        for _ in range(60):
            grow(1)
            kept.append(mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
"""
    )
    result = run(text, "-rA")
    result.stdout.re_match_lines_random(
        [
            r"FAILED .*::test_ini - BudgetExceeded: anonymous growth.*64 KiB",
            r"PASSED .*::test_marker",
            r"PASSED .*::test_class",
            r"FAILED .*::test_nearest - BudgetExceeded: anonymous growth",
            r"FAILED .*::test_other - BudgetExceeded: mappings growth: \d+, allowed 50",
        ]
    )
    result = run(text, "-rA", "--pmaps-budget", "anonymous growth <= 1 MiB", "-k", "ini")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("budget", "said", "workers"),
    [
        ("dirtey <= 0", "dirtey is no metric: did you mean dirty", ["-n", "2"]),
        ("dirty <= 5 MB", "MB may be 1000s or 1024s", []),
        ("[heep]: dirty <= 5", "did you mean [[]heap]", []),
        ("rss <= baseline + 5%", "there is no baseline: --pmaps-baseline FILE", ["-n", "2"]),
    ],
)
def test_an_option_that_does_not_read(
    run: Run, pytester: pytest.Pytester, budget: str, said: str, workers: list[str]
) -> None:
    """Is a usage error, with the place marked; from the ini file as well."""
    result = run(THREE, "--pmaps-budget", budget, *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --pmaps-budget: *{said}*"])
    if "baseline" not in budget:
        assert any(line.strip() == "^" for line in result.errlines)
    pytester.makeini(f"[pytest]\npmaps_budgets =\n  anonymous <= 1 GiB\n  {budget}\n")
    result = run(THREE, *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: pmaps_budgets: *{said}*"])


@pytest.mark.parametrize(
    ("arguments", "said", "workers"),
    [
        ('"dirtey <= 0"', "dirtey is no metric", []),
        ('"dirty <= 0", "dirty < 5"', "<= is expected here", ["-n", "2"]),
        ("5", "a budget is text", []),
        ("", "takes budgets, such as", []),
        ('budget="dirty <= 0"', "takes budgets, such as", []),
        ('"rss <= baseline + 5%"', "there is no baseline", []),
    ],
)
def test_a_marker_that_does_not_read(
    run: Run, arguments: str, said: str, workers: list[str]
) -> None:
    """Is found at collection: no test runs."""
    result = run(
        f"""
@pytest.mark.pmaps_budget({arguments})
def test_it():
    print("it ran")
""",
        "-s",
        *workers,
    )
    assert result.ret == (1 if workers else pytest.ExitCode.INTERRUPTED)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*test_it.py::test_it: pmaps_budget: *{said}*"])
    assert "it ran" not in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str()


def test_a_selector_that_matches_nothing(run: Run) -> None:
    """Is an error with near matches, unless it may."""
    result = run(
        """
@pytest.mark.pmaps_budget("libfou: dirty <= 1000")
def test_misspelt():
    pass

@pytest.mark.pmaps_budget("libfou?: dirty <= 1000", "libfoo?: dirty <= 1000")
def test_optional():
    pass

@pytest.mark.pmaps_budget("libfoo.tixt?: dirty <= 1000")
def test_no_such_part():
    pass
""",
        "-rA",
    )
    result.stdout.re_match_lines_random(
        [
            r"FAILED .*::test_misspelt - PmapsError: libfou: dirty: .*libfou",
            r"PASSED .*::test_optional",
        ]
    )
    assert "libfoo" in result.stdout.str()


def test_expected_failures(run: Run) -> None:
    """A budget that is known to be exceeded is XFAIL, however that is written."""
    result = run(
        GROW
        + """
@pytest.mark.xfail
@pytest.mark.pmaps_budget("anonymous growth <= 0")
def test_plain():
    grow(100)

@pytest.mark.xfail(raises=AssertionError)
@pytest.mark.pmaps_budget("anonymous growth <= 0")
def test_raises():
    grow(100)

@pytest.mark.xfail(raises=FootprintError)
@pytest.mark.pmaps_budget("anonymous growth <= 0")
def test_ours():
    grow(100)
"""
    )
    result.assert_outcomes(xfailed=3)
    assert result.ret == 0


def test_reruns(run: Run) -> None:
    """Each attempt is judged by itself."""
    pytest.importorskip("pytest_rerunfailures")
    result = run(
        GROW
        + """
calls = []
@pytest.mark.flaky(reruns=2)
@pytest.mark.pmaps_budget("anonymous growth <= 64 KiB")
def test_it():
    calls.append(1)
    grow(100 if len(calls) == 1 else 0)
""",
    )
    assert result.parseoutcomes() == {"passed": 1, "rerun": 1}


def test_junit(run: Run, pytester: pytest.Pytester) -> None:
    """The message tells the story."""
    result = run(THREE, "--junitxml=out.xml", "-n", "2")
    result.assert_outcomes(passed=2, failed=1)
    xml = (pytester.path / "out.xml").read_text()
    assert re.search(r'failure message="[^"]*anonymous growth: 4\d\d KiB', xml)


SERVER = """
@pytest.fixture
def server(pmaps):
    code = "import sys; a = bytearray(1 << 20); print('up', flush=True);"
    code += "exec('while sys.stdin.readline(): a += bytes(1 << 20); print(0, flush=True)')"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as it:
        it.stdout.readline()
        yield pmaps.target("server", it)
        it.stdin.close()

def ask(server):
    server.stdin.write("more\\n")
    server.stdin.flush()
    server.stdout.readline()
"""


def test_named_targets(run: Run) -> None:
    """Of another process, and of its tree; growth from when the test began, or it was named."""
    result = run(
        SERVER
        + """
@pytest.mark.pmaps_budget("@server: anonymous growth <= 256 KiB")
def test_still(server):
    pass

@pytest.mark.pmaps_budget("@server: anonymous growth <= 256 KiB", "@server: processes <= 1",
                          "@server [heap]?: rss <= 1 GiB", "@server: unique_rss <= 1 GiB")
def test_grows(server):
    ask(server)

@pytest.mark.pmaps_budget("@late: anonymous growth <= 256 KiB")
def test_late(server, pmaps):
    ask(server)
    pmaps.target("late", server)
    ask(server)

@pytest.mark.pmaps_budget("@nobody: rss <= 1 GiB")
def test_unknown():
    pass

@pytest.mark.pmaps_budget("@server: rss <= 1 GiB")
def test_gone(server):
    server.kill()
    server.wait()
""",
        "-rA",
    )
    result.stdout.re_match_lines_random(
        [
            r"PASSED .*::test_still",
            r"FAILED .*::test_grows - BudgetExceeded: @server: anonymous growth: 1",
            r"FAILED .*::test_late - BudgetExceeded: @late: anonymous growth: [12]",
            r"FAILED .*::test_unknown - PmapsError: @nobody: rss: no target is called nobody: ",
            r"FAILED .*::test_gone - PmapsError: @server: rss: .*exited",
        ]
    )


def test_what_comes_while_a_test_runs(run: Run) -> None:
    """An optional library that was not there at the start has grown by all that it is now."""
    result = run(
        """
import shutil
def load(tmp_path):
    return ctypes.CDLL(shutil.copy(os.environ["LIBFOO"], tmp_path / "libnew.so"))

@pytest.mark.pmaps_budget("libnew?: rss growth <= 0")
def test_process(tmp_path):
    load(tmp_path)

@pytest.mark.pmaps_budget("libother?: unique_rss growth <= 0")
def test_none(): pass

@pytest.mark.pmaps_budget("libnewer?: unique_rss growth <= 0")
def test_tree(tmp_path):
    ctypes.CDLL(shutil.copy(os.environ["LIBFOO"], tmp_path / "libnewer.so"))
""",
        "-rA",
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "FAILED *::test_process - BudgetExceeded: libnew?: rss growth: *",
            "FAILED *::test_tree - BudgetExceeded: libnewer?: unique_rss growth: *",
        ]
    )


def test_undetermined(run: Run) -> None:
    """Neither passes nor is exceeded: an error of its own, or a skip where that is asked for."""
    text = """
@pytest.mark.pmaps_budget("peak_rss growth <= 4 KiB")
def test_it():
    pass
"""
    result = run(text)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["peak_rss growth: 0..*is undecided*batches*", "FAILED *- Undetermined: peak_rss*"]
    )
    result = run(text, "--pmaps-undetermined=skip")
    result.assert_outcomes(skipped=1)


def test_within(run: Run) -> None:
    """The same for a block, and for what was captured."""
    result = run(
        GROW
        + """
def test_block(pmaps):
    with pmaps.within("libfoo.text: dirty <= 0", "anonymous growth <= 64 KiB") as window:
        grow(1)
    assert [j.outcome for j in window.judgements] == ["passed", "passed"]
    with pytest.raises(BudgetExceeded, match="anonymous growth: 4"):
        with pmaps.within("anonymous growth <= 64 KiB"):
            grow(100)
    with pytest.raises(BudgetError, match="no metric"):
        pmaps.within("grawth <= 5")
    with pytest.raises(KeyError), pmaps.within("rss <= 0"):
        raise KeyError

def test_captured(pmaps, pmaps_snapshot):
    first = pmaps_snapshot()
    grow(100)
    pmaps.assert_within(pmaps_snapshot(), "libfoo.text: dirty <= 0", "anonymous <= 1 GiB")
    with pytest.raises(BudgetExceeded):
        pmaps.assert_within(pmaps_snapshot(), "anonymous growth <= 64 KiB", since=first)
    pmaps.assert_within(pmaps.tree(), "processes <= 1", "unique_rss <= 1 GiB")
    with pytest.raises(TypeError, match="Snapshot"):
        pmaps.assert_within(5, "rss <= 1 GiB")

def test_fresh_runs(pmaps):
    sizes = iter([64, 1, 1])
    made = []
    def fresh():
        made.append(1)
        code = f"a = b'x' * ({next(sizes, 64)} << 20)"
        return pmaps.run([sys.executable, "-c", code])
    # The middle one of three decides.
    pmaps.assert_within(fresh, "peak_rss <= 48 MiB", "anonymous <= 48 MiB")
    assert len(made) == 3
    with pytest.raises(BudgetExceeded, match="measured 3 times"):
        pmaps.assert_within(fresh, "peak_rss <= 48 MiB")
"""
    )
    result.assert_outcomes(passed=3)


def test_hypothesis(run: Run) -> None:
    """A test under @given is judged once, after all of its examples."""
    result = run(
        GROW
        + """
from hypothesis import given, settings, strategies as st
@pytest.mark.pmaps_budget("anonymous growth <= 2 MiB")
@settings(max_examples=20, deadline=None, database=None)
@given(st.integers())
def test_quiet(n):
    pass

@pytest.mark.pmaps_budget("anonymous growth <= 2 MiB")
@settings(max_examples=20, deadline=None, database=None)
@given(st.integers())
def test_grows(n):
    grow(50)
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*BudgetExceeded: anonymous growth:*"])
    assert "Flaky" not in result.stdout.str()


def test_no_cache_and_no_summary(run: Run) -> None:
    """Without what other plugins may count on."""
    result = run(THREE, "-p", "no:cacheprovider", "-p", "no:tmpdir", "--no-summary", "-q")
    result.assert_outcomes(passed=2, failed=1)


def test_pdb(pytester: pytest.Pytester) -> None:
    """--pdb stops at a budget as at any failure, and goes on."""
    pytester.makepyfile(test_it="import pytest\n" + THREE)
    command = [sys.executable, "-m", "pytest", "--pdb", "test_it.py"]
    result = pytester.run(*command, stdin=b"c\n")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["anonymous growth: *", "*entering PDB*", "*(Pdb)*"])


#: Sixteen pages are seen, and none that are not there.
EXACT = (
    GROW
    + """
budget = pytest.mark.pmaps_budget("anonymous growth <= 32 KiB")
"""
)


def test_what_an_earlier_test_leaves_is_let_go_before(run: Run) -> None:
    """pytest keeps the last exception, with its frames, until the next test is called."""
    result = run(
        EXACT
        + """
@budget
@pytest.mark.xfail
def test_known_bug():
    big = bytearray(b"x") * (16 << 20)
    assert 0

@budget
def test_leak():
    grow(16)
"""
    )
    result.assert_outcomes(xfailed=1, failed=1)
    result.stdout.fnmatch_lines(["anonymous growth: 64 KiB, allowed 32 KiB *"])


@needs_subtests
def test_subtests_report_amid_the_test(run: Run) -> None:
    """And what that takes is none of the test's."""
    result = run(
        EXACT
        + """
@budget
def test_warm(subtests):
    with subtests.test(): pass

@budget
def test_quiet(subtests):
    for n in range(5):
        with subtests.test(n=n): pass

@budget
def test_leak(subtests):
    with subtests.test(): grow(16)
""",
        "-k",
        "quiet or leak",
        "--pmaps-budget",
        "mappings growth <= 50",
    )
    result.stdout.fnmatch_lines(["FAILED *::test_leak - *", "* 1 failed, 1 passed, *"])


def test_looking_at_snapshots_is_free(run: Run) -> None:
    """What a test makes of them is dropped with them."""
    result = run(
        EXACT
        + """
@budget
@pytest.mark.parametrize("n", range(2))
def test_looks(pmaps_snapshot, n):
    first, last = pmaps_snapshot(), pmaps_snapshot()
    assert last["[heap]"].rss >= 1
    (last - first).new.dirty
""",
        "-k",
        "looks",
    )
    # The first time it is code that had not run yet.
    assert "test_looks[1]" not in result.stdout.str()


def test_patches_do_not_reach_us(run: Run) -> None:
    """Mocks that are in place when a test ends change no judgement."""
    result = run(
        EXACT
        + """
import builtins, gc, time

def refuse(*args, **kwargs):
    raise AssertionError("must not be called")

@pytest.mark.pmaps_budget("anonymous growth <= baseline + 32 KiB", "peak_rss growth <= 1 GiB",
                          "unique_rss growth <= 64 MiB")
def test_all(monkeypatch):
    for owner, name in ((os, "getpid"), (gc, "collect"), (time, "sleep"), (builtins, "open")):
        monkeypatch.setattr(owner, name, refuse)

@pytest.mark.pmaps_budget("unique_rss growth <= 32 KiB", "anonymous growth <= 32 KiB")
def test_leak(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(time, "sleep", refuse)
    grow(16)
""",
        "--pmaps-baseline=base.json",
        "--pmaps-missing=record",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED *::test_leak - BudgetExceeded: unique_rss growth: *"])


def test_names_live_as_long_as_their_fixtures(run: Run) -> None:
    """And a process that is gone may be missing where that is said."""
    result = run(
        SERVER.replace("it.stdin.close()", "it.kill()")
        + """
@pytest.mark.pmaps_budget("@server?: rss <= 1 GiB")
class TestServer:
    def test_with(self, server): pass
    def test_after(self): pass
    def test_gone(self, server):
        server.kill()
        server.wait()

@pytest.fixture(scope="class")
def wide(pmaps):
    with subprocess.Popen(["sleep", "100"]) as it:
        yield pmaps.target("wide", it)
        it.kill()

@pytest.mark.pmaps_budget("@wide: rss <= 1 GiB")
class TestWide:
    def test_first(self, wide): pass
    def test_second(self): pass

@pytest.mark.pmaps_budget("@wide: rss <= 1 GiB")
def test_without(): pass

@pytest.mark.pmaps_budget("@server: rss <= 1 GiB")
def test_forgotten(): pass
""",
        "-rA",
    )
    result.assert_outcomes(passed=5, failed=2)
    result.stdout.fnmatch_lines(
        [
            "FAILED *::test_without - PmapsError: @wide: rss: no target*",
            "FAILED *::test_forgotten - PmapsError: @server: rss: no target*",
        ]
    )


@pytest.mark.parametrize("environ", [{}, {"CI": "true"}])
def test_expected_failures_need_no_baseline(
    run: Run, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    """A missing one is not the failure that is expected: a strict one that passes still fails."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    result = run(
        """
@pytest.mark.xfail(strict=True)
@pytest.mark.pmaps_budget("anonymous growth <= baseline + 64 KiB")
def test_it(): pass
""",
        "--pmaps-baseline=base.json",
    )
    result.assert_outcomes(failed=1)
    assert "XPASS(strict)" in result.stdout.str()
