"""Both file formats keep what they are given."""

from hypothesis import given, settings

from property import reference
from property.flat import everything, joined, rfc_fields
from pytest_pmaps import jsonfile, rfctext
from pytest_pmaps.strategies import plain_snapshots, rfc_texts


@given(plain_snapshots())
def test_rfc_text_keeps_the_rfcs_fields(snapshot):
    """Written and read back, mapping by mapping and range by range."""
    again = rfctext.parse(rfctext.render(snapshot), snapshot.page_size)
    assert rfc_fields(again) == rfc_fields(snapshot)


@given(plain_snapshots())
def test_rfc_text_is_its_own_fixed_point(snapshot):
    """Reading and writing changes no byte."""
    text = rfctext.render(snapshot)
    assert rfctext.render(rfctext.parse(text)) == text


@given(rfc_texts())
def test_rfc_text_reads_as_the_reference_reads_it(text):
    """With tabs, with spaces, from the archive."""
    expected = [(header, joined(rows)) for header, rows in reference.rfc(text)]
    assert rfc_fields(rfctext.parse(text)) == expected


@given(plain_snapshots())
def test_rfc_ranges_cover_each_mapping(snapshot):
    """Every page is told of: listed, or not listed."""
    for mapping in rfctext.parse(rfctext.render(snapshot)).mappings:
        ends = [r.page + r.count for r in mapping.ranges]
        starts = [r.page for r in mapping.ranges]
        assert [mapping.start // 4096, *ends] == [*starts, mapping.end // 4096]


@given(plain_snapshots())
def test_rfc_text_claims_nothing_new(snapshot):
    """What reads as known was known, of each page that is listed.

    What follows from a mapcount counts as known; NORMAL of a page mapped at least once does.
    """
    read = rfctext.parse(rfctext.render(snapshot))
    for before, after in zip(snapshot.mappings, read.mappings, strict=True):
        listed = {p: r for r in before.ranges for p in range(r.page, r.page + r.count)}
        if before.index != after.index:
            continue  # a page whose place is a guess is no page to compare
        for item in after.ranges:
            for page in range(item.page, item.page + item.count if item.set_bits else 0):
                known = listed[page].known_bits
                assert item.known_bits & ~known == 0
                assert (item.set_bits ^ listed[page].set_bits) & item.known_bits == 0


@given(plain_snapshots())
def test_json_keeps_everything(snapshot):
    """Written and read back."""
    assert jsonfile.parse(jsonfile.dump(snapshot)) == snapshot


@given(plain_snapshots())
def test_json_says_what_the_reference_reads(snapshot):
    """The format is what its description says, not only what we make of it."""
    assert reference.snapshot(jsonfile.dump(snapshot)) == everything(snapshot)


@settings(max_examples=30)
@given(plain_snapshots())
def test_json_has_one_line_for_each_thing(snapshot):
    """Mappings, objects and ranges, each on a line of its own, so that files compare."""
    lines = jsonfile.dump(snapshot).splitlines()
    ranges = sum(len(mapping.ranges) for mapping in snapshot.mappings)
    assert sum(line.startswith('{"start"') for line in lines) == len(snapshot.mappings)
    assert sum(line.startswith('{"name"') for line in lines) == len(snapshot.objects)
    assert sum(line[:1] == "[" for line in lines) == ranges
