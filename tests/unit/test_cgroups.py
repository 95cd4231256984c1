"""Which folder a cgroup is, and what its files say; live in tests/live/test_cgroups.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_pmaps import Unsupported, cgroups

HOST = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
PART = "31 23 0:28 /docker/abc /mnt/with\\040blank rw - cgroup2 cgroup2 rw"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


@pytest.mark.parametrize(
    ("place", "mounts", "folder"),
    [
        ("/", [HOST], "/sys/fs/cgroup"),
        ("/user.slice/a b:c", [V1, HOST], "/sys/fs/cgroup/user.slice/a b:c"),
        ("/docker/abc", [PART], "/mnt/with blank"),
        ("/docker/abc/x", [PART, HOST], "/mnt/with blank/x"),
        ("/docker/abcd", [PART, HOST], "/sys/fs/cgroup/docker/abcd"),
        ("/gone (deleted)", [HOST], "/sys/fs/cgroup/gone"),
    ],
)
def test_where_it_lies(place: str, mounts: list[str], folder: str):
    """By mount point and root of the mount."""
    assert cgroups._folder(["1:name=systemd:/x", f"0::{place}"], mounts) == folder


@pytest.mark.parametrize(
    ("membership", "mounts", "why"),
    [
        (["4:memory:/x", "0::/"], [HOST], r"cgroup v1 here \(/x\)"),
        (["4:cpu,memory:/x"], [HOST], "cgroup v1"),
        (["1:name=systemd:/x"], [HOST], "in no cgroup of v2"),
        (["0::/../other"], [HOST], "outside of our cgroup namespace"),
        (["0::/x"], [V1], "not mounted here"),
        (["0::/x"], [PART], "not that part"),
    ],
)
def test_where_there_are_none(membership: list[str], mounts: list[str], why: str):
    """Each reason in words."""
    with pytest.raises(Unsupported, match=why):
        cgroups._folder(membership, mounts)


def files(folder: Path, **contents: str) -> str:
    """A folder of a cgroup."""
    for name, text in contents.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    return str(folder)


def test_what_its_files_say(tmp_path: Path):
    """Bytes are bytes; events are left out."""
    stat = "anon 8192\nfile 4096\npgfault 12\nthp_fault_alloc 3\nworkingset_refault_anon 0\n"
    path = files(tmp_path, memory_current="40960\n", cgroup_procs="1\n0\n", memory_stat=stat)
    found = cgroups._read(path)
    assert found.current == 10
    assert (found.peak, found.swap, found.processes) == (None, None, (1, 0))
    assert dict(found.stat) == {"anon": 8192, "file": 4096}
    files(tmp_path, memory_peak="81920\n")
    assert cgroups._read(path).peak == "80 KiB"


def test_why_there_is_nothing(tmp_path: Path):
    """The root, a cgroup without the controller, and one that is gone."""
    with pytest.raises(Unsupported, match="was removed"):
        cgroups._read(str(tmp_path / "nowhere"))
    files(tmp_path, cgroup_procs="1\n")
    with pytest.raises(Unsupported, match="the root cgroup has no numbers"):
        cgroups._read(str(tmp_path))
    files(tmp_path, cgroup_type="domain\n")
    with pytest.raises(Unsupported, match=r"memory controller is off .*subtree_control"):
        cgroups._read(str(tmp_path))


def test_a_window_is_asked_when_it_has_ended(tmp_path: Path):
    """And there is none without the file."""
    window = cgroups.CgroupPeak(str(tmp_path))
    with pytest.raises(ValueError, match="has ended"):
        _ = window.peak
    with pytest.raises(Unsupported, match=r"takes Linux 6\.12"), window:
        pass
