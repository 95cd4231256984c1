"""Without frames: less is decided, and nothing of it contradicts what root sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oracle import reader, targets
from oracle.agreement import (
    Comparison,
    agree,
    around_as,
    as_nobody,
    inside_userns_of,
    without_admin,
)
from pytest_pmaps import Source, host

WHO = ("nobody", "root without CAP_SYS_ADMIN", "root of a user namespace")
TELLS_ZERO = next(source.works for source in host.sources() if source.name == "scan_zero")


def prefix_for(who: str, pid: int) -> list[str]:
    """How to become somebody."""
    prefixes: dict[str, Callable[[], list[str]]] = {
        WHO[0]: as_nobody,
        WHO[1]: without_admin,
        WHO[2]: lambda: inside_userns_of(pid),
    }
    return prefixes[who]()


def start(who: str, zoo: Path, *args: str | Path):
    """Start a target that this somebody may look at."""
    if who == WHO[2]:
        return targets.running("/usr/bin/unshare", "--user", "--map-root-user", zoo, *args)
    return targets.running(zoo, *args, uid=targets.NOBODY if who == WHO[0] else None)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("state", targets.ZOO_STATES)
def test_no_decided_fact_is_wrong(zoo: Path, public: Path, who: str, state: str):
    """Constructed states, on a stopped target."""
    reader.require_frames()
    if state == "tmpfs" and who == WHO[0]:
        pytest.skip("the target makes its file where nobody may not")
    with start(who, zoo, state, public) as (pid, info), reader.stopped(pid):
        captured, result = agree(lambda: around_as(prefix_for(who, pid), pid), info)
        assert Source.KPAGEFLAGS not in captured.sources
        # Where zero pages cannot be told from copies beside them, nothing is said of either.
        assert result.share("WRITEBACK") == 1 or not TELLS_ZERO


def test_enough_is_decided_over_real_programs(public: Path):
    """As nobody: dirty of private files always, P or D, A, W, U almost always; none wrong."""
    reader.require_frames()
    total, seen = Comparison(), {}
    for program in targets.real_programs(public):
        own = targets.Program(program.name, program.argv, program.say, targets.NOBODY)
        try:
            with targets.idle(own) as pid, reader.stopped(pid):
                _, result = agree(lambda: around_as(as_nobody(), pid))
        except (targets.Unavailable, OSError):
            continue  # not to be run by nobody, or not for long
        seen[program.name] = result.share("PORD")
        total.pages += result.pages
        total.decided += result.decided
    print(len(seen), "programs,", total.pages, "pages:", ", ".join(seen))
    for fact in ("PORD", "ACTIVE", "WRITEBACK", "UPTODATE", "MAPCOUNT", "TOUCHED", "DIRTY"):
        print(f"  {fact}: {total.share(fact):.1%}")
    if len(seen) < 10:
        pytest.skip(f"only {len(seen)} real programs here that nobody can run")
    assert total.decided["FILE_PRIVATE_DIRTY"] == total.decided["FILE_PRIVATE_PAGES"]
    # Where a program copied many pages of a private file, as java does of its archive, the
    # counters do not say which of its pages are the dirty ones.
    print("  PORD by program:", {name: f"{share:.1%}" for name, share in seen.items()})
    assert sum(share >= 0.95 for share in seen.values()) >= 10
    assert total.share("PORD") >= 0.9
    assert total.share("WRITEBACK") >= (1 if TELLS_ZERO else 0.9)
    assert total.share("UPTODATE") >= 0.99
