"""run(): programs that end in every way there is, captured on the way, and nothing else changed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import pytest_pmaps
from oracle import targets
from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import Depth, NoSuchMoment, PmapsError, Run, run

PATIENCE = 120.0  # for what takes milliseconds where nothing is emulated
BALLAST = 3 << 20  # that finisher touches
MIB = 1 << 20
FINISHER_FLAGS = ("-pthread", "-I", pytest_pmaps.include_dir())


@pytest.fixture(scope="session", params=["dynamic", "static"])
def finisher(public: Path, request: pytest.FixtureRequest) -> Path:
    """The program that ends as it is told to."""
    flags = [*FINISHER_FLAGS, *(["-static"] if request.param == "static" else [])]
    try:
        return targets.build("finisher", public, flags=flags, output=f"finisher-{request.param}")
    except subprocess.CalledProcessError:
        if request.param == "dynamic":
            raise
        pytest.skip("needs a static libc, to link a static program")


@pytest.fixture(scope="session")
def dynamic(public: Path) -> Path:
    """It, as most programs are."""
    return targets.build("finisher", public, flags=FINISHER_FLAGS, output="finisher-dynamic")


@pytest.fixture(scope="session", autouse=True)
def warm() -> None:
    """What the engine keeps open for good it opens at its first capture."""
    run(["true"])


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No descriptor, no child, no thread, no folder of a socket."""
    folder = Path(tempfile.gettempdir())
    before = (descriptors(), set(folder.glob("pmaps-*")))
    children = set(children_of(os.getpid()))
    threads = len(os.listdir("/proc/self/task"))
    yield
    assert descriptors() == before[0]
    assert set(children_of(os.getpid())) <= children
    assert eventually(lambda: len(os.listdir("/proc/self/task")) <= threads)
    assert {path for path in set(folder.glob("pmaps-*")) - before[1] if is_mine(path)} == set()


def is_mine(path: Path) -> bool:
    """Others may run at the same time."""
    return path.exists() and path.stat().st_uid == os.geteuid() and not list(path.iterdir())


def descriptors() -> int:
    """How many are open."""
    return len(os.listdir("/proc/self/fd"))


def stat_of(pid: int) -> list[str]:
    """Fields of stat from the state on."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def children_of(pid: int) -> list[int]:
    """Living ones and zombies."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [each for each in pids if stat_of(each)[1:2] == [str(pid)]]


def eventually(happens: Callable[[], object]) -> bool:
    """Whether something happens in time."""
    deadline = time.monotonic() + PATIENCE
    while not happens():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def is_whole(result: Run) -> None:
    """Its memory was there at its end, all of it, and stood still."""
    snapshot = result.at["exit"]
    assert snapshot.verdict.complete
    assert not snapshot.verdict.raced
    assert snapshot.stopped_ns > 0
    assert snapshot.pid == result.pid
    assert snapshot.anonymous >= BALLAST // snapshot.page_size
    assert snapshot.anonymous <= (BALLAST + MIB) // snapshot.page_size
    assert result.peak_rss >= BALLAST // snapshot.page_size


# ---- every end


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize(
    ("way", "status"),
    [
        (["exit", "7"], 7),
        (["_exit", "8"], 8),
        (["sys_exit", "9"], 9),
        (["kill", "9"], -signal.SIGKILL),
        (["kill", "15"], -signal.SIGTERM),
        (["abort"], -signal.SIGABRT),
        (["segv"], -signal.SIGSEGV),
        (["thread", "11"], 11),
        (["headless", "12"], 12),
        (["threads", "200"], 0),
        (["vfork", "/bin/false"], 1),
        (["grandchildren", "20"], 0),
    ],
    ids=lambda value: "-".join(value).replace("/", "") if isinstance(value, list) else "",
)
def test_every_end_is_seen(finisher: Path, way: list[str], status: int, follow: bool):
    """At exec there is next to nothing yet, at exit all of it; the status is the program's."""
    result = run([finisher, *way], timeout=PATIENCE, follow=follow)
    assert result.returncode == status
    assert result.at["exec"].rss <= "128 KiB"
    is_whole(result)
    assert result.notes == ()


def test_the_last_thread_ends_a_process_whose_first_is_gone(finisher: Path):
    """Without exit_group: each thread ends alone, and only the last one takes the memory along."""
    result = run([finisher, "leaderless", "0"], timeout=PATIENCE)
    assert result.returncode == 0
    is_whole(result)
    assert result.at["exit"].columns.start_time == result.at["exec"].columns.start_time


def test_the_first_thread_is_killed_on_its_way_out(dynamic: Path):
    """By exit_group: the kernel tells of its death when all others are gone, who are held."""
    for _ in range(40):
        result = run([dynamic, "parting", "9"], timeout=PATIENCE)
        assert (result.returncode, result.notes) == (9, ())
        is_whole(result)
        assert result.moments[-1].seconds < 0.9


