"""What else clears Y: found out from files that say so, laid out as each host has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_pmaps import aging, host
from pytest_pmaps.aging import Keeps

PID = 4321
KDAMONDS = "sys/kernel/mm/damon/admin/kdamonds"
VMSTAT = {"pgfault": 9, "pgscan_kswapd": 0, "pgrefill": 3, "pageoutrun": 1, "pgmigrate_success": 5}
VMSTAT |= {"thp_split_pmd": 0, "thp_collapse_alloc": 0, "pgsteal_anon": 0, "allocstall_normal": 0}


class Host:
    """A tree of the files that are asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/2/comm", "kthreadd\n")
        self.write("proc/2/task/2/children", "3 \n")
        self.write("proc/3/comm", "kswapd0\n")
        self.vmstat()
        (root / "sys/kernel/mm").mkdir(parents=True)

    def write(self, path: str, text: str) -> None:
        """A file with all folders above it."""
        to = self.root / path
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(text)

    def vmstat(self, **changed: int) -> None:
        """What is counted by now."""
        self.write("proc/vmstat", "".join(f"{k} {v}\n" for k, v in {**VMSTAT, **changed}.items()))

    def thread(self, pid: int, switches: int, state: str = "I (idle)") -> None:
        """A thread of DAMON."""
        self.write("proc/2/task/2/children", f"3 {pid} \n")
        self.write(f"proc/{pid}/comm", "kdamond.0\n")
        text = f"State:\t{state}\nvoluntary_ctxt_switches:\t{switches}\n"
        self.write(
            f"proc/{pid}/status", f"Name:\tkdamond.0\n{text}nonvoluntary_ctxt_switches:\t7\n"
        )

    def kdamond(self, pid: int, *actions: str, operations: str = "paddr", target: int = 1) -> None:
        """What sysfs tells root of it."""
        folder = f"{KDAMONDS}/0"
        self.write(f"{folder}/state", "on\n")
        self.write(f"{folder}/pid", f"{pid}\n")
        self.write(f"{folder}/contexts/0/operations", f"{operations}\n")
        self.write(f"{folder}/contexts/0/targets/0/pid_target", f"{target}\n")
        for i, action in enumerate(actions):
            self.write(f"{folder}/contexts/0/schemes/{i}/action", f"{action}\n")

    def enable_mglru(self) -> None:
        """As since Linux 6.1."""
        self.write("sys/kernel/mm/lru_gen/enabled", "0x0007\n")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host where nothing moves."""
    monkeypatch.setattr(aging, "_ROOT", tmp_path)
    return Host(tmp_path)


def between(change=lambda: None) -> aging.Aging:
    """What may have happened while something changed."""
    before = aging.look()
    change()
    return aging.between(before, aging.look(), PID)


def test_nothing_moves(fake: Host):
    """Then Y says it all."""
    assert between() == aging.Aging(Keeps.ALL, (), collapsed=False, split=False)
    assert aging.damon() == ""


@pytest.mark.parametrize(
    "name", ["pgscan_kswapd", "pgrefill", "pageoutrun", "pgsteal_anon", "allocstall_normal"]
)
def test_reclaim(fake: Host, name: str):
    """Any trace of it is enough; MGLRU leaves the same."""
    found = between(lambda: fake.vmstat(**{name: 99}))
    assert (found.keeps, found.reasons) == (
        Keeps.NOTHING,
        ("this host reclaimed memory meanwhile",),
    )
    fake.enable_mglru()
    found = between(lambda: fake.vmstat(**{name: 100}))
    assert found.reasons == ("MGLRU reclaimed memory meanwhile",)


def test_mglru_at_rest(fake: Host):
    """It ages pages when it reclaims."""
    fake.enable_mglru()
    assert between().keeps is Keeps.ALL


def test_migration(fake: Host):
    """Older kernels forget Y there."""
    found = between(lambda: fake.vmstat(pgmigrate_success=6))
    assert found.keeps is Keeps.NOTHING
    assert "other frames" in found.reasons[0]


def test_huge_pages(fake: Host):
    """Made and split, what is young may never have been touched."""
    assert between(lambda: fake.vmstat(thp_split_pmd=1)).split
    assert not between(lambda: fake.vmstat(thp_split_pmd=2)).collapsed
    fake.vmstat()
    assert between(lambda: fake.vmstat(thp_split_pmd=1, thp_collapse_alloc=1)).collapsed


def test_no_vmstat(fake: Host):
    """What is not shown may have happened."""
    fake.write("proc/vmstat", "")
    found = between()
    assert found.keeps is Keeps.NOTHING
    assert (found.split, found.collapsed) == (True, True)


def test_vmstat_without_events(fake: Host):
    """CONFIG_VM_EVENT_COUNTERS is off: nothing is counted."""
    fake.write("proc/vmstat", "nr_free_pages 5\n")
    assert between().keeps is Keeps.NOTHING


# ---- DAMON


def test_damon_that_sleeps(fake: Host):
    """Its thread did not run: it did nothing."""
    fake.thread(77, 100)
    assert between().keeps is Keeps.ALL
    assert aging.damon() == "on"


def test_damon_that_ran(fake: Host):
    """Whoever is not root cannot know what it does."""
    fake.thread(77, 100)
    found = between(lambda: fake.thread(77, 101))
    assert found.keeps is Keeps.NOTHING
    assert found.reasons == ("DAMON was at work, started by the kernel or one of its modules",)


@pytest.mark.parametrize("state", ["R (running)", ""])
def test_damon_that_runs(fake: Host, state: str):
    """It may be in the middle of it; and what cannot be read may be anything."""
    fake.thread(77, 100, state)
    assert between().keeps is Keeps.NOTHING


def test_damon_that_begins(fake: Host):
    """It was not there before."""
    assert between(lambda: fake.thread(77, 1)).keeps is Keeps.NOTHING


def ran(fake: Host) -> aging.Aging:
    """DAMON's thread ran meanwhile."""
    fake.thread(77, 100)
    return between(lambda: fake.thread(77, 101))


