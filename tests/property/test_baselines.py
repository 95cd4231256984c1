"""Baselines: written and read back, moved, merged."""

from hypothesis import given
from hypothesis import strategies as st

from pytest_pmaps.baseline import Baseline, Recorded, explain_difference, merge, moved
from pytest_pmaps.errors import FormatError

BYTES = st.integers(-(1 << 52), 1 << 52)
RECORDED = st.builds(Recorded, BYTES, st.integers(0, 1 << 52))
#: Any text, with surrogates of both kinds, alone and in pairs.
IDS = st.text(st.characters() | st.sampled_from('\ud83d\ude00\udcff\n"\\{}[],:'), max_size=8)
KEYS = st.tuples(st.sampled_from(["linux 3.11", "linux 3.12", "é\n"]), IDS, IDS)
#: Few keys, so that several files have the same.
FEW = st.tuples(st.sampled_from("ab"), st.sampled_from("cd"), st.sampled_from("ef"))
SMALL = st.builds(Recorded, st.integers(-4, 4), st.integers(0, 3))


def filled(entries):
    """A baseline of a dict."""
    baseline = Baseline()
    for key, recorded in entries.items():
        baseline.record(*key, recorded)
    return baseline


BASELINES = st.dictionaries(KEYS, RECORDED, max_size=8).map(filled)
OVERLAPPING = st.dictionaries(FEW, SMALL).map(filled)


def lines(baseline):
    """Of its file, each without its comma, which belongs to no entry."""
    return [line.rstrip(",") for line in baseline.dumps().splitlines()]


@given(BASELINES)
def test_what_is_written_is_read_back(baseline):
    """An equal one, and the same bytes again, in ASCII."""
    text = baseline.dumps()
    assert Baseline.loads(text) == baseline
    assert Baseline.loads(text).dumps() == text
    assert text.isascii()
    assert text.count('{"value": ') == len([x for x in text.split("\n") if '{"value": ' in x])


@given(st.dictionaries(KEYS, RECORDED, max_size=8), st.randoms(use_true_random=False))
def test_order_does_not_matter(entries, random):
    """Whatever was recorded first; two that are equal have the same text."""
    shuffled = list(filled(entries))
    random.shuffle(shuffled)
    again = filled({(env, *key): recorded for env, key, recorded in shuffled})
    assert again == filled(entries)
    assert again.dumps() == filled(entries).dumps()


@given(st.dictionaries(KEYS, RECORDED, min_size=1, max_size=8), RECORDED, st.data())
def test_one_entry_is_one_line(entries, recorded, data):
    """A changed one changes its line and no other."""
    before, after = filled(entries), filled(entries)
    key = data.draw(st.sampled_from(sorted(entries)))
    after.record(*key, recorded)
    pairs = zip(before.dumps().splitlines(), after.dumps().splitlines(), strict=True)
    changed = [new for old, new in pairs if old != new]
    same = before.find(*key) == recorded
    assert len(changed) == (0 if same else 1)
    assert all(f'"value": {recorded.value}, "spread": {recorded.spread}}}' in x for x in changed)


@given(st.dictionaries(KEYS, RECORDED, max_size=8), KEYS, RECORDED)
def test_recorded_and_removed_again(entries, key, recorded):
    """As if it had not been; new lines are the only ones, apart from a comma."""
    baseline = filled(entries)
    if baseline.find(*key) is not None:
        return
    text, before = baseline.dumps(), lines(baseline)
    baseline.record(*key, recorded)
    left = lines(baseline)
    assert [x for x in before if x not in left and "{}" not in x] == []
    baseline.remove(*key)
    assert baseline.dumps() == text


@given(BASELINES, st.data())
def test_unused_and_used(baseline, data):
    """Each entry of the environment is one or the other."""
    here = [key for env, key, _ in baseline if env == "linux 3.11"]
    used = set(data.draw(st.lists(st.sampled_from(here)))) if here else set()
    assert baseline.unused("linux 3.11", used) == [key for key in here if key not in used]


def attempt(text):
    """What was read, and the error."""
    try:
        return Baseline.loads(text), None
    except FormatError as exc:
        return None, exc


