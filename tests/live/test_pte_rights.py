"""Who sees Y and P: CAP_BPF and CAP_PERFMON are enough and needed, and nothing of it is left to
who has them no more.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oracle import ptebits, targets
from oracle.agreement import around_as, as_nobody, unprivileged_python
from oracle.targets import Info
from pytest_pmaps import Snapshot, Source

BOTH = ("bpf", "perfmon")


@pytest.fixture(scope="module", autouse=True)
def tables() -> None:
    """All of it needs page tables."""
    ptebits.require()


def with_rights(*names: str) -> list[str]:
    """Command prefix: nobody, with these ambient capabilities and no others."""
    added = ",".join(f"+{name}" for name in names)
    prefix = as_nobody()[:-1]
    return [*prefix, *([f"--inh-caps={added}", f"--ambient-caps={added}"] if names else []), "--"]


def run(prefix: list[str], code: str, *words: object, check: bool = True) -> Any:
    """What a script said, as JSON; it may use what PRELUDE has."""
    command = [*prefix, unprivileged_python(), "-P", "-c", PRELUDE + code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert "Traceback" not in done.stderr, done.stderr
    assert not check or done.returncode == 0, done.stderr
    return json.loads(done.stdout)


PRELUDE = """
import ctypes, json, mmap, os, struct, sys
import pytest_pmaps
from pytest_pmaps import Fact, Source, snapshot
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def descriptors():
    found = {}
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    return {fd: name for fd, name in found.items() if "bpf" in name}

def mapped():
    with open("/proc/self/maps") as file:
        return [line.split()[-1] for line in file if "bpf" in line]

def capabilities():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("CapEff")).split()[1], 16)

def drop():
    header = struct.pack("=IiI", 0x20080522, 0, 0)[:8]
    assert libc.syscall(126, header, bytes(24)) == 0  # capset
    assert capabilities() == 0

def pages(n=16, written=True):
    memory = mmap.mmap(-1, n * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(15)
    for at in range(0, n * 4096, 4096):
        memory[at] = 1
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))

# How many pages of each kind: how Y and P read.
def told(snap, start=0, length=1 << 47):
    count = {}
    for r in snap.ranges():
        if start <= r.address < start + length and r.fact(Fact.NORMAL):
            letters = "".join(
                "?" if bit is None else letter if bit else "_"
                for letter, bit in (("Y", r.fact(Fact.YOUNG)), ("P", r.fact(Fact.PTEDIRTY)))
            )
            count[letters] = count.get(letters, 0) + r.count
    return count

