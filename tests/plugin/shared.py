"""What the plugin's tests write into their inner test files."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SOURCE = """
#include <sys/mman.h>
#define PAGE 4096
static volatile char foo_data[8 * PAGE] __attribute__((aligned(PAGE))) = {1};
void foo_write(int page) { foo_data[page * PAGE]++; }
__attribute__((aligned(PAGE))) int foo_text(void) { return 42; }
int foo_patch(void)
{
    char *page = (char *)foo_text;
    if (mprotect(page, 1, PROT_READ | PROT_WRITE | PROT_EXEC)) return -1;
    *(volatile char *)page += 0;
    return mprotect(page, 1, PROT_READ | PROT_EXEC);
}
"""

#: How every inner test file begins.
PREAMBLE = """
import ctypes
import os
import subprocess
import sys

import pytest

from pytest_pmaps import *

foo = ctypes.CDLL(os.environ.get("LIBFOO"))
UNKNOWN = "400000-402000 rw-p 00000000 fe:00 77 /lib/libbar.so.1\\n0\\t2\\t???????\\t?\\n"
"""

#: A test that fails for one page of libfoo's data.
DIRTY = """
def test_dirty(pmaps_snapshot):
    before = pmaps_snapshot()
    foo.foo_write(3)
    after = pmaps_snapshot()
    assert_no_dirty(after["libfoo.data"], since=before)
"""

needs_subtests = pytest.mark.skipif(
    int(pytest.__version__.partition(".")[0]) < 9, reason="subtests came with pytest 9"
)

Run = Callable[..., pytest.RunResult]
