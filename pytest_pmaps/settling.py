"""Bringing this process to rest before it is measured: ``settle()``."""

from __future__ import annotations

from collections.abc import Callable
from gc import collect  # bound here: tests replace gc.collect

from ._native import purge

__all__ = ["Hook", "settle"]

#: What else holds memory that nobody uses; called before everything else.
Hook = Callable[[], object]

#: Finalizers may make garbage, and some do so for ever.
_MOST_COLLECTIONS = 8


def settle(hook: Hook | None = None) -> tuple[str, ...]:
    """Give back what this process holds and does not use, so that what is left is in use.

    Collects garbage until there is none, and has malloc give its free memory back to the kernel:
    glibc's (``malloc_trim``), and mimalloc, jemalloc and tcmalloc where they are loaded.
    ``hook`` is called before that: it empties caches of which this knows nothing.  Nothing is
    frozen, and whether garbage is collected by itself does not change.

    Gives what was done: ``("gc", "glibc")``.  Python's own allocator gives arenas of 1 MiB back
    (256 KiB before 3.10) once all of an arena is free, and keeps what is free in others.

    Raises Unsupported where there is no engine, and what ``hook`` raises.
    """
    __tracebackhide__ = True
    if hook is not None:
        hook()
    for _ in range(_MOST_COLLECTIONS):
        if not collect():
            break
    return ("gc", *purge())
