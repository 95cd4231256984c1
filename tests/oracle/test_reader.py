"""The oracle's reader against the kernel, on pages in known states; no pytest_pmaps here."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from oracle import reader, targets
from oracle.reader import PAGE, MappingState, ProcessState, Unavailable
from oracle.targets import Area, Info, area_pages, areas

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


@pytest.fixture(scope="module", autouse=True)
def _frames() -> None:
    reader.require_frames()  # skips, with its reason, where page frames are hidden


@pytest.fixture(scope="module")
def public() -> Iterator[Path]:
    """A directory on a regular filesystem that every user can read."""
    with targets.public_dir() as path:
        yield path


@pytest.fixture(scope="module")
def zoo(public: Path) -> Path:
    """The program that makes pages in known states."""
    return targets.build("zoo", public)


def held(pid: int) -> ProcessState:
    """Read a process while it is stopped, preferably when nobody moved its shared pages."""
    with reader.stopped(pid):
        return reader.quiet(pid, tries=3)


def adds_up(pid: int) -> None:
    """Pages and the kernel's counters agree, in every mapping that others left in peace."""
    with reader.stopped(pid):
        wrong, restless = reader.contradictions(pid)
        mappings = len(reader.read(pid).mappings)
    assert wrong == []
    assert len(restless) < mappings // 4, restless


def check(state: ProcessState, info: Info) -> None:
    """Areas are as constructed, their mappings add up, so do all others that held still."""
    made = areas(info)
    assert made
    assert targets.all_mismatches(state, info) == []
    assert targets.dirty_mismatches(state, info) == []
    for area in made.values():
        expected = 0 if area.state == "absent" else len(area.addresses)
        assert area.state == "unknown" or len(area_pages(state, area)) == expected, area
        for address in (area.addresses[0], area.addresses[-1]):
            if not state.at(address).header.has_file or state.at(address).header.perms[3] == "s":
                assert reader.reconcile(state.at(address)) == []  # nobody else maps these
    adds_up(state.pid)


# ---- parsers ----------------------------------------------------------------------------------


def test_maps_names_keep_spaces_and_lose_only_newline_escapes() -> None:
    """proc.rst: a newline is all that maps escapes."""
    text = (
        b"7f0000000000-7f0000001000 rw-s 0001f000 fe:0a 1234567 /tmp/a b\\012c\\040d (deleted)\n"
        b"7f0000002000-7f0000003000 r-xp 00000000 00:00 0 \n"
        b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0      [vsyscall]\n"
    )
    first, second, third = reader.parse_maps(text)
    assert first.name == "/tmp/a b\nc\\040d (deleted)"
    assert (first.offset, first.dev, first.inode) == (0x1F000, (0xFE, 0x0A), 1234567)
    assert first.has_file
    assert not first.private
    assert (second.name, second.has_file, second.private) == ("", False, True)
    assert third.start == 0xFFFFFFFFFF600000


def test_a_line_that_is_no_mapping_is_an_error() -> None:
    """A reader that skips what it cannot read proves nothing."""
    with pytest.raises(ValueError, match="not a line of maps"):
        reader.parse_maps(b"Rss: 4 kB\n")


def test_smaps_keeps_lines_it_does_not_know() -> None:
    """New kernels add lines and flags."""
    text = (
        b"00001000-00002000 rw-p 00000000 00:00 0 [heap]\nRss:   4 kB\nFrobs:   8 kB\n"
        b"THPeligible:    1\nVmFlags: rd wr zz \n"
    )
    (entry,) = reader.parse_smaps(text)
    assert entry.kilobytes == {"Rss": 4096, "Frobs": 8192}
    assert entry.other == {"THPeligible": "1"}
    assert entry.vmflags == ("rd", "wr", "zz")


def test_numa_maps_names_are_octal() -> None:
    """Blanks, tabs, newlines and equal signs come as octal."""
    text = (
        b"7f0000000000 default file=/tmp/a\\040b\\012c mapped=3 mapmax=2 active=1 N0=2 N1=1 "
        b"kernelpagesize_kB=4\n7f0000004000 bind:0-1 huge anon=1 dirty=1 N0=1\n"
    )
    entries = reader.parse_numa_maps(text)
    first, second = entries[0x7F0000000000], entries[0x7F0000004000]
    assert (first.file, first.pages, first.counts["mapmax"]) == ("/tmp/a b\nc", 3, 2)
    assert (second.policy, second.words, second.pages) == ("bind:0-1", ("huge",), 1)