@pytest.mark.parametrize("follow", [False, True])
def test_threads_that_end_once_they_have_made_the_next(dynamic: Path, follow: bool):
    """None but the last is taken for the last, even if its successor has not been met yet."""
    for _ in range(20):
        result = run([dynamic, "relay", "40", "13"], timeout=PATIENCE, follow=follow)
        assert (result.returncode, result.children, result.notes) == (13, (), ())
        assert [m.name for m in result.moments] == ["exec", "exit"]
        assert result.at["exit"].anonymous >= 2 * BALLAST // 4096
        result = run([dynamic, "relay", "40", "/bin/true"], timeout=PATIENCE, follow=follow)
        assert (result.returncode, result.children, result.notes) == (0, (), ())
        assert [m.name for m in result.moments] == ["exec", "exec", "exit"]
        assert result.at["exit"].comm == "true"


@pytest.mark.parametrize("way", ["exec", "exec_thread"])
def test_another_program(finisher: Path, way: str):
    """Two moments "exec", the last by that name; what ends is the other program."""
    result = run([finisher, way, "/bin/true"], timeout=PATIENCE)
    assert result.returncode == 0
    assert [m.name for m in result.moments] == ["exec", "exec", "exit"]
    assert result.at["exit"].comm == "true"
    assert result.at["exit"].anonymous <= "1 MiB"
    assert result.peak_rss < BALLAST // 4096


def test_at_exec_nothing_has_run(dynamic: Path):
    """Not even the loader: no library is mapped."""
    result = run([dynamic, "exit", "0"], at=["exec", "exit"], timeout=PATIENCE)
    with pytest.raises(pytest_pmaps.NoSuchMapping):
        _ = result.at["exec"]["libc"]
    assert result.at["exit"]["libc"].rss > 0


@pytest.mark.parametrize("follow", [False, True])
def test_a_daemon_goes_on(dynamic: Path, follow: bool):
    """The run is over when the program is; who outlives it is let go."""
    seconds = 30 if follow else 0  # it is ended here, where its pid is known
    result = run([dynamic, "daemon", f"{seconds}000"], timeout=PATIENCE, follow=follow)
    assert result.returncode == 3
    is_whole(result)
    if follow:
        middle, daemon = result.children
        assert (middle.returncode, daemon.returncode) == (0, None)
        assert daemon.ppid in (middle.pid, 1)  # which may have ended before it was first seen
        with pytest.raises(NoSuchMoment, match="ran on"):
            _ = daemon.at["exit"]
        assert stat_of(daemon.pid)[:1] == ["S"]
        assert "TracerPid:\t0" in Path(f"/proc/{daemon.pid}/status").read_text()
        os.kill(daemon.pid, signal.SIGTERM)
        assert eventually(lambda: stat_of(daemon.pid)[:1] in ([], ["Z"]))


def test_a_child_that_outlives_its_parent(dynamic: Path):
    """And holds the pipe: as with subprocess, the run is over when that closes."""
    result = run([dynamic, "child", "50"], timeout=PATIENCE, follow=True, stdout=subprocess.PIPE)
    (child,) = result.children
    assert result.returncode == 4
    assert int(result.stdout) == child.pid
    assert child.returncode == 0
    assert child.at["exit"].anonymous >= BALLAST // 4096


def test_two_hundred_grandchildren(dynamic: Path):
    """Each is there, with its end and its memory; the parent sees no difference."""
    result = run([dynamic, "grandchildren", "200"], timeout=PATIENCE, follow=True, depth="mappings")
    assert result.returncode == 0
    assert [child.returncode for child in result.children] == [i & 0x7F for i in range(200)]
    assert {child.ppid for child in result.children} == {result.pid}
    assert all(child.at["exit"].verdict.complete for child in result.children)
    assert len({child.pid for child in result.children}) == 200


def test_a_child_by_vfork(dynamic: Path):
    """It has its parent's memory until it has a program of its own."""
    result = run([dynamic, "vfork", "/bin/false"], timeout=PATIENCE, follow=True)
    (child,) = result.children
    assert (child.returncode, child.args) == (1, ("/bin/false",))
    assert child.at["exit"].anonymous <= "1 MiB"
    result = run([dynamic, "vfork", "/no/such/program"], timeout=PATIENCE, follow=True)
    (child,) = result.children
    assert (result.returncode, child.returncode) == (126, 126)
    with pytest.raises(NoSuchMoment, match=f"memory of process {result.pid}"):
        _ = child.at["exit"]


# ---- as with subprocess


