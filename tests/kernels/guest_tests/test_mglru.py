"""The multi-generational LRU: named where it moves page states, and what it does to A."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oracle import targets
from pytest_pmaps import Fact, cli, host, snapshot

SWITCH = Path("/sys/kernel/mm/lru_gen/enabled")
DRAIN = Path("/proc/sys/vm/compact_memory")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may switch MGLRU")


@pytest.fixture
def mglru() -> Iterator[None]:
    """Switched on."""
    with targets.setting(SWITCH, "y"):
        yield


@pytest.fixture
def no_mglru() -> Iterator[None]:
    """Switched off."""
    with targets.setting(SWITCH, "n"):
        yield


@pytest.mark.usefixtures("mglru")
def test_it_is_named_where_it_is_on(capsys: pytest.CaptureFixture[str]):
    """In the report header and by ``pmaps doctor``, with what it does."""
    assert "watch out" in host.header_line()
    assert "MGLRU 0x0" in host.header_line()
    assert cli.main(["doctor"]) == 0
    assert "A is always clear" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("no_mglru")
def test_it_is_not_named_where_it_is_off(capsys: pytest.CaptureFixture[str]):
    """Built in, and doing nothing."""
    assert "MGLRU" not in host.header_line()
    assert cli.main(["doctor"]) == 0
    assert "MGLRU" not in capsys.readouterr().out


@pytest.mark.usefixtures("mglru")
@pytest.mark.parametrize("state", ["anon", "file_private", "shm"])
def test_active_is_clear_under_it(zoo: Path, public: Path, state: str):
    """Of all that is on the lists; a page that waits for it in a batch of its CPU may show A."""
    with targets.running(zoo, state, public) as (pid, info):
        DRAIN.write_text("1\n")
        captured = snapshot(pid)
        pages = known_active(captured, info)
        assert pages
        assert not any(pages)


@pytest.mark.usefixtures("no_mglru")
def test_active_can_be_set_without_it(public: Path):
    """Or the test above would pass where nothing ever shows A."""
    captured = snapshot()
    assert any(r.fact(Fact.ACTIVE) for m in captured.mappings for r in m.ranges())


def known_active(captured, info) -> list[bool]:
    """A of every range of a zoo's own areas that has pages on the lists."""
    found = []
    for area in targets.areas(info).values():
        for mapping in captured.mappings:
            for one in mapping.ranges():
                inside = area.start <= one.address < area.start + area.length
                if inside and (active := one.fact(Fact.ACTIVE)) is not None:
                    found.append(active)
    return found
