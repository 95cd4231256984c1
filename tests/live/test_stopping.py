"""stop=True: the target stands still while it is captured, and goes on whatever happens."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import random
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from oracle import targets
from oracle.agreement import as_nobody, unprivileged_python
from oracle.reader import thread_states
from pytest_pmaps import PmapsError, ProcessGone, Snapshot, snapshot
from pytest_pmaps._native import tracer_path
from pytest_pmaps.stopping import tracer

PATIENCE = 20.0  # for what takes microseconds on a host that is not busy


@pytest.fixture(scope="session")
def held(public: Path) -> Path:
    """The program that tells in shared memory what it notices of being stopped."""
    return targets.build("held", public)


class Target:
    """A running ``held``; ``counters`` are the numbers it counts in."""

    def __init__(self, process: subprocess.Popen[bytes], shared: mmap.mmap) -> None:
        self.process, self.pid, self.shared = process, process.pid, shared

    @property
    def counters(self) -> tuple[int, ...]:
        """What it has counted."""
        return struct.unpack("64Q", self.shared[:512])

    def moves(self) -> bool:
        """Whether it counts on."""
        before = self.counters
        return eventually(lambda: self.counters != before)

    def stands_still(self, seconds: float = 0.005) -> bool:
        """Whether it counts no more, for so long."""
        before = self.counters
        time.sleep(seconds)
        return self.counters == before


@pytest.fixture
def start(held: Path, tmp_path: Path) -> Iterator[Callable[..., Target]]:
    """Start ``held`` in a state; ends what was started."""
    started: list[Target] = []

    def start(state: str, argument: object = 1, uid: int | None = None) -> Target:
        path = tmp_path / f"counters{len(started)}"
        path.write_bytes(bytes(4096))
        command = [*targets.as_user(uid), held, state, path, str(argument)]
        if uid is not None:
            path = Path(os.fspath(held) + f".{len(started)}")
            path.write_bytes(bytes(4096))
            path.chmod(0o666)
            command[-2] = path
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with path.open("r+b") as file:
            started.append(Target(process, mmap.mmap(file.fileno(), 4096)))
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b'{"target": "held"')
        return started[-1]

    yield start
    for target in started:
        targets.reap(target.process)
        target.shared.close()


def eventually(happens: Callable[[], object]) -> bool:
    """Whether something happens in time."""
    deadline = time.monotonic() + PATIENCE
    while not happens():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0001)
    return True


def runs(pid: int) -> bool:
    """No thread is stopped, and nobody traces it."""
    return not set(thread_states(pid)) & {"t", "T"} and "TracerPid:\t0\n" in status(pid)


def status(pid: int) -> str:
    """/proc/PID/status."""
    return Path(f"/proc/{pid}/status").read_text()


def ask(stopper: int, what: bytes) -> tuple[int, int]:
    """Talk to a tracer as the engine does."""
    os.write(stopper, what)
    return struct.unpack("iI", os.read(stopper, 8))


def tracers_of(pid: int) -> list[int]:
    """Running tracers of a target."""
    command = b"\0".join([os.fsencode(tracer_path()), str(pid).encode(), b""])
    return [int(p.name) for p in Path("/proc").glob("[0-9]*") if command_of(p) == command]


def command_of(process: Path) -> bytes:
    """Its arguments; nothing of a process that is gone."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


# ---- it stands still, and goes on


@pytest.mark.parametrize(
    ("state", "threads", "rounds"),
    [
        ("spin", 1, 20),
        ("spin", 20, 20),
        ("churn", 20, 50),
        ("leaderless", 3, 20),
        ("exec", 20, 30),
    ],
)
def test_every_thread_is_held(start: Callable[..., Target], state: str, threads: int, rounds: int):
    """Nothing runs between 's' and 'c', everything does after it."""
    target = start(state, threads)
    for _ in range(rounds):
        with tracer(target.pid) as (_, stopper):
            for _ in range(2):
                assert ask(stopper, b"s")[0] == 0
                assert set(thread_states(target.pid)) <= {"t", "Z"}
                assert target.stands_still()
                assert ask(stopper, b"c") == (0, 0)
        assert target.moves()
        assert eventually(lambda: runs(target.pid))


