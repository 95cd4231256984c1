"""Functions that leak are found each time; functions that do not never fail."""

from __future__ import annotations

import array
import asyncio
import collections
import concurrent.futures
import contextlib
import ctypes
import decimal
import functools
import gc
import hashlib
import importlib
import io
import itertools
import json
import math
import mmap
import os
import queue
import random
import re
import sqlite3
import string
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from oracle import targets
from oracle.agreement import as_nobody, unprivileged_python
from pytest_pmaps import (
    FootprintError,
    FormatError,
    Undetermined,
    assert_no_growth,
    settle,
    snapshot,
)

Function = Callable[[], object]


@pytest.fixture(scope="module")
def leak(public: Path) -> ctypes.CDLL:
    """The library that leaks."""
    built = targets.build("leak", public, flags=("-fPIC", "-shared"), output="libleak.so")
    return ctypes.CDLL(str(built))


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """All that pytest made is looked through in each settle(), or takes no time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def unwarned() -> Iterator[None]:
    """Old modules warn when they are imported, and pytest keeps what it is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---- clean functions, two hundred of them


def numbered(fn: Callable[[int], object]) -> Function:
    """The function of how many times it was called."""
    calls = itertools.count()
    return lambda: fn(next(calls))


def cached(size: int) -> Function:
    """A cache that fills, and then is full."""
    return numbered(functools.lru_cache(maxsize=size)(lambda i: bytes(200)))


def remembered(size: int) -> Function:
    """A dict that comes to know all there is, in no order."""
    known: dict[int, bytes] = {}
    chance = random.Random(size)

    def call() -> None:
        key = chance.randrange(size)
        known[key] = b"%d" % key * 20

    return call


def ring(size: int) -> Function:
    """The last few of something."""
    kept: collections.deque[bytearray] = collections.deque(maxlen=size)
    return lambda: kept.append(bytearray(500))


def saw(size: int) -> Function:
    """Grows, and lets go."""
    kept: list[bytes] = []

    def call() -> None:
        kept.append(bytes(120))
        if len(kept) == size:
            kept.clear()

    return call


def once(at: int, what: Function) -> Function:
    """Something that stays, in one of the calls."""
    kept: list[object] = []
    return numbered(lambda i: kept.append(what()) if i == at else None)


def imported(name: str) -> Function:
    """A lazy import."""
    return lambda: importlib.import_module(name)


def cycle(size: int) -> Function:
    """Garbage that only the collector finds."""

    def call() -> None:
        loop: list[object] = [bytes(10) for _ in range(size)]
        loop.append(loop)

    return call


def churned(size: int) -> Function:
    """Objects of many sizes, given back in another order."""
    chance = random.Random(size)

    def call() -> None:
        made = [bytes(chance.randrange(size)) for _ in range(50)]
        chance.shuffle(made)
        while made:
            made.pop()

    return call


def mapped(pages: int) -> Function:
    """Memory of the kernel, given back."""

    def call() -> None:
        with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
            memory.write(b"1" * (pages * mmap.PAGESIZE))

    return call