# ---- constructed states -----------------------------------------------------------------------


@pytest.mark.parametrize("state", targets.ZOO_STATES)
def test_constructed_states_are_seen(zoo: Path, public: Path, state: str) -> None:
    """What the program made is what the reader sees, and it adds up."""
    with targets.running(zoo, state, public) as (pid, info):
        check(held(pid), info)
        if "child" in info:
            check(held(info["child"]["pid"]), info["child"])


@pytest.mark.parametrize("state", ["anon", "bss", "file_private", "memfd", "fork", "guard"])
def test_the_same_as_nobody(zoo: Path, public: Path, state: str) -> None:
    """The target may be anybody: it is the reader who needs the privilege."""
    writable = public / "nobody"
    writable.mkdir(exist_ok=True)
    os.chown(writable, targets.NOBODY, targets.NOBODY)
    with targets.running(zoo, state, writable, uid=targets.NOBODY) as (pid, info):
        assert os.stat(f"/proc/{pid}").st_uid == targets.NOBODY
        check(held(pid), info)


def test_a_wrong_expectation_is_noticed(zoo: Path, public: Path) -> None:
    """``mismatches`` is not vacuous."""
    with targets.running(zoo, "anon", public) as (pid, info):
        state = held(pid)
    made = areas(info)
    for area, claim in (("written", "zero"), ("read", "private"), ("untouched", "private")):
        assert len(targets.mismatches(state, replace(made[area], state=claim))) >= 16
    assert len(targets.mismatches(state, replace(made["written"], state="absent"))) == 16
    assert len(targets.mismatches(state, replace(made["written"], mapcount=2))) == 16
    info["areas"][0]["state"] = "lazyfree"
    assert len(targets.dirty_mismatches(state, info)) == 1


def test_counters_that_do_not_add_up_are_noticed(zoo: Path, public: Path) -> None:
    """``reconcile`` is not vacuous."""
    with targets.running(zoo, "anon", public) as (pid, info):
        state = held(pid)
    mapping = state.at(areas(info)["written"].start)
    assert reader.reconcile(mapping) == []
    for name in ("Rss", "Anonymous", "Private_Dirty", "Pss", "Swap", "AnonHugePages"):
        moved = dict(mapping.smaps) | {name: mapping.smaps[name] + 4096}
        assert reader.reconcile(replace(mapping, smaps=moved)) != [], name
    assert reader.reconcile(replace(mapping, pages=mapping.pages[1:])) != []