def test_timeout(dynamic: Path):
    """The program is killed, seen at its end all the same, and the exception has the run."""
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run([dynamic, "sleep"], timeout=0.3)
    result = caught.value.run  # type: ignore[attr-defined]  # ours
    assert result.returncode == -signal.SIGKILL
    assert str(dynamic) in str(caught.value)
    is_whole(result)


def test_check(dynamic: Path):
    """Raises for what is not 0, and the exception has the run."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run([dynamic, "exit", "3"], check=True)
    assert caught.value.returncode == 3
    is_whole(caught.value.run)  # type: ignore[attr-defined]  # ours


@pytest.mark.parametrize(
    "args",
    [["no-such-program"], ["/no/such/program"], ["/etc/passwd"], ["/"], ["true", "x" * (1 << 18)]],
    ids=["path", "absolute", "mode", "folder", "long"],
)
@pytest.mark.parametrize("trace", [True, False])
def test_what_cannot_be_executed(args: list[str], trace: bool):
    """The same exception as subprocess raises."""
    with pytest.raises(OSError) as theirs:
        subprocess.run(args)
    with pytest.raises(OSError) as ours:
        run(args, trace=trace)
    assert type(ours.value) is type(theirs.value)
    assert str(ours.value) == str(theirs.value)


def test_no_such_folder(tmp_path: Path):
    """It is the folder that is named."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(["true"], cwd=tmp_path / "nowhere")


def test_the_program_sees_what_subprocess_gives_it(tmp_path: Path):
    """Descriptors, environment, folder, session, signals, limits, name: nothing of ours."""
    code = (
        "import os, sys, signal, resource; print(sorted(os.listdir('/proc/self/fd')),"
        "os.getcwd(), os.getsid(0) == os.getpid(), os.environ.get('X'), sys.stdin.read(),"
        "signal.getsignal(signal.SIGPIPE), signal.pthread_sigmask(0, []), os.umask(0),"
        "os.getppid(), resource.getrlimit(resource.RLIMIT_NOFILE),"
        "open('/proc/self/cmdline').read(), open('/proc/self/comm').read(),"
        "'LD_PRELOAD' in os.environ, os.getpgid(0) == os.getpid())"
    )
    args = [sys.executable, "-S", "-c", code]
    options = {"cwd": tmp_path, "start_new_session": True, "umask": 0o27, "text": True}
    env = {"X": "y", "LD_PRELOAD": ""}
    theirs = subprocess.run(args, input="in", capture_output=True, env=env, **options)
    ours = run(args, input="in", capture_output=True, env=env, **options)
    assert ours.stderr == theirs.stderr == ""
    assert ours.stdout == theirs.stdout


def test_an_environment_of_bytes():
    """What is set on top of it replaces what is there, by whatever type of name."""
    env = {b"PYTHONHASHSEED": b"1", b"PMAPS_CHECKPOINT": b"/another/run's", b"X": b"\xff"}
    pins = {"PYTHONHASHSEED": "7"}
    result = run(["/usr/bin/env", "-0"], env=env, pin=pins, stdout=subprocess.PIPE)
    names = [line.partition(b"=")[0] for line in result.stdout.split(b"\0")]
    assert sorted(set(names)) == sorted(names)
    assert b"\0PYTHONHASHSEED=7\0" in b"\0" + result.stdout
    assert b"another" not in result.stdout
    assert b"X=\xff\0" in result.stdout


def test_descriptors_that_are_passed_on(tmp_path: Path):
    """Those, and no other."""
    with (tmp_path / "file").open("w") as file:
        code = f"import os; os.write({file.fileno()}, b'x'); print(*os.listdir('/proc/self/fd'))"
        args = [sys.executable, "-S", "-c", code]
        fds = [file.fileno()]
        theirs = subprocess.run(args, pass_fds=fds, stdout=subprocess.PIPE).stdout
        assert run(args, pass_fds=fds, stdout=subprocess.PIPE).stdout == theirs
    assert (tmp_path / "file").read_text() == "xx"


def test_shell():
    """A command line, with its children."""
    result = run("exit $(expr 40 + 2)", shell=True, follow=True)
    assert result.returncode == 42
    assert any("expr" in child.args[0] for child in result.children)


def test_signals_are_delivered(dynamic: Path):
    """While it is followed: its handler runs, and its read goes on."""
    told, to_tell = os.pipe()
    from_it, to_us = os.pipe()

    def talk() -> None:
        os.read(from_it, 6)
        (pid,) = (each for each in children_of(os.getpid()) if "finisher" in comm(each))
        for _ in range(50):
            os.kill(pid, signal.SIGUSR1)
            os.kill(pid, signal.SIGWINCH)  # which is ignored
        time.sleep(0.05)
        os.write(to_tell, b"x")

    talking = threading.Thread(target=talk)
    talking.start()
    result = run([dynamic, "signals"], stdin=told, stdout=to_us, timeout=PATIENCE)
    talking.join()
    for fd in (told, to_tell, from_it, to_us):
        os.close(fd)
    assert result.returncode == 0
    is_whole(result)


