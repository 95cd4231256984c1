"""What counts say, and when they refuse to say it."""

import copy
import pickle

import pytest

from pytest_pmaps.counts import Count, explain, format_bytes, parse_amount
from pytest_pmaps.errors import FormatError, Undetermined, undetermined_policy


def pages(lo, hi=..., **names):
    """A count in pages; of one number, if one is given."""
    return Count.of_pages(lo, lo if hi is ... else hi, **names)


def in_bytes(lo, hi=...):
    """A count in bytes."""
    return Count(lo, lo if hi is ... else hi, unit="bytes")


# ---- comparing


def test_exact_count_compares_as_its_number():
    """With one value in the interval nothing is undecided."""
    three = pages(3)
    assert (three == 3, three != 3, three < 3, three <= 3, three > 2, three >= 4) == (
        True,
        False,
        False,
        True,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        *(("<= 3", True), ("<= 2", None), ("< 0", False), (">= 0", True), ("== 4", False)),
        *(("!= 4", True), ("== 2", None), ("!= 2", None), ("> 3", False), ("> 2", None)),
        *(("< 4", True), ("< 3", None), ("<= -1", False)),
    ],
)
def test_interval_decides_only_what_holds_for_all_of_it(op, expected):
    """0..3 pages against each limit."""
    compare = lambda: eval(f"count {op}", {"count": pages(0, 3)})  # noqa: E731
    if expected is None:
        with pytest.raises(Undetermined):
            compare()
    else:
        assert compare() is expected


def test_count_on_the_right_is_compared_the_right_way_round():
    """Python mirrors the operator; the answer must be mirrored too."""
    answers = (2 < pages(3), "8 KiB" >= pages(3), 3 == pages(3), 4 != pages(3))  # noqa: SIM300
    assert answers == (True, False, True, True)


def test_ints_mean_the_unit_of_the_count():
    """The same memory: 2 as pages, 8192 as bytes."""
    assert (pages(2) == 2, pages(2).bytes == 8192, in_bytes(8192).pages == 2) == (True,) * 3


def test_page_size_is_the_counts_own():
    """A 64 KiB page is one page."""
    assert Count.of_pages(1, 1, page_size=65536) == "64 KiB"


def test_counts_compare_with_counts():
    """Two intervals that do not overlap have an order; those that do have none."""
    assert pages(0, 3) < pages(4, 6)
    with pytest.raises(Undetermined):
        assert pages(0, 3) < pages(3, 6)


def test_no_upper_bound_decides_lower_limits_only():
    """2 or more pages are more than 1, and perhaps more than 100."""
    count = pages(2, None)
    assert (count > 1, count <= 1) == (True, False)
    with pytest.raises(Undetermined):
        assert count <= 100


def test_truth_is_three_valued():
    """Not 0, 0, and who knows."""
    assert (bool(pages(1, 2)), bool(pages(0)), bool(pages(-2, -1))) == (True, False, True)
    with pytest.raises(Undetermined, match="whether it is 0 is undecided"):
        bool(pages(0, 1))


@pytest.mark.parametrize("other", [True, 2.0, None, b"4 KiB", [1]])
@pytest.mark.parametrize("op", ["==", "!=", "<=", "+"])
def test_other_types_are_refused_by_name(op, other):
    """None of them is an amount of memory, not even for ==."""
    with pytest.raises(TypeError, match=f"'64 KiB'.*not with {type(other).__name__}"):
        eval(f"count {op} other", {"count": pages(3), "other": other})


