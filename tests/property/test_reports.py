"""What is made of run.json, whatever it holds."""

import re

from hypothesis import given
from hypothesis import strategies as st

from property.runs import intervals, run_dicts
from pytest_pmaps.report import benchmark, blocks, comparison, github, merging, summary
from pytest_pmaps.report.comparison import Verdict, judge
from pytest_pmaps.report.markdown import markdown


@given(run_dicts(), st.sampled_from([None, 0, 1]))
def test_text_fits_and_is_printable(run, rows):
    """No line is longer than the terminal, none moves its cursor."""
    lines = list(
        blocks.text_lines(summary.head(run), summary.blocks(run), lambda t, _: t, 80, rows)
    )
    assert [line for line in lines if len(line) > 80 or not line.isprintable()] == []


@given(run_dicts())
def test_markdown_tables_keep_their_columns(run):
    """No name adds a column, a line or an element."""
    text = markdown("Title", summary.head(run), summary.blocks(run), None)
    text.encode()
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    assert all(len({row.count("|") for row in table.splitlines()}) == 1 for table in tables)
    bare = re.sub(r"</?(details|summary|b|code)( open)?>", "", text)
    assert not set(bare.replace("**", "")) & set("<>*`_")
    assert text.count("<code>") == text.count("</code>")


@given(run_dicts())
def test_annotations_are_commands(run):
    """One a line, with properties and a message that end where they should."""
    for line in github.commands(run, "sub"):
        match = re.fullmatch(r"::(?:error|warning) ((?:[^:,=]+=[^:,]*,?)+)::(.*)", line)
        assert match is not None
        assert match[1].startswith("file=sub/")
        assert line.isprintable()
        assert not re.search(r"%(?!25|0A|0D|3A|2C)", line)


@given(run_dicts())
def test_benchmarks_have_names_of_their_own(run):
    """And numbers that the run has."""
    entries = benchmark.benchmark(run)
    assert len({entry["name"] for entry in entries}) == len(entries)
    assert {type(entry["value"]) for entry in entries} <= {int}
    assert all(set(e) <= {"name", "unit", "value", "range", "extra"} for e in entries)


def allowed(before, /, unit):
    """Ten in the hundred."""
    return before + max(before, 0) // 10


@given(run_dicts())
def test_a_run_against_itself(run):
    """Nothing grew, nothing is less, nothing is in one alone; open intervals decide nothing."""
    found = comparison.compare(run, run, allowed)
    assert found.only == ([], [])
    for number in found.numbers:
        exact = None not in number.base and number.base[0] == number.base[1]
        assert number.verdict in ({Verdict.SAME} if exact else {Verdict.SAME, Verdict.UNDECIDED})
    list(blocks.text_lines([], comparison.blocks(found), lambda t, _: t, 80, None))


@given(run_dicts(), run_dicts())
def test_the_other_way_round(base, head):
    """What only one has, only the other has; nothing both grew and did not."""
    one, other = comparison.compare(base, head, allowed), comparison.compare(head, base, allowed)
    assert [sorted(names) for names in one.only] == [sorted(n) for n in reversed(other.only)]
    assert len(one.numbers) == len(other.numbers)
    grew = {(n.nodeid, n.what) for n in one.of(Verdict.GREW)}
    assert not grew & {(n.nodeid, n.what) for n in other.of(Verdict.GREW)}


@given(intervals(), intervals(), st.data())
def test_a_verdict_holds_for_every_value(base, head, data):
    """Of the two numbers that the intervals stand for."""

    def inside(interval):
        lo, hi = interval
        lo = min(hi or 0, 0) - 9 if lo is None else lo
        return data.draw(st.integers(lo, max(lo, 1 << 40) if hi is None else hi))

    before, after = inside(base), inside(head)
    verdict = judge(base, head, lambda n: n + 4096)
    if verdict is not Verdict.UNDECIDED:
        assert (after > before + 4096) == (verdict is Verdict.GREW)
        assert (before > after + 4096) == (verdict is Verdict.LESS) or verdict is Verdict.SAME


@given(st.lists(run_dicts(), min_size=1, max_size=4))
def test_merging_keeps_every_test_once(runs):
    """Also if it is done in steps, or once more."""
    merged, _ = merging.merge(runs)
    told = [test for run in runs for test in run["tests"]]
    assert all(test in merged["tests"] for test in told)
    assert all(merged["tests"].count(test) == 1 for test in told)
    assert len(merged["tests"]) <= len(told)
    assert merging.merge([merged, *runs])[0] == merged
    steps, _ = merging.merge(runs[:1])
    for run in runs[1:]:
        steps, _ = merging.merge([steps, run])
    assert sorted(map(str, steps["tests"])) == sorted(map(str, merged["tests"]))
    assert steps["session"] == merged["session"]
