"""Budgets: everything that reads is written so that it reads again, and nothing else happens."""

import re
from fractions import Fraction

from hypothesis import assume, example, given
from hypothesis import strategies as st

from pytest_pmaps import Budget, BudgetError, Count, Limit, parse_budget
from pytest_pmaps.budget import BUDGET_METRICS, NUMBERS, PROCESS_METRICS, merge
from pytest_pmaps.strategies import amounts, mapping_names

PAGE = 4096
ODD = '\\":?@[]() \n\t\0\x1c\xa0\ud800\udcff*<=+%.-/ab'

# ---- what budgets are made of

#: As they are meant, not as they are written.
selectors = st.one_of(
    st.text(st.one_of(st.characters(), st.sampled_from(ODD)), min_size=1, max_size=12),
    st.text(ODD, min_size=1, max_size=6).map(lambda text: f"[{text}]"),
    st.sampled_from(["[heep]", "[heap].text", "[anon:jit]", "libfoo.text", "noisy", "growth"]),
    mapping_names().filter(bool),
)
targets = st.from_regex(r"[A-Za-z_][\w.-]{0,6}", fullmatch=True)
percents = st.integers(0, 10**12 - 1).map(lambda millionths: Fraction(millionths, 10**6))
spaces = st.sampled_from(["", " ", "\n", "\t ", "\xa0", "\x1c"])


def quoted(selector):
    """A selector as anyone may write it."""
    return '"' + selector.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def limits(draw, metric):
    """What a budget on the metric may allow."""
    if metric in NUMBERS:
        unit, most = "", 1 << 52
    else:
        unit, most = draw(st.sampled_from([("pages", 1 << 52), ("bytes", 1 << 64)]))
    amount = draw(st.one_of(st.integers(0, 5), st.integers(0, most - 1)))
    if not draw(st.booleans()):
        return Limit(amount, unit)
    unit = unit if amount else "" if metric in NUMBERS else "pages"
    return Limit(amount, unit, True, draw(st.one_of(st.just(Fraction(0)), percents)))


@st.composite
def budgets(draw):
    """Every budget that there can be, but for those whose noise is not told."""
    metric = draw(st.sampled_from(BUDGET_METRICS))
    whole = metric in (*PROCESS_METRICS, "processes")
    selector = "" if whole else draw(st.one_of(st.just(""), selectors))
    target = draw(st.one_of(st.just(""), targets))
    return Budget(
        metric,
        draw(limits(metric)),
        growth=draw(st.booleans()),
        selector=selector,
        optional=bool(selector or target) and draw(st.booleans()),
        target=target,
        noisy=True,
    )


def tokens(budget):
    """A budget's own, in order; white space may stand between any two."""
    limit = budget.limit
    unit = {"pages": ["pages"], "bytes": ["B"], "": []}[limit.unit]
    percent = [f"{limit.percent.numerator * 10**6 // limit.percent.denominator:07}"]
    percent = [f"{percent[0][:-6]}.{percent[0][-6:]}", "%"]
    head = [f"@{budget.target}"] * bool(budget.target)
    head += [quoted(budget.selector)] * bool(budget.selector) + ["?"] * budget.optional
    yield from [*head, ":"] if head else []
    yield from [budget.metric, *["growth"] * budget.growth, "<="]
    yield from ["baseline", "+", *percent, "+"] if limit.baseline else []
    yield from [str(limit.amount), *unit]
    yield from ["noisy"] * budget.noisy


@given(budgets())
def test_budget_reads_back(budget):
    """Its normal form is the budget, and is in normal form."""
    again = parse_budget(str(budget))
    assert (again, str(again)) == (budget, str(budget))


@given(budgets(), st.data())
def test_white_space_changes_nothing(budget, data):
    """Between any two tokens, around them, and none of it where two do not run together."""
    text = data.draw(spaces, "before")
    for token in tokens(budget):
        apart = bool(re.search(r"\w\Z", text)) and bool(re.match(r"\w", token))
        text += (data.draw(spaces, "between") or " " * apart) + token
    assert parse_budget(text + data.draw(spaces, "behind")) == budget


@given(amounts(), st.sampled_from(["", "baseline + "]))
def test_amounts_are_those_of_counts(amount, prefix):
    """What a count compares with, a budget allows; of pages and bytes alike."""
    limit = parse_budget(f"rss <= {prefix}{amount} noisy").limit
    assert Count(limit.at(PAGE), limit.at(PAGE)) == amount