@pytest.mark.parametrize("actions", [(), ("stat",), ("lru_prio", "lru_deprio")])
def test_damon_that_looks(fake: Host, actions: tuple[str, ...]):
    """It notes what it clears, where Referenced counts it."""
    fake.kdamond(77, *actions)
    found = ran(fake)
    assert (found.keeps, found.reasons) == (Keeps.NOTED, ("DAMON was at work",))


@pytest.mark.parametrize("action", ["pageout", "cold", "something_new"])
def test_damon_that_forgets(fake: Host, action: str):
    """What it pages out it marks as never used; so may do what we do not know."""
    fake.kdamond(77, "stat", action)
    assert ran(fake) == aging.Aging(
        Keeps.NOTHING, (f"DAMON was at work ({action})",), collapsed=False, split=False
    )


@pytest.mark.parametrize("operations", ["vaddr", "fvaddr"])
def test_damon_of_processes(fake: Host, operations: str):
    """Of others it is none of ours."""
    fake.kdamond(77, "pageout", operations=operations, target=PID + 1)
    assert ran(fake).keeps is Keeps.ALL
    fake.kdamond(77, "pageout", operations=operations, target=PID)
    assert ran(fake).keeps is Keeps.NOTHING


def test_damon_of_a_module(fake: Host):
    """DAMON_RECLAIM has a thread that sysfs does not list."""
    fake.kdamond(78, "stat")
    assert ran(fake).keeps is Keeps.NOTHING


@pytest.mark.parametrize("name", ["pid", "contexts/0/operations"])
def test_damon_that_cannot_be_asked(fake: Host, name: str):
    """A file that is not there, as one that may not be read."""
    fake.kdamond(77, "stat")
    (fake.root / KDAMONDS / "0" / name).unlink()
    assert ran(fake).reasons == ("DAMON was at work (only root can tell what it does)",)


