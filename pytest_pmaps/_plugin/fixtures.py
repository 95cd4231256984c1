"""The fixtures, session-scoped so that ``@given`` and wide fixtures can use them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import pytest

from .standby import STANDBY

if TYPE_CHECKING:
    from ..snapshots import Snapshot
    from .facade import Pmaps, TakeSnapshot

__all__ = ["load_reports", "pmaps", "pmaps_snapshot", "warm_up"]


@pytest.fixture(scope="session")
def pmaps_snapshot(request: pytest.FixtureRequest) -> TakeSnapshot:
    """Capture a process: ``pmaps_snapshot(target=None, stop=False)`` gives a Snapshot.

    ``target``: a pid, a Popen, psutil, multiprocessing or asyncio process; None: this process.
    ``stop``: hold it still meanwhile.
    Of each process the first and the last snapshot of a test are kept for its report.
    """
    session = request.config.stash[STANDBY].join()
    session.directory.find(request)
    from ..capture import snapshot
    from ..errors import Unsupported

    try:
        warm_up()
    except Unsupported as exc:
        pytest.skip(str(exc))

    def pmaps_snapshot(target: object = None, *, stop: bool = False) -> Snapshot:
        __tracebackhide__ = True
        taken = snapshot(target, stop=stop)
        session.note(taken)
        return taken

    return pmaps_snapshot


def warm_up() -> None:
    """Load and touch here whatever a first capture does, before a test measures.

    Raises Unsupported where there is nothing to see.
    """
    from ..capture import snapshot

    load_reports()
    snapshot()


def load_reports() -> None:
    """Import now what a failure's report needs: it may have to be made while a test's patches
    of open(), json.loads() and the like are in place.
    """
    from ..report import run  # noqa: F401
    from . import failures  # noqa: F401


@pytest.fixture(scope="session")
def pmaps(request: pytest.FixtureRequest, pmaps_snapshot: TakeSnapshot) -> Pmaps:
    """Everything in one object: ``snapshot``, ``group``, ``tree``, ``run``, ``diff``, ``load``,
    ``save`` and ``assert_*``.
    """
    from .. import groups, trees
    from .facade import Pmaps

    session = request.config.stash[STANDBY].watch()

    def group(
        targets: Iterable[object], *, missing: Literal["raise", "skip"] = "raise"
    ) -> groups.Group:
        __tracebackhide__ = True
        taken = groups.group(targets, missing=missing)
        for snapshot in taken:
            session.note(snapshot)
        return taken

    def tree(target: object = None, *, missing: Literal["raise", "skip"] = "raise") -> trees.Tree:
        __tracebackhide__ = True
        taken = trees.tree(target, missing=missing)
        for snapshot in taken:
            session.note(snapshot)
        return taken

    return Pmaps(pmaps_snapshot, group, tree, session.note, session.targets, session.name)
