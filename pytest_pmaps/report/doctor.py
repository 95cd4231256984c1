"""``pmaps doctor``: what this host lets us see, and how to see more."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

from ..host import Confounder, SourceStatus

__all__ = ["doctor_lines"]

Paint = Callable[[str, str], str]


def doctor_lines(
    found: list[SourceStatus], moving: list[Confounder], paint: Paint, width: int = 80
) -> Iterator[str]:
    """The whole report; ``paint(text, colour)`` colours for a terminal or leaves as it is."""
    works = {s.name for s in found if s.works}
    yield "Sources"
    for source in found:
        mark = paint("  yes", "green") if source.works else paint("   no", "yellow")
        yield from _entry(mark, source.name, source.decides, width)
        if not source.works:
            yield from _wrapped(f"because {source.reason}", width)
    yield ""
    yield "Flags"
    for letters, text in _flags(works):
        yield from _entry("", letters, text, width)
    remedies = dict.fromkeys(s.remedy for s in found if s.remedy)
    if remedies:
        yield ""
        yield "To see more"
        for remedy in remedies:
            names = ", ".join(s.name for s in found if s.remedy == remedy)
            yield from textwrap.wrap(f"{names}: {remedy}", width, initial_indent="  ",
                                     subsequent_indent="    ", break_on_hyphens=False)  # fmt: skip
    yield ""
    yield "What moves by itself on this host"
    if not moving:
        yield "  nothing that we know of"
    for item in moving:
        yield from _entry("", item.name, f"{item.state}: {item.effect}", width)


def _entry(mark: str, name: str, text: str, width: int) -> Iterator[str]:
    lines = textwrap.wrap(text, width - 22) or [""]
    yield f"{mark or '     '}  {name:<13}  {lines[0]}"
    for line in lines[1:]:
        yield " " * 22 + line


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=" " * 22, subsequent_indent=" " * 22,
                         break_on_hyphens=False)  # fmt: skip


def _flags(works: set[str]) -> Iterator[tuple[str, str]]:
    if "pte" in works:
        yield "Y P", "exact, page by page"
    else:
        yield "Y", "clear where a mapping's Referenced is 0, else unknown"
        yield "P", "where counters or D decide it: clear for a file's own pages, else often unknown"
    if {"pfn", "kpageflags"} <= works:
        yield "R A U D W", "exact, page by page"
    else:
        yield "U", "set for anonymous memory, shmem and regular files, else unknown"
        yield "R", "clear where a mapping's Referenced is 0, else unknown"
        yield "D", "where smaps' dirty counters are 0, or all, else unknown"
        yield "A W", ("where numa_maps counts none, or all" if "numa_maps" in works else "unknown")
    bounds = "exact where it is 1, else at least 2, bounded by numa_maps"
    yield "mapcount", "exact" if {"pfn", "kpagecount"} <= works else bounds
    yield "dirty", "exact for private mappings of files, page by page, with or without privilege"
