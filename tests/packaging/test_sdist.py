from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tracked_files() -> set[str]:
    """Every file that git keeps."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return set(listing.stdout.split("\0")) - {""}


def test_every_tracked_file_is_in_the_sdist(sdist: Path) -> None:
    """Whoever has the sdist can build, test and change everything."""
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}

    assert tracked_files() - packed == set()
