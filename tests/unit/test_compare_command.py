"""``pmaps compare``: what grew between two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from unit.runs import KIB, MIB, budget, failed, process, test, write

from pytest_pmaps.cli import main
from pytest_pmaps.report.comparison import Verdict, judge

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


class Runs:
    """Two files, compared."""

    def __init__(self, folder: Path, capsys: Capture) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(
        self, base: list[dict[str, Any]], head: list[dict[str, Any]], *options: str
    ) -> tuple[int, str]:
        """Exit status and output."""
        paths = [
            str(write(self.folder / f"{name}.json", *tests))
            for name, tests in (("base", base), ("head", head))
        ]
        code = main(["compare", *paths, *options])
        out, err = self.capsys.readouterr()
        return code, out + err


@pytest.fixture
def compared(tmp_path: Path, capsys: Capture) -> Runs:
    """Compare two lists of tests."""
    return Runs(tmp_path, capsys)


def anonymous(*ends: int | None) -> dict[str, Any]:
    """A test whose process has this much anonymous memory."""
    return test(nodeid="t", measured=[process(anonymous=list(ends))])


def test_the_same(compared: Runs) -> None:
    """Nothing is told but what was compared."""
    code, text = compared([test()], [test()])
    assert code == 0
    assert text == (
        "3 numbers of 1 test, tolerance 1% + 64 KiB: 0 grew, 3 same, 0 less, 0 undecided\n"
        "pytest 9.2.0, Python 3.11.2, Linux 6.12.8 x86_64\n"
    )


def test_growth(compared: Runs) -> None:
    """A row for each number beyond the tolerance, what grew most first."""
    more = process(anonymous=[33 * MIB, 33 * MIB], dirty=[33 * MIB, 33 * MIB])
    code, text = compared([test(nodeid="t")], [test(nodeid="t", measured=[more])])
    assert code == 1
    assert text.endswith(
        """
