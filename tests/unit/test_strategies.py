"""The strategies draw what the kernel could show."""

import pytest
from hypothesis import Phase, find, given, settings

from pytest_pmaps.model import Fact
from pytest_pmaps.strategies import mapping_names, page_ranges, plain_snapshots, rfc_texts


@given(plain_snapshots())
def test_snapshots_are_in_order(snapshot):
    """Mappings and their ranges ascend and do not overlap."""
    at = 0
    for mapping in snapshot.mappings:
        assert at <= mapping.start < mapping.end
        at = mapping.start
        for item in mapping.ranges:
            assert at <= item.page * 4096 < (item.page + item.count) * 4096 <= mapping.end
            at = (item.page + item.count) * 4096
        at = mapping.end


@given(page_ranges())
def test_facts_agree(item):
    """What is set is known; present and swapped exclude each other; so on."""
    assert item.set_bits & ~item.known_bits == 0
    facts = {fact: item.fact(fact) for fact in Fact}
    assert not (facts[Fact.PRESENT] and facts[Fact.SWAPPED])
    assert not (facts[Fact.EXCLUSIVE] and item.mapcount != (1, 1))
    assert not (facts[Fact.SHARED] and item.mapcount[0] < 2)
    assert not (facts[Fact.PAGEDIRTY] and facts[Fact.PORD] is not True)


@pytest.mark.parametrize(
    ("strategy", "odd"),
    [
        (mapping_names(), lambda name: "\n" in name),
        (mapping_names(), lambda name: name.endswith(" (deleted)")),
        (page_ranges(), lambda item: item.mapcount == (1, None)),
        (page_ranges(), lambda item: item.fact(Fact.RACED)),
        (plain_snapshots(), lambda it: any(m.object is not None for m in it.mappings)),
        (rfc_texts(), lambda text: "\t?\n" in text),
        (rfc_texts(), lambda text: "[...]" in text),
    ],
)
def test_odd_cases_are_among_them(strategy, odd):
    """Each of these can be drawn."""
    quick = settings(max_examples=2000, phases=[Phase.generate], database=None)
    assert odd(find(strategy, odd, settings=quick))
