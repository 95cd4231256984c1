"""Several processes together, held against the frames that an independent reader sees."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oracle import reader, targets
from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import (
    Group,
    NoSuchMapping,
    ProcessGone,
    group,
    snapshot,
)

PAGES = 40  # of the file that a family maps
SHARED = 40  # of its shared memory


@pytest.fixture(scope="module")
def family(public: Path) -> Path:
    """The program that has relatives."""
    return targets.build("family", public)


@pytest.fixture(scope="module")
def mapped(public: Path) -> Path:
    """A file that only a family maps."""
    path = public / "mapped.bin"
    path.write_bytes(random.Random(1).randbytes(PAGES * reader.PAGE))
    path.chmod(0o644)
    targets.settle_file(path)
    return path


def pids_of(info: targets.Info) -> list[int]:
    """Parent and children."""
    return [info["pid"], *info["children"]]


def frames(pids: list[int], name: str = "", perms: str = "") -> set[str]:
    """Every frame that the processes hold, or that their mappings of a name hold."""
    return {
        page.frame
        for pid in pids
        for mapping in reader.read(pid).mappings
        if name in mapping.name and perms in mapping.header.perms
        for page in mapping.pages
        if page.normal
    }


def check_exact(pids: list[int]) -> Group:
    """As many pages as there are frames, in a group that held still."""
    for _ in range(5):  # kcompactd, or a neighbour, may move something
        before = len(frames(pids))
        taken = group(pids)
        if before == len(frames(pids)) and taken.unique_rss.exact:
            break
    assert taken.unique_rss.bounds == (before, before), taken.verdict.reasons
    assert not taken.verdict.raced, taken.verdict.reasons
    return taken


# ---- forked families


@pytest.mark.parametrize("pages", [1, 50])
def test_what_forked_children_copy(family: Path, mapped: Path, pages: int):
    """Ten children that write so many pages each hold exactly so many more between them."""
    reader.require_frames()
    with targets.running(family, "fork", "10", "1000", mapped) as running:
        pids = pids_of(running.info)
        running.ask("write 3")  # their stacks, and what else they touch while they work
        before = check_exact(pids)
        running.ask(f"write {pages}")
        after = check_exact(pids)
        # The parent's last copy of a page that all of them wrote is nobody's but its own still.
        assert (after.unique_rss - before.unique_rss).bounds == (10 * pages, 10 * pages)
        assert after.sum_rss == before.sum_rss
        assert after["mapped.bin"].unique_rss == PAGES
        assert after.select("*memfd:family*").unique_rss == SHARED
        assert after["[vdso]"].unique_rss == len(frames(pids, "[vdso]"))


def test_closed_sets_reconcile_with_pss(family: Path, mapped: Path):
    """Memory that only the group maps: the kernel's shares add up to it."""
    with targets.running(family, "fork", "4", "100", mapped) as (_, info):
        taken = group(pids_of(info))
        for selector, pages in (("mapped.bin", PAGES), ("*memfd:family*", SHARED)):
            selection = taken.select(selector)
            assert len(selection) == 5
            assert selection.unique_rss == pages
            lo, hi = selection.pss.bytes.bounds
            mappings = sum(len(part.windows) for part in selection)
            # A share is cut to whole kB in every mapping.
            assert lo <= pages * reader.PAGE <= hi + mappings * 1024
            assert pages * reader.PAGE - lo <= mappings * 1024