def comm(pid: int) -> str:
    """A process's name."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""


def test_job_control(dynamic: Path):
    """It stops itself, stays stopped, is seen so by waitid(), and goes on with SIGCONT."""
    states: list[object] = []

    def carry_on() -> None:
        assert eventually(lambda: [p for p in children_of(os.getpid()) if "finisher" in comm(p)])
        (pid,) = (p for p in children_of(os.getpid()) if "finisher" in comm(p))
        found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        states.append(found and found.si_status)
        time.sleep(0.1)
        states.append(stops(pid))
        os.kill(pid, signal.SIGCONT)

    carrying = threading.Thread(target=carry_on)
    carrying.start()
    result = run([dynamic, "stop"], timeout=PATIENCE)
    carrying.join()
    assert states == [signal.SIGSTOP, True]
    assert result.returncode == 6
    is_whole(result)


def stops(pid: int) -> bool:
    """Whether it is a finisher that stands."""
    return "finisher" in comm(pid) and stat_of(pid)[:1] in (["T"], ["t"])


def test_killed_at_exec(dynamic: Path):
    """While it is held: there is no snapshot then, or there is one, and the end is seen."""
    for _ in range(20):
        done = threading.Event()

        def kill(done: threading.Event = done) -> None:
            while not done.is_set():
                for pid in children_of(os.getpid()):
                    if "finisher" in comm(pid):
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                        return

        killing = threading.Thread(target=kill)
        killing.start()
        result = run([dynamic, "sleep"], timeout=PATIENCE)
        done.set()
        killing.join()
        assert result.returncode == -signal.SIGKILL
        with suppress(NoSuchMoment):
            assert result.at["exit"].verdict.complete


INTERRUPTED = """
import json, os, signal, subprocess, sys, time
from pytest_pmaps import run
class Interrupted(Exception):
    pass
def interrupt(*_):
    raise Interrupted
def children():
    pids = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    return [open(f"/proc/{pid}/comm").read().strip() for pid in pids]
trace = sys.argv[1] == "True"
for _ in range(3):
    began = time.monotonic()
    run(["sleep", "0.01"], trace=trace)
    usual = time.monotonic() - began
signal.signal(signal.SIGALRM, interrupt)
before, slowest, interrupted = len(os.listdir("/proc/self/fd")), 0, 0
for number in range(300):
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4 + usual * 1.1 * number / 300)
        run(["sleep", "0.01"], trace=trace)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupted:
        interrupted += 1
    slowest = max(slowest, time.monotonic() - began)
