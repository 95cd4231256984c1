"""Command line and ini options; the command line wins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing import Any

__all__ = ["UNDETERMINED", "Settings", "declare", "read"]

#: What becomes of a test whose question is undetermined.
UNDETERMINED = ("error", "skip")


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for; ``given``: whether anything was."""

    report: bool
    report_dir: Path | None
    undetermined: str
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
    parser.addini("pmaps_report", "as --pmaps-report", type="bool", default=None)
    parser.addini(
        "pmaps_report_dir",
        "as --pmaps-report-dir, relative to this file",
        type="string",
        default=None,
    )
    parser.addini("pmaps_undetermined", "as --pmaps-undetermined", type="string", default=None)


def read(config: pytest.Config) -> Settings:
    """What holds for this session; UsageError for what cannot be meant."""
    asked = {name: _asked(config, name) for name in ("pmaps_report", "pmaps_undetermined")}
    undetermined = asked["pmaps_undetermined"] or UNDETERMINED[0]
    if undetermined not in UNDETERMINED:
        raise pytest.UsageError(
            f"pmaps_undetermined is {' or '.join(UNDETERMINED)}, not {undetermined!r}"
        )
    folder = _report_dir(config)
    return Settings(
        report=bool(asked["pmaps_report"]),
        report_dir=folder,
        undetermined=undetermined,
        given=folder is not None or any(value is not None for value in asked.values()),
    )


def _asked(config: pytest.Config, name: str) -> Any:
    given = config.getoption(name)
    return _ini(config, name) if given is None else given


def _ini(config: pytest.Config, name: str) -> Any:
    try:
        return config.getini(name)
    except (ValueError, pytest.UsageError) as exc:
        raise pytest.UsageError(f"{name}: {exc}") from None


def _report_dir(config: pytest.Config) -> Path | None:
    # A worker may start in another folder than the session it belongs to.
    told = getattr(config, "workerinput", {}).get("pmaps_report_dir")
    given = told or config.getoption("pmaps_report_dir")
    folder = config.invocation_params.dir
    if given is None:
        given = _ini(config, "pmaps_report_dir")
        folder = config.inipath.parent if config.inipath else config.rootpath
    if not given:
        return None
    path = folder / str(given)
    if path.exists() and not path.is_dir():
        raise pytest.UsageError(f"pmaps_report_dir: {path} is no folder")
    return path