AS_NOBODY = """
import json, sys
from pytest_pmaps import group
sys.stdin.readline()
taken = group(map(int, sys.argv[1:]))
print(json.dumps([taken.unique_rss.bounds, taken["[anon]"].unique_rss.bounds,
                  taken["mapped.bin"].unique_rss.bounds, taken.pss.bytes.bounds[0],
                  taken.sum_rss.bounds[1], taken.verdict.raced]), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("pages", [0, 60])
def test_without_privileges_the_truth_lies_in_it(family: Path, mapped: Path, pages: int):
    """Files are counted exactly; anonymous memory as well as can be without frames."""
    reader.require_frames()
    python, pipe = unprivileged_python(), subprocess.PIPE
    with targets.running(family, "fork", "10", "300", mapped, uid=targets.NOBODY) as running:
        pids = pids_of(running.info)
        running.ask(f"write {pages}")
        command = [*as_nobody(), python, "-P", "-c", AS_NOBODY, *map(str, pids)]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd="/") as other:
            assert other.stdin is not None
            assert other.stdout is not None
            other.stdin.write("\n")
            other.stdin.flush()
            answer = json.loads(other.stdout.readline())
            truth, anonymous = len(frames(pids)), frames(pids, "[anon]")
            other.communicate("\n")
    (lo, hi), (anon_lo, anon_hi), of_file, pss, sum_rss, raced = answer
    assert not raced
    assert lo <= truth <= hi
    assert lo * reader.PAGE >= pss
    assert hi < sum_rss
    assert anon_lo >= 300  # what one process has, it has
    assert anon_hi >= 300 + 10 * pages
    assert of_file == [PAGES, PAGES]
    assert anonymous == set()  # the reader knows nameless memory by no name


# ---- one memory, several processes


@pytest.mark.parametrize("how", ["vm", "vfork"])
def test_one_memory_counts_once(family: Path, mapped: Path, how: str):
    """Two processes with one mm, as after vfork: everything as of one."""
    command = [str(family), how, str(mapped)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd="/") as process:
        assert process.stdout is not None
        pids = pids_of(json.loads(process.stdout.readline()))
        for pid in pids:
            targets.wait_idle(pid)
        taken, alone = group(pids), snapshot(pids[0])
        assert len(taken) == 2
        assert taken.sum_rss == alone.rss
        assert taken.uss == alone.uss
        assert taken.unique_rss == group(pids[:1]).unique_rss
        assert taken["mapped.bin"].unique_rss == PAGES
        assert taken["mapped.bin"].sum_rss == 3 * PAGES - 1
        if os.geteuid() == 0:
            assert taken.unique_rss == len(frames(pids[:1]))
        process.communicate()


NO_KCMP = """
import ctypes, sys
from pytest_pmaps import _native, groups
groups.same_mm = lambda a, b: None  # as where a seccomp filter refuses kcmp
pids = [int(a) for a in sys.argv[1:]]
taken, alone = groups.group(pids), groups.group(pids[:1])
print(taken.sum_rss.bounds == (alone.sum_rss.bounds[0], 2 * alone.sum_rss.bounds[1]),
      taken.unique_rss.bounds[0] <= alone.unique_rss.bounds[0] <= taken.unique_rss.bounds[1],
      any("kcmp" in why for why in taken.verdict.reasons), "kcmp" in taken.sum_rss.remedy)
"""


def test_whether_it_is_one_memory_may_be_unknown(family: Path, mapped: Path):
    """Then it is counted once and twice; processes that differ are told apart all the same."""
    pipe = subprocess.PIPE
    command = [str(family), "vm", str(mapped)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd="/") as process:
        assert process.stdout is not None
        pids = pids_of(json.loads(process.stdout.readline()))
        code = [sys.executable, "-P", "-c", NO_KCMP, *map(str, pids)]
        run = subprocess.run(code, capture_output=True, text=True, check=True)
        assert run.stdout.split() == ["True"] * 4
        process.communicate()
    with targets.running(family, "fork", "1", "10", mapped) as running:
        running.ask("write 2")
        code[4:] = [str(running.pid), str(os.getpid())]
        run = subprocess.run(code, capture_output=True, text=True, check=True)
        assert run.stdout.split()[2:] == ["False", "False"]


# ---- files


MAPPER = """
import json, mmap, os, sys
path, first, pages, times = sys.argv[1], *map(int, sys.argv[2:])
maps = []
with open(path, "rb") as file:
    for _ in range(times):
        maps.append(mmap.mmap(file.fileno(), pages * 4096, prot=mmap.PROT_READ,
                              flags=mmap.MAP_PRIVATE, offset=first * 4096))
        sum(maps[-1][i * 4096] for i in range(pages))
