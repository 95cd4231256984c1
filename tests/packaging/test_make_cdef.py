from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"


@pytest.fixture(scope="module")
def cdef() -> Callable[[str], str]:
    """The build's own translation of a header into what cffi reads."""
    return runpy.run_path(str(CSRC / "make_cdef.py"))["cdef"]


def guarded(body: str) -> str:
    """A header around some declarations."""
    return f"#ifndef H\n#define H\n{body}\n#endif\n"


def test_every_public_function_is_bound(cdef: Callable[[str], str]) -> None:
    """Each PM_API of pmaps.h appears, and nothing of the preprocessor does."""
    header = (CSRC / "pmaps.h").read_text(encoding="utf-8")
    declarations = cdef(header)

    of_functions = [line for line in declarations.splitlines() if not line.startswith(" ")]
    assert "\n".join(of_functions).count("(") == header.count("\nPM_API ")
    assert "#" not in declarations
    assert "PM_API" not in declarations
    assert "/*" not in declarations


def test_comments_go_and_literals_stay(cdef: Callable[[str], str]) -> None:
    """What looks like a comment inside a literal is none."""
    assert cdef(guarded("enum { A = '/' /* slash */ }; // end")) == "enum { A = '/'   };\n"


def test_a_directive_it_does_not_know_stops_the_build(cdef: Callable[[str], str]) -> None:
    """A guess would bind something else than the compiler saw."""
    with pytest.raises(ValueError, match="#if FANCY"):
        cdef(guarded("#if FANCY\nint f(void);\n#endif"))
