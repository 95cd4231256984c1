"""Anonymous memory that has a name: prctl(PR_SET_VMA_ANON_NAME)."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator

import pytest

from pytest_pmaps import NoSuchMapping, assert_at_most, assert_no_dirty, host, snapshot

PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0
PAGES = 16


@pytest.fixture
def jit() -> Iterator[mmap.mmap]:
    """16 pages by the name ``jit``, in a mapping of their own; none of them touched."""
    memory = mmap.mmap(-1, (PAGES + 2) * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + 4096
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 3, ctypes.c_char_p]
    if libc.prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, PAGES * 4096, b"jit"):
        pytest.skip("this kernel has no CONFIG_ANON_VMA_NAME")
    yield memory
    del memory


def write(memory: mmap.mmap, pages: int) -> None:
    """Write the first pages of those that have the name."""
    for page in range(pages):
        memory[4096 * (page + 1)] = 1


def test_the_name_selects_the_mapping(jit: mmap.mmap):
    """Exactly its pages, by the whole name or by a glob."""
    jit.madvise(mmap.MADV_NOHUGEPAGE)
    before = snapshot()
    write(jit, 3)
    after = snapshot()
    for selector in ("[anon:jit]", "[anon:j*]"):
        assert after[selector].size == PAGES
        assert after[selector].rss == 3
        assert_at_most(after[selector], 3)
        assert_no_dirty(before[selector])
    with pytest.raises(NoSuchMapping):
        after["[anon:jitter]"]


def test_the_name_is_no_part_of_what_has_none(jit: mmap.mmap):
    """``[anon]`` is memory without a name."""
    write(jit, 1)
    captured = snapshot()
    (named,) = captured["[anon:jit]"].mappings
    assert named.name == "[anon:jit]"
    assert named.start not in {mapping.start for mapping in captured["[anon]"].mappings}


@pytest.mark.usefixtures("jit")
def test_doctor_says_that_the_kernel_has_names():
    """The probe agrees with the prctl that has just worked."""
    assert {source.name: source.works for source in host.sources()}["anon_names"]