opened = len(os.listdir("/proc/self/fd")) - before
print(json.dumps([slowest - usual, interrupted, children(), opened]))
"""


@pytest.mark.parametrize("trace", [True, False])
def test_interrupted(trace: bool, tmp_path: Path):
    """By the exception of a signal's handler, as Ctrl-C or a test's timeout, wherever that comes:
    it is over at once, and nothing is left but what subprocess and socketpair() lose themselves
    between making something and giving it.
    """
    command = [sys.executable, "-P", "-c", INTERRUPTED, str(trace)]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=env, timeout=PATIENCE, check=True)
    longer, interrupted, left, descriptors = json.loads(done.stdout)
    assert longer < 5.0
    assert interrupted > 100
    assert [name for name in left if "pmaps-f" in name or name == "sleep"] == []
    assert descriptors < 6
    assert list(tmp_path.iterdir()) == []


# ---- the follower itself


def followers() -> list[int]:
    """Ours."""
    return [pid for pid in children_of(os.getpid()) if "pmaps-follower" in comm(pid)]


def test_the_follower_is_killed(dynamic: Path):
    """The program goes on to its end, and that it was not seen there is said."""
    told, to_tell = os.pipe()

    def kill() -> None:
        def waits() -> list[int]:
            own = children_of(os.getpid())
            return [p for p in own if "finisher" in comm(p) and stat_of(p)[:1] == ["S"]]

        assert eventually(waits)
        (pid,) = followers()
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not followers())
        os.close(to_tell)

    killing = threading.Thread(target=kill)
    killing.start()
    result = run([dynamic, "signals"], stdin=told, stdout=subprocess.DEVNULL)
    killing.join()
    os.close(told)
    assert result.returncode == 1  # it read the end of its stdin
    assert "exec" in result.at
    with pytest.raises(NoSuchMoment, match="follower was killed"):
        _ = result.at["exit"]
    assert len(result.notes) == 1


def test_the_follower_is_stopped(dynamic: Path):
    """It is woken, and the run goes on as ever."""

    def stop() -> None:
        assert eventually(lambda: any("finisher" in comm(p) for p in children_of(os.getpid())))
        (pid,) = followers()
        os.kill(pid, signal.SIGSTOP)
        for each in children_of(os.getpid()):
            if "finisher" in comm(each):
                os.kill(each, signal.SIGTERM)

    stopping = threading.Thread(target=stop)
    stopping.start()
    result = run([dynamic, "sleep"], timeout=PATIENCE)
    stopping.join()
    assert result.returncode == -signal.SIGTERM
    assert result.at["exit"].verdict.complete


def test_we_are_killed(dynamic: Path):
    """The program runs on, nobody holds it, and the follower ends."""
    code = f"import pytest_pmaps; pytest_pmaps.run([{str(dynamic)!r}, 'sleep'])"
    ours = subprocess.Popen([sys.executable, "-P", "-c", code])
    program = None
    try:
        assert eventually(lambda: any("finisher" in comm(pid) for pid in children_of(ours.pid)))
        (program,) = (pid for pid in children_of(ours.pid) if "finisher" in comm(pid))
        (follower,) = (pid for pid in children_of(ours.pid) if "pmaps-follower" in comm(pid))
        assert eventually(lambda: stat_of(program)[:1] == ["S"])
        os.kill(follower, signal.SIGSTOP)  # it is let go all the same
        ours.kill()
        assert eventually(lambda: not stat_of(follower) or stat_of(follower)[0] == "Z")
        assert stat_of(program)[:1] == ["S"]
        assert "TracerPid:\t0" in Path(f"/proc/{program}/status").read_text()
    finally:
        ours.kill()
        ours.wait()
        if program:
            os.kill(program, signal.SIGKILL)


# ---- moments


def test_checkpoints_of_c_and_python(dynamic: Path):
    """Captured where they say, with and without ptrace."""
    code = (
        "import pytest_pmaps as p\nprint(p.checkpoint('a'))\nkept = bytearray(8 << 20)\n"
        "print(p.checkpoint('b'), p.checkpoint('b'))"
    )
    for trace in (True, False):
        result = run([dynamic, "checkpoint", "here"], trace=trace, timeout=PATIENCE)
        assert result.returncode == 0
        assert result.at["here"].anonymous >= BALLAST // 4096
        result = run([sys.executable, "-P", "-c", code], trace=trace, stdout=-1, timeout=PATIENCE)
        assert result.stdout.split() == [b"True"] * 3
        assert [m.name for m in result.moments if m.name in "ab"] == ["a", "b", "b"]
        assert result.at["b"].anonymous - result.at["a"].anonymous >= "8 MiB"


def test_a_child_reaches_a_checkpoint(dynamic: Path):
    """Its snapshot is the run's by that name, and says whose it is."""
    result = run(["sh", "-c", f"{dynamic} checkpoint c; exit $?"], timeout=PATIENCE)
    assert result.returncode == 0
    assert result.at["c"].comm.startswith("finisher")
    assert result.at["c"].pid != result.pid


def test_a_checkpoint_of_a_stranger(dynamic: Path):
    """Nobody else is captured by asking."""
    asked: list[int] = []

    def ask() -> None:
        found: list[Path] = []
        assert eventually(lambda: found.extend(folders()) or found)
        env = {"PMAPS_CHECKPOINT": str(found[0] / "checkpoint")}
        asked.append(subprocess.run([dynamic, "checkpoint", "x"], env=env).returncode)
        (pid,) = (p for p in children_of(os.getpid()) if comm(p) == "sleep\n")
        os.kill(pid, signal.SIGTERM)

    before = set(Path(tempfile.gettempdir()).glob("pmaps-*"))

    def folders() -> list[Path]:
        each = set(Path(tempfile.gettempdir()).glob("pmaps-*")) - before
        return [p for p in each if any(comm(c) == "sleep\n" for c in children_of(os.getpid()))]

    asking = threading.Thread(target=ask)
    asking.start()
    result = run(["sleep", "30"], at=["x"], timeout=PATIENCE)
    asking.join()
    assert asked == [1]
    with pytest.raises(NoSuchMoment, match="none of the run's"):
        _ = result.at["x"]


def test_nobody_listens(dynamic: Path, monkeypatch: pytest.MonkeyPatch):
    """A checkpoint does nothing."""
    assert pytest_pmaps.checkpoint("x") is False
    monkeypatch.setenv("PMAPS_CHECKPOINT", "/nowhere/to/be/found")
    assert pytest_pmaps.checkpoint("x") is False
    assert subprocess.run([dynamic, "checkpoint", "x"]).returncode == 1


