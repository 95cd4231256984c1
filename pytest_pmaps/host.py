"""What this host lets us see, and what moves page states under a test's feet.

Everything is found out by trying or by reading; nothing is concluded from a kernel version
or from being root.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from . import _native, aging
from .procfs import chosen, read_line

__all__ = ["Confounder", "SourceStatus", "confounders", "header_line", "sources"]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One source: what it decides, whether it works here, why not, and what would help."""

    name: str
    decides: str
    works: bool
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Confounder:
    """Something on this host that changes page states by itself, and what that touches."""

    name: str
    state: str
    effect: str


_DECIDES = {
    "maps": "the mappings",
    "smaps": "counters, and all-or-none facts of a mapping",
    "numa_maps": "A and W all or none, bounds of mapcount",
    "pagemap": "present, swapped, file or private copy, mapped once",
    "scan": "PAGEMAP_SCAN: fast walks of sparse memory",
    "scan_zero": "PAGEMAP_SCAN: zero pages apart from private copies",
    "scan_guard": "PAGEMAP_SCAN: guard pages apart from swap",
    "softdirty": "pages written since clear_refs 4",
    "pfn": "which physical page it is (never leaves the engine)",
    "kpageflags": "R A U D W of each page, exactly",
    "kpagecount": "mapcount of each page, exactly",
    "anon_names": "[anon:name] mappings",
    "pte": "Y and P of each page, exactly",
    "userfaultfd": "written(): what this process writes, page by page",
}

_ADMIN = (
    "run as root of the initial user namespace with CAP_SYS_ADMIN (docker: --cap-add SYS_ADMIN), "
    "or give an ordinary user ambient capabilities: setpriv --reuid USER --regid GROUP "
    "--init-groups --inh-caps +sys_admin,+dac_read_search "
    "--ambient-caps +sys_admin,+dac_read_search CMD"
)
_REMEDIES = {
    "pfn": _ADMIN,
    "kpageflags": _ADMIN,
    "kpagecount": _ADMIN,
    "numa_maps": "a kernel with CONFIG_NUMA; without it A and W stay unknown",
    "pagemap": "a kernel with CONFIG_PROC_PAGE_MONITOR, outside sandboxes such as gVisor",
    "smaps": "a kernel with CONFIG_PROC_PAGE_MONITOR",
    "scan": "Linux 6.7 or newer; without it everything works, more slowly",
    "scan_zero": "Linux 6.7 or newer, or frames (pfn)",
    "scan_guard": "Linux 6.15 or newer; older kernels show guard pages as swap entries",
    "softdirty": "a kernel with CONFIG_MEM_SOFT_DIRTY",
    "anon_names": "a kernel with CONFIG_ANON_VMA_NAME",
    "userfaultfd": "Linux 6.7 or newer with CONFIG_USERFAULTFD, and a seccomp profile that allows "
    "userfaultfd (docker's default one does not); without it soft-dirty bits tell, where there are",
}

_BPF = (
    "run with CAP_BPF and CAP_PERFMON of the initial user namespace (docker: --cap-add BPF "
    "--cap-add PERFMON), for an ordinary user as ambient capabilities: setpriv --reuid USER "
    "--regid GROUP --init-groups --inh-caps +bpf,+perfmon --ambient-caps +bpf,+perfmon CMD "
    "(never as capabilities of the python file: those close its own pagemap)"
)


def sources() -> list[SourceStatus]:
    """Every source, tried.  Raises Unsupported where there is no engine."""
    return [
        SourceStatus(
            name=name,
            decides=_DECIDES[name],
            works=code == 0,
            reason="" if code == 0 else _reason(name, code),
            remedy="" if code == 0 else _remedy(name, code),
        )
        for name, code in _native.probe().items()
    ]


_NO_WINDOW = {
    errno.EPERM: "userfaultfd is forbidden: by a seccomp filter, as containers have one",
    errno.ENOSYS: "this kernel has no userfaultfd, or a seccomp filter says so",
    errno.EINVAL: "this kernel's userfaultfd cannot note writes",
    errno.ENOTTY: "this kernel cannot note writes, or a seccomp filter refuses the ioctl",
}


def _reason(name: str, code: int) -> str:
    if code in (errno.EMFILE, errno.ENFILE):
        return "too many files are open to try it"
    if name == "pte":
        return _why_no_tables(code)
    if name == "userfaultfd":
        return _NO_WINDOW.get(code, os.strerror(code))
    if name in ("pfn", "kpageflags", "kpagecount") and code in (-1, errno.EACCES, errno.EPERM):
        return _why_no_frames()
    if code == -1:
        return "opens, but shows nothing"
    if name in ("scan", "scan_zero", "scan_guard", "anon_names") and code in (
        errno.ENOTTY,
        errno.EINVAL,
        errno.EOPNOTSUPP,
    ):
        return "this kernel does not have it"
    return os.strerror(code)


def _remedy(name: str, code: int) -> str:
    if code in (errno.EMFILE, errno.ENFILE):
        return "a higher limit of open files (ulimit -n)"
    return _remedy_for_tables(code) if name == "pte" else _REMEDIES.get(name, "")