print(json.dumps({"pid": os.getpid(), "areas": []}), flush=True)
sys.stdin.read()
"""


def mapping(path: Path, first: int, pages: int, times: int = 1, uid: int | None = None):
    """A process that maps pages of a file, some times."""
    args = ("-c", MAPPER, path, str(first), str(pages), str(times))
    return targets.running(*args, python=shutil.which("python3") or sys.executable, uid=uid)


def test_files_at_different_offsets(mapped: Path):
    """Pages are of the file, not of the address; twice in one process is once."""
    with mapping(mapped, 0, 20) as (a, _), mapping(mapped, 12, 20, times=2) as (b, _):
        taken = group([a, b])["mapped.bin"]
        assert taken.sum_rss == 60
        assert taken.unique_rss == 32
        assert group([b])["mapped.bin"].unique_rss == 20
        if os.geteuid() == 0:
            assert len(frames([a, b], "mapped.bin")) == 32


@contextlib.contextmanager
def container(public: Path, family: Path, lower: Path, name: str) -> Iterator[targets.Info]:
    """A family in a mount namespace of its own, whose file is on an overlay over `lower`."""
    place = public / name
    place.mkdir()
    script = (
        'mount -t tmpfs none "$1" && mkdir "$1/u" "$1/w" "$1/m" && '
        'mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/u,workdir=$1/w" "$1/m" && '
        'exec "$3" vm "$1/m/mapped.bin"'
    )
    command = ["unshare", "--mount", "sh", "-c", script, "sh", place, lower, family]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd="/"
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            if not line:
                pytest.skip("no overlay can be mounted here")
            yield json.loads(line)
        finally:
            process.communicate()


def test_containers_may_share_what_has_other_numbers(public: Path, family: Path, mapped: Path):
    """Two overlays over one file show two devices, and hold the same pages."""
    reader.require_frames()
    lower = public / "lower"
    lower.mkdir()
    shutil.copy(mapped, lower)
    with (
        container(public, family, lower, "one") as one,
        container(public, family, lower, "two") as two,
    ):
        pids = [one["pid"], two["pid"]]
        taken = group(pids)
        assert len({m.info.dev for s in taken["mapped.bin"] for m in s.mappings}) == 2
        assert len(frames(pids, "mapped.bin")) == PAGES
        assert taken["mapped.bin"].unique_rss.bounds == (PAGES, 2 * PAGES)
        lo, hi = taken.unique_rss.bounds
        assert lo <= len(frames(pids)) <= hi
        # A file on a real device is one file in every mount namespace.
        assert taken["libc.text"].unique_rss == len(frames(pids, "libc.so", "r-xp"))


# ---- members that do not hold still


SPINNER = """
import json, os, sys, threading
memory = bytearray(200 * 4096)
pid = os.fork()
if not pid:
    while True:
        pass
print(json.dumps({"pid": os.getpid(), "areas": [], "children": [pid]}), flush=True)
sys.stdin.read()
os.kill(pid, 9)
os.waitpid(pid, 0)
"""


def test_a_member_that_runs(zoo: Path):
    """It is named; pages that stayed where they were are still recognised."""
    reader.require_frames()
    with targets.running("-c", SPINNER, python=sys.executable) as (_, info):
        pids = list(reversed(pids_of(info)))  # the one that runs before the one that waits
        for _ in range(50):  # on a busy machine it may not get a CPU meanwhile
            before = frames(pids)
            taken = group(pids)
            truth = {len(before), len(frames(pids))}
            ran = any(f"process {pids[0]} ran" in why for why in taken.verdict.reasons)
            if ran:
                break
    lo, hi = taken.unique_rss.bounds
    assert ran
    assert taken.verdict.raced
    assert any(lo <= n <= hi for n in truth)
    assert hi - lo <= 20


def test_ourselves_in_a_group():
    """Captured last; named by None or by pid, once."""
    script = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as child:
        targets.wait_idle(child.pid)
        taken = group([None, child, os.getpid(), child.pid])
        assert taken.pids == (os.getpid(), child.pid)
        assert [s.pid for s in taken] == [os.getpid(), child.pid]
        assert taken[child.pid].columns.captured_ns < taken[os.getpid()].columns.captured_ns
        assert taken[os.getpid()].columns.self_capture
        assert taken.unique_rss <= taken.sum_rss
        assert (child.pid in taken, 1 in taken, "libc" in taken, "libnone" in taken) == (
            *(True, False),
            *(True, False),
        )
        child.communicate()


# ---- members that are not there


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits."""
    process = subprocess.Popen(["sleep", "60"])
    targets.wait_idle(process.pid)
    yield process
    process.kill()
    process.wait()


def test_a_missing_member_raises(child: subprocess.Popen[bytes]):
    """By default, naming it."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(ProcessGone, match=str(gone.pid)):
        group([child, gone.pid])
    with pytest.raises(ProcessGone, match="has exited and been waited for"):
        group([child, gone])


def test_a_member_that_has_exited_can_be_skipped(child: subprocess.Popen[bytes]):
    """It holds nothing, so that totals have an upper end; a zombie likewise."""
    gone = subprocess.Popen(["true"])
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    taken = group([child, gone.pid], missing="skip")
    assert taken.pids == (child.pid,)
    assert [(m.pid, m.over) for m in taken.missing] == [(gone.pid, True)]
    assert taken.unique_rss.exact
    gone.wait()
    taken = group([gone.pid, child, gone], missing="skip")
    assert [(m.pid, m.over) for m in taken.missing] == [(0, True), (gone.pid, True)]
    assert any("is missing" in why for why in taken.verdict.reasons)
    with pytest.raises(ProcessGone):
        group([gone.pid], missing="skip")


LEADERLESS = """
import ctypes, json, os, sys, threading
def rest():
    print(json.dumps({"pid": os.getpid(), "areas": []}), flush=True)
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=rest).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_dead_leader_is_not_a_dead_process(child: subprocess.Popen[bytes]):
    """Its other threads hold memory on, which we do not see: no upper end."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", LEADERLESS]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while reader.thread_states(process.pid).count("Z") != 1:
            pass
        taken = group([child, process.pid], missing="skip")
        process.communicate()
    assert [(m.pid, m.over) for m in taken.missing] == [(process.pid, False)]
    assert taken.unique_rss.bounds[1] is None


FORBIDDEN = """
import json, sys
from pytest_pmaps import AccessDenied, Undetermined, group
try:
    group([None, 1])