@given(BASELINES, st.data())
def test_broken_files_are_refused(baseline, data):
    """Or read; nothing else comes of it."""
    text = baseline.dumps()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    broken = text[:start] + data.draw(st.text(max_size=4)) + text[end:]
    read, error = attempt(broken)
    if error is not None:
        assert "\n" not in str(error)
        assert error.line is not None
    else:
        assert Baseline.loads(read.dumps()) == read


# ---- moving

TOLERANCES = st.integers(0, 1 << 40)


@given(RECORDED, TOLERANCES, st.data())
def test_it_never_creeps(recorded, tolerance, data):
    """Nothing within the tolerance moves a value, however often; the spread covers them all."""
    near = st.integers(recorded.value - tolerance, recorded.value + tolerance)
    entry = recorded
    measured = data.draw(st.lists(near, max_size=20))
    for number in measured:
        entry = moved(entry, number, tolerance)
    far = max((abs(number - recorded.value) for number in measured), default=0)
    assert entry == Recorded(recorded.value, max(recorded.spread, far))


@given(st.none() | RECORDED, BYTES, TOLERANCES)
def test_it_is_there_after_one_move(recorded, measured, tolerance):
    """The same measurement again changes nothing, and it is within the tolerance."""
    entry = moved(recorded, measured, tolerance)
    assert moved(entry, measured, tolerance) == entry
    assert abs(measured - entry.value) <= tolerance
    assert entry.spread >= (recorded.spread if recorded else 0)


# ---- merging


@given(st.dictionaries(KEYS, RECORDED, max_size=12), st.integers(1, 4), st.data())
def test_shards_make_the_whole(entries, count, data):
    """Byte for byte, however it was parted."""
    whole, shards = filled(entries), [Baseline() for _ in range(count)]
    for env, key, recorded in whole:
        shards[data.draw(st.integers(0, count - 1))].record(env, *key, recorded)
    merged, notes = merge(shards)
    assert merged.dumps() == whole.dumps()
    assert notes == ()


@given(OVERLAPPING, OVERLAPPING, OVERLAPPING)
def test_order_and_grouping_of_merges(a, b, c):
    """Neither matters, nor does merging something twice; notes are those of any order."""
    assert merge([a, b, c]) == merge([c, a, b])
    assert merge([merge([a, b])[0], c])[0] == merge([a, b, c])[0]
    assert merge([a, merge([b, c])[0]])[0] == merge([a, b, c])[0]
    assert merge([a, a]) == (a, ())
    assert merge([a, Baseline()]) == (a, ())


@given(st.lists(OVERLAPPING, min_size=1, max_size=4))
def test_what_a_merge_holds(baselines):
    """Every entry: the largest value, and a spread that covers each with its own spread."""
    merged, notes = merge(baselines)
    several = 0
    for env, key, recorded in merged:
        found = [it for b in baselines if (it := b.find(env, *key))]
        assert recorded.value == max(it.value for it in found)
        assert recorded.value - recorded.spread == min(it.value - it.spread for it in found)
        assert all(recorded.value + recorded.spread >= it.value + it.spread for it in found)
        several += len({it.value for it in found}) > 1
    assert len(notes) == several
    assert all(merged.find(env, *key) for b in baselines for env, key, _ in b)


@given(OVERLAPPING, st.dictionaries(FEW, SMALL), st.integers(1, 4), st.data())
def test_shards_that_updated_a_baseline(base, updates, count, data):
    """Each its own tests; together what one run of all would have made of it."""
    whole = Baseline.loads(base.dumps())
    shards = [Baseline.loads(base.dumps()) for _ in range(count)]
    for key, recorded in updates.items():
        whole.record(*key, recorded)
        shards[data.draw(st.integers(0, count - 1))].record(*key, recorded)
    merged, notes = merge(shards, base)
    assert merged.dumps() == whole.dumps()
    assert notes == ()


# ---- environments

WORDS = st.lists(st.sampled_from(["x86_64", "4096", "a", "thp=always", "thp=", "x=1"]))


@given(WORDS, WORDS)
def test_differences_of_any_keys(ours, theirs):
    """Something is said if, and only if, they differ."""
    ours, theirs = " ".join(ours), " ".join(theirs)
    assert bool(explain_difference(ours, theirs)) == (ours != theirs)
