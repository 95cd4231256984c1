"""A kernel made from Debian's source, for what no kernel of Debian's has."""

from __future__ import annotations

import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

from kernels.fetch import Kernel, Missing, package, tool

CONFIG = Path(__file__).parent / "names.config"
NEEDED = ("bc", "bison", "flex", "gcc", "make", "xz")


def kernel(series: str, packages: Path, folder: Path) -> Kernel:
    """The kernel of ``names.config``, made again when that has changed; ten minutes of one CPU."""
    for name in NEEDED:
        tool(name)
    key = sha256(CONFIG.read_bytes()).hexdigest()[:16]
    image = folder / f"built-{series}-{key}"
    if not image.exists():
        source = package(f"linux-source-{series}", packages)
        tree = folder / "built"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        archive = source / "usr" / "src" / f"linux-source-{series}.tar.xz"
        _run("tar", "-C", tree, "--strip-components=1", "-xf", archive)
        _make(tree, image)
        shutil.rmtree(tree)
    return Kernel(f"{series} of {CONFIG.name}", image, folder / "no-modules")


def _make(tree: Path, image: Path) -> None:
    make = ("make", "-s", "-C", tree, f"-j{os.cpu_count()}")
    _run(*make, "tinyconfig")
    with (tree / ".config").open("a") as file:
        file.write(CONFIG.read_text())
    _run(*make, "olddefconfig")
    made = (tree / ".config").read_text()
    for line in CONFIG.read_text().splitlines():
        if line.startswith("CONFIG_") and line not in made:
            raise Missing(f"{tree.name} cannot have {line}")
    _run(*make, "bzImage")
    (tree / "arch/x86/boot/bzImage").rename(image)


def _run(*command: str | Path) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise Missing(f"{command[0]} failed: {run.stderr[-2000:]}")