@pytest.mark.parametrize(("state", "threads"), [("spin", 1), ("spin", 20), ("churn", 20)])
def test_snapshot_of_a_busy_target(start: Callable[..., Target], state: str, threads: int):
    """What is never true of it while it runs: nothing moved, and all of it adds up."""
    target = start(state, threads)
    for _ in range(10):
        snap = snapshot(target.process, stop=True)
        assert snap.verdict.label == "complete", snap.verdict.reasons
        assert snap.stopped_ns > 0
        assert runs(target.pid)
        assert target.moves()
    assert snapshot(target.process).stopped_ns == 0


def test_nothing_is_left_behind(start: Callable[..., Target]):
    """No child, no descriptor, and no tracer in our session, where Ctrl-C would reach it."""
    target = start("spin")
    snapshot(target.pid, stop=True)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        snapshot(target.pid, stop=True)
    assert len(os.listdir("/proc/self/fd")) == before
    assert tracers_of(target.pid) == []
    ends = os.pipe()
    for end in ends:
        os.set_inheritable(end, True)
    with tracer(target.pid) as (pid, stopper):
        assert ask(stopper, b"s") == (0, 2)
        assert os.getsid(pid) == pid
        opened = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        assert os.readlink(f"/proc/self/fd/{ends[0]}") not in opened
    for end in ends:
        os.close(end)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_threads_capture_one_target(start: Callable[..., Target]):
    """A process has one tracer at a time: the others wait for their turn."""
    target = start("spin", 5)
    taken: list[Snapshot] = []

    def capture() -> None:
        taken.extend(snapshot(target.pid, stop=True) for _ in range(5))

    threads = [threading.Thread(target=capture) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 20
    assert runs(target.pid)


# ---- stops and signals of its own


def test_a_stopped_target_stays_stopped(start: Callable[..., Target]):
    """SIGSTOP came before us; SIGCONT works after us."""
    target = start("spin", 3)
    os.kill(target.pid, signal.SIGSTOP)
    assert eventually(lambda: set(thread_states(target.pid)) == {"T"})
    for _ in range(5):
        assert snapshot(target.pid, stop=True).verdict.label == "complete"
        assert eventually(lambda: set(thread_states(target.pid)) == {"T"})
        assert target.stands_still()
    os.kill(target.pid, signal.SIGCONT)
    assert target.moves()


def test_stop_and_continue_that_come_meanwhile(start: Callable[..., Target]):
    """They take effect when we let go."""
    target = start("spin", 3)
    with tracer(target.pid) as (_, stopper):
        assert ask(stopper, b"s") == (0, 4)
        os.kill(target.pid, signal.SIGSTOP)
        assert ask(stopper, b"c") == (0, 0)
        assert eventually(lambda: set(thread_states(target.pid)) == {"T"})
        assert target.stands_still()
        assert ask(stopper, b"s") == (0, 4)
        os.kill(target.pid, signal.SIGCONT)
        assert target.stands_still()
        assert ask(stopper, b"c") == (0, 0)
        assert target.moves()


@pytest.mark.parametrize("killed", [False, True])
def test_no_signal_is_lost(start: Callable[..., Target], killed: bool):
    """Queued signals with values arrive once each, even where the tracer is killed."""
    n = 20000
    target = start("signals", n)
    stops = 0
    while target.counters[2] < n and stops < 300:
        with tracer(target.pid) as (pid, stopper):
            assert ask(stopper, b"s") == (0, 1)
            stops += 1
            if killed:
                os.kill(pid, signal.SIGKILL)
            elif stops % 2:
                ask(stopper, b"c")
    assert stops >= 10
    assert eventually(lambda: target.counters[0] == n), target.counters[:3]
    assert target.counters[1] == n * (n + 1) // 2


@pytest.mark.parametrize("call", ["read", "futex", "nanosleep", "epoll_wait", "semop"])
def test_blocking_calls(start: Callable[..., Target], call: str):
    """Most go on as if nothing had been; two come back with EINTR, as documented."""
    target = start("blocked", call)
    assert eventually(lambda: set(thread_states(target.pid)) == {"S"})
    for _ in range(5):
        snapshot(target.pid, stop=True)
        assert eventually(lambda: set(thread_states(target.pid)) == {"S"})
    returns, error = target.counters[:2]
    if call in ("epoll_wait", "semop"):
        assert (returns, error) == (5, errno.EINTR)
    else:
        assert returns == 0


# ---- it cannot be stopped


def test_vfork_parent(start: Callable[..., Target]):
    """It waits for its child where nothing can stop it: said in time, and nothing is changed."""
    target = start("vfork")
    assert eventually(lambda: thread_states(target.pid) == ["D"])
    began = time.monotonic()
    with pytest.raises(PmapsError, match=rf"uninterruptible sleep.*: {target.pid} \(held\)"):
        snapshot(target.pid, stop=True)
    assert 1.9 < time.monotonic() - began < 6
    assert tracers_of(target.pid) == []
    assert target.process.stdin is not None
    target.process.stdin.close()
    assert target.process.wait(PATIENCE) == 0
    assert target.counters[0] == 1


SEIZE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(0x4206, int(sys.argv[1]), None, None) == 0, ctypes.get_errno()
print("seized", flush=True)
sys.stdin.read()
"""


def test_debugged_target(start: Callable[..., Target]):
    """Whoever traces it already is named, and keeps it."""
    target = start("spin", 2)
    command = [sys.executable, "-c", SEIZE, str(target.pid)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as debugger:
        assert debugger.stdout is not None
        assert debugger.stdout.readline() == b"seized\n"
        with pytest.raises(PermissionError, match=rf"process {debugger.pid} \(python") as caught:
            snapshot(target.pid, stop=True)
        assert target.moves()
        assert f"TracerPid:\t{debugger.pid}\n" in status(target.pid)
        debugger.communicate()
    assert "\n" not in str(caught.value)
    assert snapshot(target.pid, stop=True).stopped_ns


def test_exec_that_is_under_way(start: Callable[..., Target]):
    """It waits for threads that we hold, and we for it: neither may have to wait for long."""
    target, longest = start("exec", 3), 0.0
    for _ in range(200):
        with tracer(target.pid) as (_, stopper):
            for _ in range(4):
                began = time.monotonic()
                assert ask(stopper, b"s")[0] == 0
                longest = max(longest, time.monotonic() - began)
                assert ask(stopper, b"c") == (0, 0)
                time.sleep(0.0003)
    print(f"{longest * 1000:.1f} ms")
    assert target.moves()


SEIZE_A_THREAD = """
import ctypes, os, sys
libc, pid = ctypes.CDLL(None), sys.argv[1]
threads = [pid]
while len(threads) < 2 or libc.ptrace(0x4206, int(threads[1]), None, None):
    threads = os.listdir(f"/proc/{pid}/task")
print("seized", flush=True)
sys.stdin.read()
"""


def is_stuck(pid: int) -> bool:
    """One of its threads is, and not for a moment only, as in any page fault."""
    for _ in range(20):
        if "D" not in thread_states(pid):
            return False
        time.sleep(0.02)
    return True


def test_exec_that_hangs(start: Callable[..., Target]):
    """Its debugger does not reap a thread, so exec() never returns, and seizing it neither."""
    target = start("exec", 3)
    command = [sys.executable, "-c", SEIZE_A_THREAD, str(target.pid)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as debugger:
        assert debugger.stdout is not None
        assert debugger.stdout.readline() == b"seized\n"
        assert eventually(lambda: is_stuck(target.pid))
        for patience in (PATIENCE, 0.2):
            with tracer(target.pid) as (pid, stopper):
                os.write(stopper, b"s")
                ready = select.select([stopper], [], [], patience)[0]
                if patience == PATIENCE:  # until it gives up by itself
                    assert struct.unpack("iI", os.read(stopper, 8)) == (errno.ETIMEDOUT, 0)
                else:  # until we do
                    assert not ready
                given_up = time.monotonic()
            assert time.monotonic() - given_up < 1.5
            assert state_of(pid) == ""
        debugger.communicate()
    assert target.moves()


def test_ourselves():
    """Nobody would be left to let us go on; a thread's id is one of ours, too."""
    for own in (None, os.getpid(), threading.get_native_id()):
        with pytest.raises(PmapsError, match="stop=True is for other processes"):
            snapshot(own, stop=True)
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    with pytest.raises(PmapsError, match="stop=True is for other processes"):
        snapshot(thread.native_id, stop=True)
    over.set()
    thread.join()


def test_nothing_to_stop():
    """A zombie, a kernel thread, and nobody."""
    with subprocess.Popen(["true"]) as process:
        assert eventually(lambda: "State:\tZ" in status(process.pid))
        with pytest.raises(ProcessGone, match="zombie"):
            snapshot(process.pid, stop=True)
    for pid, says in ((2, "kernel thread"), (4_000_000, "does not exist")):
        with pytest.raises(ProcessGone, match=says):
            snapshot(pid, stop=True)


def test_killed_while_it_is_held(start: Callable[..., Target]):
    """It dies at once, whoever waits for it hears of it, and the next capture says so."""
    target = start("spin", 5)
    with tracer(target.pid) as (_, stopper):
        assert ask(stopper, b"s") == (0, 6)
        target.process.kill()
        assert target.process.wait(PATIENCE) == -signal.SIGKILL
        assert ask(stopper, b"c") == (0, 0)
    with pytest.raises(ProcessGone):
        snapshot(target.pid, stop=True)


AS_SOMEBODY = """
import sys
from pytest_pmaps import snapshot, PmapsError
try:
    print("stopped", snapshot(int(sys.argv[1]), stop=True).stopped_ns > 0)
except PmapsError as exc:
    print(type(exc).__name__, exc)
"""


def capture_as(prefix: list[str], pid: int, code: str = AS_SOMEBODY) -> str:
    """What a capture with stop=True says under other privileges."""
    command = [*prefix, unprivileged_python(), "-P", "-c", code, str(pid)]
    run = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert run.stderr == ""
    return run.stdout


def test_as_nobody(start: Callable[..., Target]):
    """Its own process it may stop, where Yama does not forbid it; root's it may not even read."""
    unprivileged_python()
    says = capture_as(as_nobody(), start("spin").pid)
    assert says.startswith("AccessDenied process"), says
    assert says.count("\n") == 1
    own = start("spin", uid=targets.NOBODY)
    says = capture_as(as_nobody(), own.pid)
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    if yama.exists() and yama.read_text() != "0\n":
        assert says.startswith(f"AccessDenied process {own.pid} may not be stopped: {yama} is ")
        assert says.count("\n") == 1
    else:
        assert says == "stopped True\n"
    assert own.moves()


FILTERED = """
import ctypes, platform, struct
number = {"x86_64": 101, "aarch64": 117}[platform.machine()]
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | ERRNO), (6, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
fprog = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(program))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.c_char_p(fprog), 0, 0) == 0
"""


@pytest.mark.parametrize("error", [1, 38])  # EPERM, ENOSYS
@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="number of ptrace(2)")
def test_seccomp(start: Callable[..., Target], error: int):
    """Where ptrace itself is forbidden, that is said, and not that the target is special."""
    target = start("spin")
    says = capture_as([], target.pid, FILTERED.replace("ERRNO", str(error)) + AS_SOMEBODY)
    assert says.startswith("Unsupported ptrace is forbidden here"), says
    assert target.moves()


