"""Compile pte.bpf.c and commit the instructions, so that users need no compiler for BPF.

    python make_insns.py            write pte_insns.h
    python make_insns.py --check    fail where pte_insns.h is not what pte.bpf.c compiles to

Needs the package ziglang: its clang, of a fixed version, gives everyone the same instructions.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_HERE = Path(__file__).parent
_SOURCE = _HERE / "pte.bpf.c"
_TARGET = _HERE / "pte_insns.h"
_PER_LINE = 4
_HEAD = """\
/* SPDX-License-Identifier: Dual MIT/GPL
 *
 * pte_insns.h - the instructions of pte.bpf.c, as make_insns.py compiled them.  Not to be edited.
 */
/* clang-format off: one line is four instructions */
#ifndef PM_PTE_INSNS_H
#define PM_PTE_INSNS_H

#include <stdint.h>
"""


def _compile(source: Path, target: Path) -> None:
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding"]
    subprocess.run(
        [*zig, "-mcpu=v3", "-O2", "-Wall", "-Werror", "-c", source.name, "-o", str(target)],
        cwd=source.parent,
        check=True,
    )


def _sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of each section of a 64-bit little-endian ELF file."""
    at, size, n, names = (
        struct.unpack_from("<Q", elf, 40)[0],
        *struct.unpack_from("<HHH", elf, 58),
    )
    heads = [struct.unpack_from("<IIQQQQ", elf, at + size * i) for i in range(n)]
    strings = elf[heads[names][4] :]
    for name, _, _, _, offset, length in heads:
        yield strings[name : strings.index(b"\0", name)].decode(), elf[offset : offset + length]


def _array(name: str, code: bytes) -> str:
    words = [f"0x{word:016x}," for (word,) in struct.iter_unpack("<Q", code)]
    lines = [" ".join(words[i : i + _PER_LINE]) for i in range(0, len(words), _PER_LINE)]
    return f"static const uint64_t pm__{name}_insns[] = {{\n    " + "\n    ".join(lines) + "\n};\n"


def header(elf: bytes) -> str:
    """The header for a compiled pte.bpf.c."""
    programs = {
        name.removeprefix("prog/"): code
        for name, code in _sections(elf)
        if name.startswith("prog/")
    }
    arrays = [_array(name, code) for name, code in sorted(programs.items())]
    return _HEAD + "\n" + "\n".join(arrays) + "\n#endif\n"


def main() -> None:
    """Write the header, or check it."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "pte.o"
        _compile(_SOURCE, compiled)
        text = header(compiled.read_bytes())
    if sys.argv[1:] == ["--check"]:
        if _TARGET.read_text(encoding="utf-8") != text:
            sys.exit(f"{_TARGET.name} is not what {_SOURCE.name} compiles to: run {sys.argv[0]}")
        return
    _TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
