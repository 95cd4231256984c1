"""Command line and ini options; the command line wins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from typing import Any

__all__ = ["UNDETERMINED", "Settings", "declare", "read", "what_is_wrong"]

#: What becomes of a test whose question is undetermined.
UNDETERMINED = ("error", "skip")
#: What becomes of a budget for which no baseline is recorded; auto: fail on CI.
MISSING = ("auto", "fail", "record", "pass")


class Settings(NamedTuple):
    """What was asked for; ``given``: whether anything was.

    ``budgets`` are texts that can be read, by where they stand, of which the later layer wins.
    """

    report: bool
    report_dir: Path | None
    undetermined: str
    budgets: tuple[tuple[str, tuple[str, ...]], ...]
    baseline: Path | None
    update: bool
    missing: str
    given: bool


def declare(parser: pytest.Parser) -> None:
    """Add them to pytest's; every default is None, or the ini file would never be asked."""
    group = parser.getgroup("pmaps", "page maps of processes under test")
    group.addoption(
        "--pmaps-report",
        dest="pmaps_report",
        action="store_true",
        default=None,
        help="dump the page map of every failing test's process, and sum up what was measured",
    )
    group.addoption(
        "--pmaps-report-dir",
        dest="pmaps_report_dir",
        metavar="DIR",
        default=None,
        help="where run.json and saved maps go (default: pmaps/ in pytest's temporary folder)",
    )
    group.addoption(
        "--pmaps-undetermined",
        dest="pmaps_undetermined",
        choices=UNDETERMINED,
        default=None,
        help="what a test is whose question cannot be decided here (default: error)",
    )
    group.addoption(
        "--pmaps-budget",
        dest="pmaps_budget",
        metavar="BUDGET",
        action="append",
        default=None,
        help="hold each test against it: 'anonymous growth <= 2 MiB'; may be given several times; "
        "one that begins with @ only as --pmaps-budget=@...",
    )
    group.addoption(
        "--pmaps-baseline",
        dest="pmaps_baseline",
        metavar="FILE",
        default=None,
        help="what budgets mean by baseline: a file to commit",
    )
    group.addoption(
        "--pmaps-update",
        dest="pmaps_update",
        action="store_true",
        default=None,
        help="record what passing tests hold now as their baseline",
    )
    group.addoption(
        "--pmaps-missing",
        dest="pmaps_missing",
        choices=MISSING,
        default=None,
        help="what becomes of a budget without a baseline (default: auto: fail on CI, which is "
        "where CI or BUILD_NUMBER is set and not empty, else record it)",
    )
    parser.addini("pmaps_report", "as --pmaps-report", type="bool", default=None)
    parser.addini(
        "pmaps_report_dir",
        "as --pmaps-report-dir, relative to this file",
        type="string",
        default=None,
    )
    parser.addini("pmaps_undetermined", "as --pmaps-undetermined", type="string", default=None)
    parser.addini("pmaps_budgets", "as --pmaps-budget, one a line", type="linelist", default=None)
    parser.addini(
        "pmaps_baseline",
        "as --pmaps-baseline, relative to this file",
        type="string",
        default=None,
    )
    parser.addini("pmaps_update", "as --pmaps-update", type="bool", default=None)
    parser.addini("pmaps_missing", "as --pmaps-missing", type="string", default=None)


def read(config: pytest.Config) -> Settings:
    """What holds for this session; UsageError for what cannot be meant."""
    asked = {
        name: _asked(config, name)
        for name in ("pmaps_report", "pmaps_undetermined", "pmaps_update", "pmaps_missing")
    }
    folder = _path(config, "pmaps_report_dir")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise pytest.UsageError(f"pmaps_report_dir: {folder} is no folder")
    baseline = _path(config, "pmaps_baseline")
    if baseline is not None and baseline.is_dir():
        raise pytest.UsageError(f"pmaps_baseline: {baseline} is a folder, and no file")
    if asked["pmaps_update"]:
        _check_update(baseline)
    budgets = _budgets(config, baseline)
    rest = (folder, baseline, budgets or None, *asked.values())
    return Settings(
        report=bool(asked["pmaps_report"]),
        report_dir=folder,
        undetermined=_choice(asked, "pmaps_undetermined", UNDETERMINED),
        budgets=budgets,
        baseline=baseline,
        update=bool(asked["pmaps_update"]),
        missing=_missing(_choice(asked, "pmaps_missing", MISSING)),
        given=any(value is not None for value in rest),
    )


def _check_update(baseline: Path | None) -> None:
    """Not only after all tests ran; nothing else is known to be written."""
    from ..replacing import check_replaceable

    if baseline is None:
        raise pytest.UsageError("pmaps_update: there is no file to update: --pmaps-baseline FILE")
    try:
        check_replaceable(baseline)
    except OSError as exc:
        raise pytest.UsageError(f"pmaps_baseline: {exc}") from None


def _choice(asked: dict[str, Any], name: str, choices: tuple[str, ...]) -> str:
    chosen = asked[name] or choices[0]
    if chosen not in choices:
        raise pytest.UsageError(f"{name} is {' or '.join(choices)}, not {chosen!r}")
    return str(chosen)


def _missing(chosen: str) -> str:
    if chosen != "auto":
        return chosen
    # pytest's own rule of what CI is.
    return "fail" if any(map(os.environ.get, ("CI", "BUILD_NUMBER"))) else "record"


def _budgets(
    config: pytest.Config, baseline: Path | None
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Those of the ini file and of the command line, each of which can be read."""
    layers = (
        ("ini", "pmaps_budgets", _ini(config, "pmaps_budgets")),
        ("command line", "--pmaps-budget", config.getoption("pmaps_budget")),
    )
    found = [(origin, name, tuple(texts)) for origin, name, texts in layers if texts]
    for _, name, texts in found:
        for text in texts:
            if wrong := what_is_wrong(text, baseline):
                raise pytest.UsageError(f"{name}: {wrong}")
    return tuple((origin, texts) for origin, _, texts in found)


def what_is_wrong(text: object, baseline: Path | None) -> str:
    """What keeps a budget from being used; ``""`` where nothing does."""
    from ..budget import parse_budget
    from ..errors import BudgetError

    try:
        budget = parse_budget(text)  # type: ignore[arg-type]  # which it checks
    except (BudgetError, TypeError) as exc:
        return str(exc)
    if budget.limit.baseline and baseline is None:
        return f"{budget}: there is no baseline: --pmaps-baseline FILE, or ini pmaps_baseline"
    return ""


def _asked(config: pytest.Config, name: str) -> Any:
    given = config.getoption(name)
    return _ini(config, name) if given is None else given


def _ini(config: pytest.Config, name: str) -> Any:
    try:
        return config.getini(name)
    except (ValueError, pytest.UsageError) as exc:
        raise pytest.UsageError(f"{name}: {exc}") from None


def _path(config: pytest.Config, name: str) -> Path | None:
    """A path: relative to where pytest was called, or to the ini file."""
    # A worker may start in another folder than the session it belongs to.
    told = getattr(config, "workerinput", {}).get(name)
    given = told or config.getoption(name)
    folder = config.invocation_params.dir
    if given is None:
        given = _ini(config, name)
        folder = config.inipath.parent if config.inipath else config.rootpath
    return folder / str(given) if given else None
