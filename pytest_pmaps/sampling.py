"""The most that a process and its descendants held together: ``tree_peak()``, from samples.

The kernel keeps a high-water mark of each process, and none of several: their peaks may lie at
different moments.  So a tree is captured again and again, and what came between is not claimed.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Literal, Self

from .capture import pid_of
from .counts import Count
from .errors import PmapsError, ProcessGone
from .procfs import getpid
from .trees import Tree, tree

__all__ = ["TreePeak", "tree_peak"]

_BETWEEN = "samples were taken every {:g} s at best: what was held in between is not known"


class TreePeak:
    """The most that a tree was seen to hold in a ``with`` block; see :func:`tree_peak`."""

    def __init__(self, target: object, every: float, missing: Literal["raise", "skip"]) -> None:
        __tracebackhide__ = True
        if not every > 0:
            raise ValueError(f"every={every}: seconds, more than 0")
        self._root = pid_of(target) or getpid()
        self._every = every
        self._missing: Literal["raise", "skip"] = missing
        self._owner = getpid()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        self._started: int | None = None
        self._ended = False
        self._open = False
        self._lo = self._hi = 0
        self._notes: dict[str, None] = {}
        self.samples = 0
        #: The sample in which it held most.
        self.tree: Tree | None = None

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        if self._thread is not None:
            raise ValueError("a window is for one with block: begin another with tree_peak()")
        self._add(self._taken())
        self._thread = threading.Thread(target=self._sample, name="pmaps-tree-peak", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if self._thread is None or getpid() != self._owner:
            return
        self._done.set()
        self._thread.join()
        if kind is None:
            if self._failed:
                raise self._failed
            self._try()
        self._ended = True

    # ---- sampling

    def _sample(self) -> None:
        took = 0.0
        try:
            # Never more than half of the time, however large the tree is.
            while not self._done.wait(max(self._every, took)):
                began = time.monotonic()
                if not self._try():
                    return
                took = time.monotonic() - began
        except BaseException as error:  # raised again when the block ends
            self._failed = error

    def _try(self) -> bool:
        """One sample, if it can be had; whether there may be another one."""
        try:
            self._add(self._taken())
        except ProcessGone:
            self._notes[f"process {self._root} ended in the block"] = None
            return False
        except PmapsError as error:
            self._notes[f"a sample was missed: {error}"] = None
        return True

    def _taken(self) -> Tree:
        __tracebackhide__ = True
        taken = tree(self._root, missing=self._missing)
        started = taken.root.columns.start_time
        if self._started not in (None, started):
            raise ProcessGone(f"process {self._root} has exited")
        self._started = started
        return taken

    def _add(self, taken: Tree) -> None:
        lo, hi = taken.unique_rss.bytes.bounds
        self.samples += 1
        if self.tree is None or (lo or 0) > self._lo:
            self.tree = taken
        self._lo = max(self._lo, lo or 0)
        self._hi = max(self._hi, hi or 0)
        self._open |= hi is None

    # ---- what was found

    @property
    def sampled(self) -> Count:
        """The most that was seen in one sample, each physical page counted once."""
        __tracebackhide__ = True
        self._need_end()
        assert self.tree is not None
        remedy = self.tree.unique_rss.remedy
        return self._count(None if self._open else self._hi, "sampled peak of the tree", remedy)

    @property
    def rss(self) -> Count:
        """The most that was held at any moment of the block: at least what was sampled."""
        __tracebackhide__ = True
        self._need_end()
        remedy = f"{_BETWEEN.format(self._every)}; .sampled is the most that was seen"
        return self._count(None, "peak rss of the tree", remedy)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it may have been more, a line for each reason."""
        __tracebackhide__ = True
        self._need_end()
        return (_BETWEEN.format(self._every), *self._notes)

    def _count(self, hi: int | None, label: str, remedy: str) -> Count:
        assert self.tree is not None
        size = self.tree.root.page_size
        return Count(self._lo, hi, page_size=size, label=label, remedy=remedy)

    def _need_end(self) -> None:
        __tracebackhide__ = True
        if getpid() != self._owner:
            raise ValueError("this window is of the process that forked this one")
        if not self._ended:
            raise ValueError("ask when the with block has ended")

    def __repr__(self) -> str:
        if not self._ended:
            return "<TreePeak: not ended>"
        return f"<TreePeak: {self.sampled} in {self.samples} samples>"


def tree_peak(
    target: object = None, *, every: float = 0.1, missing: Literal["raise", "skip"] = "raise"
) -> TreePeak:
    """See the most that a process and its descendants hold together in a ``with`` block.

        with pytest_pmaps.tree_peak(server) as p:
            load()
        assert p.sampled <= "300 MiB"

    A thread captures the tree every so many seconds (less often where that would take more than
    half of the time), and at the start and the end.  ``p.sampled`` is the most that was seen at
    one moment, as ``tree().unique_rss`` counts it; ``p.tree`` the capture in which it was.
    ``p.rss`` is the most that there was, and has no upper end: nobody saw what came in between.
    ``missing`` is that of :func:`~pytest_pmaps.tree`.

    Entering raises what ``tree()`` does, and ValueError for an ``every`` that is not above 0.
    A target that ends in the block is said in ``p.reasons``.
    """
    __tracebackhide__ = True
    return TreePeak(target, every, missing)
