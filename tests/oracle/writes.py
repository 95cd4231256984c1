"""Programs that write what they know, in a window over what is written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

RANDOM = """
import ctypes, json, mmap, os, random, sys
import numpy as np
import pytest_pmaps

PAGE, PAGES, WRITES = mmap.PAGESIZE, 4096, 10_000
folder, seed = sys.argv[1], int(sys.argv[2])
rng = random.Random(seed)
data = os.open(folder + "/data", os.O_RDONLY)
mine = folder + f"/mine-{os.getuid()}"
with open(mine, "wb") as file:
    file.write(bytes(PAGE * PAGES))
rw, memfd = os.open(mine, os.O_RDWR), os.memfd_create("written")
os.truncate(memfd, PAGE * PAGES)
os.unlink(mine)
PRIVATE, SHARED = mmap.MAP_PRIVATE, mmap.MAP_SHARED
kinds = {
    "anonymous": (-1, PRIVATE | mmap.MAP_ANONYMOUS),
    "private file": (data, PRIVATE),
    "shared file": (rw, SHARED),
    "shmem": (memfd, SHARED),
    "shared anonymous": (-1, SHARED | mmap.MAP_ANONYMOUS),
    "private shmem": (memfd, PRIVATE),
}
SIZE = PAGE * PAGES
maps = {name: mmap.mmap(fd, SIZE, flags=flags, prot=3) for name, (fd, flags) in kinds.items()}
arrays = {name: np.frombuffer(m, dtype=np.uint8) for name, m in maps.items()}
sink = 0
for name, m in maps.items():  # some pages are there already: read, written, or both
    for page in rng.sample(range(PAGES), PAGES // 4):
        sink += m[page * PAGE]
    for page in rng.sample(range(PAGES), PAGES // 4):
        m[page * PAGE] = 7

def own_code(name, at, n):
    maps[name][at : at + n] = b"w" * n

def read_into(name, at, n):
    assert os.preadv(data, [memoryview(maps[name])[at : at + n]], rng.randrange(PAGE)) == n

def extension(name, at, n):
    arrays[name][at : at + n] = 3

def c_library(name, at, n):
    ctypes.memset(int(arrays[name].ctypes.data) + at, 1, n)

WAYS = (own_code, read_into, extension, c_library)
truth = {name: set() for name in kinds}

def write(times):
    for _ in range(times):
        name, n = rng.choice(list(kinds)), rng.choice((1, 8, 100, 5000))
        at = rng.randrange(PAGE * PAGES - n)
        rng.choice(WAYS)(name, at, n)
        truth[name].update(range(at // PAGE, (at + n - 1) // PAGE + 1))

def read_some():
    for name, m in maps.items():
        for page in rng.sample(range(PAGES), 200):
            m[page * PAGE]

with pytest_pmaps.written() as w:
    write(WRITES // 2)
    read_some()
    go, said = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # writes what the parent does not; and it has a life of its own
        for m in maps.values():
            for page in range(0, PAGES, 3):
                m[page * PAGE + 1] = 9
        os.write(said[1], b"+")
        os.read(go[0], 1)
        os._exit(0)
    os.read(said[0], 1)
    write(WRITES // 2)
    read_some()
os.write(go[1], b"+")
os.waitpid(child, 0)

answer = {"uid": os.getuid(), "method": w.method.value, "kinds": {}}
for name, m in maps.items():
    found = set()
    for r in w.of(m).written_ranges():
        assert r.written is True, r
        first = (r.address - w.of(m).start) // PAGE
        found |= set(range(first, first + r.count))
    answer["kinds"][name] = [len(truth[name]), sorted(found ^ truth[name]),
                             list(w.of(m).written.bounds)]
print(json.dumps(answer))
"""
"""Arguments: a folder that has ``data``, as below, and a seed.  Says of each kind of memory how
many pages it wrote, which were told wrong, and the bounds of the count.
"""


def random_folder(public: Path) -> Path:
    """Where it finds its data, and whoever may write."""
    (public / "data").write_bytes(bytes(range(256)) * (4200 * os.sysconf("SC_PAGESIZE") // 256))
    folder = public / "open"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    with contextlib.suppress(FileExistsError):
        os.link(public / "data", folder / "data")
    return folder


FORBID = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
filter_ = b"".join(struct.pack("HBBI", *i) for i in [
    (0x20, 0, 0, 0), (0x15, 0, 1, 323), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)])
room_ = ctypes.create_string_buffer(filter_)
program_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(room_)))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program_, 0, 0) == 0, os.strerror(ctypes.get_errno())
"""
"""What comes after it has no userfaultfd: a seccomp filter, by the number on x86-64."""

NO_HUGE_PAGES = """
import ctypes
assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0
"""
"""What comes after it gets no huge pages unasked."""