Grew
test                  what    base    head  change
t         python anonymous  30 MiB  33 MiB  +3 MiB
t             python dirty  31 MiB  33 MiB  +2 MiB
"""
    )


def test_what_one_test_leaks_others_show(compared: Runs) -> None:
    """Of about the same growth the first test comes first; the largest before all."""

    def tests(*sizes: int) -> list[dict[str, Any]]:
        return [
            test(nodeid=f"t{i}", measured=[process(rss=[size, size])])
            for i, size in enumerate(sizes)
        ]

    _, text = compared(tests(MIB, MIB, MIB, MIB), tests(2 * MIB, 5 * MIB, 6 * MIB, 90 * MIB))
    assert [line.split()[0] for line in text.splitlines()[-4:]] == ["t3", "t1", "t2", "t0"]


@pytest.mark.parametrize(
    ("tolerance", "grown", "code"),
    [
        (None, 10 * MIB // 100 + 64 * KIB, 0),
        (None, 10 * MIB // 100 + 64 * KIB + 1, 1),
        ("0", 0, 0),
        ("0", 1, 1),
        ("2 MiB", 2 * MIB, 0),
        ("2 MiB", 2 * MIB + 1, 1),
        ("50%", 5 * MIB, 0),
        ("50%", 5 * MIB + 1, 1),
        ("16 pages + 50%", 5 * MIB + 64 * KIB, 0),
        ("16 pages + 50%", 5 * MIB + 64 * KIB + 1, 1),
    ],
)
def test_tolerance(compared: Runs, tolerance: str | None, grown: int, code: int) -> None:
    """A percentage and an amount, to the byte."""
    size = 10 * MIB
    options = [] if tolerance is None else ["--tolerance", tolerance]
    after = anonymous(size + grown, size + grown)
    assert compared([anonymous(size, size)], [after], *options)[0] == code


def test_numbers_of_things(compared: Runs) -> None:
    """Of them only the percentage counts."""

    def mappings(number: int) -> dict[str, Any]:
        told = budget(budget="mappings <= 999", unit="number", value=[number, number])
        return test(nodeid="t", measured=[], budgets=[told])

    assert compared([mappings(300)], [mappings(303)])[0] == 0
    code, text = compared([mappings(300)], [mappings(304)])
    assert (code, text.splitlines()[-1].split()) == (1, ["t", "mappings", "300", "304", "+4"])


def test_budgets_are_matched_by_what_they_limit(compared: Runs) -> None:
    """Their limits may have moved."""
    before = test(measured=[], budgets=[budget()])
    moved = budget(budget="anonymous growth <= 9 MiB", value=[8 * MIB, 8 * MIB])
    code, text = compared([before], [test(measured=[], budgets=[moved])])
    assert (code, "anonymous growth  8 KiB  8 MiB  +8.0 MiB" in text) == (1, True)


def test_undecided(compared: Runs) -> None:
    """Intervals that overlap the tolerance decide nothing: exit status 1 only with --strict."""
    before, after = [anonymous(10 * MIB, 12 * MIB)], [anonymous(11 * MIB, None)]
    code, text = compared(before, after)
    assert code == 0
    assert "0 grew, 2 same, 0 less, 1 undecided" in text
    assert "\nUndecided\n" in text
    assert compared(before, after, "--strict")[0] == 1


def test_less(compared: Runs) -> None:
    """It is told, and fails nothing, also with --strict."""
    code, text = compared([anonymous(9 * MIB, 9 * MIB)], [anonymous(1, 1)], "--strict")
    assert code == 0
    assert "\nLess\n" in text
    assert text.splitlines()[-1].endswith("-9.0 MiB")


def test_only_in_one(compared: Runs) -> None:
    """Tests and processes that one run alone has are listed, and never better or worse."""
    both = test(nodeid="both", measured=[process(), process(comm="cat")])
    code, text = compared(
        [test(nodeid="gone"), both], [test(nodeid="new"), test(nodeid="both")], "--strict"
    )
    assert code == 0
    assert text.endswith(
        "\nOnly in base\nboth: cat anonymous\nboth: cat dirty\nboth: cat rss\ngone\n"
        "\nOnly in head\nnew\n"
    )


def test_what_did_not_run_to_its_end(compared: Runs) -> None:
    """Has other numbers; for its footprint a test fails at its end."""
    ok = test(nodeid="ok")
    before = [ok, test(nodeid="a"), test(nodeid="b", outcome="skipped"), test(nodeid="c")]
    after = [ok, test(nodeid="a", outcome="failed", measured=[process(rss=[1 << 30, 1 << 30])]),
             test(nodeid="b", outcome="error"), failed("dirty", nodeid="c")]  # fmt: skip
    code, text = compared(before, after)
    assert code == 0
    assert "6 numbers of 2 tests" in text
    assert text.endswith("\nNot compared\na\n  failed in head\nb\n  skipped in base and head\n")


def test_attempts_workers_and_processes(compared: Runs) -> None:
    """The last attempt counts; workers and pids may be others; of equal names the order counts."""
    two = [process(pid=1), process(pid=2, rss=[8 * MIB, 8 * MIB])]
    other = [process(pid=7), process(pid=8, rss=[16 * MIB, 16 * MIB])]
    before = [test(nodeid="t", outcome="rerun", measured=[], worker="gw0"),
              test(nodeid="t", attempt=2, measured=two, worker="gw0")]  # fmt: skip
    code, text = compared(before, [test(nodeid="t", measured=other, worker="gw3")])
    assert (code, "1 grew, 5 same" in text) == (1, True)
    assert "t         python (2) rss  8 MiB  16 MiB  +8 MiB" in text


def test_nothing_in_common_is_no_pass(compared: Runs) -> None:
    """An empty comparison would pass for ever."""
    for base, head in (([], []), ([test(nodeid="a")], [test(nodeid="b")])):
        assert compared(base, head) == (
            2,
            "pmaps: the runs have no number in common: there is nothing to compare\n",
        )


def test_environments_that_differ_are_noted(tmp_path: Path, capsys: Capture) -> None:
    """What was measured elsewhere was measured otherwise."""
    base = write(tmp_path / "base.json", test())
    head = write(tmp_path / "head.json", test(), kernel="6.1", workers=2)
    assert main(["compare", str(base), str(head)]) == 0
    text = capsys.readouterr().out
    assert "note: kernel differs: 6.12.8 in base, 6.1 in head" in text
    assert "note: workers differs: none in base, 2 in head" in text


def test_markdown(compared: Runs) -> None:
    """For a summary."""
    code, text = compared([anonymous(1, 1)], [anonymous(MIB, MIB)], "--markdown")
    assert code == 1
    assert "**Grew: 1**\n\n| test | what | base | head | change |" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5", None),
        ("5 kB", "kB may be 1000s or 1024s"),
        ("", "an amount"),
        ("five", "an amount"),
        ("5% + 5%", "one percentage is enough"),
        ("-1%", "not below 0"),
    ],
)
def test_tolerances_that_do_not_read(
    compared: Runs, capsys: Capture, text: str, says: str | None
) -> None:
    """The option, what was given, and why."""
    if says is None:
        assert compared([test()], [test()], "--tolerance", text)[0] == 0
        return
    with pytest.raises(SystemExit) as ended:
        compared([test()], [test()], f"--tolerance={text}")
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("--tolerance: ")) == (2, 1)
    assert repr(text) in error
    assert says in error


def test_tolerance_below_0(compared: Runs, capsys: Capture) -> None:
    """Argparse takes it for an option; what is said is the reason all the same."""
    with pytest.raises(SystemExit):
        compared([test()], [test()], "--tolerance", "-5%")
    said = "argument --tolerance: expected one argument, one that is not below 0"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("base", "head", "verdict"),
    [
        ([10, 10], [15, 15], Verdict.SAME),
        ([10, 10], [16, 16], Verdict.GREW),
        ([10, 12], [17, 99], Verdict.UNDECIDED),
        ([10, 10], [12, 17], Verdict.UNDECIDED),
        ([10, 12], [18, None], Verdict.GREW),
        ([10, 12], [0, 15], Verdict.SAME),
        ([10, None], [99, 99], Verdict.UNDECIDED),
        ([None, 10], [16, 16], Verdict.GREW),
        ([None, 10], [1, 1], Verdict.UNDECIDED),
        ([10, 10], [0, 4], Verdict.LESS),
        ([10, 10], [0, 5], Verdict.SAME),
        ([10, 10], [None, 4], Verdict.LESS),
        ([None, None], [None, None], Verdict.UNDECIDED),
    ],
)
def test_judge(base: list[int | None], head: list[int | None], verdict: Verdict) -> None:
    """Of intervals, with a tolerance of 5."""
    assert judge(base, head, lambda before: before + 5) is verdict
