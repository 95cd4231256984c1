"""What budgets read as, and what is said of those that do not read."""

from __future__ import annotations

import pickle
import re
from fractions import Fraction
from pathlib import Path

import pytest

from pytest_pmaps import Budget, BudgetError, Limit, parse_budget
from pytest_pmaps.budget import BUDGET_METRICS, merge
from pytest_pmaps.model import PARTS

KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dirty <= 0", Budget("dirty", Limit())),
        ("rss<=1", Budget("rss", Limit(1))),
        ("anonymous growth <= 2 MiB", Budget("anonymous", Limit(2 * MIB, "bytes"), growth=True)),
        ("libfoo.text: dirty <= 0", Budget("dirty", Limit(), selector="libfoo.text")),
        ("libjit?: dirty <= 0", Budget("dirty", Limit(), selector="libjit", optional=True)),
        ("@server: rss <= 9", Budget("rss", Limit(9), target="server")),
        ("@server?: rss <= 9", Budget("rss", Limit(9), target="server", optional=True)),
        (
            "@a.b-c libfoo ? : rss growth <= baseline + 5 % + 64 KiB",
            Budget(
                "rss", Limit(64 * KIB, "bytes", True, Fraction(5)), True, "libfoo", True, "a.b-c"
            ),
        ),
        ("pss <= 1 MiB noisy", Budget("pss", Limit(MIB, "bytes"), noisy=True)),
        ("dirty <= 5 noisy", Budget("dirty", Limit(5), noisy=True)),
        ("mappings <= 5 noisy", Budget("mappings", Limit(5, ""), noisy=True)),
        ("mappings growth <= 1,200", Budget("mappings", Limit(1200, ""), growth=True)),
        (
            "processes <= baseline + 2",
            Budget("processes", Limit(2, "", baseline=True)),
        ),
    ],
)
def test_whole_budgets_read(text, expected):
    """Every part of the language."""
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    ("head", "selector", "optional"),
    [
        ("libfoo:", "libfoo", False),
        ("libfoo?:", "libfoo", True),
        ('"libfoo?":', "libfoo?", False),
        ('"libfoo?"?:', "libfoo?", True),
        ("libfoo*:", "libfoo*", False),
        ("/usr/lib/*/libfoo.so.1:", "/usr/lib/*/libfoo.so.1", False),
        ("[heap]:", "[heap]", False),
        ("[anon:jit]?:", "[anon:jit]", True),
        ("[anon:glibc: malloc]:", "[anon:glibc: malloc]", False),
        ("[anon:j?t]:", "[anon:j?t]", False),
        ('[anon:a"b]:', '[anon:a"b]', False),
        ("[anon:jit].x:", "[anon:jit].x", False),
        ("[ab]*.so:", "[ab]*.so", False),
        ("[ab].text:", "[ab].text", False),
        ("[hea*]:", "[hea*]", False),
        ("[vvar_vclock]:", "[vvar_vclock]", False),
        ("[uprobes-trampoline]:", "[uprobes-trampoline]", False),
        ("training.data:", "training.data", False),
        ("libfoo.tetx:", "libfoo.tetx", False),
        ("rss:", "rss", False),
        ("<=:", "<=", False),
        ('"[heep]":', "[heep]", False),
        ('"[heap].text":', "[heap].text", False),
        ('"@x":', "@x", False),
        ('"my lib: v1":', "my lib: v1", False),
        (r'"a\"b\\c":', r'a"b\c', False),
        (r'"a\012b":', r"a\012b", False),
        ('"a\\\nb":', "a\\\nb", False),
        ('" libfoo ":', " libfoo ", False),
    ],
)
def test_selectors_read(head, selector, optional):
    """Bare, in brackets, in quotes; what is in quotes is taken as it stands."""
    budget = parse_budget(f"{head} dirty <= 0")
    assert (budget.selector, budget.optional) == (selector, optional)


