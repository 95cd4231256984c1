"""Turn pmaps.h into the declarations that cffi reads, so that nothing is written twice.

    python make_cdef.py pmaps.h cdef.h

cffi parses plain C declarations only: no comments to trip over, no directives, no ``extern "C"``,
no attributes.  This drops exactly those and refuses a header that uses more of the preprocessor
than include guards and PM_API, since guessing at it would bind something else than was compiled.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# A string or character literal may hold what looks like a comment; it is matched first and kept.
_COMMENT = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|/\*.*?\*/|//[^\n]*""", re.DOTALL)
_CPLUSPLUS = re.compile(r"^#ifdef __cplusplus\n.*?^#endif\n", re.DOTALL | re.MULTILINE)
_PM_API = re.compile(
    r"^#if defined\(__GNUC__\)\n#define PM_API [^\n]*\n#else\n#define PM_API\n#endif\n",
    re.MULTILINE,
)
_GUARD = re.compile(r"\A\s*#ifndef (\w+)\n#define \1\n(.*)^#endif\s*\Z", re.DOTALL | re.MULTILINE)
_INCLUDE = re.compile(r"^#include <(?:stddef|stdint)\.h>\n", re.MULTILINE)


#: What the engine calls back, written in Python: only cffi knows of it.
_CALLBACKS = """
extern "Python" int pm_python_tick(void *arg, uint64_t done, uint64_t total);
"""


def cdef(header: str) -> str:
    """Give the declarations of a header; ValueError where it cannot be done faithfully."""
    text = _COMMENT.sub(lambda match: match[1] or " ", header)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    guard = _GUARD.match(text)
    if guard is None:
        raise ValueError("the header has no include guard around all of it")
    text = guard[2]
    for pattern in (_CPLUSPLUS, _PM_API, _INCLUDE):
        text = pattern.sub("", text)
    text = re.sub(r"\bPM_API\s+", "", text)
    if directive := re.search(r"^\s*#.*", text, re.MULTILINE):
        raise ValueError(f"cffi cannot be told about: {directive[0].strip()}")
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main() -> None:
    """Read the header named first, write the declarations to the file named second."""
    source, target = map(Path, sys.argv[1:])
    try:
        text = cdef(source.read_text(encoding="utf-8")) + _CALLBACKS
        target.write_text(text, encoding="utf-8")
    except ValueError as error:
        sys.exit(f"{source}: {error}")


if __name__ == "__main__":
    main()