def in_child(does, clone=False):
    r, w = os.pipe()
    # Without the C library, whose fork() calls handlers.
    pid = libc.syscall(56, 17, 0, 0, 0, 0) if clone else os.fork()
    if not pid:
        said = b"{}"
        try:
            said = json.dumps(does()).encode()
        except BaseException as exc:
            said = json.dumps({"error": repr(exc)}).encode()
        os.write(w, said)
        os._exit(0)
    os.close(w)
    with open(r, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return {"status": status, **json.loads(said)}

# Run a program as the engine does: arguments are a descriptor, an address, how many entries.
def answer(program, fd, address):
    args = struct.pack("=12Q", fd, address, 1, *[0] * 9)
    buffer = ctypes.create_string_buffer(args)
    attr = ctypes.create_string_buffer(
        struct.pack("=4I2Q4I2Q4I", program, 0, 0, 0, 0, 0, 0, 0, 96, 0,
                    ctypes.addressof(buffer), 0, 0, 0, 0, 0), 160)
    if libc.syscall(321, 10, attr, 80) < 0:
        return f"errno {ctypes.get_errno()}"
    return struct.unpack_from("=I", attr, 4)[0]

# Bytes of its instructions that the kernel would give out.
def instructions(program):
    info = ctypes.create_string_buffer(256)
    attr = ctypes.create_string_buffer(
        struct.pack("=IIQ", program, 256, ctypes.addressof(info)), 160)
    if libc.syscall(321, 15, attr, 16) < 0:
        return f"errno {ctypes.get_errno()}"
    return struct.unpack_from("=II", info, 16)

# What a program says of a page that is there, of two that are not, and of no pagemap at all.
def attack(program):
    memory, start = pages()
    pagemap, other = os.open("/proc/self/pagemap", os.O_RDONLY), os.open("/proc/self/maps", 0)
    said = [answer(program, pagemap, a) for a in (start, 1 << 30, (1 << 47) - 4096)]
    return [*said, answer(program, other, start), answer(program, 999, start)]
"""


# ---- what is enough


def test_both_rights_are_enough():
    """Of our own process all ordinary pages, and a source by its name."""
    said = run(
        with_rights(*BOTH),
        """
memory, start = pages()
snap = snapshot(young=True)
print(json.dumps({"all": told(snap), "mine": told(snap, start, len(memory)),
                  "sources": [s.name for s in snap.sources], "label": snap.verdict.label,
                  "disagreed": snap.columns.pte_disagreed}))
""",
    )
    assert not [letters for letters in said["all"] if "?" in letters], said
    assert said["mine"].get("YP", 0) + said["mine"].get("_P", 0) == 16
    assert "PTE" in said["sources"]
    assert "KPAGEFLAGS" not in said["sources"]
    assert (said["label"], said["disagreed"]) == ("complete", 0)


@pytest.mark.parametrize("state", ["protect", "advice", "populate", "kernel", "huge", "fork"])
def test_constructed_states(public: Path, state: str):
    """Without frames there is less to hold entries against, and they are right all the same."""
    program = targets.build("ptes", public)

    @contextmanager
    def start() -> Iterator[Info]:
        with targets.running(program, state, tempfile.gettempdir(), uid=targets.NOBODY) as (
            _,
            info,
        ):
            yield info

    def take(pid: int) -> Snapshot:
        captured, _ = around_as(with_rights(*BOTH), pid, young=True)
        assert Source.KPAGEFLAGS not in captured.sources
        assert ptebits.disagreed(captured) == 0
        return captured

    assert ptebits.settle(start, take, slow=state == "huge") > 0


@pytest.mark.parametrize("names", [(), ("bpf",), ("perfmon",)])
def test_less_is_not_enough(names: tuple[str, ...]):
    """Y and P are unknown, nothing fails, and doctor says what is missing."""
    said = run(
        with_rights(*names),
        """
memory, start = pages()
snap = snapshot(young=True)
print(json.dumps({"sources": [s.name for s in snap.sources], "label": snap.verdict.label,
                  "mine": told(snap, start, len(memory)),
                  "proved": [m.start for m in snap.mappings for f in (Fact.YOUNG, Fact.PTEDIRTY)
                             if Source.PTE in m.evidence(f)]}))
""",
    )
    assert "PTE" not in said["sources"]
    assert said["proved"] == []
    assert said["label"] == "complete"
    assert {letters[0] for letters in said["mine"]} == {"?"}
    code = "import sys; from pytest_pmaps.cli import main; sys.exit(main(['doctor']))"
    command = [*with_rights(*names), unprivileged_python(), "-P", "-c", code]
    doctor = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert (doctor.returncode, doctor.stderr) == (0, "")
    lines = doctor.stdout.splitlines()
    line = next(i for i, text in enumerate(lines) if text.split()[:2] == ["no", "pte"])
    for name in BOTH:
        assert (f"CAP_{name.upper()}" in lines[line + 1]) is (name not in names), lines[line + 1]
    assert "--ambient-caps +bpf,+perfmon" in " ".join(doctor.stdout.split())


def test_the_remedy_works():
    """The command that doctor names, with a user and a command put in."""
    doctor = subprocess.run(
        [*as_nobody(), unprivileged_python(), "-P", "-c", _DOCTOR],
        capture_output=True,
        text=True,
        cwd="/",
    ).stdout
    text = " ".join(doctor[doctor.index("  pte: ") :].split())
    text = text.replace("USER", "nobody").replace("GROUP", "65534")
    command = text[text.index("setpriv") : text.index(" CMD")].split()
    code = (
        "import os; from pytest_pmaps import host; "
        "print([s.works for s in host.sources() if s.name == 'pte'], os.getgid())"
    )
    done = subprocess.run(
        [*command, unprivileged_python(), "-P", "-c", code],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.stdout == "[True] 65534\n", done.stderr


_DOCTOR = "from pytest_pmaps.cli import main; main(['doctor'])"


CLOSED = """
pid = sys.argv[1]
snapshot(young=True)  # what is needed has been loaded

def may(name):
    try:
        os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
    except PermissionError:
        return False
    return True

said = {}
files = {"totals": "smaps_rollup", "mappings": "smaps", "pages": "pagemap", "full": "pagemap"}
for depth, name in files.items():
    try:
        snapshot(int(pid), depth=depth, young=True)
        said[depth] = (may(name), "open")
    except pytest_pmaps.AccessDenied as exc:
        said[depth] = (may(name), str(exc))
print(json.dumps(said))
"""


@pytest.mark.parametrize("names", [(), ("bpf",), BOTH])
def test_what_the_kernel_closes_stays_closed(names: tuple[str, ...]):
    """Another user's process: the kernel decides when a file is opened, and nothing goes past it.
    Since Linux 6.15 it shows maps and smaps, and no pages, to whoever has CAP_PERFMON.
    """
    code = "import json, sys; print(json.dumps({'areas': []}), flush=True); sys.stdin.read()"
    with targets.running("-c", code, python=sys.executable) as (pid, _):
        said = run(with_rights(*names), CLOSED, pid)
    for depth, (allowed, text) in said.items():
        assert (text == "open") is allowed, (depth, text)
        assert "\n" not in text
    assert "open" not in (said["pages"][1], said["full"][1])
    assert "perfmon" in names or not any(allowed for allowed, _ in said.values())


# ---- what is left behind

FORKED = """
memory, start = pages()
snapshot(young=True)
program = next(iter(descriptors()), None)
mine = attack(program)

def child():
    # Of what the parent had; before anything of ours runs in here.
    found, maps = descriptors(), mapped()
    if sys.argv[2] == "drop":
        drop()
    out = {"found": found, "maps": maps, "attacks": [attack(fd) for fd in found],
           "instructions": [instructions(fd) for fd in found]}
    if sys.argv[1] == "clone":
        return out
    snap = snapshot(young=True)
    out |= {"told": told(snap, start, len(memory)), "label": snap.verdict.label,
            "disagreed": snap.columns.pte_disagreed,
            "sources": [s.name for s in snap.sources]}
    return out

out = in_child(child, clone=sys.argv[1] == "clone")
after = told(snapshot(young=True), start, len(memory))
print(json.dumps({"mine": mine, "child": out, "after": after}))
"""


@pytest.mark.parametrize("rights", ["drop", "keep"])
@pytest.mark.parametrize("how", ["fork", "clone"])
def test_a_child_cannot_use_what_it_inherits(how: str, rights: str):
    """It has no descriptor, or one that says the same of everything; and no page of answers."""
    said = run(with_rights(*BOTH), FORKED, how, rights)
    child = said["child"]
    assert child["status"] == 0, child
    assert "error" not in child, child
    # Ours tells what is there from what is not: the attack is one.
    assert len(set(said["mine"])) > 1, said["mine"]
    if how == "fork":
        assert child["found"] == {}
    assert not [name for name in child["found"].values() if "map" in name]
    assert child["maps"] == []
    for answers in child["attacks"]:
        assert len(set(answers)) == 1, f"it tells pages apart: {answers}, ours {said['mine']}"
    if rights == "drop":
        assert all(lengths in ([0, 0], "errno 1") for lengths in child["instructions"])
    # What the parent has is as it was.
    assert {letters[1] for letters in said["after"]} == {"P"}
    if how == "clone":
        return
    # And the child captures by itself: with Y and P as far as it has the rights.
    assert (child["label"], child["disagreed"]) == ("complete", 0)
    assert ("PTE" in child["sources"]) is (rights == "keep")
    assert {letters[1] for letters in child["told"]} <= {"P", "?"}
    assert rights == "drop" or {letters[1] for letters in child["told"]} == {"P"}


STORM = """
import threading
over = threading.Event()
target = int(sys.argv[1])
def capture():
    while not over.is_set():
        snapshot(target, young=True)
snapshot(target, young=True)
threads = [threading.Thread(target=capture) for _ in range(2)]
for thread in threads:
    thread.start()
kept = []
for _ in range(150):
    def found():
        links = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:  # of the list itself
                continue
        return {"kept": [link for link in links if link.startswith("/proc")]}
    kept += in_child(found)["kept"]
over.set()
for thread in threads:
    thread.join()
print(json.dumps(kept))
"""


def test_a_child_has_no_file_of_a_capture_that_goes_on():
    """Forked while other threads capture: pagemap, opened with rights, would answer it still."""
    target = subprocess.Popen(["sleep", "300"])
    try:
        assert run([], STORM, target.pid) == []
    finally:
        target.kill()
        target.wait()


def test_nothing_is_left_over_exec():
    """Descriptors are close-on-exec."""
    said = run(
        with_rights(*BOTH),
        """
import subprocess
snapshot(young=True)
flags = []
for fd in descriptors():
    with open(f"/proc/self/fdinfo/{fd}") as file:
        flags.append(int(next(l for l in file if l.startswith("flags")).split()[1], 8))
code = "import os\\nfor fd in os.listdir('/proc/self/fd'):\\n"
code += "  try: print(os.readlink('/proc/self/fd/' + fd))\\n  except OSError: pass"
ls = subprocess.run([sys.executable, "-c", code], close_fds=False, stdout=subprocess.PIPE)
print(json.dumps({"flags": flags, "left": [l for l in ls.stdout.decode().split() if "bpf" in l]}))
""",
    )
    assert said["flags"]
    assert all(flags & 0o2000000 for flags in said["flags"])
    assert said["left"] == []


def test_the_engine_does_not_show_in_a_capture_of_ourselves():
    """Neither its page of answers nor what it maps meanwhile; and all adds up."""
    said = run(
        with_rights(*BOTH),
        """
before = snapshot(depth="mappings")
kept = [snapshot(young=True) for _ in range(4)]
last = kept[-1]
print(json.dumps({
    "bpf": [m.path for m in last.mappings if "bpf" in m.path], "there": mapped(),
    "labels": [s.verdict.label for s in kept],
    "reasons": [s.verdict.reasons for s in kept],
    "added": [(b - a).anonymous.bytes.bounds for a, b in zip(kept[1:], kept[2:])],
    "rss": (last.status["vm_rss"], last.rss.bytes.bounds)}))
""",
    )
    assert said["there"]  # or the test would prove nothing
    assert said["bpf"] == []
    assert set(said["labels"]) == {"complete"}, said["reasons"]
    assert min(high for _, high in said["added"]) == 0
    vm_rss, (low, high) = said["rss"]
    slack = 3 * 64 * 4096 * 64  # the kernel's per-CPU batches
    assert low - slack <= vm_rss <= high + slack


LOWERED = """
memory, start = pages()
before = told(snapshot(young=True), start, len(memory))
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
assert capabilities() == 0
try:
    snapshot(young=True)
    closed = "open"
except pytest_pmaps.AccessDenied as exc:
    closed = str(exc)
libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: our own pagemap is ours again
quiet, _ = pages()
snap = snapshot(young=True)
quiet.madvise(8)  # MADV_FREE
again = snapshot(young=True)
print(json.dumps({"before": before, "closed": closed,
                  "after": told(snap, start, len(memory)), "label": snap.verdict.label,
                  "disagreed": again.columns.pte_disagreed,
                  "freed": told(again, ctypes.addressof(ctypes.c_char.from_buffer(quiet)),
                                len(quiet))}))
"""


def test_rights_given_up_after_first_use():
    """As daemons do.  Captures go on; what is said of Y and P is unknown, or still true."""
    said = run([], LOWERED)
    assert {letters[1] for letters in said["before"]} == {"P"}
    assert "\n" not in said["closed"]
    assert said["label"] == "complete"
    assert said["disagreed"] == 0
    assert {letters[1] for letters in said["after"]} <= {"P", "?"}
    assert {letters[1] for letters in said["freed"]} <= {"_", "?"}