@pytest.mark.parametrize(
    ("text", "expected", "normal"),
    [
        ("0", Limit(0, "pages"), "0"),
        ("007", Limit(7, "pages"), "7"),
        ("1,024", Limit(1024, "pages"), "1,024"),
        ("1 page", Limit(1, "pages"), "1"),
        ("3pages", Limit(3, "pages"), "3"),
        ("0 B", Limit(0, "bytes"), "0 B"),
        ("1,024 KiB", Limit(MIB, "bytes"), "1 MiB"),
        ("1.5 MiB", Limit(1536 * KIB, "bytes"), "1.5 MiB"),
        ("4,503,599,627,370,495", Limit((1 << 52) - 1, "pages"), "4,503,599,627,370,495"),
        ("baseline + 1 %", Limit(baseline=True, percent=Fraction(1)), "baseline + 1%"),
        ("baseline + 8 pages", Limit(8, baseline=True), "baseline + 8"),
        ("baseline+4 KiB+5%", Limit(4096, "bytes", True, Fraction(5)), "baseline + 5% + 4 KiB"),
        ("baseline + 1% + 0 B", Limit(baseline=True, percent=Fraction(1)), "baseline + 1%"),
        ("baseline + 0% + 1", Limit(1, baseline=True), "baseline + 1"),
        (
            "baseline + 999999.999999%",
            Limit(baseline=True, percent=Fraction("999999.999999")),
            "baseline + 999999.999999%",
        ),
        (
            "baseline + 100.50%",
            Limit(baseline=True, percent=Fraction(201, 2)),
            "baseline + 100.5%",
        ),
    ],
)
def test_amounts_read(text, expected, normal):
    """And are written in one form."""
    limit = parse_budget(f"rss <= {text}").limit
    assert (limit, str(limit)) == (expected, normal)


@pytest.mark.parametrize("nothing", ["", "+ 0%", "+ 0 B", "+ 0 pages", "+ 0", "+ 0% + 0 KiB"])
def test_nothing_on_top_is_nothing_in_any_unit(nothing):
    """So that these are one budget, which a baseline knows by one name."""
    budget = parse_budget(f"dirty <= baseline {nothing}")
    assert (budget.limit, str(budget)) == (Limit(baseline=True), "dirty <= baseline")


SELECTOR = "a selector with a space, a colon, a quote or ? in it stands in double quotes"
COLON = "a colon is missing before the metric"
METRIC = "a metric is expected here, such as dirty, rss or anonymous"
PERCENT = "a percentage is of a baseline, with 6 digits and 6 decimals at most"
GROWTH = "growth stands once, behind the metric"
BASELINE = "baseline stands once, behind <="
NOISY = "noisy stands once, at the end"
END = "nothing may follow here"
TARGET = "a target is a name behind @, such as @server"
WHOLE = "pages are whole: is another unit meant, such as MiB?"
COUNTED = "mappings are counted in whole numbers, without a unit"
TOO_MUCH = "this is more than an address space holds"
AMOUNT = "an amount, such as 64 KiB, belongs here"
SOUND = "anonymous or dirty is, or say noisy at the end"
SPREADS = (
    "rss varies from run to run, by 0.5% as a rule: allow + 1% or an amount, "
    "or say noisy at the end"
)
GROUPS = "decimals take a point, thousands come in groups of three"