def test_only_lasting_contradictions_are_reported(
    zoo: Path, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes and goes is the host's doing; one that stays is not."""
    honest, calls = reader.reconcile, [0]
    with targets.running(zoo, "anon", public) as (pid, info):
        start = areas(info)["written"].start

        def wrong_at_first(mapping: MappingState) -> list[str]:
            calls[0] += mapping.start == start
            return ["wrong"] if mapping.start == start and calls[0] < 3 else honest(mapping)

        def always_wrong(mapping: MappingState) -> list[str]:
            return ["wrong"] if mapping.start == start else honest(mapping)

        monkeypatch.setattr(reader, "reconcile", wrong_at_first)
        assert reader.contradictions(pid)[0] == []
        assert calls[0] >= 3
        monkeypatch.setattr(reader, "reconcile", always_wrong)
        assert reader.contradictions(pid)[0] == ["wrong"]


def dirty_bytes(mapping: MappingState) -> int:
    """What smaps calls dirty, alone or shared."""
    return mapping.smaps["Private_Dirty"] + mapping.smaps["Shared_Dirty"]


@pytest.mark.parametrize(
    ("state", "dirty_pages"),
    [("anon", 24), ("shm", 16), ("file_shared", 16), ("mremap", 8), ("guard", 4), ("protnone", 8)],
)
def test_the_kernel_counts_the_dirty_pages_that_were_made(
    zoo: Path, public: Path, state: str, dirty_pages: int
) -> None:
    """P as constructed is what smaps counts, in mappings where D follows from P."""
    with targets.running(zoo, state, public) as (pid, info):
        mapping = held(pid).at(next(iter(areas(info).values())).start)
    assert dirty_bytes(mapping) == dirty_pages * PAGE
    made = [area for area in areas(info).values() if area.start < mapping.end]
    by_state = sum(
        len(area.addresses)
        for area in made
        if mapping.start <= area.start
        and area.state != "absent"
        and targets.EXPECT[area.state].ptedirty
    )
    assert by_state == dirty_pages


def test_the_zero_page_is_present_and_not_resident(zoo: Path, public: Path) -> None:
    """One frame, mapped without being counted anywhere."""
    with targets.running(zoo, "anon", public) as (pid, info):
        state = held(pid)
    mapping = state.at(areas(info)["read"].start)
    assert (len(mapping.pages), mapping.smaps["Rss"]) == (48, 24 * PAGE)
    zeros = area_pages(state, areas(info)["read"])
    assert len({page.frame for page in zeros}) == 1
    assert all(page.mapcount == 0 and not page.exclusive for page in zeros)


def test_lazily_freed_pages_are_clean_until_written(zoo: Path, public: Path) -> None:
    """LazyFree and Private_Dirty share the pages between them."""
    with targets.running(zoo, "lazyfree", public) as (pid, info):
        state = held(pid)
    made = areas(info)
    assert state.at(made["all"].start).smaps["LazyFree"] == 16 * PAGE
    again = state.at(made["rewritten"].start).smaps
    assert (again["LazyFree"], again["Private_Dirty"]) == (15 * PAGE, PAGE)
    partly = state.at(made["partly_freed"].start).smaps
    assert (partly["LazyFree"], partly["Private_Dirty"]) == (8 * PAGE, 8 * PAGE)


def test_msync_makes_a_written_shared_mapping_clean(zoo: Path, public: Path) -> None:
    """Written pages of a shared file mapping are dirty until they are on disk."""
    with targets.running(zoo, "file_shared", public) as target:
        for command, dirty in (("write", 32), ("msync", 16), ("write", 32)):
            answer = target.ask(command)
            state = held(target.pid)
            assert targets.all_mismatches(state, answer) == []
            assert dirty_bytes(state.at(areas(answer)["synced"].start)) == dirty * PAGE


def test_private_copies_keep_the_index_of_the_file(zoo: Path, public: Path) -> None:
    """Copied on write or by mlock: the index stays the file offset."""
    with targets.running(zoo, "file_private", public) as (pid, info):
        state = held(pid)
    copies = area_pages(state, areas(info)["written"])
    assert [page.index for page in copies] == list(range(32, 48))
    assert all(page.index_exact for page in copies)
    locked = state.at(areas(info)["locked"].start)
    assert "lo" in locked.vmflags
    assert locked.smaps["Private_Dirty"] == 16 * PAGE  # copied, though nobody wrote


def test_moved_memory_has_an_index_that_only_guesses(zoo: Path, public: Path) -> None:
    """Where mremap moved pages from cannot be seen afterwards."""
    with targets.running(zoo, "mremap", public) as (pid, info):
        state = held(pid)
    pages = area_pages(state, areas(info)["written"])
    assert all(page.index == page.address // PAGE and not page.index_exact for page in pages)
    assert info["moved_from"][0] != areas(info)["written"].start


def test_one_written_page_dirties_its_whole_folio(zoo: Path, public: Path) -> None:
    """D belongs to the folio: more than the written page shows it."""
    with targets.running(zoo, "file_large", public) as (pid, info):
        state = held(pid)
    (written,) = area_pages(state, areas(info)["written"])
    if not written.thp:
        pytest.skip("this filesystem keeps the file in single pages")
    mapping = state.at(written.address)
    assert mapping.count(lambda page: page.dirty) > 1
    assert mapping.count(lambda page: page.dirty) % 2 == 0  # folios are powers of two


def test_huge_pages_are_told_from_split_ones(zoo: Path, public: Path) -> None:
    """A large folio may be mapped by one PMD or by PTEs."""
    with targets.running(zoo, "thp", public) as (pid, info):
        state = held(pid)
    made = areas(info)
    assert state.at(made["whole"].start).smaps["AnonHugePages"] == 2 << 20
    assert state.at(made["halved"].start).smaps["AnonHugePages"] == 0
    assert state.at(made["zero"].start).smaps["Rss"] == 0
    whole = area_pages(state, made["whole"])
    assert whole[0].kpf("COMPOUND_HEAD")
    assert all(page.kpf("COMPOUND_TAIL") for page in whole[1:])
    if whole[0].pmd_mapped is None:
        pytest.skip("no PAGEMAP_SCAN: what maps a huge page cannot be seen")


def test_fork_shares_until_written(zoo: Path, public: Path) -> None:
    """The same frames on both sides, until either side writes."""
    with targets.running(zoo, "fork", public) as (pid, info):
        parent, child = held(pid), held(info["child"]["pid"])
    for area in areas(info).values():
        ours = [page.frame for page in area_pages(parent, area)]
        theirs = [page.frame for page in area_pages(child, area)]
        assert (ours == theirs) == area.name.startswith("sh"), area.name
        assert bool(set(ours) & set(theirs)) == area.name.startswith("sh"), area.name


def test_prefork_python_shares_less_where_it_works() -> None:
    """A worker that allocates has pages of its own."""
    with targets.running("-c", targets.PYTHON_PREFORK, python=sys.executable) as (_, info):
        idle, busy = (
            sum(m.count(lambda p: p.anon and p.mapcount == 1) for m in held(child).mappings)
            for child in info["children"]
        )
    assert busy > idle + 400


def test_names_with_odd_characters(zoo: Path, public: Path) -> None:
    """Names come back as they were made, but for one ambiguity."""
    names = ["plain", "with space", "new\nline", "back\\012slash", "x (deleted)", "naïve=1"]
    for name in names:
        (public / name).write_bytes(b"x" * PAGE)
    with targets.running(zoo, "named", public, *(public / n for n in names)) as (pid, info):
        (public / "plain").unlink()
        state = held(pid)
    made = areas(info)
    assert len(made) == len(names)
    for number, name in enumerate(names):
        mapping = state.at(made[str(number)].start)
        expected = str(public / name) + (" (deleted)" if name == "plain" else "")
        # neither file escapes the backslash: this one name cannot be told from a newline
        expected = expected.replace("\\012", "\n")
        assert mapping.name == expected
        assert mapping.numa is None or mapping.numa.file == expected


def test_two_thousand_mappings(zoo: Path, public: Path) -> None:
    """Nothing is lost in long files."""
    with targets.running(zoo, "many", public) as (pid, info):
        state = held(pid)
    (area,) = areas(info).values()
    inside = [m for m in state.mappings if area.start <= m.start < area.start + area.length]
    assert len(inside) == 2000
    assert {m.header.perms for m in inside} == {"r--p", "rw-p"}


# ---- what needs the host's help ---------------------------------------------------------------


def test_swapped_pages(zoo: Path, public: Path) -> None:
    """Paged out, and partly read back."""
    with targets.swapfile(16), targets.running(zoo, "swap", public) as target:
        check(held(target.pid), target.info)
        out = target.ask("pageout")
        state = held(target.pid)
        check(state, out)
        for area in areas(out).values():
            assert state.at(area.start).smaps["Swap"] == area.length
        back = target.ask("read")
        check(held(target.pid), back)


def test_merged_pages(zoo: Path, public: Path) -> None:
    """Equal pages become one frame with many mappings."""
    with targets.ksm(), targets.running(zoo, "ksm", public) as (pid, info):
        targets.wait_merged(pid, 64)
        state = held(pid)
        check(state, info)
        same = areas(info)["same"]
        assert len({page.frame for page in area_pages(state, same)}) == 1
        assert state.at(same.start).smaps.get("KSM", same.length) == same.length


def test_hugetlb_pages(zoo: Path, public: Path) -> None:
    """Listed, but neither in Rss nor among the RFC ranges."""
    with targets.reserved_hugepages(4), targets.running(zoo, "hugetlb", public) as (pid, info):
        state = held(pid)
        check(state, info)
        mapping = state.at(areas(info)["written"].start)
        assert mapping.hugetlb
        assert mapping.smaps["Rss"] == 0
        assert mapping.smaps["Private_Hugetlb"] == mapping.smaps["KernelPageSize"] == 2 << 20
        assert reader.rfc_ranges(mapping) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda: targets.reserved_hugepages(2), "/proc/sys/vm/nr_hugepages"),
        (lambda: targets.swapfile(2), "/proc/swaps"),
        (targets.ksm, "/sys/kernel/mm/ksm/run"),
    ],
    ids=["hugepages", "swap", "ksm"],
)
def test_the_host_is_put_back(
    change: Callable[[], AbstractContextManager[object]], path: str
) -> None:
    """Also when the test fails under it."""
    if not Path(path).exists():
        pytest.skip(f"{path} does not exist")
    before = Path(path).read_text()

    def fail_under_it() -> None:
        with change():
            assert Path(path).read_text() != before
            raise KeyError

    with pytest.raises(KeyError):
        fail_under_it()
    assert Path(path).read_text() == before


