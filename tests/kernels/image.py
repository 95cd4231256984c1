"""What a guest boots from: an initramfs that finds the disks, the system's disk, the project's.

The system is files of packages that this host has installed, the project is the tree under test
and the environment that the tests run in.  Nothing of it needs root: mke2fs fills a disk from a
folder, and an initramfs is written down here.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from kernels.fetch import Kernel, Missing, package, tool

SYSTEM = (
    "bash", "coreutils", "dash", "findutils", "gcc", "grep", "libc-bin", "libc6-dev", "mawk",
    "mount", "perl-base", "python3", "sed", "util-linux",
)  # fmt: skip
"""Packages of the guest, and all that they depend on."""

SYSTEM_SIZE = "3G"  # sparse; what the tests write goes there too
PROJECT_SIZE = "1G"
MODULES = ("virtio_pci", "virtio_blk")

_ROOT = Path(__file__).parents[2]
_TREE = ("tests", "benchmarks", "pyproject.toml")
_NOT_NEEDED = ("/usr/share/doc", "/usr/share/info", "/usr/share/locale", "/usr/share/man")


# ---- disks


def disk(path: Path, folder: Path, size: str) -> Path:
    """An ext4 file system with the files of a folder."""
    path.unlink(missing_ok=True)
    command = [tool("mke2fs"), "-q", "-t", "ext4", "-O", "^has_journal", "-d", folder, path, size]
    subprocess.run(command, check=True, capture_output=True)
    return path


def system(folder: Path) -> Path:
    """The disk with the system; made again when a package of this host has changed."""
    packages = closure(SYSTEM)
    key = sha256("".join([*packages, Path(__file__).read_text()]).encode()).hexdigest()[:16]
    path = folder / f"system-{key}.ext4"
    if not path.exists():
        for old in folder.glob("system-*.ext4"):
            old.unlink()
        stage = _empty(folder / "system")
        _fill_system(stage, [package.partition(" ")[0] for package in packages])
        _compile(stage / "usr/lib/python3", *(stage / "usr/lib").glob("python3.*"))
        disk(folder / "system.part", stage, SYSTEM_SIZE).rename(path)
        shutil.rmtree(stage)
    return path


def project(folder: Path, plans: Mapping[str, str]) -> Path:
    """The disk with the tree under test, the environment it is installed in, and the plans."""
    stage = _empty(folder / "project")
    for name in _TREE:
        _copy(_ROOT / name, stage / name)
    environment = stage / "environment"
    for name in ("bin", "lib", "lib64", "pyvenv.cfg"):
        if (source := Path(sys.prefix) / name).exists():
            _copy(source, environment / name)
    _compile(environment / "lib")
    for name, plan in plans.items():
        (stage / f"plan-{name}").write_text(plan)
    (stage / "prefix").write_text(sys.prefix)
    made = disk(folder / "project.ext4", stage, PROJECT_SIZE)
    shutil.rmtree(stage)
    return made


def _compile(*folders: Path) -> None:
    """Byte code, which every Python in an emulated guest would make again; it writes none."""
    command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash"]
    # What cannot be compiled is there for others, such as templates; it takes nothing away.
    subprocess.run([*command, *(folder for folder in folders if folder.is_dir())], check=False,
                   capture_output=True)  # fmt: skip


def closure(wanted: Sequence[str]) -> list[str]:
    """``name version`` of installed packages, and of all that they depend on."""
    if sys.base_prefix != "/usr":
        raise Missing(
            f"a guest has Debian's python3; this environment is made from {sys.base_prefix}"
        )
    fields = (
        "${db:Status-Status}\t${Package}\t${Version}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    )
    listed = subprocess.run(
        [tool("dpkg-query"), "-W", "-f", fields], check=True, capture_output=True, text=True
    ).stdout
    versions: dict[str, str] = {}
    needs: dict[str, list[str]] = {}
    providers: dict[str, list[str]] = {}
    for line in listed.splitlines():
        status, name, version, depends, provides = line.split("\t")
        if status != "installed":
            continue
        versions[name] = version
        needs[name] = _names(depends)
        for given in [name, *_names(provides)]:
            providers.setdefault(given, []).append(name)
    found: set[str] = set()
    todo = list(wanted)
    while todo:
        for name in providers.get(todo.pop(), []):
            if name not in found:
                found.add(name)
                todo += needs[name]
    if absent := set(wanted) - found:
        raise Missing(f"not installed: {' '.join(sorted(absent))}")
    return sorted(f"{name} {versions[name]}" for name in found)


def _names(relations: str) -> list[str]:
    """``libc6 (>= 2.36), awk | mawk`` → every name; what is not installed does not matter."""
    return re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]*)", relations)


def _fill_system(stage: Path, packages: list[str]) -> None:
    for name in ("dev", "etc", "proc", "project", "root", "run", "sys", "tmp", "usr"):
        (stage / name).mkdir()
    for name in ("bin", "lib", "lib64", "sbin"):
        (stage / name).symlink_to(f"usr/{name}")
    (stage / "tmp").chmod(0o1777)
    (stage / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/bash\nnobody:x:65534:65534::/nonexistent:/bin/sh\n"
    )
    (stage / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    listed = subprocess.run(
        [tool("dpkg-query"), "-L", *packages], check=True, capture_output=True, text=True
    ).stdout
    files = [Path(line) for line in listed.splitlines() if line.startswith("/usr/")]
    files += [
        Path(line) for line in listed.splitlines() if re.match("/(bin|lib|lib64|sbin)/", line)
    ]
    files += [path for path in Path("/usr/bin").iterdir() if _is_alternative(path)]  # awk, cc
    for path in [*files, *Path("/etc/alternatives").iterdir(), Path("/etc/ld.so.cache")]:
        # Not by its name alone: /bin/sh may belong to a package, and lies in /usr/bin.
        path = Path(os.path.realpath(path.parent)) / path.name
        needed = not str(path).startswith(_NOT_NEEDED)
        if needed and (path.is_symlink() or path.is_file()):
            _copy(path, stage / path.relative_to("/"))


def _is_alternative(path: Path) -> bool:
    return path.is_symlink() and str(path.readlink()).startswith("/etc/alternatives/")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    elif not target.is_symlink() and not target.exists():
        shutil.copy2(source, target, follow_symlinks=False)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# ---- initramfs


def initramfs(folder: Path, kernel: Kernel, packages: Path) -> Path:
    """What runs first: busybox, the modules for the disks, and ``guest/init``."""
    busybox = package("busybox-static", packages) / "bin" / "busybox"
    entries: list[tuple[str, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "modules", "proc", "system")
    ]
    init = (Path(__file__).parent / "guest" / "init").read_bytes()
    entries += [
        ("init", stat.S_IFREG | 0o755, init),
        ("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()),
    ]
    for number, module in enumerate(modules(kernel, MODULES)):
        entries.append((f"modules/{number:02}.ko", stat.S_IFREG | 0o644, module))
    path = folder / f"initramfs-{kernel.image.name}"
    path.write_bytes(b"".join(_cpio(entries)))
    return path


def modules(kernel: Kernel, wanted: Iterable[str]) -> list[bytes]:
    """Modules and those they need, in the order to load them; what is built in has none."""
    files = {path.name.partition(".")[0].replace("-", "_"): path
             for path in kernel.modules.glob("kernel/**/*.ko*")}  # fmt: skip
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in loaded or name not in files:
            return
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for needed in depends[1].decode().split(",") if depends else ():
            load(needed)
        loaded[name] = data

    for name in wanted:
        load(name)
    return list(loaded.values())


def _cpio(entries: Iterable[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """The "newc" form, see Documentation/driver-api/early-userspace/buffer-format.rst."""
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        encoded = name.encode() + b"\0"
        numbers = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        header = b"070701" + b"".join(b"%08x" % value for value in numbers) + encoded
        yield header + bytes(-len(header) % 4)
        yield data + bytes(-len(data) % 4)
