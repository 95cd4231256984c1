"""The guest is the machine that was asked for, or the other tests prove nothing of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import struct
from pathlib import Path

import pytest

from pytest_pmaps import host

ASKED = dict(re.findall(r"pmaps\.(\w+)=(\S*)", Path("/proc/cmdline").read_text()))
BEYOND_47_BITS = 1 << 50
DIRECT_MAP = {4: 0xFFFF_8880_0000_0000, 5: 0xFF11_0000_0000_0000}
"""Where memory is mapped if nothing is randomised: Documentation/arch/x86/x86_64/mm.rst."""


def test_page_tables_have_the_levels_asked_for():
    """Only with 5 levels is there an address above 47 bits."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = libc.mmap(BEYOND_47_BITS, 4096, mmap.PROT_READ, flags, -1, 0)
    assert (address >= 1 << 47) == (ASKED["levels"] == "5")


def test_memory_is_randomised_as_asked_for():
    """kcore's headers say where the direct map of memory begins."""
    if os.geteuid():
        pytest.skip("only root may read /proc/kcore")
    levels = int(ASKED["levels"])
    begins = {address for address in kcore_addresses() if is_direct_map(address, levels)}
    assert begins
    fixed = any(
        DIRECT_MAP[levels] <= address < DIRECT_MAP[levels] + (1 << 30) for address in begins
    )
    assert fixed == (ASKED["random"] == "0")


def is_direct_map(address: int, levels: int) -> bool:
    """Between the start of kernel addresses and the end of where the direct map may be."""
    end = {4: 0xFFFF_C880_0000_0000, 5: 0xFF91_0000_0000_0000}[levels]
    return DIRECT_MAP[levels] <= address < end


def kcore_addresses() -> list[int]:
    """Virtual addresses of the loadable parts: the ELF64 program headers."""
    with Path("/proc/kcore").open("rb") as file:
        header = file.read(64)
        (offset,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(offset)
        table = file.read(size * count)
    parts = [struct.unpack_from("<IIQQ", table, number * size) for number in range(count)]
    return [address for kind, _, _, address in parts if kind == 1]


CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 1 << 21, 1 << 38, 1 << 39
NEEDED = {
    "pfn": CAP_SYS_ADMIN,
    "kpageflags": CAP_SYS_ADMIN,
    "kpagecount": CAP_SYS_ADMIN,
    "pte": CAP_BPF | CAP_PERFMON,
}


def capabilities() -> int:
    """Those in effect."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^CapEff:\s*(\w+)", status, re.MULTILINE)[0], 16)


@pytest.mark.parametrize("name", [name for name in ASKED["expect"].split(",") if name])
def test_an_expected_source_works(name: str):
    """What the harness counts on is there, or skips would hide that nothing was tested."""
    needed = NEEDED.get(name, 0)
    if capabilities() & needed != needed:
        pytest.skip("not for a user without the capabilities")
    found = {source.name: source for source in host.sources()}
    assert found[name].works, found[name].reason