def test_without_children_all_are_looked_at(fake: Host):
    """CONFIG_PROC_CHILDREN is off."""
    fake.thread(77, 1)
    (fake.root / "proc/2/task/2/children").unlink()
    assert aging.damon() == "on"


# ---- where kernel threads are hidden


@pytest.fixture
def hidden(fake: Host) -> Host:
    """A pid namespace: pid 2 is somebody else."""
    fake.write("proc/2/comm", "bash\n")
    return fake


def test_hidden_without_damon(hidden: Host):
    """The kernel has none."""
    assert between().keeps is Keeps.ALL


def test_hidden_and_off(hidden: Host):
    """Root sees that."""
    hidden.kdamond(77)
    hidden.write(f"{KDAMONDS}/0/state", "off\n")
    assert between().keeps is Keeps.ALL


def test_hidden_and_on(hidden: Host):
    """Whether it ran cannot be seen."""
    hidden.kdamond(77)
    assert between().reasons == ("DAMON is on",)
    hidden.write(f"{KDAMONDS}/0/state", "off\n")
    hidden.write("sys/module/damon_stat/parameters/enabled", "Y\n")
    assert between().reasons == ("DAMON is on",)


def test_hidden_and_closed(hidden: Host):
    """Only root may ask."""
    hidden.kdamond(77)
    (hidden.root / KDAMONDS / "0/state").unlink()
    assert between().reasons == ("DAMON may be on (only root can tell)",)
    assert between().keeps is Keeps.NOTHING


def test_hidden_without_sysfs(hidden: Host):
    """Nothing at all is known then."""
    (hidden.root / "sys/kernel/mm").rmdir()
    assert between().keeps is Keeps.NOTHING


# ---- what else


@pytest.mark.parametrize(
    ("everywhere", "sizes", "alone"),
    [
        ("always madvise [never]", {2048: "inherit", 64: "inherit"}, True),
        ("always [madvise] never", {2048: "inherit", 64: "never"}, True),
        ("always [madvise] never", {2048: "inherit", 64: "inherit"}, False),
        ("always madvise [never]", {2048: "never", 64: "madvise"}, False),
        ("always madvise [never]", {2048: "never", 16: "always"}, False),
        ("[always] madvise never", {}, True),
    ],
)
def test_sizes_of_pages(fake: Host, everywhere: str, sizes: dict[int, str], alone: bool):
    """Between small and huge there are others, since Linux 6.8."""
    folder = "sys/kernel/mm/transparent_hugepage"
    fake.write(f"{folder}/enabled", f"{everywhere}\n")
    fake.write(f"{folder}/hpage_pmd_size", "2097152\n")
    for size, chosen in sizes.items():
        words = ("always", "inherit", "madvise", "never")
        text = " ".join(f"[{word}]" if word == chosen else word for word in words)
        fake.write(f"{folder}/hugepages-{size}kB/enabled", f"{text}\n")
    assert aging.one_by_one() is alone


def test_ksm(fake: Host):
    """Merged pages come out young."""
    assert not aging.merges()
    fake.write("sys/kernel/mm/ksm/run", "1\n")
    assert aging.merges()


def test_the_header_names_damon_and_mglru(fake: Host):
    """What clears Y stands in the first lines of a test run, for everybody."""
    assert "DAMON" not in host.header_line()
    assert "MGLRU" not in host.header_line()
    fake.thread(77, 1)
    fake.enable_mglru()
    line = host.header_line()
    assert "; watch out: DAMON on, MGLRU 0x0007" in line
    effects = {c.name: c.effect for c in host.confounders()}
    assert "Y" in effects["DAMON"]
    assert "Y is cleared by itself" in effects["MGLRU"]


def test_this_host():
    """Whatever it has, it can be told."""
    assert aging.between(aging.look(), aging.look(), os.getpid()).keeps in Keeps
