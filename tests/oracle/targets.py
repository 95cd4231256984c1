"""Programs in known page states: build them, run them, talk to them, and put the host back.

``zoo`` makes one process with memory in states it names; ``host`` loads ``libfoo.so.1`` and acts
on it.  Both print one line of JSON, then answer a line per line of stdin, and end at its end.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from oracle.reader import PAGE, Page, ProcessState, Unavailable, thread_states

SOURCES: Final = Path(__file__).parent / "targets"
NOBODY: Final = 65534
WARNINGS: Final = ("-Wall", "-Wextra", "-Werror")

ZOO_STATES: Final = (
    "anon",
    "bss",
    "stack",
    "lazyfree",
    "guard",
    "protnone",
    "mremap",
    "many",
    "file_private",
    "file_shared",
    "file_large",
    "shm",
    "memfd",
    "tmpfs",
    "thp",
    "fork",
    "uffd",
)
"""States of ``zoo`` that need nothing from outside; also: hugetlb, swap, ksm, named."""

LIBRARY_VARIANTS: Final[Mapping[str, tuple[str, ...]]] = {
    "default": (),
    "noseparate": ("-Wl,-z,noseparate-code",),
    "lto": ("-flto", "-O2"),
    "stripped": ("-s",),
    "norelro": ("-Wl,-z,norelro",),
}


# ---- building ---------------------------------------------------------------------------------


@contextlib.contextmanager
def public_dir(parent: str | None = None) -> Iterator[Path]:
    """Make a directory on a regular filesystem that every user can read; remove it afterwards.

    pytest's own ``tmp_path`` lies under directories that only its owner may enter.
    """
    path = Path(tempfile.mkdtemp(prefix="oracle-", dir=parent))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def build(
    name: str,
    tmpdir: Path,
    *,
    flags: Sequence[str] = (),
    output: str | None = None,
    settle: bool = True,
) -> Path:
    """Compile ``targets/NAME.c`` into ``tmpdir`` (once) and give the program's path.

    ``settle`` writes the file to disk, so that its page cache is clean before anyone maps it.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Unavailable("no C compiler (gcc) on this host")
    path = tmpdir / (output or name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [compiler, "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", *WARNINGS, *flags]
        made = path.with_name(path.name + ".part")
        subprocess.run(
            [*command, "-o", str(made), str(SOURCES / f"{name}.c"), "-ldl"],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        made.chmod(0o755)
        made.rename(path)
        if settle:
            settle_file(path)
    return path


def build_library(tmpdir: Path, variant: str = "default", *, settle: bool = True) -> Path:
    """Compile ``libfoo.so.1`` in one of LIBRARY_VARIANTS, in a directory of its own."""
    flags = ("-fPIC", "-shared", "-Wl,-soname,libfoo.so.1", *LIBRARY_VARIANTS[variant])
    output = f"{variant}/libfoo.so.1"
    return build("libfoo", tmpdir, flags=flags, output=output, settle=settle)


def settle_file(path: Path) -> None:
    """Write a file's dirty pages to disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---- running ----------------------------------------------------------------------------------

Info = dict[str, Any]


class Running(tuple[int, Info]):
    """What ``running`` yields: unpacks as ``pid, info``, and can be talked to."""

    process: subprocess.Popen[bytes]

    def __new__(cls, process: subprocess.Popen[bytes], info: Info) -> "Running":
        """Pair a started process with the line it said."""
        self = super().__new__(cls, (process.pid, info))
        self.process = process
        return self

    @property
    def pid(self) -> int:
        """Process id."""
        return self[0]

    @property
    def info(self) -> Info:
        """What it said at its start."""
        return self[1]

    def ask(self, command: str) -> Info:
        """Send one command and give the answer; it waits on stdin again when this returns."""
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        return _answer(self.process)


def _answer(process: subprocess.Popen[bytes]) -> Info:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} said nothing and ended with {process.wait(10)}")
    said = json.loads(line)
    if not isinstance(said, dict):
        raise TypeError(f"{process.args!r} said {line!r}")
    if "unavailable" in said:
        raise Unavailable(str(said["unavailable"]))
    if "error" in said:
        raise ValueError(f"{process.args!r} said {said['error']}")
    _wait_blocked(process.pid)
    return said


def _wait_blocked(pid: int, timeout: float = 10.0) -> None:
    """Wait until no thread of a process runs: after its answer it goes to sleep on stdin."""
    deadline = time.monotonic() + timeout
    while set(thread_states(pid)) - {"S"} and time.monotonic() < deadline:
        time.sleep(0.0005)


def reap(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """End a process we started: end of stdin, then SIGTERM, then SIGKILL; always waits."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)  # a stopped one would not see the end of its stdin
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def as_user(uid: int | None) -> list[str]:
    """Give the command prefix that runs the rest as another user."""
    if uid is None:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        raise Unavailable("setpriv and uid 0 are needed to start a target as another user")
    return [setpriv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]


@contextlib.contextmanager
def running(
    target: str | Path,
    *args: str | Path,
    python: str | Path | None = None,
    uid: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Start a target, wait for its line of JSON, yield ``(pid, info)``, and reap it.

    With ``python`` the target is a script for that interpreter (or ``"-c"``, then the code).
    """
    command = [*as_user(uid), *([str(python)] if python else []), str(target), *map(str, args)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=None if env is None else dict(env),
        cwd="/",
    )
    try:
        yield Running(process, _answer(process))
    finally:
        reap(process)


PYTHON_PREFORK: Final = """\
import json, os, sys
gc = __import__("gc"); gc.disable()
ballast = [str(i) * 3 for i in range(40_000)]
def child(write):
    r, w = os.pipe(); done_r, done_w = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(w)
        if write:
            for item in ballast:
                item_again = item
            kept = [item.upper() for item in ballast]
        os.write(done_w, b"x")
        os.read(r, 1)
        os._exit(0)
    os.close(r); os.read(done_r, 1)
    return pid, w
children = [child(False), child(True)]
print(json.dumps({"target": "prefork", "pid": os.getpid(), "areas": [],
                  "children": [pid for pid, _ in children]}), flush=True)
sys.stdin.read()
for _, w in children:
    os.close(w)
for pid, _ in children:
    os.waitpid(pid, 0)
"""
"""A pre-fork Python server: ``running("-c", PYTHON_PREFORK, python=sys.executable)``."""


def kernel_version() -> tuple[int, ...]:
    """Its two numbers, for what it did otherwise once and cannot be asked about."""
    return tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2])


# ---- what the states mean ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What must hold for every page in a state; None: not known beforehand.

    The first group is checked by ``mismatches``; ``ptedirty`` (the RFC's P) and ``ours_dirty``
    (this project's word) cannot be seen from here, they follow from how the page was made.
    """

    present: bool = True
    normal: bool | None = None
    on_swap: bool = False
    guard: bool = False
    file: bool | None = None
    anon: bool | None = None
    zero: bool | None = False
    swapbacked: bool | None = None
    uptodate: bool | None = None
    dirty: bool | None = None
    ksm: bool | None = None
    thp: bool | None = None
    pmd_mapped: bool | None = None
    exclusive: bool | None = None
    uffd_wp: bool | None = False
    unevictable: bool | None = None
    hugetlb: bool | None = None

    ptedirty: bool | None = None
    ours_dirty: bool | None = None


def _private(**more: bool | None) -> Expect:
    """Give what holds for a written page of one's own, with differences."""
    facts: dict[str, Any] = {
        "normal": True,
        "file": False,
        "anon": True,
        "swapbacked": True,
        "uptodate": True,
        "ksm": False,
        "exclusive": True,
        "ptedirty": True,
        "ours_dirty": True,
    }
    return Expect(**(facts | more))


def _object(**more: bool | None) -> Expect:
    """Give what holds for a page of a file or shmem object, with differences."""
    facts: dict[str, Any] = {"normal": True, "file": True, "anon": False, "uptodate": True}
    return Expect(**(facts | more))


def _split_keeps_p() -> bool:
    """Whether the kernel leaves P where it splits the entry of a huge page; before 6.4 it set D."""
    return kernel_version() >= (6, 4)


EXPECT: Final[Mapping[str, Expect]] = {
    # anonymous memory
    "private": _private(thp=False),
    "zero": Expect(
        normal=False, file=False, anon=False, zero=True, ptedirty=False, ours_dirty=False
    ),
    "lazyfree": _private(swapbacked=False, dirty=False, ptedirty=False, ours_dirty=False),
    "rewritten": _private(swapbacked=None),  # dirty again, but not yet moved back by reclaim
    "guard": Expect(present=False, guard=True, normal=False, ptedirty=False, ours_dirty=False),
    "forked": _private(exclusive=False),
    "private_wp": _private(uffd_wp=True),
    "merged": _private(ksm=True, exclusive=False, swapbacked=None, ptedirty=None),
    "swapped": Expect(
        present=False, on_swap=True, normal=False, file=None, exclusive=None, ours_dirty=True
    ),
    "swapped_in": _private(ptedirty=None),
    "wp_marker": Expect(
        present=False, normal=False, uffd_wp=True, ptedirty=False, ours_dirty=False
    ),
    # huge pages
    "huge": _private(thp=True, pmd_mapped=True, exclusive=None),
    "huge_split": _private(thp=True, pmd_mapped=False, ptedirty=_split_keeps_p() or None),
    "huge_zero": Expect(
        normal=False,
        anon=False,
        zero=True,
        pmd_mapped=True,
        ptedirty=False,
        ours_dirty=False,
    ),
    "hugetlb": Expect(normal=False, hugetlb=True),
    # private file mappings
    "file": _object(swapbacked=False, ptedirty=False, ours_dirty=False),
    "copied": _private(thp=False),
    "locked_copy": _private(thp=False, unevictable=None),
    # shared mappings of a file on disk
    "shared_clean": _object(swapbacked=False, dirty=False, ptedirty=False, ours_dirty=False),
    "shared_dirty": _object(swapbacked=False, dirty=True, ptedirty=True, ours_dirty=True),
    "shared_ptclean": _object(swapbacked=False, ptedirty=False, ours_dirty=False),
    # shared memory: shmem, memfd, tmpfs
    "shm_dirty": _object(swapbacked=True, dirty=True, ptedirty=True, ours_dirty=True),
    "shm_clean": _object(swapbacked=True, dirty=False, ptedirty=False, ours_dirty=False),
    # Newer kernels (6.18) let a read fault map as dirty what is dirty already and may be written.
    "shm_ptclean": _object(swapbacked=True, ptedirty=None, ours_dirty=None),
}
"""States by name.  Not listed: ``absent`` (nothing there) and ``unknown`` (nothing claimed)."""

_UNSEEN: Final = ("ptedirty", "ours_dirty")


@dataclass(frozen=True, slots=True)
class Area:
    """Pages that a target put into one state."""

    name: str
    start: int
    length: int
    state: str
    mapcount: int | None

    @property
    def addresses(self) -> range:
        """The address of every page."""
        return range(self.start, self.start + self.length, PAGE)


def areas(info: Info) -> dict[str, Area]:
    """Give the areas of an answer (or of its ``child``) by name."""
    return {
        area["name"]: Area(
            area["name"], area["start"], area["length"], area["state"], area.get("mapcount")
        )
        for area in info["areas"]
    }


def mismatches(state: ProcessState, area: Area) -> list[str]:
    """List where the pages of an area are not in the state the target put them in."""
    if area.state == "unknown":
        return []
    pages = state.pages(area.start, area.length)
    if area.state == "absent":
        return [f"{area.name}: page {(a - area.start) // PAGE} is populated" for a in pages]
    expect = EXPECT[area.state]
    wrong = []
    for number, address in enumerate(area.addresses):
        page = pages.get(address)
        if page is None:
            wrong.append(f"{area.name}: page {number} is not populated")
            continue
        for one in fields(expect):
            wanted = getattr(expect, one.name)
            if one.name in _UNSEEN or wanted is None:
                continue
            seen = getattr(page, one.name)
            if seen is not None and seen != wanted:
                wrong.append(f"{area.name}: page {number}: {one.name} is {seen}, not {wanted}")
        if area.mapcount is not None and page.mapcount != area.mapcount:
            wrong.append(
                f"{area.name}: page {number}: mapcount is {page.mapcount}, not {area.mapcount}"
            )
    return wrong


def all_mismatches(state: ProcessState, info: Info) -> list[str]:
    """List every mismatch of an answer's areas."""
    return [line for area in areas(info).values() for line in mismatches(state, area)]


def dirty_mismatches(state: ProcessState, info: Info) -> list[str]:
    """List the mappings whose dirty bytes in smaps are not what the areas' states say.

    smaps counts a page as dirty if P or D is set.  P is known from how the areas were made, D
    from kpageflags; mappings with other populated pages are passed over.
    """
    known: dict[int, bool | None] = {}
    for area in areas(info).values():
        expect = EXPECT.get(area.state)
        if expect is not None:
            known.update(dict.fromkeys(area.addresses, expect.ptedirty))
    wrong = []
    for mapping in state.mappings:
        total = 0
        for page in mapping.pages:
            if not page.normal or page.dirty:
                total += page.normal
                continue
            ptedirty = known.get(page.address)
            if ptedirty is None:
                break
            total += ptedirty
        else:
            counted = mapping.smaps.get("Private_Dirty", 0) + mapping.smaps.get("Shared_Dirty", 0)
            if counted != total * PAGE:
                wrong.append(
                    f"{mapping.name or '[anon]'} {mapping.start:x}: {counted // PAGE} dirty pages "
                    f"in smaps, {total} by construction"
                )
    return wrong


def area_pages(state: ProcessState, area: Area) -> list[Page]:
    """Give the populated pages of an area in order."""
    return list(state.pages(area.start, area.length).values())


# ---- host settings, always put back -----------------------------------------------------------


def _write(path: str | Path, text: str | int) -> None:
    Path(path).write_text(f"{text}\n")


@contextlib.contextmanager
def setting(path: str | Path, value: str | int) -> Iterator[str]:
    """Change one file of /proc/sys or /sys, yield what it held, and write that back.

    Locked meanwhile, so that tests in parallel do not take each other's value for the host's.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error
    with os.fdopen(fd, "rb", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read().decode("ascii").strip()
        try:
            _write(path, value)
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}") from error
        try:
            yield before
        finally:
            _write(path, before)


@contextlib.contextmanager
def reserved_hugepages(n: int) -> Iterator[None]:
    """Reserve ``n`` more huge pages of the default size, and give them back."""
    path = Path("/proc/sys/vm/nr_hugepages")
    if not path.exists():
        raise Unavailable("no hugetlb: /proc/sys/vm/nr_hugepages does not exist")
    with setting(path, path.read_text().strip()) as before:  # lock, then change
        wanted = int(before) + n
        try:
            _write(path, wanted)
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}") from error
        if int(path.read_text()) < wanted:
            raise Unavailable(f"could not reserve {n} huge pages: memory is fragmented")
        yield


@contextlib.contextmanager
def swapfile(mb: int, directory: str | None = None) -> Iterator[Path]:
    """Make a swap file, swap on it, and always swap off and remove it."""
    mkswap, swapon, swapoff = (
        shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin")
        for tool in ("mkswap", "swapon", "swapoff")
    )
    if mkswap is None or swapon is None or swapoff is None:
        raise Unavailable("mkswap, swapon or swapoff is not installed")
    fd, name = tempfile.mkstemp(prefix="oracle-swap-", dir=directory)
    path = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:  # mode 0600, no holes
            for _ in range(mb):
                file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
        subprocess.run([mkswap, name], check=True, capture_output=True)
        on = subprocess.run([swapon, name], capture_output=True, text=True)
        if on.returncode:
            raise Unavailable(f"swapon is refused here: {on.stderr.strip()}")
        try:
            yield path
        finally:
            subprocess.run([swapoff, name], check=True, capture_output=True)
    finally:
        path.unlink(missing_ok=True)


KSM_DIR: Final = Path("/sys/kernel/mm/ksm")


@contextlib.contextmanager
def ksm() -> Iterator[None]:
    """Let KSM merge fast; afterwards unmerge what it merged (if it was off) and restore it."""
    if not (KSM_DIR / "run").exists():
        raise Unavailable("no KSM: /sys/kernel/mm/ksm/run does not exist")
    with contextlib.ExitStack() as stack:
        before = stack.enter_context(setting(KSM_DIR / "run", 1))
        for name, value in (("sleep_millisecs", 5), ("pages_to_scan", 10_000), ("smart_scan", 0)):
            if (KSM_DIR / name).exists():
                stack.enter_context(setting(KSM_DIR / name, value))
        try:
            yield
        finally:
            if before == "0":
                _write(KSM_DIR / "run", 2)  # stop, and unmerge everything


def wait_merged(pid: int, pages: int, timeout: float = 20.0) -> None:
    """Wait until KSM has merged at least ``pages`` pages of a process."""
    path = Path(f"/proc/{pid}/ksm_merging_pages")
    if not path.exists():
        raise Unavailable(f"{path} does not exist")
    deadline = time.monotonic() + timeout
    while int(path.read_text()) < pages:
        if time.monotonic() > deadline:
            raise TimeoutError(f"KSM merged {path.read_text().strip()} of {pages} pages")
        time.sleep(0.02)


# ---- real programs ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """A real program of this host, and how to start it so that it sits idle on stdin."""

    name: str
    argv: tuple[str, ...]
    say: bytes = b""  # sent at the start; stdin stays open
    user: int | None = None


_PYTHON_IDLE = "import sys, json, decimal, threading, sqlite3; sys.stdin.read()"
_JAVA_IDLE = """\
public class Idle {
    public static void main(String[] a) throws Exception { while (System.in.read() >= 0) { } }
}
"""
_CANDIDATES: Final = (
    Program("bash", ("bash", "--norc", "--noprofile")),
    Program("dash", ("dash",)),
    Program("perl", ("perl", "-MPOSIX", "-e", "my @a = (1..5000); <STDIN>")),
    Program("node", ("node", "-e", "process.stdin.resume()")),
    Program("ruby", ("ruby", "-e", "STDIN.read")),
    Program("lua", ("lua", "-e", "io.read()")),
    Program("sqlite3", ("sqlite3", ":memory:"), b"create table t(x);insert into t values(1);\n"),
    Program("redis-server", ("redis-server", "--port", "0", "--save", "")),
    Program("awk", ("awk", "BEGIN { for (i = 0; i < 5000; i++) a[i] = i } { print }")),
    Program("gawk", ("gawk", "BEGIN { for (i = 0; i < 5000; i++) a[i] = i } { print }")),
    Program("gdb", ("gdb", "-nx", "-q")),
    Program("tclsh", ("tclsh",), b"set x [lrepeat 5000 1]; puts ok\n"),
    Program("bc", ("bc", "-q"), b"2^5000\n"),
    Program("sort", ("sort",), b"one\n" * 1000),
    Program("cat", ("cat",)),
    Program("ed", ("ed",), b"a\nline\n.\n"),
    Program("tail", ("tail", "-f", "/dev/null")),
    Program("sleep", ("sleep", "600")),
    Program("ssh-agent", ("ssh-agent", "-D")),
    Program("sed", ("sed", "s/a/b/")),
    Program("as", ("as", "-o", "/dev/null", "-")),
    Program("openssl", ("openssl", "base64")),
    Program("jq", ("jq", ".")),
)


PROGRAM_NAMES: Final = (
    "python",
    *(program.name for program in _CANDIDATES),
    "git",
    "java",
    "postgres",
)
"""Names that ``real_programs`` may give, found here or not: to parametrise tests with."""


def real_programs(tmpdir: Path | None = None) -> list[Program]:
    """List the idle programs that this host can start; some need a directory to prepare."""
    found = [Program("python", (sys.executable, "-c", _PYTHON_IDLE))]
    for program in _CANDIDATES:
        path = shutil.which(program.argv[0])
        if path is not None:
            found.append(
                Program(program.name, (path, *program.argv[1:]), program.say, program.user)
            )
    git, java, javac = (shutil.which(tool) for tool in ("git", "java", "javac"))
    if tmpdir is not None and git is not None:
        repository = tmpdir / "repository.git"
        if not repository.exists():
            subprocess.run([git, "init", "-q", "--bare", str(repository)], check=True)
        found.append(
            Program("git", (git, "--git-dir", str(repository), "cat-file", "--batch"), b"HEAD\n")
        )
    if tmpdir is not None and java is not None and javac is not None:
        source = tmpdir / "Idle.java"
        if not source.exists():
            source.write_text(_JAVA_IDLE)
            subprocess.run([javac, "-d", str(tmpdir), str(source)], check=True)
        heap = ("-Xms8m", "-Xmx32m")
        found.append(Program("java", (java, *heap, "-cp", str(tmpdir), "Idle")))
    initdb, postgres = shutil.which("initdb"), shutil.which("postgres")
    if tmpdir is not None and initdb is not None and postgres is not None and os.geteuid() == 0:
        data = tmpdir / "pgdata"
        if not data.exists():
            data.mkdir()
            os.chown(data, NOBODY, NOBODY)
            command = [*as_user(NOBODY), initdb, "-D", str(data), "--no-sync", "-A", "trust"]
            made = subprocess.run(command, capture_output=True, cwd="/")
            if made.returncode:
                return found
        single = (postgres, "--single", "-D", str(data), "postgres")
        found.append(Program("postgres", single, b"select count(*) from pg_class;\n", NOBODY))
    return found


def _footprint(pid: int) -> tuple[bytes, ...]:
    """What an idle process does not change: its CPU time, its memory, its maps."""
    stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    statm = Path(f"/proc/{pid}/statm").read_bytes()
    return (*stat[7:15], statm, Path(f"/proc/{pid}/maps").read_bytes())


def wait_idle(pid: int, quiet: float = 0.3, timeout: float = 30.0) -> None:
    """Wait until every thread sleeps and nothing about the process moved for ``quiet`` seconds."""
    deadline = time.monotonic() + timeout
    since, last = time.monotonic(), _footprint(pid)
    while time.monotonic() - since < quiet:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} is not idle after {timeout} s")
        time.sleep(0.02)
        now = _footprint(pid)
        if now != last or "R" in thread_states(pid):
            since, last = time.monotonic(), now


@contextlib.contextmanager
def idle(program: Program, quiet: float = 0.3) -> Iterator[int]:
    """Start a real program, wait until it is idle, yield its pid, and reap it."""
    process = subprocess.Popen(
        [*as_user(program.user), *program.argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(program.say)
            process.stdin.flush()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            wait_idle(process.pid, quiet)
        if process.poll() is not None:
            raise Unavailable(f"{program.name} does not stay: it ended with {process.returncode}")
        yield process.pid
    finally:
        reap(process, patience=0.1)
