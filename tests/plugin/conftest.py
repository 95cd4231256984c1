"""What the plugin's tests share: a library whose pages tests dirty, and runs of pytest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from plugin.shared import PREAMBLE, SOURCE, Run


@pytest.fixture(scope="session")
def libfoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built library."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("libfoo")
    (folder / "foo.c").write_text(SOURCE)
    built = folder / "libfoo.so.1"
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-Wl,-soname,libfoo.so.1", "-o", built, "foo.c"],
        cwd=folder,
        check=True,
    )
    return built


@pytest.fixture
def run(pytester: pytest.Pytester, libfoo: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest, in a process of its own, on ``test_it.py`` with this text."""
    monkeypatch.setenv("LIBFOO", str(libfoo))
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("CI", "BUILD_NUMBER"):  # they make pytest show summary lines in full
        monkeypatch.delenv(name, raising=False)

    def run(text: str, *args: object) -> pytest.RunResult:
        pytester.makepyfile(test_it=PREAMBLE + text)
        return pytester.run(
            sys.executable, "-m", "pytest", f"--basetemp={pytester.path}/tmp", *args
        )

    return run


@pytest.fixture
def folder(pytester: pytest.Pytester) -> Path:
    """Where the inner session puts run.json and maps."""
    return pytester.path / "tmp" / "pmaps"
