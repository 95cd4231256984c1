"""A pre-fork server: what a worker has copied of its parent, with gc.freeze() and without."""

from __future__ import annotations

import sys

SERVER = """
import gc, os, sys
gc.disable()
table = [[n] for n in range(100_000)]  # what every worker reads and none writes
if "freeze" in sys.argv:
    gc.freeze()
pid = os.fork()
if not pid:
    gc.collect()  # as it will, sooner or later: it writes into each object that it looks at
    os._exit(0)
os.waitpid(pid, 0)
"""


def copied(pmaps, *how):
    """What a worker has for itself at its end; all else is its parent's still."""
    run = pmaps.run([sys.executable, "-c", SERVER, *how], follow=True, at=["exit"], timeout=60)
    assert run.returncode == 0
    (worker,) = run.children
    return worker.at["exit"].private_dirty


def test_freeze_keeps_pages_shared(pmaps):
    """The collector leaves alone what is frozen."""
    assert copied(pmaps) >= "5 MiB"
    assert copied(pmaps, "freeze") <= "2 MiB"