_CAP_SYS_ADMIN = 21
_CAP_PERFMON = 38
_CAP_BPF = 39

#: ``enum pm_pte_refusal``: why, and what would help.
_REFUSALS = {
    20001: ("page tables are read on x86-64 alone", ""),
    20002: (
        "the kernel does not describe its types (/sys/kernel/btf/vmlinux), or not those it takes",
        "a kernel with CONFIG_DEBUG_INFO_BTF, and sysfs mounted",
    ),
    20003: (
        "the kernel refused the program",
        "a kernel from 5.10 on, not locked down for confidentiality",
    ),
    20004: (
        "the place of physical memory was not found",
        "please report it, with the output of pmaps doctor and the kernel's version",
    ),
    20005: (
        "pages of our own in known states read otherwise, so that it is not trusted",
        "please report it, with the output of pmaps doctor and the kernel's version",
    ),
}


def _why_no_tables(code: int) -> str:
    if code == 20003 and chosen(read_line("/sys/kernel/security/lockdown")) == "confidentiality":
        return "the kernel is locked down for confidentiality"
    if code in _REFUSALS:
        return _REFUSALS[code][0]
    if code == errno.ENOSYS:
        return "this kernel has no bpf(2)"
    if code not in (errno.EPERM, errno.EACCES):
        return os.strerror(code)
    missing = _missing_for_bpf()
    if missing:
        return f"uid {os.geteuid()} has no {' and no '.join(missing)}"
    if not _in_initial_user_namespace():
        return "CAP_BPF counts only in the initial user namespace, and this is another"
    if code == errno.EACCES:
        return "our own pagemap is closed to us: the process is not dumpable"
    return "bpf(2) is refused all the same: by seccomp (docker's default profile) or an LSM"


def _missing_for_bpf() -> list[str]:
    held = int(_status().get("CapEff", "0"), 16)
    if held >> _CAP_SYS_ADMIN & 1:  # which stands for both
        return []
    names = {"CAP_BPF": _CAP_BPF, "CAP_PERFMON": _CAP_PERFMON}
    return [name for name, bit in names.items() if not held >> bit & 1]


def _remedy_for_tables(code: int) -> str:
    if code in _REFUSALS:
        return _REFUSALS[code][1]
    if code == errno.ENOSYS:
        return "a kernel with CONFIG_BPF_SYSCALL"
    return _BPF if code in (errno.EPERM, errno.EACCES) else ""


def _why_no_frames() -> str:
    status = _status()
    has_admin = int(status.get("CapEff", "0"), 16) >> _CAP_SYS_ADMIN & 1
    if has_admin and not _in_initial_user_namespace():
        return "CAP_SYS_ADMIN counts only in the initial user namespace, and this is another"
    if not has_admin:
        return f"uid {os.geteuid()} has no CAP_SYS_ADMIN: the kernel shows every frame as 0"
    return "the kernel shows no frames all the same"


def _status() -> dict[str, str]:
    lines = read_line("/proc/self/status").splitlines()
    return {k: v.strip() for k, _, v in (line.partition(":") for line in lines)}


def _in_initial_user_namespace() -> bool:
    return read_line("/proc/self/uid_map").split() == ["0", "0", "4294967295"]


# ---- what moves by itself


def confounders() -> list[Confounder]:
    """What on this host changes page states while a test runs, as far as it can be read."""
    return list(_confounders())


def _confounders() -> Iterator[Confounder]:
    damon = aging.damon()
    if damon:
        yield Confounder("DAMON", damon, "clears Y by itself: Y and Referenced are noise")
    lru = aging.mglru()
    if lru:
        yield Confounder("MGLRU", lru, "A is always clear, Y is cleared by itself")
    if read_line("/sys/kernel/mm/ksm/run") == "1":
        yield Confounder("KSM", "running", "merges equal pages: mapcounts and sharing move")
    thp = chosen(read_line("/sys/kernel/mm/transparent_hugepage/enabled"))
    if thp == "always":
        yield Confounder("huge pages", "always", "memory grows in steps of 2 MiB; RSS is noisy")
    swaps = read_line("/proc/swaps").splitlines()[1:]
    if swaps:
        yield Confounder("swap", f"{len(swaps)} areas", "pages leave RSS; dirty counts them still")
    unevictable = _meminfo("Unevictable")
    if unevictable:
        yield Confounder(
            "locked memory",
            f"{unevictable} kB on this host",
            "A of pages that others map too stays unknown without frames",
        )


def _meminfo(key: str) -> int:
    for line in read_line("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0])
    return 0


def header_line() -> str:
    """One line for pytest's header: what is seen, and what moves."""
    seen = [s.name for s in sources() if s.works]
    frames = "frames, " if {"pfn", "kpageflags", "kpagecount"} <= set(seen) else ""
    tables = "page tables, " if "pte" in seen else ""
    basic = [name for name in ("pagemap", "smaps", "numa_maps") if name in seen]
    line = f"pmaps: sees {tables}{frames}{', '.join(basic)}"
    moving = [f"{c.name} {c.state}" for c in confounders() if c.name in ("DAMON", "MGLRU", "KSM")]
    return f"{line}; watch out: {', '.join(moving)}" if moving else line