@pytest.mark.parametrize(
    ("text", "caret", "reason"),
    [
        # ---- heads
        (': rss <= 1', '^', "a selector is missing here"),
        ('?: rss <= 1', '^', "a selector is missing here"),
        ('"": rss <= 1', ' ^', "a selector is empty"),
        ('"libfoo: rss <= 1', '^', "this quote is not closed"),
        (r'"libfoo\": rss <= 1', '^', "this quote is not closed"),
        ('@server "libfoo: rss <= 1', '        ^', "this quote is not closed"),
        ('[anon:jit: rss <= 1', '^', "this bracket is not closed"),
        ('@: rss <= 1', '^', TARGET),
        ('@9: rss <= 1', '^', TARGET),
        ('@server @other: rss <= 1', '        ^', TARGET),
        ('my lib: rss <= 1', '   ^', SELECTOR),
        ('lib?foo: rss <= 1', '    ^', SELECTOR),
        ('libfoo??: rss <= 1', '       ^', SELECTOR),
        ('a:b: rss <= 1', ' ^', SELECTOR),
        ('lib"x": rss <= 1', '   ^', SELECTOR),
        ('"a""b": rss <= 1', '   ^', SELECTOR),
        ('libfoo.text dirty <= 0', '            ^', COLON),
        ('[heap] rss <= 1', '       ^', COLON),
        ('"libfoo" rss <= 1', '         ^', COLON),
        ('libfoo? rss <= 1', '        ^', COLON),
        ('@server rss <= 1', '        ^', COLON),
        ('@server libfoo rss <= 1', '               ^', COLON),
        ('[heep]: rss <= 1', '^', "the kernel names no mapping [heep]: did you mean [heap]?"),
        ('[Stack]?: rss <= 1', '^', "the kernel names no mapping [Stack]: did you mean [stack]?"),
        ('[anonymous]: rss <= 1', '^',
         "the kernel names no mapping [anonymous]: did you mean [anon]?"),
        ('@s [heap].text: rss <= 1', '   ^', "[heap] has no parts: only files have"),
        ('[anon:jit].data: rss <= 1', '^', "[anon:jit] has no parts: only files have"),
        # ---- metrics
        ('', '^', METRIC),
        ('  ', '  ^', METRIC),
        ('<= 1', '^', METRIC),
        ('libfoo:', '       ^', METRIC),
        ('RSS <= 1', '^', "RSS is no metric: did you mean rss?"),
        ('libfoo: drity <= 0', '        ^', "drity is no metric: did you mean dirty?"),
        ('anon <= 0', '^', "anon is no metric: did you mean anonymous?"),
        ('qqq <= 0', '^', "qqq is no metric"),
        ('libfoo: peak_rss <= 1', '        ^',
         "peak_rss is of a whole process, and of no selection"),
        ('libfoo: processes <= 1', '        ^',
         "processes is of a whole process, and of no selection"),
        ('growth rss <= 1', '^', GROWTH),
        ('noisy rss <= 1', '^', NOISY),
        # ---- <=
        ('rss', '   ^', "<= is expected here"),
        ('rss 5', '    ^', "<= is expected here"),
        ('rss < 5', '    ^', "<= is expected here"),
        ('rss = 5', '    ^', "<= is expected here"),
        ('rss >= 5', '    ^', "<= is expected here"),
        ('rss <== 5', '    ^', "<= is expected here"),
        ('rss \ud800 5', '    ^', "<= is expected here"),
        ('rss grwoth <= 5', '    ^', "grwoth means nothing here: did you mean growth?"),
        ('rss Growth <= 5', '    ^', "Growth means nothing here: did you mean growth?"),
        ('rss growth growth <= 5', '           ^', GROWTH),
        ('rss noisy <= 5', '    ^', NOISY),
        # ---- amounts
        ('rss <=', '      ^', AMOUNT),
        ('rss <= libfoo', '       ^', AMOUNT),
        ('rss <= ٣', '       ^', AMOUNT),
        ('mappings <= x', '            ^', "a number belongs here"),
        ('rss <= basline', '       ^', "basline means nothing here: did you mean baseline?"),
        ('rss <= noisy', '       ^', NOISY),
        ('rss <= -5', '       ^', "a budget is not below 0"),
        ('rss <= 5 kB', '         ^', "kB may be 1000s or 1024s: did you mean 5 KiB or 5,000 B?"),
        ('rss <=   5 \n mb', '             ^',
         "mb may be 1000s or 1024s: did you mean 5 MiB or 5,000,000 B?"),
        ('rss <= 1,02 KiB', '        ^', GROUPS),
        ('rss <= 1,02', '        ^', GROUPS),
        ('rss <= .5 MiB', '       ^', "an amount is a number and a unit, such as 64 KiB"),
        ('rss <= 0.3 B', '       ^', "this is no whole number of bytes"),
        ('rss <= 1.5', '       ^', WHOLE),
        ('rss <= 1.5 pages', '       ^', WHOLE),
        ('mappings <= 1.5', '            ^', COUNTED),
        ('mappings <= 5 KiB', '            ^', COUNTED),
        ('mappings <= 5 pages', '            ^', COUNTED),
        ('rss <= 4,503,599,627,370,496', '       ^', TOO_MUCH),
        ('rss <= 4503599627370496 pages', '       ^', TOO_MUCH),
        ('rss <= 16,777,216 TiB', '       ^', TOO_MUCH),
        (f'rss <= {"9" * 41}', '       ^', "this number is too long"),
        ('rss <= 5%', '       ^', PERCENT),
        # ---- baselines
        ('rss <= baseline +', '                 ^', AMOUNT),
        ('rss <= baseline + baseline', '                  ^', BASELINE),
        ('rss <= baseline + 5% + 6%', '                       ^', "one percentage is enough"),
        ('rss <= baseline + 0 + 0', '                      ^', "one amount is enough"),
        ('rss <= baseline + 1234567%', '                  ^', PERCENT),
        ('rss <= baseline + 0.1234567%', '                  ^', PERCENT),
        ('rss <= baseline + -5%', '                  ^', "a budget is not below 0"),
        ('rss <= baseline 5%', '                ^', END),
        # ---- ends
        ('rss <= 5 nosy', '         ^', "nosy means nothing here: did you mean noisy?"),
        ('rss <= 5 KiB Noisy', '             ^', "Noisy means nothing here: did you mean noisy?"),
        ('rss <= 5 noisy noisy', '               ^', NOISY),
        ('rss <= 5 growth', '         ^', GROWTH),
        ('rss <= 5 KiB, dirty <= 0', '            ^', END),
        # ---- noise
        ('libfoo: pss <= 5', '        ^',
         f"pss is no sound gate: it moves with what other processes map; {SOUND}"),
        ('referenced <= 5', '^',
         f"referenced is no sound gate: the kernel moves it by itself; {SOUND}"),
        *((f'rss <= baseline{tail}', '^',
         SPREADS) for tail in ("", " + 0%", " + 0 B", " + 0.99%")),
    ],
)  # fmt: skip
def test_errors_show_the_place(text, caret, reason):
    """The budget in one line, however many it had, and a caret under the trouble."""
    with pytest.raises(BudgetError) as caught:
        parse_budget(text)
    shown = "".join(c if c.isprintable() else " " for c in text)
    assert str(caught.value) == f"{reason}\n  {shown}\n  {caret}"
    assert caught.value.position == len(caret) - 1