def test_what_is_not_there_says_why(dynamic: Path):
    """A checkpoint that never came, and a name that nobody asked for."""
    result = run([dynamic, "exit", "0"], at=["exit", "loaded"])
    with pytest.raises(NoSuchMoment, match="'loaded': the program never reached"):
        _ = result.at["loaded"]
    with pytest.raises(NoSuchMoment, match="'exec' was asked for or reached; there are: 'exit'"):
        _ = result.at["exec"]
    assert "exec" not in result.at
    assert list(result.at) == ["exit"]


def test_samples(dynamic: Path):
    """While it runs, every so often, as deep as asked."""
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run([dynamic, "sleep"], every=0.02, timeout=0.5, sample_depth="mappings")
    samples = caught.value.run.samples  # type: ignore[attr-defined]  # ours
    assert len(samples) >= 5
    assert all(sample.snapshot.depth is Depth.MAPPINGS for sample in samples)
    assert samples[-1].snapshot.anonymous >= BALLAST // 4096
    assert samples[0].seconds < samples[-1].seconds


def test_without_ptrace(dynamic: Path):
    """No exec, no exit, a peak that has no upper end, and nothing promised."""
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run([dynamic, "sleep"], trace=False, timeout=0.3)
    result = caught.value.run  # type: ignore[attr-defined]  # ours
    assert dict(result.at) == {}
    assert result.peak_rss >= (BALLAST - MIB) // 4096
    assert result.peak_rss.bytes.bounds[1] is None
    with pytest.raises(ValueError, match="no moment 'exit'"):
        run([dynamic, "sleep"], at=["exit"], trace=False)
    with pytest.raises(ValueError, match="follow=True"):
        run([dynamic, "sleep"], follow=True, trace=False)


# ---- peaks


def test_a_small_child_of_a_large_parent(dynamic: Path):
    """14 MiB are read as about 14 MiB; ru_maxrss would say what the parent has."""
    parent = bytearray(400 * MIB)
    parent[:: os.sysconf("SC_PAGESIZE")] = bytes(len(parent[:: os.sysconf("SC_PAGESIZE")]))
    result = run([dynamic, "exit", "0"], env={"FINISHER_MIB": "13"})
    del parent
    assert result.peak_rss >= "13 MiB"
    assert result.peak_rss <= "16 MiB"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 > 300 * MIB


# ---- the same every time


def test_addresses(dynamic: Path):
    """Randomised or not, as read and not as asked."""
    off = run([dynamic, "exit", "0"], aslr=False, repeat=3)
    if off[0].aslr is not False:
        pytest.skip("needs leave for personality(ADDR_NO_RANDOMIZE)")
    assert len({each.at["exit"]["[stack]"].mappings[0].end for each in off}) == 1
    on = run([dynamic, "exit", "0"], repeat=3)
    with open("/proc/sys/kernel/randomize_va_space") as setting:
        if setting.read().strip() == "0":
            pytest.skip("needs a host that randomises addresses")
    assert [each.aslr for each in on] == [True] * 3
    assert len({each.at["exit"]["[stack]"].mappings[0].end for each in on}) > 1


def test_thirty_runs_are_alike(dynamic: Path):
    """Pinned, without ASLR: as many anonymous pages each time."""
    runs = run([dynamic, "threads", "4"], pin=True, at=["exit"], repeat=30)
    if runs[0].aslr is not False:
        pytest.skip("needs leave for personality(ADDR_NO_RANDOMIZE)")
    del runs
    runs = run([dynamic, "exit", "0"], pin=True, at=["exit"], repeat=30)
    spread = runs.spread("anonymous")
    print("anonymous", spread, "rss", runs.spread("rss"))
    assert spread.width == 0
    assert runs.median("anonymous") == spread.min
    assert runs.spread("peak_rss").max >= spread.max


def test_pins(dynamic: Path):
    """What was set, on top of what was there."""
    env = {"GLIBC_TUNABLES": "glibc.malloc.check=1"}
    code = "import os; print(os.environ['GLIBC_TUNABLES'], hash('x'), os.environ['MINE'])"
    args = [sys.executable, "-c", code]
    pin = {"MINE": "1"}
    first, second = run(args, pin=pin, env=env, at=["exit"], stdout=-1, repeat=2)
    assert first.stdout == second.stdout
    assert first.stdout.startswith(b"glibc.malloc.check=1:glibc.mem.decorate_maps=1 ")
    assert first.pinned["PYTHONHASHSEED"] == "0"
    status = run(["cat", "/proc/self/status"], pin=True, stdout=-1, text=True).stdout
    assert "THP_enabled:\t1" not in status


def test_repeat_needs_a_number(dynamic: Path):
    """Of runs."""
    with pytest.raises(ValueError, match="repeat=0"):
        run([dynamic], repeat=0)


# ---- many


