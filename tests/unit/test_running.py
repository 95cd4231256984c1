"""Parts of a run that need no program."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_pmaps import AccessDenied, Count, Moment, Moments, NoSuchMoment, Run, Runs, run
from pytest_pmaps.checkpoints import include_dir
from pytest_pmaps.launching import Command, check_privilege, pinned
from pytest_pmaps.moments import Peak, returncode_of


def a_run(count: Count) -> Run:
    """With one metric, whatever it is called."""
    snapshot = cast(Any, SimpleNamespace(metric=lambda name: count))
    moment = Moment(1, "exit", 0.0, snapshot)
    at = Moments([moment])
    return Run(["tool"], 1, 0, None, None, at, (moment,), (), peak_rss=count)


def test_spread_of_intervals():
    """The k-th of them lies between the k-th lower and the k-th upper ends."""
    counts = [Count(lo, hi, unit="bytes") for lo, hi in ((8, 20), (10, 12), (0, 30), (9, 9))]
    runs = Runs([a_run(count) for count in counts])
    spread = runs.spread("rss")
    assert [c.bounds for c in spread] == [(0, 9), (8, 12), (10, 30)]
    assert runs.median("rss").bounds == (8, 12)
    assert spread.width.bounds == (1, 30)
    assert runs.spread("peak_rss").max.bounds == (10, 30)
    assert len(runs) == len(list(runs)) == len(runs[:4]) == 4


def test_spread_without_an_end():
    """One that has no upper end gives none to the largest, and the smallest keeps its own."""
    runs = Runs([a_run(Count(5, None, unit="bytes")), a_run(Count(7, 8, unit="bytes"))])
    assert [c.bounds for c in runs.spread("rss")] == [(5, 8), (5, 8), (7, None)]


def test_a_moment_that_was_missed_hides_none_before_it():
    """The last by a name counts, and says why it is not there."""
    snapshot = cast(Any, object())
    taken, missed = Moment(1, "x", 0.1, snapshot), Moment(1, "x", 0.2, None, "it rained")
    assert Moments([missed, taken])["x"] is snapshot
    at = Moments([taken, missed])
    with pytest.raises(NoSuchMoment, match=r"^no snapshot at 'x': it rained$"):
        _ = at["x"]
    assert "x" not in at
    assert at.get("x") is None
    with pytest.raises(NoSuchMoment, match="'y' was asked for or reached; there are: none"):
        _ = at["y"]


def test_a_peak_is_an_interval():
    """Not below what was seen; without an upper end unless it was the end."""
    peak = Peak()
    assert peak.count("").bytes.bounds == (0, None)
    peak.look("VmHWM:\t  10240 kB\nThreads:\t1\n", final=True)
    low, high = peak.count("").bytes.bounds
    assert low is not None
    assert high is not None
    assert low < 10240 << 10 < high
    assert (10240 << 10) - low == high - (10240 << 10)
    peak.least = 10239 << 10
    assert peak.count("").bytes.bounds == (10239 << 10, high)
    peak.look("VmHWM:\t  10240 kB\nThreads:\t1\n", final=False)
    assert peak.count("why").bytes.bounds[1] is None
    peak.look("", final=True)  # it has no memory any more
    assert peak.count("why").bytes.bounds[1] is None


@pytest.mark.parametrize(("status", "code"), [(0, 0), (0x700, 7), (9, -9), (0x8B, -11)])
def test_wait_statuses(status: int, code: int):
    """As subprocess has them."""
    assert returncode_of(status) == code


def test_pins_come_on_top():
    """What is set already stays, and what is asked for wins."""
    assert pinned({"A": "b"}, False) == {}
    env = {"GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.mem.decorate_maps=0"}
    pins = pinned(env, {"PYTHONHASHSEED": "7"})
    assert pins["GLIBC_TUNABLES"] == env["GLIBC_TUNABLES"]
    assert pins["PYTHONHASHSEED"] == "7"
    assert pinned({b"GLIBC_TUNABLES": b"a=1"}, True)["GLIBC_TUNABLES"] == (
        "a=1:glibc.mem.decorate_maps=1"
    )


def test_commands():
    """As subprocess understands them."""
    assert Command.of("tool", False, None, {"PATH": "/a:b"}).candidates == [b"/a/tool", b"b/tool"]
    assert Command.of(["./x", "y"], False, None, None).candidates == [b"./x"]
    assert Command.of("x | y", True, None, None).argv == ["/bin/sh", "-c", "x | y"]
    other = Command.of(["name", "y"], False, Path("/bin/tool"), None)
    assert (other.argv, other.candidates) == (["name", "y"], [b"/bin/tool"])
    with pytest.raises(ValueError, match="args is empty"):
        Command.of([], False, None, None)


def test_privilege(tmp_path: Path):
    """Of the program that would be executed, where it would be found."""
    program = tmp_path / "tool"
    program.write_text("")
    program.chmod(0o4755)
    command = Command.of("./tool", False, None, None)
    with pytest.raises(AccessDenied, match=r"\./tool is a setuid program"):
        check_privilege(command, tmp_path, may_trace_all=False)
    check_privilege(command, tmp_path, may_trace_all=True)
    program.chmod(0o2755)
    with pytest.raises(AccessDenied, match="setgid"):
        check_privilege(command, tmp_path, may_trace_all=False)
    program.chmod(0o755)
    check_privilege(command, tmp_path, may_trace_all=False)


def test_privilege_of_a_script(tmp_path: Path):
    """It is that of the interpreter of its interpreter, if that is a script too; its own counts
    for nothing.
    """
    tool, inner, outer = tmp_path / "tool", tmp_path / "inner", tmp_path / "outer"
    tool.write_bytes(b"\x7fELF")
    inner.write_text(f"#! \t{tool} -x y\n")
    outer.write_text("#!inner")  # from the folder that it is run in
    for path in (tool, inner, outer):
        path.chmod(0o755)
    for script in (inner, outer):
        check_privilege(Command.of([script], False, None, None), tmp_path, may_trace_all=False)
        script.chmod(0o4755)
        check_privilege(Command.of([script], False, None, None), tmp_path, may_trace_all=False)
    tool.chmod(0o4755)
    for script in (inner, outer):
        with pytest.raises(AccessDenied, match=f"{script} is run by {tool}, which is a setuid"):
            check_privilege(Command.of([script], False, None, None), tmp_path, may_trace_all=False)
    outer.chmod(0o755)
    inner.write_text("#!outer\n")  # for ever, which the kernel refuses
    check_privilege(Command.of([inner], False, None, None), tmp_path, may_trace_all=False)


def test_the_header_is_where_it_is_said_to_be():
    """For a compiler's -I."""
    assert os.listdir(include_dir()) == ["pmaps_checkpoint.h"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"at": (1,)}, "^at is names of moments, and 1 is none$"),
        ({"pin": ["a"]}, r"^pin is True, or a mapping of variables to set, not \['a'\]$"),
        ({"every": "1"}, "^every is a number of seconds, not '1'$"),
    ],
)
def test_options_of_a_wrong_type(options: Any, says: str):
    """Are refused in one line, before anything is started."""
    with pytest.raises(TypeError, match=says):
        run(["/no/such/program"], **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"every": 0}, "every=0"),
        ({"every": float("nan")}, "every=nan"),
        ({"every": float("inf")}, "every=inf"),
        ({"repeat": 0}, "repeat=0"),
        ({"trace": False, "at": "exit"}, "no moment 'exit'"),
        ({"trace": False, "follow": True}, "not with trace=False"),
        ({"capture_output": True, "stdout": -1}, "capture_output"),
        ({"input": b"", "stdin": -1}, "input"),
        ({"depth": "deep"}, "no depth"),
    ],
)
def test_options_that_make_no_sense(options: Any, says: str):
    """Are refused before anything is started."""
    with pytest.raises(ValueError, match=says):
        run(["/no/such/program"], **options)
