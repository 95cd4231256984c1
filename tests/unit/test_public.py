"""The package's face."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_pmaps
from pytest_pmaps import _native, model


@pytest.mark.parametrize("name", pytest_pmaps.__all__)
def test_every_public_name_is_there(name: str):
    """And documented."""
    assert getattr(pytest_pmaps, name).__doc__


def test_unknown_names_are_attribute_errors():
    """As for any module."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pytest_pmaps.nothing


@pytest.mark.parametrize("use", ["", "; pytest_pmaps.parse_budget('rss <= 5')"])
def test_importing_the_package_loads_no_engine(use: str):
    """pytest imports it in every session, used or not; budgets are read where nothing is tested."""
    code = f"import sys, pytest_pmaps, pytest_pmaps.plugin{use}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    assert not loaded & {"pytest_pmaps._engine", "_cffi_backend", "cffi", "hypothesis"}


def engine_enum(prefix: str) -> dict[str, int]:
    """An enum of pmaps.h as the compiled engine has it, by name without its prefix."""
    names = [n for n in dir(_native.lib) if n.startswith(prefix)]
    return {n.removeprefix(prefix): getattr(_native.lib, n) for n in names}


def test_model_mirrors_the_header():
    """Facts, sources, kinds and counters are written twice; here they meet."""
    engine = engine_enum("PM_")
    assert {f.name: f.value for f in model.Fact} == {f.name: engine[f.name] for f in model.Fact}
    assert len(model.Fact) == engine["N_BITS"]
    assert engine["MAPCOUNT"] == model.MAPCOUNT
    assert {s.name: s.value for s in model.Source} == engine_enum("PM_SRC_")
    assert {k.name: k.value for k in model.Kind} == engine_enum("PM_KIND_")
    counters = {k.lower(): v for k, v in engine_enum("PM_C_").items()}
    assert {name: i for i, name in enumerate(model.COUNTERS)} == counters
    assert [engine[p.upper()] for p in model.PARTS] == list(range(engine["N_PARTS"]))


def test_readme_names_only_what_exists():
    """Metrics and functions that the README shows are there."""
    readme = Path(__file__).parents[2] / "README.md"
    used = set(re.findall(r"\b(assert_\w+)\(", readme.read_text()))
    assert used <= set(pytest_pmaps.__all__)