# ---- a library --------------------------------------------------------------------------------


def files_pages(state: ProcessState, area: Area) -> tuple[int, int]:
    """Pages of the file, and private copies, in an area."""
    pages = area_pages(state, area)
    return sum(page.file for page in pages), sum(page.anon for page in pages)


@pytest.mark.parametrize("variant", targets.LIBRARY_VARIANTS)
def test_a_library_through_its_life(public: Path, variant: str) -> None:
    """Each part shows what was done to it, and only that."""
    host, library = targets.build("host", public), targets.build_library(public, variant)
    with targets.running(host, library) as target:
        made = areas(target.info)
        assert set(made) == {"text", "rodata", "relro", "data", "bss"}
        state = held(target.pid)
        assert len(state.named("libfoo.so.1")) >= 2
        assert files_pages(state, made["relro"]) == (0, 2)  # the loader wrote it
        assert files_pages(state, made["text"])[1] == 0
        assert files_pages(state, made["data"])[1] == 0
        target.ask("read")
        state = held(target.pid)
        for part in ("text", "rodata", "data"):
            assert files_pages(state, made[part]) == (4, 0), part
        assert area_pages(state, made["bss"]) == []
        for command in ("call", "write-data", "read-bss", "write-bss", "write-text", "call"):
            answer = target.ask(command)
            state = held(target.pid)
            assert targets.all_mismatches(state, answer) == []
        adds_up(target.pid)
        assert files_pages(state, made["text"]) == (0, 4)
        assert files_pages(state, made["rodata"]) == (4, 0)


