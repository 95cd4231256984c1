"""Interval counts against every value that they stand for."""

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_pmaps.counts import Count, explain, format_bytes, parse_amount
from pytest_pmaps.errors import FormatError, Undetermined
from pytest_pmaps.strategies import amounts

OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
}

#: Stands for no bound: beyond every number that is drawn here.
FAR = 100

ends = st.integers(-8, 8)
intervals = st.tuples(ends, ends).map(lambda pair: (min(pair), max(pair)))
open_intervals = st.one_of(
    intervals,
    intervals.map(lambda pair: (pair[0], None)),
    intervals.map(lambda pair: (None, pair[1])),
    st.just((None, None)),
)
operators = st.sampled_from(sorted(OPERATORS))


def values(interval):
    """Every whole number in it, as far as matters."""
    lo, hi = interval
    return range(-FAR if lo is None else lo, (FAR if hi is None else hi) + 1)


def three_valued(results):
    """True or False if all agree, None if not."""
    results = set(results)
    return results.pop() if len(results) == 1 else None


def decided(comparison):
    """The result, or None if it is undetermined."""
    try:
        return comparison()
    except Undetermined:
        return None


def count(interval):
    """A count of bytes."""
    return Count(*interval, unit="bytes")


@given(open_intervals, operators, ends)
def test_comparison_with_a_number_holds_for_all_or_none(interval, op, number):
    """True iff true of every value, False iff false of every value, else Undetermined."""
    compare = OPERATORS[op]
    assert decided(lambda: compare(count(interval), number)) == three_valued(
        compare(value, number) for value in values(interval)
    )


@given(ends, operators, open_intervals)
def test_comparison_from_the_other_side_is_the_same(number, op, interval):
    """With the count on the right."""
    compare = OPERATORS[op]
    assert decided(lambda: compare(number, count(interval))) == three_valued(
        compare(number, value) for value in values(interval)
    )


@given(intervals, operators, intervals)
def test_comparison_of_counts_holds_for_all_pairs_or_none(left, op, right):
    """Whatever the one is and whatever the other."""
    compare = OPERATORS[op]
    assert decided(lambda: compare(count(left), count(right))) == three_valued(
        compare(a, b) for a in values(left) for b in values(right)
    )


@given(open_intervals)
def test_truth_holds_for_all_or_none(interval):
    """Of "is not 0"."""
    expected = three_valued(value != 0 for value in values(interval))
    assert decided(lambda: bool(count(interval))) == expected


@given(intervals, intervals)
def test_arithmetic_holds_exactly_the_possible_results(left, right):
    """No result is lost, and both ends are reached."""
    sums = [a + b for a in values(left) for b in values(right)]
    differences = [a - b for a in values(left) for b in values(right)]
    assert (count(left) + count(right)).bounds == (min(sums), max(sums))
    assert (count(left) - count(right)).bounds == (min(differences), max(differences))


@given(open_intervals, open_intervals)
def test_unbounded_arithmetic_loses_nothing(left, right):
    """Every sum and difference of small values lies in the result."""
    near = [[v for v in values(i) if abs(v) < 20] for i in (left, right)]
    total, difference = count(left) + count(right), count(left) - count(right)
    for a in near[0][::7]:
        for b in near[1][::7]:
            assert decided(lambda s=a + b: total == s) is not False
            assert decided(lambda d=a - b: difference == d) is not False


@given(st.lists(intervals, max_size=6))
def test_sum_is_that_of_the_ends(several):
    """As many as there are; of none it is the int 0, as everywhere."""
    total = sum(count(interval) for interval in several)
    expected = (sum(lo for lo, _ in several), sum(hi for _, hi in several))
    assert (total.bounds if several else (total, total)) == expected


@given(st.integers(-(1 << 40), 1 << 40), st.sampled_from([4096, 16384, 65536]))
def test_units_do_not_change_the_value(size, page_size):
    """Pages and bytes of one count compare alike, and bounds hold what is counted."""
    memory = Count(size, size, unit="bytes", page_size=page_size)
    assert (memory.pages == f"{size} B", memory.pages.bytes == size) == (True, True)
    lo, hi = memory.pages.bounds
    assert lo * page_size <= size <= hi * page_size < (lo + 2) * page_size


@given(st.integers(-(1 << 60), 1 << 60))
def test_bytes_read_back_as_written(number):
    """Exactly, so that what a message shows can be pasted into a test."""
    assert parse_amount(format_bytes(number)) == number


@given(amounts())
def test_amounts_are_accepted_everywhere(amount):
    """Compared, added, explained."""
    memory = Count(0, None)
    assert decided(lambda: memory >= amount) in (None, True)
    assert (memory + amount).bounds[1] is None
    assert len(explain(memory, "<=", amount)) == 1


@given(st.text("0123456789.,- kKMGTiBpages\n%x\0\x85\u0663\ud800", max_size=15))
def test_other_texts_are_refused_as_such(text):
    """A number of bytes, or FormatError with a caret that stays within the text."""
    try:
        assert isinstance(parse_amount(text), int)
    except FormatError as error:
        caret = str(error).splitlines()[-1]
        assert caret.strip() == "^"
        assert len(caret) - 3 <= len(text) + 1


@given(open_intervals, st.sampled_from(["pages", "bytes"]))
def test_text_is_one_line_of_ascii(interval, unit):
    """Whatever the bounds."""
    text = str(Count(*interval, unit=unit, page_size=1))
    assert text.isascii()
    assert len(text.splitlines()) == 1


@given(intervals, operators, ends)
def test_undetermined_is_one_line_that_names_all(interval, op, number):
    """What it is, what was asked, what would decide it."""
    lo, hi = interval
    memory = Count.of_pages(lo, hi, label="libfoo: rss", remedy="grant more")
    if decided(lambda: OPERATORS[op](memory, number)) is None:
        with pytest.raises(Undetermined) as caught:
            OPERATORS[op](memory, number)
        start, end = "libfoo: rss is ", "is undecided: grant more"
        text = str(caught.value)
        assert (text.startswith(start), text.endswith(end), "\n" in text) == (True, True, False)
        assert f"; {op} {number:,} page" in text