# ---- whatever is written

pieces = st.sampled_from(
    ["@", "@s", "libfoo", '"', '"a"', "[", "[heap]", "[heep]", "?", ":", "rss", "pss", "mappings",
     "drity", "growth", "<=", "<", "=", "0", "5", "1,02", ".5", "-5", "9" * 50, "KiB", "kB",
     "pages", "baseline", "+", "%", "noisy", "nosy", " ", "\n", "\\", "\ud800", "\0", "٣", "é"]
)  # fmt: skip
texts = st.one_of(
    st.text(st.one_of(st.characters(), st.sampled_from(ODD))),
    st.lists(pieces).map("".join),
    st.lists(pieces).map(" ".join),
    st.tuples(budgets().map(str), st.integers(0, 99), pieces).map(
        lambda drawn: f"{drawn[0][: drawn[1]]}{drawn[2]}{drawn[0][drawn[1] :]}"
    ),
)


@given(texts)
@example("a" * 500 + " <= 5")
@example("rss <= " + "1" * 5000)
@example('"' + "\\" * 5001)
@example("[" * 5000)
def test_text_reads_or_shows_its_place(text):
    """Nothing but BudgetError; the caret stands under the character that it is about."""
    try:
        budget = parse_budget(text)
    except BudgetError as caught:
        error = caught
    else:
        assert parse_budget(str(budget)) == budget
        return
    reason, shown, caret = str(error).split("\n")
    assert reason.isprintable()
    assert shown.isprintable()
    assert 0 <= error.position <= len(text)
    meant = text[error.position : error.position + 1]
    place = caret.index("^")
    assert shown[place : place + 1] == (meant if meant.isprintable() else " ")


# ---- limits

records = st.integers(-(1 << 50), 1 << 50)
steps = st.integers(0, 1 << 40)


@given(limits("rss"), steps, records)
def test_more_amount_allows_no_less(limit, more, recorded):
    """By so many bytes, or pages."""
    wider = Limit(limit.amount + more, limit.unit, limit.baseline, limit.percent)
    step = more * (PAGE if limit.unit == "pages" else 1)
    assert wider.at(PAGE, recorded) - limit.at(PAGE, recorded) == step


@given(limits("rss"), percents, records)
def test_more_percent_allows_no_less(limit, more, recorded):
    """Of what shrank it allows the same."""
    assume(limit.baseline)
    wider = Limit(limit.amount, limit.unit, True, limit.percent + more)
    assert wider.at(PAGE, recorded) >= limit.at(PAGE, recorded)


@given(limits("rss"), steps, records)
def test_more_recorded_allows_as_much_more(limit, more, recorded):
    """At least; without a baseline what is recorded does not matter."""
    change = limit.at(PAGE, recorded + more) - limit.at(PAGE, recorded)
    assert change >= more if limit.baseline else change == 0


@given(limits("rss"), records)
def test_what_is_recorded_is_allowed(limit, recorded):
    """Whatever else is."""
    assume(limit.baseline)
    assert limit.at(PAGE, recorded) >= recorded
    assert limit.tolerance(PAGE, recorded) == limit.at(PAGE, recorded) - recorded


# ---- merging

few = st.builds(
    Budget,
    st.sampled_from(["rss", "dirty"]),
    st.builds(Limit, st.integers(0, 9)),
    growth=st.booleans(),
    selector=st.sampled_from(["", "libfoo"]),
    optional=st.booleans(),
    target=st.sampled_from(["", "server"]),
)
layers = st.lists(few, max_size=8)


@given(st.lists(layers, max_size=4))
def test_last_of_each_key_holds(given_layers):
    """Each key once, in the order in which they came up."""
    everything = [budget for layer in given_layers for budget in layer]
    keys = list(dict.fromkeys(budget.key for budget in everything))
    last = [[budget for budget in everything if budget.key == key][-1] for key in keys]
    assert merge(*given_layers) == last


@given(layers, layers, layers)
def test_merging_goes_in_any_steps(first, second, third):
    """And what is merged stays as it is."""
    merged = merge(first, second, third)
    assert merge(merge(first, second), third) == merged
    assert merge(first, merge(second, third)) == merged
    assert merge(merged) == merge(merged, merged) == merged
