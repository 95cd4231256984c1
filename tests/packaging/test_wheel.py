from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ENGINE = "pytest_pmaps/_engine.abi3.so"
PROGRAMS = [f"pytest_pmaps/pmaps-{name}" for name in ("tracer", "follower", "launch")]
HEADER = "pytest_pmaps/include/pmaps_checkpoint.h"
SCHEMA = "pytest_pmaps/report/run.schema.json"


def test_one_wheel_serves_every_python_from_3_11(wheel: Path) -> None:
    """The file name claims the stable ABI of 3.11, for Linux."""
    python, abi, platform = wheel.stem.split("-")[-3:]

    assert (python, abi) == ("cp311", "abi3")
    assert "linux" in platform


def test_the_extension_keeps_to_the_abi_that_is_claimed(wheel: Path) -> None:
    """abi3audit finds nothing newer than 3.11 and nothing private in it."""
    pytest.importorskip("abi3audit")
    audit = subprocess.run(
        [sys.executable, "-m", "abi3audit", "--strict", "--summary", wheel],
        capture_output=True,
        text=True,
    )

    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """The engine and the typing marker are in; sources and tests are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {PurePosixPath(name).parts[0] for name in names}

    assert {name for name in top if not name.endswith(".dist-info")} == {"pytest_pmaps"}
    assert {ENGINE, *PROGRAMS, HEADER, SCHEMA, "pytest_pmaps/py.typed"} <= set(names)
    assert [name for name in names if name.endswith((".c", ".h", ".pyc"))] == [HEADER]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_may_be_run(wheel: Path, program: str) -> None:
    """By everyone: it is a program, and pip keeps its mode."""
    with zipfile.ZipFile(wheel) as archive:
        mode = archive.getinfo(program).external_attr >> 16

    assert mode & 0o777 == 0o755


def test_the_extension_shows_python_its_entry_point_only(wheel: Path, tmp_path: Path) -> None:
    """No pm_ function of ours can be taken for another extension's, or the other way round."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm, of binutils")
    with zipfile.ZipFile(wheel) as archive:
        engine = archive.extract(ENGINE, tmp_path)
    symbols = subprocess.run(
        ["nm", "--dynamic", "--defined-only", "--format=posix", engine],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert [line.split()[0] for line in symbols.splitlines()] == ["PyInit__engine"]