def test_counts_have_no_hash():
    """A dict would have to compare them."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(pages(1))


def test_counts_do_not_change():
    """Neither by setting nor by deleting."""
    count = pages(1)
    with pytest.raises(AttributeError, match="do not change"):
        count.label = "x"
    with pytest.raises(AttributeError, match="do not change"):
        del count.label


def test_counts_survive_copying_and_pickling():
    """xdist and multiprocessing pickle."""
    count = pages(1, None, label="x", remedy="y")
    twins = [copy.deepcopy(count), pickle.loads(pickle.dumps(count))]
    assert [(t.bounds, t.label, t.remedy, t.unit) for t in twins] == [
        ((1, None), "x", "y", "pages")
    ] * 2


def test_impossible_counts_are_refused():
    """Upside down, without a size, in no unit."""
    for make in (
        lambda: Count(2, 1),
        lambda: Count(1, 2, page_size=0),
        lambda: Count(1, 2, unit="kB"),
    ):
        with pytest.raises(ValueError, match=r"an interval from|no such unit"):
            make()


# ---- structure


def test_bounds_are_in_the_unit():
    """Pages as pages, bytes as bytes, no bound as None."""
    assert (pages(1, 3).bounds, pages(1, None).bytes.bounds) == ((1, 3), (4096, None))


def test_broken_pages_are_rounded_outwards():
    """What is counted lies between the bounds, whatever the unit."""
    assert (in_bytes(6000).pages.bounds, in_bytes(-6000).pages.bounds) == ((1, 2), (-2, -1))


def test_exact_is_about_the_value():
    """Even where it is no whole number of pages."""
    assert (in_bytes(6000).pages.exact, pages(1, 2).exact, pages(1, None).exact) == (
        True,
        False,
        False,
    )


def test_int_is_for_exact_whole_numbers():
    """Else Undetermined, or ValueError if pages cannot say it."""
    assert (int(pages(3)), int(pages(3).bytes)) == (3, 12288)
    with pytest.raises(Undetermined):
        int(pages(3, 4))
    with pytest.raises(ValueError, match="no whole number of pages"):
        int(in_bytes(6000).pages)


# ---- arithmetic


def test_intervals_add_end_by_end():
    """1..2 and 3..5 make 4..7."""
    assert (pages(1, 2) + pages(3, 5)).bounds == (4, 7)


def test_differences_take_opposite_ends():
    """They may be negative, and lose the bound that is not there."""
    assert (pages(1, 2) - pages(3, 5)).bounds == (-4, -1)
    assert (pages(1, 2) - pages(3, None)).bounds == (None, -1)


def test_sum_works():
    """It begins with the int 0."""
    assert sum([pages(1), pages(1, 2)]).bounds == (2, 3)


def test_amounts_add_too():
    """For limits such as baseline + "1 MiB"."""
    assert ((pages(1) + "4 KiB").bounds, ("8 KiB" - pages(1)).bytes.bounds) == (
        (8192, 8192),
        (4096, 4096),
    )


def test_plain_ints_add_in_the_unit():
    """One page more."""
    assert (pages(1) + 1).bounds == (2, 2)


def test_different_page_sizes_do_not_add():
    """The result could not say what a page is."""
    with pytest.raises(ValueError, match="4096 and of 65536"):
        pages(1) + Count.of_pages(1, 1, page_size=65536)


def test_sums_name_what_is_in_them():
    """Up to a length that fits a line."""
    rss = pages(1, label="heap rss")
    assert (rss + pages(1, label="stack rss")).label == "heap rss + stack rss"
    assert sum([rss] * 50).label.endswith(" + ...")


def test_sum_keeps_each_remedy_once():
    """Fifty libraries may need the same right."""
    count = pages(0, 1, remedy="grant CAP_SYS_ADMIN")
    assert sum([count] * 3).remedy == "grant CAP_SYS_ADMIN"


# ---- words


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (pages(3), "3 pages (12 KiB)"),
        (pages(1), "1 page (4 KiB)"),
        (pages(0), "0 pages"),
        (pages(2, 5), "2..5 pages (8..20 KiB)"),
        (pages(-2, 5), "-2..5 pages (-8..20 KiB)"),
        (pages(-2, 0), "-2..0 pages (-8..0 KiB)"),
        (pages(0, 17920), "0..17,920 pages (0..70 MiB)"),
        (pages(1, 262144), "1..262,144 pages (4 KiB..1 GiB)"),
        (pages(2, None), "2 or more pages (8 KiB or more)"),
        (pages(None, 2), "2 or fewer pages (8 KiB or less)"),
        (pages(None, None), "any number of pages"),
        (pages(2, 5).bytes, "8..20 KiB"),
        (in_bytes(6000).pages, "6,000 B"),
    ],
)
def test_counts_read_as_text(count, expected):
    """str, repr and format are the same."""
    assert (str(count), repr(count), f"{count:s}") == (expected,) * 3


def test_undetermined_says_what_and_how_to_decide_it():
    """All in one line."""
    count = pages(0, 3, label="libfoo.so.1 text: dirty", remedy="grant CAP_SYS_ADMIN")
    with pytest.raises(Undetermined) as caught:
        assert count <= 2
    assert str(caught.value) == (
        "libfoo.so.1 text: dirty is 0..3 pages; <= 2 pages is undecided: grant CAP_SYS_ADMIN"
    )


def test_undetermined_hides_its_frames():
    """The traceback ends at the comparison."""
    with pytest.raises(Undetermined) as caught:
        assert pages(0, 3) <= 2
    inner = list(caught.traceback)[1:]
    assert (len(inner) > 0, [entry for entry in inner if not entry.ishidden(caught)]) == (True, [])


def test_policy_turns_undetermined_into_something_else():
    """As a test runner does that wants a skip."""

    class Skipped(BaseException):
        pass

    token = undetermined_policy.set(Skipped)
    try:
        for undecided in (lambda: pages(0, 1) == 0, lambda: bool(pages(0, 1))):
            with pytest.raises(Skipped, match="undecided"):
                undecided()
    finally:
        undetermined_policy.reset(token)


HEAP = pages(17920, label="[heap] rss")
STACK = pages(0, label="[stack] rss")
TEXT = pages(1, label="libfoo text: dirty")


@pytest.mark.parametrize(
    ("left", "op", "right", "expected"),
    [
        (HEAP, "<=", "64 MiB", "[heap] rss: 70 MiB (17,920 pages), allowed <= 64 MiB"),
        ("64 MiB", ">=", HEAP, "[heap] rss: 70 MiB (17,920 pages), allowed <= 64 MiB"),
        (HEAP, "<", 5, "[heap] rss: 17,920 pages (70 MiB), allowed < 5 pages"),
        (HEAP.bytes, "==", 5, "[heap] rss: 70 MiB, expected == 5 B"),
        (TEXT, "<=", 0, "libfoo text: dirty is 1 page (4 KiB), allowed <= 0 pages"),
        (HEAP, "<", STACK, "[heap] rss: 17,920 pages (70 MiB), allowed < [stack] rss 0 pages"),
    ],
)
def test_failed_comparison_explains_itself_in_one_line(left, op, right, expected):
    """With the count on either side."""
    assert explain(left, op, right) == [expected]


@pytest.mark.parametrize(
    ("left", "op", "right"), [(1, "==", 2), (HEAP, "in", 2), (HEAP, "==", None), (HEAP, "<", "x")]
)
def test_what_is_not_ours_is_not_explained(left, op, right):
    """Pytest has its own words for it."""
    assert explain(left, op, right) is None


# ---- amounts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 B", 0),
        ("64 KiB", 65536),
        ("64KiB", 65536),
        (" 1.5 MiB ", 1572864),
        ("2 GiB", 2 << 30),
        ("1 TiB", 1 << 40),
        ("3 pages", 12288),
        ("1 page", 4096),
        ("1,024 B", 1024),
        ("-4 KiB", -4096),
    ],
)
def test_amounts_are_read(text, expected):
    """In bytes."""
    assert parse_amount(text) == expected


def test_pages_have_the_size_that_is_given():
    """On a machine of 64 KiB pages."""
    assert parse_amount("2 pages", page_size=65536) == 131072


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("64 kB", "64 KiB or 64,000 B"),
        ("64 MB", "64 MiB or 64,000,000 B"),
        ("64 K", "64 KiB or 64,000 B"),
        ("1.5 M", "1.5 MiB or 1,500,000 B"),
        ("64 kb", "64 KiB or 64,000 B"),
        ("64 kib", "did you mean 64 KiB?"),
        ("64 bytes", "did you mean 64 B?"),
        ("64", "64 pages or 64 B"),
        ("64 Pages", "did you mean 64 pages?"),
        ("5 %", "there are B, KiB"),
    ],
)
def test_other_units_are_refused_with_a_suggestion(text, hint):
    """Nobody has to guess whether k is 1000."""
    with pytest.raises(FormatError) as caught:
        parse_amount(text)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [("64 kB", 3), ("x", 0), ("1,5 MiB", 1), ("  0.3 KiB", 2), ("4 KiB more", 6), ("", 0)],
)
def test_caret_marks_the_place(text, place):
    """Under the text, on a line of its own."""
    with pytest.raises(FormatError) as caught:
        parse_amount(text)
    assert str(caught.value).splitlines()[1:] == [f"  {text}", f"  {' ' * place}^"]


@pytest.mark.parametrize("text", ["9" * 5000 + " B", "99999999999 TiB", "1e3 B", "٣ B", "0x10 B"])
def test_absurd_amounts_are_refused(text):
    """Whatever int() would make of them."""
    with pytest.raises(FormatError):
        parse_amount(text)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1536, "1.5 KiB"),
        (1025, "1,025 B"),
        (70 << 20, "70 MiB"),
        (1028 << 10, "1,028 KiB"),
        (-8192, "-8 KiB"),
        (1 << 50, "1,024 TiB"),
    ],
)
def test_bytes_are_written_exactly(number, expected):
    """In the largest unit that needs no rounding."""
    assert format_bytes(number) == expected


# ---- shares of a whole


def share(lo: int, hi: int, whole: Count) -> Count:
    """Pages, of a whole."""
    return Count(lo * 4096, hi * 4096, label="heap: shared", whole=whole)


def test_a_float_is_a_share():
    """Of what it is part of; an int is a number still."""
    part = share(80, 80, Count.of_pages(100, 100))
    assert part >= 0.8
    assert not part > 0.8
    assert part == 0.8
    assert part < 0.81
    assert part >= 1
    assert not part >= 1.0
    assert part.pages <= 0.8
    assert part.bytes <= 0.8
    assert pickle.loads(pickle.dumps(part)) >= 0.8


def test_a_share_may_be_open():
    """In either of the two."""
    with pytest.raises(Undetermined, match=r">= 0\.8 of 100 pages .* is undecided"):
        assert share(70, 90, Count.of_pages(100, 100)) >= 0.8
    with pytest.raises(Undetermined):
        assert share(80, 80, Count.of_pages(90, 110)) >= 0.8
    assert share(80, 80, Count.of_pages(90, 110)) >= 0.7


def test_a_share_of_nothing():
    """Is neither much nor little."""
    with pytest.raises(Undetermined, match="nothing of it is there"):
        assert share(0, 0, Count.of_pages(0, 0)) >= 0.8


@pytest.mark.parametrize("wrong", [1.5, -0.1, float("nan"), float("inf")])
def test_no_share(wrong: float):
    """A share is at most all of it."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        assert share(1, 1, Count.of_pages(2, 2)) >= wrong


def test_shares_are_for_parts():
    """What is no part, or was added to, compares with no float."""
    with pytest.raises(TypeError, match="not with float"):
        assert Count.of_pages(2, 2) >= 0.5
    with pytest.raises(TypeError, match="not with float"):
        assert share(1, 1, Count.of_pages(2, 2)) + "1 page" >= 0.5
    with pytest.raises(TypeError, match="not with float"):
        share(1, 1, Count.of_pages(2, 2)) + 0.5


def test_a_failed_share_says_both():
    """How much it is, and of what."""
    part = share(50, 50, Count.of_pages(100, 100))
    assert explain(part, ">=", 0.8) == [
        "heap: shared is 50 pages (200 KiB), expected >= 0.8 of 100 pages (400 KiB)"
    ]