def test_library_variants_differ_where_they_should(public: Path) -> None:
    """Permissions alone do not tell the parts of a library."""
    host = targets.build("host", public)
    shapes = {}
    for variant in targets.LIBRARY_VARIANTS:
        with targets.running(host, targets.build_library(public, variant)) as (pid, info):
            state, made = reader.read(pid), areas(info)
        shapes[variant] = (
            state.at(made["rodata"].start).header.perms,
            state.at(made["relro"].start).header.perms,
        )
    assert shapes.pop("noseparate") == ("r-xp", "r--p")
    assert shapes.pop("norelro") == ("r--p", "rw-p")
    assert set(shapes.values()) == {("r--p", "r--p")}


# ---- real programs ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs(public: Path) -> dict[str, targets.Program]:
    """The real programs of this host by name."""
    return {program.name: program for program in targets.real_programs(public)}


@pytest.mark.parametrize("name", targets.PROGRAM_NAMES)
def test_real_programs_add_up(programs: dict[str, targets.Program], name: str) -> None:
    """Every mapping of a real program agrees with its own counters."""
    if name not in programs:
        pytest.skip(f"{name} is not installed (or cannot be prepared) on this host")
    with targets.idle(programs[name]) as pid:
        adds_up(pid)
        assert sum(len(mapping.pages) for mapping in reader.read(pid).mappings) > 50


# ---- reading, holding, refusing ---------------------------------------------------------------


def test_pages_that_change_between_two_reads_are_left_out(zoo: Path, public: Path) -> None:
    """And counted as unstable; the others stay."""
    with targets.running(zoo, "file_shared", public) as target:
        before = held(target.pid)
        target.ask("write")
        after = held(target.pid)
    area = areas(target.info)["synced"]
    mapping = reader.both(before, after).at(area.start)
    assert mapping.unstable == 16
    assert not mapping.steady
    assert len(mapping.pages) == 32
    assert not any(page.address in area.addresses for page in mapping.pages)
    assert mapping.smaps == after.at(area.start).smaps


