"""Hypothesis strategies for run.json, as the plugin's own classes write it."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from pytest_pmaps.report.run import OUTCOMES, Run, TestDetails
from pytest_pmaps.report.runfile import ORIGINS, VERDICTS

#: Names that trouble tables, Markdown, workflow commands and terminals.
names = st.one_of(
    st.sampled_from(["test_a.py::test_b", "t.py::C::test[a|b-`<x>`]", "x" * 300, "a::b%0A,:c"]),
    st.text("ab|`<>&*_%,:\\\n\r\x1b\u2028\u00e9\udc80 ", max_size=20),
)
numbers = st.integers(-(1 << 40), 1 << 40)


@st.composite
def intervals(draw: st.DrawFn, least: int = 0) -> list[int | None]:
    """Most are exact, some open at an end or at both."""
    lo, more = draw(st.integers(least, 1 << 32)), draw(st.sampled_from([0, 0, 4096, 1 << 20]))
    opened = draw(st.sampled_from([0, 0, 0, 1, 2, 3]))
    return [None if opened & 1 else lo, None if opened & 2 else lo + more]


growths = intervals(-(1 << 24))
rows = st.fixed_dictionaries(
    {"name": names, "rss": intervals(), "dirty": intervals()},
    optional={"rss_growth": growths, "new_dirty": intervals()},
)
processes = st.fixed_dictionaries(
    {
        "pid": st.integers(0, 99999),
        "comm": st.sampled_from(["python", "cat", "a|b"]),
        "verdict": st.sampled_from(["complete", "raced"]),
        "page_size": st.just(4096),
        "sources": st.just(["maps", "pagemap"]),
        **dict.fromkeys(("rss", "pss", "uss", "anonymous", "dirty", "swap"), intervals()),
        "mappings": st.lists(rows, max_size=3),
    },
    optional={"rss_growth": growths, "new_dirty": intervals()},
)
budgets = st.fixed_dictionaries(
    {
        "budget": st.sampled_from(
            ["anonymous growth <= 64 KiB", '"a <= b": dirty <= baseline', "mappings <= 9"]
        ),
        "origin": st.sampled_from(ORIGINS),
        "verdict": st.sampled_from(VERDICTS),
        "value": growths,
        "limit": st.none() | numbers,
        "unit": st.sampled_from(["bytes", "number"]),
        "samples": st.lists(growths, max_size=2),
        "recorded": st.none() | numbers,
        "spread": st.none() | st.integers(0, 1 << 20),
        "note": names,
    }
)
details = st.builds(
    TestDetails,
    attempt=st.integers(1, 3),
    worker=st.sampled_from(["", "gw0", "gw1"]),
    environment=names,
    kind=st.sampled_from(["", "footprint", "undetermined"]),
    headline=names,
    folder=st.just("/there"),
    maps=st.lists(st.sampled_from(["/there/maps/a.pmaps", "/there/maps/b.pmaps"]), max_size=1),
    problems=st.lists(names, max_size=1),
    failures=st.lists(
        st.tuples(st.just("call"), st.sampled_from(["footprint", "undetermined", ""]), names).map(
            list
        ),
        max_size=2,
    ),
    measured=st.lists(processes, max_size=3),
    dumped=st.lists(processes, max_size=1),
    budgets=st.lists(budgets, max_size=2),
)


@st.composite
def run_texts(draw: st.DrawFn) -> str:
    """The text of a run.json that lies in /there."""
    run = Run({"pytest": "9.2.0", "pytest_pmaps": "0.1.0"})
    run.workers = draw(st.integers(0, 8))
    run.baseline = draw(names)
    for nodeid, found in draw(st.lists(st.tuples(names, details), max_size=6)):
        location = (draw(names), draw(st.none() | st.integers(0, 999)), "")
        run.add(nodeid, "call", draw(st.sampled_from(OUTCOMES)), found, location=location)
    return run.dumps("/there", draw(st.integers(0, 5)))


def run_dicts() -> st.SearchStrategy[dict]:
    """The same as a value."""
    return run_texts().map(json.loads)