def threaded(n: int) -> Function:
    """Threads that come and go, with arenas of malloc and stacks of their own."""

    def call() -> None:
        threads = [threading.Thread(target=lambda: bytearray(70_000)) for _ in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return call


def pooled(n: int) -> Function:
    """Threads that stay."""
    pool = concurrent.futures.ThreadPoolExecutor(n)
    return lambda: list(pool.map(bytearray, range(0, 40_000, 1000)))


def made_class() -> object:
    """Classes are cycles."""
    return type("Made", (), {"one": 1, "two": lambda self: self})()


def raised() -> object:
    """An exception, its traceback, and what they hold."""
    try:
        raise ValueError(bytes(2000))
    except ValueError as exc:
        return exc


class Finalized:
    """Makes more garbage when it is collected, for a while."""

    def __init__(self, left: int = 3) -> None:
        self.left = left
        self.me = self

    def __del__(self) -> None:
        if self.left:
            Finalized(self.left - 1)


def a_file() -> None:
    """A file that comes and goes."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(10_000))


def a_database() -> None:
    """Another allocator's clients."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute("create table t (a)")
        db.executemany("insert into t values (?)", [(i,) for i in range(50)])


def a_loop() -> None:
    """An event loop."""
    asyncio.run(asyncio.sleep(0))


def a_child() -> None:
    """A process."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def weak() -> Function:
    """A registry that holds nothing alive."""
    known: weakref.WeakValueDictionary[int, Finalized] = weakref.WeakValueDictionary()
    return numbered(lambda i: known.__setitem__(i, Finalized(0)))


def queued() -> Function:
    """In, and out again."""
    line: queue.Queue[bytes] = queue.Queue()

    def call() -> None:
        for _ in range(20):
            line.put(bytes(300))
        while not line.empty():
            line.get()

    return call


MODULES = """
aifc bdb cProfile calendar cgi chunk code codeop colorsys compileall crypt csv curses difflib dis
filecmp fileinput formatter fractions ftplib getpass gettext graphlib html.parser http.client
imaplib ipaddress lzma mailbox mimetypes modulefinder netrc nntplib optparse pickletools plistlib
poplib pprint profile pyclbr quopri rlcompleter sched secrets shelve smtplib sndhdr statistics
symtable tabnanny telnetlib timeit trace uu wave xml.dom.minidom xml.sax xmlrpc.client zipapp
zipfile ctypes.util wsgiref.simple_server email.mime.text concurrent.futures.process
"""

SIZES = (1, 7, 64, 100, 128, 500, 1000, 1024, 2000, 3000, 4096, 6000)


def clean(leak: ctypes.CDLL) -> Iterator[tuple[str, Function]]:
    """Functions by name; some hold more for a while."""
    for size in SIZES:
        yield f"cached-{size}", cached(size)
        yield f"remembered-{size}", remembered(size)
        yield f"ring-{size}", ring(size)
        yield f"saw-{size}", saw(size)
        yield f"churned-{size}", churned(size * 10)
        yield f"kept in C-{min(size, 4096)}", functools.partial(leak.keep_last, min(size, 4096))
    for at in (0, 5, 9, 12, 60, 109, 111, 250, 400, 900):
        yield f"once-{at}", once(at, lambda: bytes(1 << 20))
        yield f"objects once-{at}", once(at, lambda: [bytes(100) for _ in range(3000)])
        yield f"pages once-{at}", once(at, lambda: np.ones(300_000))
    for size in (1, 10, 100, 1000):
        yield f"cycle-{size}", cycle(size)
        yield f"mapped-{size}", mapped(size)
        yield f"array-{size}", functools.partial(np.ones, size * 500)
        yield f"bytes-{size}", functools.partial(bytearray, size * 1000)
        yield f"compressed-{size}", functools.partial(zlib.compress, bytes(size * 100))
        yield f"text-{size}", functools.partial(json.dumps, list(range(size)))
    for n in (1, 2, 5):
        yield f"threaded-{n}", threaded(n)
        yield f"pooled-{n}", pooled(n)
    missing = [m for m in MODULES.split() if m not in sys.modules and importlib.util.find_spec(m)]
    for name in missing:
        yield f"imported-{name}", imported(name)
    chance = random.Random(1)
    yield from {
        "nothing": lambda: None,
        "arithmetic": lambda: 3**500 % 7**100,
        "decimals": lambda: decimal.Decimal(2).sqrt(),
        "exception": raised,
        "class": made_class,
        "finalizer": Finalized,
        "weak": weak(),
        "queue": queued(),
        "file": a_file,
        "database": a_database,
        "loop": a_loop,
        "child": a_child,
        "churned in C": lambda: leak.churn(chance.randrange(1 << 30)),
        "patterns": numbered(lambda i: re.compile(f"a{i}b*").match("aaa")),
        "interned": numbered(lambda i: sys.intern(f"name {i % 300}")),
        "hash": lambda: hashlib.sha256(bytes(10_000)).hexdigest(),
        "environment": lambda: os.environ.__setitem__("PMAPS_TEST_GROWTH", "x" * 100),
        "times": numbered(lambda i: time.strptime(f"{i % 28 + 1} 1 2020", "%d %m %Y")),
        "template": lambda: string.Template("$a $b").substitute(a=1, b=2),
        "streams": lambda: io.TextIOWrapper(io.BytesIO(bytes(1000))).read(),
        "compiled": numbered(lambda i: exec(compile(f"x = {i}", "made", "exec"), {})),
        "generator": lambda: next(x for x in iter(lambda: bytes(100), None)),
        "array": lambda: array.array("d", range(2000)),
    }.items()  # fmt: skip


#: How often each leak has to be found; from 50 on all clean functions are tried, else every third.
TRIES = int(os.environ.get("PMAPS_GROWTH_TRIES", "5"))


def test_clean_functions_never_fail(leak: ctypes.CDLL):
    """Two hundred of them: caches, imports, arenas, threads, garbage."""
    failed, n = [], 0
    for n, (name, fn) in enumerate(clean(leak), 1):
        if TRIES < 50 and n % 3:
            continue
        try:
            assert_no_growth(fn)
        except (FootprintError, Undetermined) as exc:
            failed.append(f"{name}: {exc}")
    assert not failed
    assert n >= 200


@pytest.mark.parametrize("size", [2048, 13_500, 20_000])
def test_a_cache_that_fills_in_step_with_the_rounds(size: int):
    """Its table doubles as they do; full, it grows no more."""
    assert_no_growth(numbered(functools.lru_cache(size)(lambda i: bytes(100))))


# ---- leaks


def found(fn: Function, match: str, calls: int = 100) -> str:
    """What is said of a function that leaks."""
    with pytest.raises(FootprintError, match=match) as caught:
        assert_no_growth(fn, calls=calls)
    return str(caught.value)


def test_a_page_in_ten_calls_of_malloc(leak: ctypes.CDLL):
    """Found every time."""
    for _ in range(TRIES):
        found(leak.leak_page, r"B of malloc .*[\d.]+ B of anonymous memory a call")


def test_a_page_in_ten_calls_of_the_kernel(leak: ctypes.CDLL):
    """Found every time, though no allocator knows of it."""
    for _ in range(TRIES):
        found(leak.leak_mapping, r"grows with every call: 4\d\d B of anonymous memory a call")


def test_a_hundred_bytes_a_call_in_python():
    """Found every time: one object."""
    for _ in range(TRIES):
        kept: list[bytes] = []
        found(
            lambda kept=kept: kept.append(bytes(100)), "1 Python object a call|1 Python object and"
        )


def test_more_calls_see_smaller_leaks():
    """An object in forty calls is noise in a hundred, and none in a thousand."""
    kept: list[bytes] = []
    fn = numbered(lambda i: kept.append(bytes(100)) if i % 40 == 0 else None)
    assert_no_growth(fn)
    found(fn, r"0\.02\d* Python objects a call", calls=1000)


def test_a_growing_buffer():
    """Malloc knows, though it is one Python object."""
    kept = bytearray()
    found(lambda: kept.extend(bytes(100)), r"B of malloc a call|B of anonymous memory a call")


def test_a_cycle_that_something_holds():
    """Garbage is collected, what a registry holds is none."""
    registry: dict[int, Finalized] = {}
    found(numbered(lambda i: registry.__setitem__(i, Finalized(0))), "3 Python objects")


def test_a_large_leak_does_not_fill_memory():
    """Few calls are enough for it, and they are few."""
    kept: list[np.ndarray] = []
    text = found(lambda: kept.append(np.ones(1 << 18)), r"2 MiB of anonymous memory a call")
    assert sum(a.nbytes for a in kept) < 600 << 20
    assert re.search(r"; \[(heap|anon)\] \+[\d,]+ [KM]iB", text)
    assert "test_a_large" not in text  # a lambda's name is short


# ---- what is no leak, and no pass either


def test_what_the_function_raises_comes_out():
    """As it is."""
    with pytest.raises(ZeroDivisionError):
        assert_no_growth(lambda: 1 // 0)


def test_no_time_to_decide():
    """A slow function is not called for ever, and has not passed."""
    began = time.monotonic()
    with pytest.raises(Undetermined, match=r"0.3 s were not enough .* give fewer \(calls=\)"):
        assert_no_growth(functools.partial(time.sleep, 0.02), timeout=0.3)
    assert time.monotonic() - began < 20


def test_growth_that_slows_down_is_no_leak():
    """It goes on in every round for long, and ever more slowly."""
    kept: list[bytes] = []

    def call(i: int) -> None:
        if math.isqrt(i) ** 2 == i:
            kept.extend(bytes(50) for _ in range(60))

    assert_no_growth(numbered(call))
    assert len(kept) > 60 * 200


def test_growth_that_slows_down_is_undetermined():
    """A cache that takes its time: no leak yet, no pass either."""
    kept: list[bytes] = []

    def call(i: int) -> None:
        if (i**0.5).is_integer():
            kept.extend(bytes(50) for _ in range(60))
        time.sleep(0.0005)

    with pytest.raises(Undetermined, match="not at one rate: a cache that fills"):
        assert_no_growth(numbered(call), timeout=3)


def test_a_slow_function_with_few_calls():
    """Fewer calls see less; a leak of a page a call they see."""
    kept: list[bytes] = []

    def call() -> None:
        time.sleep(0.005)
        kept.append(bytes(5000))

    with pytest.raises(FootprintError, match="grows with every call"):
        assert_no_growth(call, calls=5, warmup=2)
    assert_no_growth(functools.partial(time.sleep, 0.005), calls=5, warmup=2)


def test_tolerance_is_by_call():
    """What is known to stay may stay."""
    kept: list[bytes] = []
    assert_no_growth(lambda: kept.append(bytes(1000)), tolerance="4 KiB")
    with pytest.raises(FootprintError):
        assert_no_growth(lambda: kept.append(bytes(1000)), tolerance=500)


def test_without_settling_garbage_is_growth():
    """And with it is none."""
    gc.disable()
    try:
        with pytest.raises(FootprintError):
            assert_no_growth(cycle(10), settle=False)
        assert_no_growth(cycle(10))
    finally:
        gc.enable()


def test_a_hook_empties_what_it_knows():
    """A cache without an end is no leak for who can empty it."""
    known: list[bytes] = []
    with pytest.raises(FootprintError):
        assert_no_growth(lambda: known.append(bytes(100)))
    assert_no_growth(lambda: known.append(bytes(100)), settle=known.clear)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"calls": 0}, ValueError),
        ({"warmup": -1}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"tolerance": -1}, ValueError),
        ({"tolerance": "5 kB"}, FormatError),
        ({"metric": "nothing"}, ValueError),
    ],
)
def test_options_that_make_no_sense(options: dict, error: type[Exception]):
    """One line."""
    with pytest.raises(error):
        assert_no_growth(lambda: None, **options)
    with pytest.raises(TypeError, match="a function to call, not of int"):
        assert_no_growth(5)


# ---- settle()


def test_settling_gives_memory_back():
    """Free memory of malloc below what is in use, and garbage."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(60_000) for _ in range(300)]
    for block in blocks:
        ctypes.memset(block, 1, 60_000)
    for block in blocks[:-1]:
        libc.free(block)
    full = snapshot().anonymous
    assert settle()[:2] == ("gc", "glibc")
    assert snapshot().anonymous - full <= "-12 MiB"
    libc.free(blocks[-1])


def test_settling_collects_what_finalizers_make():
    """Again and again, until there is nothing more; a hook comes first."""
    alive: list[weakref.ref] = []
    loop = Finalized(3)
    alive.append(weakref.ref(loop))
    holder = [loop]
    del loop
    settle(holder.clear)
    assert alive[0]() is None
    assert not gc.collect()


def test_settling_ends_though_garbage_does_not():
    """Some finalizers make garbage for ever."""
    Finalized(1000)
    settle()


JEMALLOC = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"

WITH_ANOTHER = """
import ctypes, sys
from pytest_pmaps import FootprintError, assert_no_growth, settle
print(*settle())
leak = ctypes.CDLL(sys.argv[1])
chance = iter(range(1, 10**9))
assert_no_growth(lambda: leak.churn(next(chance)))
try:
    assert_no_growth(leak.leak_page)
except FootprintError as exc:
    print(exc)
"""


@pytest.mark.skipif(not os.path.exists(JEMALLOC), reason="no libjemalloc2 on this host")
def test_with_another_allocator(leak: ctypes.CDLL):
    """It is asked to purge by its own means, and pages tell what it does not."""
    run = subprocess.run(
        [sys.executable, "-P", "-c", WITH_ANOTHER, leak._name],
        env={**os.environ, "LD_PRELOAD": JEMALLOC},
        capture_output=True,
        text=True,
        check=True,
    )
    done, leaked = run.stdout.splitlines()
    assert "jemalloc" in done.split()
    assert re.search(r"calls? .*B of anonymous memory a call|call: [\d.]+ B of anon", leaked)


def test_as_nobody(leak: ctypes.CDLL):
    """Without any privilege."""
    python = unprivileged_python()
    command = [*as_nobody(), python, "-P", "-c", WITH_ANOTHER, leak._name]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    done, leaked = run.stdout.splitlines()
    assert done.startswith("gc")
    assert "grows with every call: 411 B of malloc" in leaked