def test_long_budgets_are_shown_around_the_place():
    """With dots where something was left out, and the caret where it belongs."""
    with pytest.raises(BudgetError) as caught:
        parse_budget(f"{'a' * 100}: drity <= {'1' * 100}")
    shown = f"...{'a' * 58}: drity <= {'1' * 51}..."
    place = " " * 63
    assert str(caught.value).splitlines()[1:] == [f"  {shown}", f"  {place}^"]


def test_error_tells_nothing_of_the_reader():
    """Its traceback ends where the budget was handed in."""
    with pytest.raises(BudgetError) as caught:
        parse_budget("rss <= 5 kB")
    frames = [entry.name for entry in caught.traceback]
    assert (frames[1:], caught.value.__cause__) == (["parse_budget"], None)


def test_error_travels():
    """Between processes of pytest-xdist."""
    error = BudgetError("nothing may follow here", "rss <= 5 6", 9)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.text, again.position) == (str(error), "rss <= 5 6", 9)


@pytest.mark.parametrize("given", [None, 5, b"rss <= 1", ("rss", 1)])
def test_what_is_no_text_is_a_type_error(given):
    """And says what is expected."""
    with pytest.raises(TypeError, match="a budget is text, such as 'dirty <= 64 KiB', not "):
        parse_budget(given)