# ---- whatever happens to us


def test_our_end_is_not_held_by_children(start: Callable[..., Target]):
    """A child that was forked meanwhile has our end of the socket, too; it does not count."""
    target = start("spin")
    reader, writer = os.pipe()
    capturer = os.fork()
    if capturer == 0:
        with tracer(target.pid) as (_, stopper):
            if os.fork():
                ask(stopper, b"s")
            else:
                os.write(writer, b"%d" % os.getpid())
            time.sleep(60)
        os._exit(1)
    os.close(writer)
    heir = os.pidfd_open(int(os.read(reader, 20)))
    try:
        assert eventually(lambda: set(thread_states(target.pid)) == {"t"})
        kill_and_reap(capturer)
        assert goes_on_alone(target)
    finally:
        signal.pidfd_send_signal(heir, signal.SIGKILL)
        os.close(heir)
        os.close(reader)


def test_stopped_capturer(start: Callable[..., Target]):
    """Ctrl-Z, or a breakpoint, in who captures: the target goes on without it."""
    target = start("spin")
    capturer = os.fork()
    if capturer == 0:
        with tracer(target.pid) as (_, stopper):
            ask(stopper, b"s")
            time.sleep(60)
        os._exit(1)
    try:
        assert eventually(lambda: set(thread_states(target.pid)) == {"t"})
        time.sleep(0.5)
        assert target.stands_still()  # a long capture is no reason
        os.kill(capturer, signal.SIGSTOP)
        assert target.moves()
    finally:
        kill_and_reap(capturer)


