"""The live tests on other kernels: ``tox run -e kernels``.

``PMAPS_KERNELS`` names a folder for what is fetched and made, and for what the guests said;
``PMAPS_KERNELS_LIMIT`` is how many seconds a guest may take, ``PMAPS_KERNELS_TESTS`` what to give
to pytest there instead of the suite.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernels import boot, fetch, image, suite

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
    return image.system(folder), image.project(
        folder, suite.plans(os.environ.get("PMAPS_KERNELS_TESTS", ""))
    )


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("random", [True, False], ids=["random", "nokaslr"])
@pytest.mark.parametrize("series", suite.EXPECTED)
def test_kernel(
    folder: Path, disks: tuple[Path, ...], series: str, random: bool, levels: int
) -> None:
    """One boot: its tests pass, in time, and its kernel has nothing to complain about."""
    packages = folder / "packages"
    kernel = fetch.kernel(series, packages)
    busybox = fetch.package("busybox-static", packages) / "bin" / "busybox"
    machine = boot.Machine(
        kernel=kernel,
        initramfs=image.initramfs(folder / f"initramfs-{series}", kernel, busybox),
        disks=disks,
        random=random,
        levels=levels,
        plan="whole" if random and levels == 5 else "core",
        expect=suite.EXPECTED[series],
    )
    logs = folder / "logs" / f"{series}-{'random' if random else 'nokaslr'}-{levels}"
    logs.parent.mkdir(exist_ok=True)
    said = boot.boot(machine, logs, LIMIT)
    print(f"{kernel.release}: {said.seconds:.0f} s\n{said.tests}")
    assert said.in_time, f"not at its end after {LIMIT:.0f} s; see {logs}.*.log"
    assert said.status is not None, f"did not come to its end:\n{said.console[-3000:]}"
    assert said.status == 0, f"failures, see {logs}.tests.log"
    assert not said.complaints, said.complaints