except AccessDenied as exc:
    print("denied", "process 1" in str(exc))
taken = group([None, 1], missing="skip")
print([(m.pid, m.over) for m in taken.missing], taken.verdict.complete)
try:
    print(taken.unique_rss <= "1 TiB")
except Undetermined as exc:
    print("process 1 could not be" in str(exc))
print(taken.unique_rss >= "1 MiB", taken["libc"].sum_rss.bounds[1])
"""


def test_a_member_that_may_not_be_read():
    """Totals have no upper end then, and say why."""
    run = subprocess.run(
        [*as_nobody(), unprivileged_python(), "-P", "-c", FORBIDDEN],
        capture_output=True, text=True, cwd="/", check=False,
    )  # fmt: skip
    said = ["denied True", "[(1, False)] False", "True", "True None"]
    assert run.stdout.splitlines() == said, run.stderr


def test_members_that_exit_during_the_call():
    """Whenever they do: they are members, or missing, and nothing else happens."""
    chance, sizes = random.Random(2), set()
    for _ in range(25):
        processes = [subprocess.Popen(["sleep", "60"]) for _ in range(6)]
        victims = chance.sample(processes, 4)

        def end(victims: list[subprocess.Popen[bytes]], pause: float) -> None:
            for victim in victims:
                victim.send_signal(signal.SIGKILL)
                threading.Event().wait(pause)

        killer = threading.Thread(target=end, args=(victims, chance.random() * 0.01))
        killer.start()
        taken = group([p.pid for p in processes], missing="skip")
        killer.join()
        for process in processes:
            process.kill()
            process.wait()
        assert len(taken) + len(taken.missing) == 6
        assert {*taken.pids, *(m.pid for m in taken.missing)} == {p.pid for p in processes}
        assert taken.unique_rss.bounds[0] > 0
        assert taken.unique_rss.bounds[1] is not None
        sizes.add(len(taken))
    assert len(sizes) > 1


# ---- what is no group, and no selection


@pytest.mark.parametrize(
    ("targets", "error"),
    [([], ValueError), ("1", TypeError), (1, TypeError), ([1.5], TypeError)],
)
def test_what_is_no_group(targets: object, error: type[Exception]):
    """Nothing, one process, what is no process."""
    with pytest.raises(error):
        group(targets)  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(ValueError, match="missing"):
        group([None], missing="ignore")  # type: ignore[arg-type]  # likewise


def test_selectors_that_no_member_has(child: subprocess.Popen[bytes]):
    """The error of all of them together; one that has it is enough."""
    taken = group([child, None])
    with pytest.raises(NoSuchMapping, match=r"near: .*libc\.so.* \(in none of 2 processes\)"):
        taken["libcc"]
    with pytest.raises(NoSuchMapping, match="did you mean"):
        taken["libc.txt"]
    python = taken[Path(sys.executable).resolve()]
    assert python.pids == (os.getpid(),)
    assert python[os.getpid()].rss == python.sum_rss
    assert {s.columns.pid for s in taken["libc.text"]} == {child.pid, os.getpid()}
    assert taken["libc.text"].unique_rss <= taken["libc"].unique_rss
    with pytest.raises(KeyError):
        taken[1]


def test_counts_say_what_they_are(child: subprocess.Popen[bytes]):
    """In messages."""
    taken = group([child, None])
    with pytest.raises(AssertionError, match="2 processes: unique_rss"):
        assert taken.unique_rss <= 1
    assert taken["libc"].pss.label == "libc.so.6 in 2 processes: pss"
    assert repr(taken).startswith("<Group of 2 processes: ")
    assert "libc.so.6 in 2 processes: unique_rss" in repr(taken["libc"])