def test_many_short_runs(dynamic: Path):
    """PMAPS_RUNS of them: each captured whole at its end, status right, nothing left behind."""
    for _ in range(int(os.environ.get("PMAPS_RUNS", "50"))):
        result = run([dynamic, "_exit", "5"], at=["exit"], timeout=PATIENCE)
        assert result.returncode == 5
        is_whole(result)
        assert result.at["exit"].verdict.reconciled


# ---- without privilege


NOBODY = """
import subprocess, sys
import pytest_pmaps as p
r = p.run([sys.argv[1], "threads", "20"], follow=True, timeout=20)
assert r.returncode == 0 and r.at["exit"].verdict.complete, r
assert r.at["exit"].anonymous >= 768
assert p.run([sys.argv[1], "kill", "9"]).returncode == -9
r = p.run([sys.argv[1], "grandchildren", "5"], follow=True)
assert [c.returncode for c in r.children] == [0, 1, 2, 3, 4] and len(r.children[0].at) == 1
r = p.run([sys.argv[1], "checkpoint", "x"], aslr=False)
assert r.returncode == 0 and "x" in r.at
if len(sys.argv) > 2:
    r = p.run([sys.argv[1], "undumpable", "7"], timeout=20)
    assert r.returncode == 7 and list(r.at) == ["exec"] and r.moments[1].reason, r
    assert r.moments[1].seconds < 0.9 and r.peak_rss >= 512, r
print("well")
"""


def said_as_nobody(code: str, *args: object) -> str:
    """What a script says as an ordinary user."""
    command = [*as_nobody(), unprivileged_python(), "-P", "-c", code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60)
    assert done.stderr == ""
    return done.stdout


def test_as_nobody(dynamic: Path):
    """Own children need no privilege."""
    assert said_as_nobody(NOBODY, dynamic, "undumpable") == "well\n"


def test_in_a_user_and_pid_namespace(dynamic: Path):
    """Where this process is another, with other pids."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, of util-linux")
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs leave to make user and pid namespaces")
    inside = [*unshare, sys.executable, "-P", "-c", NOBODY, dynamic]
    done = subprocess.run(inside, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("well\n", "")


def test_as_another_user(dynamic: Path):
    """subprocess's user=: the program is theirs, and is seen all the same."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    ours = {"user": targets.NOBODY, "group": targets.NOBODY, "extra_groups": []}
    result = run([dynamic, "checkpoint", "x"], timeout=PATIENCE, **ours)
    assert result.returncode == 0
    assert {"exec", "x", "exit"} == set(result.at)
    is_whole(result)


def test_a_setuid_program_is_refused_to_nobody(public: Path, dynamic: Path):
    """It would run without its privilege, and is not run at all; trace=False runs it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a setuid program")
    program = public / "finisher-setuid"
    shutil.copy(dynamic, program)
    program.chmod(0o4755)
    code = """
import sys
import pytest_pmaps as p
try:
    p.run([sys.argv[1], "exit", "3"])
except p.AccessDenied as exc:
    assert "setuid" in str(exc) and "trace=False" in str(exc), exc
    print(p.run([sys.argv[1], "exit", "3"], trace=False).returncode)
"""
    assert said_as_nobody(code, program) == "3\n"


def test_a_setuid_program_that_is_executed_later(public: Path, dynamic: Path):
    """It runs without its privilege, as the kernel has it, and the run says so."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a setuid program")
    program = public / "finisher-setuid-later"
    shutil.copy(dynamic, program)
    program.chmod(0o4755)
    code = """
import sys
import pytest_pmaps as p
def said(run):
    print(run.returncode, [note for note in run.notes if "setuid" in note and sys.argv[1] in note])
said(p.run(["sh", "-c", "exec $0 exit 3", sys.argv[1]]))
said(p.run(["sh", "-c", "$0 exit 3; exit $?", sys.argv[1]], follow=True))
said(p.run(["sh", "-c", "exec $0 exit 3", sys.argv[1]], trace=False))
print(p.run(["sh", "-c", "exec true"]).notes)
"""
    traced, child, plain, other, _ = said_as_nobody(code, program).split("\n")
    for said in (traced, child):
        assert said.startswith("3 ['process ")
        assert "without its privilege" in said
    assert (plain, other) == ("3 []", "()")


