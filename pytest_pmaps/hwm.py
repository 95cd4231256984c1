"""VmHWM, a process's high-water mark of resident memory, and by how much the kernel may be off.

``mm_counter`` in the kernel's mm.h, ``percpu_counter_batch`` in lib/percpu_counter.c.
"""

from __future__ import annotations

import mmap
import os
import re
from typing import NamedTuple

__all__ = ["Slack", "slack"]

#: Pages of files, of anonymous memory and of shmem are counted apart.
_COUNTERS = 3
#: Before Linux 6.2 each thread held back what it brought in by so many faults, of up to 16 pages.
_FAULTS, _AROUND = 65, 16


class Slack(NamedTuple):
    """In bytes: how much less than VmHWM the peak may be, and how much more."""

    less: int
    more: int


def slack(threads: int = 1) -> Slack:
    """By how much VmHWM may be off here.

    Since Linux 6.2 the counters are ``percpu_counter``s: each CPU holds back less than
    max(32, 2 * CPUs) pages of each, more or less than there are.  Before, each thread held back
    what it brought in (SPLIT_RSS_COUNTING), and the counters only lagged; as kernels were patched,
    both are reckoned with there.
    """
    cpus = os.sysconf("SC_NPROCESSORS_CONF")
    pages = _COUNTERS * cpus * (max(32, 2 * cpus) - 1)
    more = pages if _release() >= (6, 2) else max(pages, threads * _FAULTS * _AROUND)
    return Slack(pages * mmap.PAGESIZE, more * mmap.PAGESIZE)


def _release() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
