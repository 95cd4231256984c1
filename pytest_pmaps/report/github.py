"""Workflow commands, which GitHub shows beside the lines of a change."""

from __future__ import annotations

from collections.abc import Iterator

from ..select import printable
from .runfile import RunFile, Test
from .summary import finals, trouble

__all__ = ["commands"]

_LEVELS = {"footprint": "error", "undetermined": "warning"}
_TITLES = {"footprint": "Memory footprint", "undetermined": "Memory footprint undetermined"}


def commands(run: RunFile, folder: str = "") -> Iterator[str]:
    """A command for each failure and each budget that did not pass, the last attempts' only.

    ``folder`` is where pytest's root lies in the repository.
    """
    for test in finals(run["tests"]):
        for found in trouble(test):
            failed = test["outcome"] in ("failed", "error")
            level = "error" if failed else _LEVELS[found.kind]
            title = f"{_TITLES[found.kind]}: {_name(test['nodeid'])}"
            yield _command(level, {**_place(test, folder), "title": title}, found.text)


def _name(nodeid: str) -> str:
    """The function and its parameters, which may hold anything."""
    file, _, names = nodeid.partition("::")
    function, bracket, parameters = (names or file).partition("[")
    return function.rpartition("::")[2] + bracket + parameters


def _place(test: Test, folder: str) -> dict[str, str]:
    # The first version had no places, but node ids begin with a file.
    file = test["file"] or test["nodeid"].partition("::")[0]
    place = {"file": f"{folder.rstrip('/')}/{file}" if folder else file}
    return place if test["line"] is None else place | {"line": str(test["line"])}


def _command(level: str, properties: dict[str, str], message: str) -> str:
    told = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    first = message.partition("\n")[0]
    return f"::{level} {told}::{_data(first)}"


def _data(text: str) -> str:
    for sign in "%\r\n":
        text = text.replace(sign, f"%{ord(sign):02X}")
    return printable(text)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