def test_sandwich_of_a_still_process_is_what_was_read(zoo: Path, public: Path) -> None:
    """Nothing is lost where nothing moves."""
    with targets.running(zoo, "anon", public) as (pid, info), reader.stopped(pid):
        start = areas(info)["written"].start
        assert reader.sandwich(pid).at(start) == reader.read(pid).at(start)


def test_rfc_ranges_break_on_state_and_on_gaps(zoo: Path, public: Path) -> None:
    """Consecutive indexes in the same state, as the RFC groups them."""
    with targets.running(zoo, "shm", public) as (pid, info):
        mapping = held(pid).at(areas(info)["written"].start)
    numbers = [(first, count, mapcount) for first, count, _, mapcount in reader.rfc_ranges(mapping)]
    assert numbers == [(0, 16, 1), (16, 16, 1)]
    letters = [letters for _, _, letters, _ in reader.rfc_ranges(mapping)]
    assert [(flags[3], flags[5]) for flags in letters] == [("U", "D"), ("U", "_")]
    assert all(flags[0] == flags[4] == "?" for flags in letters)


def test_frames_are_never_shown(zoo: Path, public: Path) -> None:
    """Only an opaque token is kept, and not printed."""
    with targets.running(zoo, "anon", public) as (pid, info):
        page = area_pages(reader.read(pid), areas(info)["written"])[0]
    assert "frame" not in repr(page)
    assert len(page.frame) == 24


def test_stopped_stops_and_always_continues(zoo: Path, public: Path) -> None:
    """Also when the body fails, also a child of the child."""

    def fail_while_stopped(process: int) -> None:
        with reader.stopped(process):
            assert set(reader.thread_states(process)) == {"T"}
            with pytest.raises(ValueError, match="stopped already"), reader.stopped(process):
                pass
            raise KeyError

    with targets.running(zoo, "fork", public) as (pid, info):
        for process in (pid, info["child"]["pid"]):
            with pytest.raises(KeyError):
                fail_while_stopped(process)
            assert "T" not in reader.thread_states(process)


@pytest.mark.parametrize("who", ["init", "itself", "parent"])
def test_strangers_are_not_stopped(who: str) -> None:
    """Not PID 1, not this process, not its parent."""
    pid = {"init": 1, "itself": os.getpid(), "parent": os.getppid()}[who]
    with pytest.raises(ValueError, match="does not descend"), reader.stopped(pid):
        pass


def test_targets_are_reaped_whatever_happens(zoo: Path, public: Path) -> None:
    """Even one that was left stopped, and its child with it."""
    seen: list[int] = []

    def fail_with_it_stopped() -> None:
        with targets.running(zoo, "fork", public) as (pid, info):
            seen.extend([pid, info["child"]["pid"]])
            os.kill(pid, signal.SIGSTOP)
            raise KeyError

    with pytest.raises(KeyError):
        fail_with_it_stopped()
    assert [pid for pid in seen if os.path.exists(f"/proc/{pid}")] == []
    assert len(seen) == 2


def test_gone_processes_and_kernel_threads_are_refused(zoo: Path, public: Path) -> None:
    """No memory is an error, not an empty answer."""
    with targets.running(zoo, "anon", public) as (pid, _):
        pass
    with pytest.raises(reader.ProcessGone):
        reader.read(pid)
    if os.path.exists("/proc/2/maps") and reader.parent_of(2) == 0:
        with pytest.raises(reader.ProcessGone, match="no mappings"):
            reader.read(2)


def test_without_the_capability_it_says_so() -> None:
    """Hidden frames read as zero, silently: the reader must notice."""
    code = f"import os, sys; sys.path[:] = {sys.path!r}; from oracle import reader\n"
    code += "try: reader.read(os.getpid())\nexcept reader.Unavailable as e: print(e)"
    drop = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    try:
        done = subprocess.run(
            [*drop, sys.executable, "-c", code], capture_output=True, text=True, cwd="/"
        )
    except FileNotFoundError as error:
        raise Unavailable("setpriv is not installed") from error
    assert (done.stdout.strip(), done.stderr) == (
        "pagemap hides page frame numbers: CAP_SYS_ADMIN is missing",
        "",
    )