def test_somebody_traces_already(dynamic: Path):
    """A debugger's child is not ours to follow; the message says who has it, and what works."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    code = (
        "import pytest_pmaps as p, sys\n"
        "try: p.run(sys.argv[1:])\n"
        "except p.PmapsError as e: print(e)\n"
        "print(p.run(sys.argv[1:], trace=False).returncode)"
    )
    strace = ["strace", "-f", "-qq", "-o", os.devnull]
    program = [sys.executable, "-P", "-c", code, dynamic, "exit", "3"]
    done = subprocess.run([*strace, *program], capture_output=True, text=True, timeout=60)
    refused, status = done.stdout.splitlines()
    assert "strace" in refused
    assert "trace=False" in refused
    assert status == "3"


@pytest.mark.parametrize("flags", [["-fsanitize=leak"], ["-fsanitize=address", "-static-libasan"]])
def test_leak_sanitizer(public: Path, flags: list[str]):
    """It fails under ptrace, and the run says that this may be why the program did."""
    name = f"finisher{'-'.join(flags)}"
    try:
        program = targets.build("finisher", public, flags=[*FINISHER_FLAGS, *flags], output=name)
    except subprocess.CalledProcessError:
        pytest.skip(f"needs a compiler with {' '.join(flags)}")
    # Not its pages: there are terabytes of shadow memory to be looked through.
    traced = run([program, "exit", "0"], stderr=subprocess.PIPE, depth="mappings")
    assert b"does not work under ptrace" in traced.stderr
    assert traced.returncode in (1, 23)
    (note,) = traced.notes
    assert "LeakSanitizer" in note
    assert "trace=False" in note
    assert run([program, "exit", "0"], trace=False).returncode == 0
    off = {"ASAN_OPTIONS": "detect_leaks=0", "LSAN_OPTIONS": "detect_leaks=0"}
    assert run([program, "exit", "0"], env=off, depth="mappings").notes == ()


def test_errors_are_errors_of_ours():
    """One root."""
    assert issubclass(NoSuchMoment, PmapsError)
    assert issubclass(NoSuchMoment, KeyError)


FILTERED = """
import ctypes, platform
number = {"x86_64": 101, "aarch64": 117}[platform.machine()]
class Filter(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
words = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | ERRNO), (6, 0, 0, 0x7fff0000)]
import struct
program = b"".join(struct.pack("HBBI", *word) for word in words)
kept = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
filter = Filter(len(words), ctypes.addressof(kept))
assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
import sys
import pytest_pmaps as p
try:
    p.run([sys.argv[1], "exit", "3"])
except p.Unsupported as exc:
    print(exc)
print(p.run([sys.argv[1], "exit", "3"], trace=False).returncode)
"""


@pytest.mark.parametrize("error", [1, 38])  # EPERM, ENOSYS
@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="number of ptrace(2)")
def test_seccomp(dynamic: Path, error: int):
    """Where ptrace itself is forbidden, that is said, with what works; nothing is left."""
    code = FILTERED.replace("ERRNO", str(error))
    command = [sys.executable, "-P", "-c", code, str(dynamic)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    refused, status = done.stdout.splitlines()
    assert "ptrace is forbidden here" in refused
    assert "trace=False" in refused
    assert status == "3"


# ---- several at once, and forks meanwhile


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # as it is
def test_several_at_once(dynamic: Path):
    """Each run its own, while children are forked that have everything of this process."""
    wrong: list[object] = []

    def some(status: int) -> None:
        for _ in range(10):
            result = run([dynamic, "exit", str(status)], at=["exit"], timeout=PATIENCE)
            if result.returncode != status or "exit" not in result.at:
                wrong.append(result)

    threads = [threading.Thread(target=some, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    children = []
    while any(thread.is_alive() for thread in threads):
        if len(children) < 20:
            children.append(os.fork())
            if children[-1] == 0:
                time.sleep(5)
                os._exit(0)
        time.sleep(0.01)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert wrong == []


def test_we_are_stopped(dynamic: Path):
    """Ctrl-Z, or a breakpoint, while a program is held: it goes on after an instant."""
    code = (
        "import sys, pytest_pmaps as p\n"
        "while True:\n r = p.run([sys.argv[1], 'exit', '0'])\n"
        " assert r.returncode == 0\n"
        " assert 'exec' not in r.at or r.at['exec'].rss < 32, r\n"
        " assert 'exit' not in r.at or r.at['exit'].anonymous > 768, r\n"
        " assert len(r.at) == 2 or r.notes, r\n"
    )
    ours = subprocess.Popen([sys.executable, "-P", "-c", code, dynamic])
    held = 0
    try:
        assert eventually(lambda: any("finisher" in comm(p) for p in children_of(ours.pid)))
        deadline = time.monotonic() + PATIENCE
        while held < 10 and time.monotonic() < deadline:
            ours.send_signal(signal.SIGSTOP)
            held += any(traced_and_stopped(pid) for pid in children_of(ours.pid))
            assert eventually(lambda: not any(map(traced_and_stopped, children_of(ours.pid))))
            ours.send_signal(signal.SIGCONT)
            time.sleep(0.03)
            assert ours.poll() is None
    finally:
        ours.kill()
        ours.wait()
    assert held  # or nothing was tried


def traced_and_stopped(pid: int) -> bool:
    """Whether somebody holds it."""
    return stat_of(pid)[:1] == ["t"]
