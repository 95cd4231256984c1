"""Debian packages, unpacked into a folder and never installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


class Missing(Exception):
    """Something that booting needs is not on this host; says what, and how to get it."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package."""

    release: str
    image: Path
    modules: Path


def tool(name: str) -> str:
    """Where a program is; administrators' ones are often not on an ordinary user's PATH."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def package(name: str, folder: Path) -> Path:
    """A package unpacked below a folder: fetched by apt, which checks its signature, and kept."""
    unpacked = folder / name
    if unpacked.is_dir():
        return unpacked
    folder.mkdir(parents=True, exist_ok=True)
    command = [tool("apt-get"), "-q", *_AS_WE_ARE, "download", name]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if run.returncode:
        raise Missing(f"apt-get cannot download {name}: {run.stderr.strip()}")
    (deb,) = folder.glob(f"{name}_*.deb")
    part = folder / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    subprocess.run([tool("dpkg-deb"), "-x", deb, part], check=True)
    deb.unlink()
    return part.rename(unpacked)


# Or apt warns, as root, that its own user cannot reach the folder.
_AS_WE_ARE = ("-o", f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}")


def kernel(series: str, folder: Path) -> Kernel:
    """Debian's newest cloud kernel of a series such as ``6.12``, or the one fetched before."""
    pattern = rf"linux-image-{re.escape(series)}\.\d.*-cloud-amd64"
    kept = [path.name for path in folder.glob("linux-image-*") if re.fullmatch(pattern, path.name)]
    name = max(kept or _known_to_apt(pattern), key=_numbers, default=None)
    if name is None:
        raise Missing(f"apt knows no {pattern}: apt-get update, or add the suite that has it")
    root = package(name, folder)
    release = name.removeprefix("linux-image-")
    (modules,) = (path for path in root.glob("**/lib/modules/*") if path.name == release)
    return Kernel(release, root / "boot" / f"vmlinuz-{release}", modules)


def _known_to_apt(pattern: str) -> list[str]:
    command = [tool("apt-cache"), "pkgnames", "linux-image-"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return [name for name in names if re.fullmatch(pattern, name)]


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