def test_tracer_that_ends_early(
    start: Callable[..., Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What was not held to the end is not said to have been."""
    target = start("spin")
    fake = tmp_path / "fake-tracer"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import os, struct\n"
        "os.read(0, 1); os.write(0, struct.pack('iI', 0, 1))\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr("pytest_pmaps.stopping.tracer_path", lambda: str(fake))
    with pytest.raises(PmapsError, match="went on before it was captured"):
        snapshot(target.pid, stop=True)
    fake.chmod(0o644)
    with pytest.raises(NotImplementedError, match="cannot be run: Permission denied"):
        snapshot(target.pid, stop=True)


def state_of(pid: int) -> str:
    """R, S, t, … of the first thread; nothing of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def capture_until_killed(pid: int) -> int:
    """A child that captures a target over and over."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        while True:
            with suppress(PmapsError):
                snapshot(pid, stop=True)
    return child


def kill_and_reap(pid: int) -> None:
    """End a child of ours."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def wait_at_random(target: Target) -> bool:
    """Until somewhere in a capture; whether the target stands still now."""
    assert eventually(lambda: state_of(target.pid) == "t")
    # Half of them while it is held, the others in whatever comes then.
    deadline = time.monotonic() + random.choice((0.0005, 0.005)) * random.random()
    while time.monotonic() < deadline:
        pass
    return state_of(target.pid) == "t"


def goes_on_alone(target: Target) -> bool:
    """Nobody traces it, no tracer is left, and it counts."""
    return (
        eventually(lambda: not tracers_of(target.pid))
        and eventually(lambda: runs(target.pid))
        and target.moves()
    )


def test_killed_capturer(start: Callable[..., Target]):
    """SIGKILL while it captures, 500 times: the target runs, and no tracer is left."""
    target, while_held = start("spin", 3), 0
    snapshot(target.pid, stop=True)  # loads what the children need
    for _ in range(500):
        capturer = capture_until_killed(target.pid)
        try:
            while_held += wait_at_random(target)
        finally:
            kill_and_reap(capturer)
        assert goes_on_alone(target)
    print("killed while it was held:", while_held)
    assert while_held >= 100


def child_of(pid: int) -> int:
    """A child that a process has; 0: none."""
    return int((Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or ["0"])[0])


def kill_tracer(capturer: int, child: int) -> bool:
    """SIGKILL; False where it had ended by itself.  The capturer waits until SIGCONT."""
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(child)
        os.kill(capturer, signal.SIGSTOP)  # or it would stop the target again
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)
        return eventually(lambda: state_of(child) in ("Z", ""))
    return False


def test_killed_tracer(start: Callable[..., Target]):
    """SIGKILL to the tracer, 500 times: the target runs, and the next capture is as ever."""
    target, while_held, killed = start("spin", 3), 0, 0
    snapshot(target.pid, stop=True)
    capturer = capture_until_killed(target.pid)
    try:
        while killed < 500:
            held = wait_at_random(target)
            child = child_of(capturer)  # a tracer, if it has one now
            if child and kill_tracer(capturer, child):
                killed, while_held = killed + 1, while_held + held
                assert goes_on_alone(target)
            os.kill(capturer, signal.SIGCONT)
    finally:
        kill_and_reap(capturer)
    print("killed while it held:", while_held)
    assert while_held >= 100
    assert goes_on_alone(target)


# ---- whoever waits for the target


def test_wait_is_not_disturbed():
    """A thread in Popen.wait() and asyncio's watcher hear of the end, and of nothing before."""
    code = "import sys; sys.stdin.read(); sys.exit(42)"
    ended: dict[str, int] = {}

    async def run() -> None:
        watched = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=subprocess.PIPE
        )
        plain = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)

        async def watch() -> None:
            ended["asyncio"] = await watched.wait()

        thread = threading.Thread(target=lambda: ended.update(popen=plain.wait()))
        task = asyncio.create_task(watch())
        thread.start()
        for _ in range(200):
            for target in (plain.pid, watched.pid):
                await asyncio.to_thread(snapshot, target, stop=True)
                assert ended == {}
        assert watched.stdin is not None
        watched.stdin.close()
        await asyncio.wait_for(task, PATIENCE)
        assert ended == {"asyncio": 42}
        assert plain.stdin is not None
        plain.stdin.close()
        await asyncio.to_thread(thread.join, PATIENCE)

    asyncio.run(run())
    assert ended == {"asyncio": 42, "popen": 42}


def test_who_waits_for_every_child(start: Callable[..., Target]):
    """A thread that reaps whatever child ends takes our tracer's status, and nothing breaks."""
    target, over = start("spin"), threading.Event()

    def reap() -> None:
        while not over.is_set():
            with suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            time.sleep(0.0001)

    thread = threading.Thread(target=reap)
    thread.start()
    try:
        for _ in range(20):
            assert snapshot(target.pid, stop=True).stopped_ns
    finally:
        over.set()
        thread.join()
    assert goes_on_alone(target)
