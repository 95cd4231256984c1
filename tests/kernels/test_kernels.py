"""The live tests on other kernels: ``tox run -e kernels``.

``PMAPS_KERNELS`` names a folder for what is fetched and made, and for what the guests said;
``PMAPS_KERNELS_LIMIT`` is how many seconds a guest may take, ``PMAPS_KERNELS_CPUS`` how many
processors it has, ``PMAPS_KERNELS_TESTS`` what to give to pytest there instead of the suite, as
``PMAPS_KERNELS_USER`` (root, bpf, nobody); with ``PMAPS_KERNELS_WHOLE`` every boot runs the whole.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernels import boot, build, fetch, image, suite

WHOLE = bool(os.environ.get("PMAPS_KERNELS_WHOLE"))
LIMIT = float(os.environ.get("PMAPS_KERNELS_LIMIT", "3600"))


@pytest.fixture(scope="session")
def folder() -> Path:
    """Where things are kept between runs."""
    name = os.environ.get("PMAPS_KERNELS")
    if not name:
        pytest.skip("takes long: tox run -e kernels")
    path = Path(name).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def disks(folder: Path) -> tuple[Path, ...]:
    """The system's disk and the project's."""
    tests = os.environ.get("PMAPS_KERNELS_TESTS", "")
    user = os.environ.get("PMAPS_KERNELS_USER", "root")
    return image.system(folder), image.project(folder, suite.plans(tests, user))


@pytest.fixture(scope="session")
def packages(folder: Path) -> Path:
    """Unpacked packages."""
    return folder / "packages"


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("random", [True, False], ids=["random", "nokaslr"])
@pytest.mark.parametrize("series", suite.EXPECTED)
def test_kernel(
    folder: Path,
    packages: Path,
    disks: tuple[Path, ...],
    series: str,
    random: bool,
    levels: int,
) -> None:
    """A kernel of Debian's: the core of the suite each time, and once for each kernel the whole."""
    kernel = fetch.kernel(series, packages)
    machine = boot.Machine(
        kernel=kernel,
        initramfs=image.initramfs(folder, kernel, packages),
        disks=disks,
        random=random,
        levels=levels,
        plan="whole" if WHOLE or (random and levels == 5) else "core",
        expect=suite.EXPECTED[series],
    )
    passes(machine, folder / "logs" / f"{series}-{'random' if random else 'nokaslr'}-{levels}")


def test_names_of_anonymous_memory(folder: Path, packages: Path, disks: tuple[Path, ...]) -> None:
    """No kernel of Debian's has them: one is made."""
    kernel = build.kernel("6.12", packages, folder)
    machine = boot.Machine(
        kernel=kernel,
        initramfs=image.initramfs(folder, kernel, packages),
        disks=disks,
        random=True,
        levels=5,
        plan="names",
        expect=("anon_names",),
    )
    passes(machine, folder / "logs" / "names")


def passes(machine: boot.Machine, logs: Path) -> None:
    """The guest's tests pass, in time, and its kernel has nothing to complain about."""
    logs.parent.mkdir(exist_ok=True)
    said = boot.boot(machine, logs, LIMIT)
    print(f"{machine.kernel.release}: {said.seconds:.0f} s\n{said.tests}")
    assert said.in_time, f"not at its end after {LIMIT:.0f} s; see {logs}.*.log"
    assert said.status is not None, f"did not come to its end:\n{said.qemu}{said.console[-3000:]}"
    assert said.status == 0, f"failures, see {logs}.tests.log"
    assert not said.complaints, said.complaints
