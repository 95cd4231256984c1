"""Every kind of target, and every kind that cannot be looked at."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from oracle import targets
from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import AccessDenied, PmapsError, ProcessGone, Snapshot, load, save, snapshot
from pytest_pmaps.cli import main


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process of our own that sleeps."""
    with subprocess.Popen(["sleep", "60"]) as process:
        # Until exec, it is a copy of us.
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            time.sleep(0.001)
        yield process
        process.kill()


def test_popen_pid_and_psutil_are_one(child: subprocess.Popen[bytes]):
    """The same process, however it is given."""
    taken = [snapshot(t) for t in (child, child.pid, psutil.Process(child.pid))]
    assert {s.pid for s in taken} == {child.pid}
    assert {s.comm for s in taken} == {"sleep"}


def test_psutil_knows_another_process(monkeypatch: pytest.MonkeyPatch):
    """Whose pid is another's by now is not read.  That is told by the start time, which pids that
    are used again differ in; here psutil is made to remember another one.
    """
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            target = psutil.Process(process.pid)
            assert snapshot(target).pid == process.pid
            monkeypatch.setattr(target, "_ident", (process.pid, 1.0))
            with pytest.raises(ProcessGone, match="has exited"):
                snapshot(target)
        finally:
            process.kill()


def test_multiprocessing(monkeypatch: pytest.MonkeyPatch):
    """A Process that runs; one that has not been started says so."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=time.sleep, args=(60,))
    with pytest.raises(ProcessGone, match="has not been started"):
        snapshot(process)
    process.start()
    try:
        assert snapshot(process).pid == process.pid
    finally:
        process.kill()
        process.join()
    with pytest.raises(ProcessGone, match="has exited and been waited for"):
        snapshot(process)


def test_asyncio():
    """asyncio's process too."""

    async def run() -> Snapshot:
        process = await asyncio.create_subprocess_exec("sleep", "60")
        try:
            return snapshot(process)
        finally:
            process.kill()
            await process.wait()

    assert asyncio.run(run()).pid > 0


@pytest.mark.parametrize("target", ["1", 1.5, True, object(), b"1"])
def test_what_is_no_target(target: object):
    """TypeError naming what is accepted."""
    with pytest.raises(TypeError, match="a target is a pid"):
        snapshot(target)


def test_waited_for(child: subprocess.Popen[bytes]):
    """A Popen that was waited for has no process any more, whoever has its pid now."""
    child.kill()
    child.wait()
    with pytest.raises(ProcessGone, match="has exited and been waited for"):
        snapshot(child)


def run_pmaps(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    """The command line in this process: exit code, and what it says on stderr."""
    try:
        code = main([str(a) for a in args])
    except SystemExit as exc:
        code = int(exc.code or 0)
    return code, capsys.readouterr().err


def zombie() -> int:
    """A child that has exited and is not waited for."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.001)
    return pid


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (0, "no process has pid 0"),
        (2, "kernel thread"),
        (4_000_000, "does not exist, has exited"),
        (1 << 40, "no process has pid"),
        ("word", "neither a pid nor a saved map"),
    ],
)
def test_cli_says_it_in_one_line(capsys: pytest.CaptureFixture[str], target: object, says: str):
    """Exit code 2, one line, no traceback."""
    code, error = run_pmaps(capsys, "show", target)
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("pmaps: ")
    assert says in error


def test_cli_on_a_zombie(capsys: pytest.CaptureFixture[str]):
    """Exited, not reaped: it has no memory, and that is said."""
    pid = zombie()
    try:
        code, error = run_pmaps(capsys, "show", pid)
    finally:
        os.waitpid(pid, 0)
    assert (code, error.count("\n")) == (2, 1)
    assert "zombie" in error


def test_another_users_process(child: subprocess.Popen[bytes]):
    """nobody may not look at root's process: one line, exit code 2."""
    python = unprivileged_python()
    code = "from pytest_pmaps.cli import main; raise SystemExit(main())"
    command = [*as_nobody(), python, "-P", "-c", code, "show", str(child.pid)]
    run = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "may not be read" in run.stderr


def test_undumpable_self():
    """A process that made itself undumpable may not look at itself: unknown, not zero."""
    python = unprivileged_python()
    code = (
        "import ctypes, pytest_pmaps as p\n"
        "ctypes.CDLL(None).prctl(4, 0)\n"
        "try: p.snapshot()\n"
        "except p.AccessDenied as exc: print('denied', exc)\n"
    )
    command = [*as_nobody(), python, "-P", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert run.stdout.startswith("denied this process"), run.stderr


def test_exit_during_capture():
    """A target that exits while it is captured, again and again: a snapshot or a clear error."""
    command = [sys.executable, "-S", "-c", "pass"]
    began = time.monotonic()
    subprocess.run(command, check=True)
    life = time.monotonic() - began
    outcomes = set()
    for i in range(60):
        with subprocess.Popen(command) as process:
            time.sleep(life * i / 40)
            try:
                outcomes.add(snapshot(process.pid).verdict.complete)
            except ProcessGone:
                outcomes.add("gone")
    assert outcomes <= {True, "gone"}
    assert "gone" in outcomes


def snapshot_of_one_program(process: object) -> Snapshot | None:
    """A snapshot, or None where the target would not stop replacing its program."""
    try:
        return snapshot(process)
    except ProcessGone as exc:
        if "exec" not in str(exc):
            raise
        return None


def test_exec_during_capture():
    """A target that replaces its program over and over: each capture is of one program."""
    loop = 'n=$1; [ "$n" -gt 0 ] && exec "$0" -c "$2" "$0" $((n - 1)) "$2"; sleep 60'
    with subprocess.Popen(["sh", "-c", loop, "sh", "2000", loop]) as process:
        try:
            for _ in range(50):
                snap = snapshot_of_one_program(process)
                starts = [m.start for m in snap.mappings] if snap else []
                assert starts == sorted(starts)
        finally:
            process.kill()


def test_forked_child_reads_what_its_parent_captured():
    """A snapshot taken before fork stays readable in the child, and does not show in it."""
    before = snapshot()
    rss = int(before.rss)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"y" if int(before.metric("rss")) == rss else b"n")
        time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reader, 1) == b"y"
        child = snapshot(pid)
        blocks = [m for m in child.mappings if "dd" in m.vmflags and not m.path]
        assert blocks == []
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_saved_snapshots_say_the_same(tmp_path: Path, zoo: Path, public: Path):
    """JSON holds everything: every metric of a loaded snapshot equals the original's."""
    with targets.running(zoo, "anon", public) as (pid, _):
        snap = snapshot(pid)
    save(snap, tmp_path / "snap.json")
    loaded = load(tmp_path / "snap.json")
    assert loaded.to_plain() == snap.to_plain()
    for name in ("rss", "pss", "dirty", "anonymous", "referenced", "private_dirty"):
        assert str(loaded.metric(name)) == str(snap.metric(name))


def test_errors_are_one_family():
    """One root to catch, and Python's own classes where they fit."""
    assert issubclass(AccessDenied, (PmapsError, PermissionError))
    assert issubclass(ProcessGone, (PmapsError, ProcessLookupError))