@pytest.mark.parametrize("metric", BUDGET_METRICS)
def test_every_metric_reads(metric):
    """With a word for those that need one."""
    assert parse_budget(f"{metric} <= 1 noisy").metric == metric


def test_every_metric_is_described():
    """In the table, each once."""
    page = Path(__file__).parents[2] / "docs" / "budgets.md"
    table = page.read_text().partition("| metric | is |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`(?=[^|]*\|[^|]*\|$)", table, re.MULTILINE)
    assert sorted(named) == sorted(BUDGET_METRICS)


def refused(tail):
    """Metrics that may not be limited like that."""
    for metric in BUDGET_METRICS:
        try:
            parse_budget(f"{metric} <= {tail}")
        except BudgetError:
            yield metric


def test_noise_is_described():
    """Whatever needs the word is in the table, and nothing else."""
    page = Path(__file__).parents[2] / "docs" / "budgets.md"
    table = page.read_text().partition("| without `noisy` an error |")[2].splitlines()[2:5]
    rows = [row.split("|")[1].partition(" against ")[0] for row in table]
    *always, spreads = (set(re.findall(r"`(\w+)`", row)) for row in rows)
    always = set().union(*always)
    assert set(refused("1 MiB")) - {"mappings", "processes"} == always
    assert set(refused("baseline")) == always | spreads
    assert set(refused("baseline + 1%")) == set(refused("baseline + 1")) == always


def test_documented_budgets_read():
    """Those that the documentation begins with."""
    page = Path(__file__).parents[2] / "docs" / "budgets.md"
    budgets = page.read_text().partition("```text\n")[2].partition("```")[0].splitlines()
    assert [parse_budget(text).metric for text in budgets] == [
        *("dirty", "anonymous", "mappings", "rss", "unique_rss")
    ]


@pytest.mark.parametrize("part", PARTS)
def test_parts_read(part):
    """Which of its meanings a selector has, shows when there is something to select from."""
    assert parse_budget(f"libfoo.{part}: dirty <= 0").selector == f"libfoo.{part}"


@pytest.mark.parametrize(
    ("text", "subject", "normal"),
    [
        ('@s "[heap]"?: rss growth<=4096 B', "@s [heap]?: rss growth", " <= 4 KiB"),
        ('"lib foo":pss<=1 page noisy', '"lib foo": pss', " <= 1 noisy"),
        ('"[heep]": rss <= 1', '"[heep]": rss', " <= 1"),
        ('"@x": rss <= 1', '"@x": rss', " <= 1"),
        ("@s: rss <= 1", "@s: rss", " <= 1"),
    ],
)
def test_normal_form(text, subject, normal):
    """One spelling for one budget; what is limited comes first."""
    budget = parse_budget(text)
    assert (budget.subject, str(budget)) == (subject, subject + normal)


@pytest.mark.parametrize(
    ("limit", "page_size", "recorded", "expected"),
    [
        (Limit(3), 4096, 999, 12288),
        (Limit(3), 65536, 0, 196608),
        (Limit(3, "bytes"), 65536, 0, 3),
        (Limit(3, "", baseline=True), 4096, 10, 13),
        (Limit(baseline=True, percent=Fraction(5)), 4096, 199, 208),
        (Limit(1, "pages", True, Fraction(5)), 4096, 200, 4306),
        (Limit(7, "bytes", True, Fraction(50)), 4096, -100, -93),
    ],
)
def test_limits_allow(limit, page_size, recorded, expected):
    """In bytes, or in numbers of what is counted; a share is cut to whole ones."""
    assert limit.at(page_size, recorded) == expected


def test_of_two_with_one_key_the_later_holds():
    """Whatever they allow, and however they are spelled; it stands where the first one stood."""
    ini = [parse_budget("libfoo: rss <= 1"), parse_budget("dirty <= 1")]
    marker = [parse_budget('"libfoo"?: rss <= 2 noisy'), parse_budget("dirty growth <= 3")]
    expected = ["libfoo?: rss <= 2 noisy", "dirty <= 1", "dirty growth <= 3"]
    assert [str(budget) for budget in merge(ini, marker)] == expected
