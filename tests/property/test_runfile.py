"""run.json, its schema, and what reads it."""

import copy
import json
from importlib import resources

import jsonschema
from hypothesis import event, given
from hypothesis import strategies as st

from property.runs import run_dicts, run_texts
from pytest_pmaps.errors import FormatError
from pytest_pmaps.report import runfile

SCHEMA = json.loads(resources.files("pytest_pmaps.report").joinpath("run.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_one():
    """Of the draft that it names; and every property is described."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    parts = [SCHEMA, *SCHEMA["$defs"].values()]
    properties = {k: v for part in parts for k, v in part.get("properties", {}).items()}
    bare = [k for k, v in properties.items() if "description" not in v and "$ref" not in v]
    assert bare == []


@given(run_texts())
def test_what_is_written_is_valid_and_reads_back(text):
    """Nothing is lost, nothing added."""
    value = json.loads(text)
    VALIDATOR.validate(value)
    assert runfile.loads(text) == value
    assert json.loads(runfile.dumps(runfile.loads(text))) == value


@given(run_texts())
def test_every_property_that_is_written_is_in_the_schema(text):
    """The schema is open, so that it alone would not tell."""
    value, defs = json.loads(text), SCHEMA["$defs"]
    assert set(value) == set(SCHEMA["properties"])
    assert set(value["session"]) == set(defs["session"]["properties"])
    for test in value["tests"]:
        assert set(test) == set(defs["test"]["properties"])
        for process in test["measured"]:
            assert set(process) <= set(defs["process"]["properties"])
            for row in process["mappings"]:
                assert set(row) <= set(defs["mapping"]["properties"])
        for budget in test["budgets"]:
            assert set(budget) == set(defs["budget"]["properties"])


JUNK = st.sampled_from([None, True, 0, -1, 7, "", "passed", "bytes", [], {}, [1, None], ["a", 1]])


def places(value, path=()):
    """The paths of all values."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@given(run_dicts(), st.data())
def test_what_the_schema_refuses_is_refused(value, data):
    """And nothing else, but intervals that are upside down, which no schema can see."""
    broken = copy.deepcopy(value)
    path = data.draw(st.sampled_from([p for p in places(broken) if p]))
    holder = broken
    for step in path[:-1]:
        holder = holder[step]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(JUNK)
    else:
        del holder[path[-1]]
    try:
        runfile.loads(json.dumps(broken))
        reason = ""
    except FormatError as exc:
        reason = str(exc)
        assert reason.startswith("line 1: ")
    event("refused" if reason else "read")
    if "lower end first" not in reason:
        assert VALIDATOR.is_valid(broken) == (not reason)
