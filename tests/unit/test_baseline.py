"""The baseline file: what it looks like, what is refused, how entries move."""

import os
import pickle
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_pmaps import baseline
from pytest_pmaps.baseline import (
    Baseline,
    Recorded,
    environment,
    explain_difference,
    merge,
    moved,
)
from pytest_pmaps.errors import FormatError

ENV = "x86_64 4096 glibc-2.36 cpython-3.11 thp=madvise sources=maps,smaps xdist=no"
OTHER = ENV.replace("3.11", "3.12")
TEST = "tests/test_a.py::test_b"

GOOD = f"""\
{{
  "format": "pytest-pmaps baseline",
  "version": 1,
  "environments": {{
    "{ENV}": {{
      "tests/test_a.py::test_b": {{
        "anonymous growth": {{"value": -4096, "spread": 512}},
        "libfoo.text: dirty": {{"value": 0, "spread": 0}}
      }},
      "tests/test_a.py::test_c[\\u00e9\\n\\"]": {{
        "rss": {{"value": 1048576, "spread": 0}}
      }}
    }},
    "{OTHER}": {{
      "tests/test_a.py::test_b": {{
        "rss": {{"value": 7, "spread": 0}}
      }}
    }}
  }}
}}
"""


def good():
    """What GOOD holds, put down in another order."""
    it = Baseline()
    it.record(OTHER, TEST, "rss", Recorded(7))
    it.record(ENV, 'tests/test_a.py::test_c[é\n"]', "rss", Recorded(1 << 20))
    it.record(ENV, TEST, "libfoo.text: dirty", Recorded(0))
    it.record(ENV, TEST, "anonymous growth", Recorded(-4096, 512))
    return it


def of(*entries, env=ENV):
    """A baseline of one test: subject, value, spread."""
    it = Baseline()
    for subject, value, spread in entries:
        it.record(env, TEST, subject, Recorded(value, spread))
    return it


def refused(text):
    """What the error says, with its line."""
    with pytest.raises(FormatError) as caught:
        Baseline.loads(text)
    return str(caught.value)


# ---- the text


def test_text():
    """Sorted, a line for each entry, plain ASCII, and a newline at the end."""
    assert good().dumps() == GOOD


def test_it_is_read_back():
    """Into an equal one, which differs from any other."""
    assert Baseline.loads(GOOD) == good()
    assert Baseline.loads(GOOD.replace("7,", "8,")) != good()
    assert good() != GOOD


def test_example_in_the_docs():
    """Is what is written."""
    docs = Path(__file__).parents[2] / "docs" / "baselines.md"
    example = docs.read_text("utf-8").partition("```json\n")[2].partition("```")[0]
    assert Baseline.loads(example).dumps() == example


def test_empty():
    """As short as it gets, and read back."""
    assert Baseline().dumps().endswith('"environments": {}\n}\n')
    assert Baseline.loads(Baseline().dumps()) == Baseline()


def changed_lines(before, after):
    """How many lines of each are not in the other."""
    old, new = before.dumps().splitlines(), after.dumps().splitlines()
    return len([x for x in old if x not in new]), len([x for x in new if x not in old])


def test_changed_value_is_a_changed_line():
    """One, whether it is the last one of its test or not."""
    for subject in ("anonymous growth", "libfoo.text: dirty"):
        it = good()
        it.record(ENV, TEST, subject, Recorded(123, 45))
        assert changed_lines(good(), it) == (1, 1)


def test_new_entry_is_a_new_line():
    """And a comma before it, behind the last one of its test."""
    first, last = good(), good()
    first.record(ENV, TEST, "aaa", Recorded(1))
    last.record(ENV, TEST, "zzz", Recorded(1))
    assert changed_lines(good(), first) == (0, 1)
    assert changed_lines(good(), last) == (1, 2)


# ---- what is in it


def test_find():
    """Of this environment, test and subject alone."""
    assert good().find(ENV, TEST, "anonymous growth") == Recorded(-4096, 512)
    assert good().find(ENV, TEST, "rss") is None
    assert good().find(ENV, "tests/test_a.py::test_x", "rss") is None
    assert Baseline().find(ENV, TEST, "rss") is None


def test_elsewhere():
    """Foreign entries are told from missing ones."""
    assert good().elsewhere(ENV, TEST, "rss") == (OTHER,)
    assert good().elsewhere("a third", TEST, "libfoo.text: dirty") == (ENV,)
    it = Baseline()
    for env in "hcabdgfe":
        it.record(env, TEST, "rss", Recorded(7))
    assert it.elsewhere("b", TEST, "rss") == tuple("acdefgh")
    assert good().elsewhere(OTHER, TEST, "rss") == ()
    assert good().elsewhere(ENV, TEST, "uss") == ()


def test_unused():
    """Of this environment alone, in the order of the file."""
    other = 'tests/test_a.py::test_c[é\n"]'
    used = {(TEST, "anonymous growth"), (TEST, "never recorded")}
    assert good().unused(ENV, used) == [(TEST, "libfoo.text: dirty"), (other, "rss")]
    assert good().unused(OTHER, {(TEST, "rss")}) == []


def test_remove():
    """Nothing is left of a test, nor of an environment, without entries."""
    it = good()
    it.remove(OTHER, TEST, "rss")
    assert OTHER not in it.dumps()
    assert it.elsewhere(ENV, TEST, "rss") == ()
    last = of(("rss", 1, 0))
    last.remove(ENV, TEST, "rss")
    assert last == Baseline()
    with pytest.raises(KeyError):
        it.remove(OTHER, TEST, "rss")


def test_two_surrogates_are_found_again():
    """JSON makes one character of them; what was recorded by two is found by both."""
    it = of(("\ud83d\ude00", 1, 0))
    assert it.find(ENV, TEST, "\ud83d\ude00") == Recorded(1)
    assert Baseline.loads(it.dumps()) == it
    assert it.find(ENV, TEST, "\U0001f600") == Recorded(1)


@pytest.mark.parametrize(
    ("value", "spread", "message"),
    [
        (0, -1, "below 0"),
        (1 << 62, 0, "any memory"),
        (-1 << 62, 0, "any memory"),
        (0, 1 << 62, "any memory"),
    ],
)
def test_values_that_no_memory_holds(value, spread, message):
    """Nobody could read them back."""
    with pytest.raises(ValueError, match=message):
        Recorded(value, spread)


# ---- what is refused


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{", "[", "line 2: this is no JSON"),
        (GOOD, "", "line 1: this is no JSON"),
        (GOOD, "[]", "line 1: this is JSON, but no pytest-pmaps baseline"),
        ("pytest-pmaps baseline", "pytest-pmaps run", "line 1: this is JSON, but no pytest-pmaps"),
        ('"version": 1', '"version": true', "line 3: no version of the format: true"),
        ('"version": 1', '"version": 2', "line 3: a baseline of format version 2; this pytest-pm"),
        ('"environments"', '"environment"', 'line 1: "environments" is missing'),
        ('"version": 1,', '"version": 1, "more": 0,', 'line 3: unknown key "more"'),
        ('{"value": -4096, "spread": 512}', "5", "line 7: an object belongs here, not the number"),
        ("-4096", "1.0", "line 7: a whole number belongs here, not the number 1.0"),
        ("-4096", "true", "line 7: a whole number belongs here, not true or false"),
        ("-4096", "null", "line 7: a whole number belongs here, not null"),
        ("-4096", "NaN", "line 7: NaN is no JSON"),
        ("-4096", str(1 << 62), f"line 7: {1 << 62} is out of range"),
        ("-4096", str(1 - (1 << 62)), "line 7: this is more than any memory holds"),
        ("-4096", "9" * 5000, "line 7: a number of too many digits"),
        ('"spread": 512', '"spread": -1', "line 7: -1 is out of range"),
        (', "spread": 512', "", 'line 7: "spread" is missing'),
        ('"spread": 512', '"spread": 512, "p": 1', 'line 7: unknown key "p"'),
        ("libfoo.text: dirty", "anonymous growth", 'line 8: key "anonymous growth" is there twice'),
        (OTHER, ENV, f"line 14: key {chr(34)}{ENV[:39]}... is there twice"),
        ("      }\n    },\n", "      }\n    }\n", "line 14: this is no JSON: Exp"),
        ('        "lib', '<<<<<<< HEAD\n        "lib', "line 8: git left a merge conflict here"),
    ],
)  # fmt: skip
def test_what_is_refused(old, new, message):
    """One line, with the place."""
    assert old in GOOD
    assert refused(GOOD.replace(old, new, 1)).startswith(message)


# ---- files


def test_save_and_load(tmp_path):
    """The text and nothing else, in one step, with no other file left behind."""
    path = tmp_path / "baseline.json"
    good().save(path)
    assert path.read_bytes() == GOOD.encode()
    assert Baseline.load(str(path)) == good()
    assert os.listdir(tmp_path) == ["baseline.json"]


def test_save_does_not_touch_what_is_the_same(tmp_path):
    """Neither its time nor the file; what differs is replaced."""
    path = tmp_path / "baseline.json"
    path.write_text(GOOD)
    os.utime(path, ns=(1, 1))
    before = path.stat()
    good().save(path)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (1, before.st_ino)
    of(("rss", 1, 0)).save(path)
    assert Baseline.load(path) == of(("rss", 1, 0))


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    """Whatever goes wrong while it is written."""
    path = tmp_path / "baseline.json"
    path.write_text(GOOD)

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Baseline().save(path)
    assert path.read_text() == GOOD
    assert os.listdir(tmp_path) == ["baseline.json"]


def test_links_stay(tmp_path):
    """What a link leads to is written, or made; of one that leads to itself nothing is."""
    (tmp_path / "committed").mkdir()
    link, target = tmp_path / "link.json", tmp_path / "committed" / "base.json"
    link.symlink_to("committed/base.json")
    for written in (of(("rss", 1, 0)), good()):
        written.save(link)
        assert (os.readlink(link), Baseline.load(target)) == ("committed/base.json", written)
    assert os.listdir(target.parent) == ["base.json"]
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        good().save(loop)
    assert os.readlink(loop) == "loop"


def test_modes_stay(tmp_path):
    """Of a file that is there; one that is read-only is its owner's, whoever may replace it."""
    path = tmp_path / "baseline.json"
    good().save(path)
    for mode in (0o664, 0o600):
        path.chmod(mode)
        of(("rss", mode, 0)).save(path)
        assert path.stat().st_mode & 0o777 == mode
    path.chmod(0o444)
    text = path.read_text()
    with pytest.raises(PermissionError) as caught:
        good().save(path)
    assert (caught.value.filename, path.read_text()) == (str(path), text)


def test_special_files_are_refused(tmp_path):
    """A FIFO without a writer would be waited for, and a device may never end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, "/dev/zero"):
        with pytest.raises(OSError, match="not a regular file"):
            Baseline.load(path, missing_ok=True)
        with pytest.raises(OSError, match="not a regular file"):
            good().save(path)


def test_missing_file(tmp_path):
    """The caller says whether that is an empty one."""
    path = tmp_path / "none.json"
    assert Baseline.load(path, missing_ok=True) == Baseline()
    with pytest.raises(FileNotFoundError):
        Baseline.load(path)
    with pytest.raises(IsADirectoryError):
        Baseline.load(tmp_path, missing_ok=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD.replace("-4096", "x").encode(), "{path}:7: this is no JSON: Expecting value"),
        (GOOD.replace("libfoo", "\xff").encode("latin-1"), "{path}:8: this is no text in U"),
        (b"\xef\xbb\xbf" + GOOD.encode(), "{path}:1: this is no JSON: Unexpected UTF-8 BOM"),
        (b"", "{path}:1: this is no JSON"),
    ],
)
def test_broken_file(tmp_path, data, message):
    """The error names file and line."""
    path = tmp_path / "baseline.json"
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        Baseline.load(path)
    assert str(caught.value).startswith(message.format(path=path))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.path, again.line) == (str(caught.value), str(path), caught.value.line)


def test_nothing_heavy_is_imported():
    """The engine is not needed to read baselines."""
    code = "import sys, pytest_pmaps.baseline; print([m for m in sys.modules if '_native' in m])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


# ---- how entries move


@pytest.mark.parametrize(
    ("before", "measured", "after"),
    [
        (None, 100, Recorded(100, 0)),
        (Recorded(100, 3), 100, Recorded(100, 3)),
        (Recorded(100, 3), 102, Recorded(100, 3)),
        (Recorded(100, 3), 110, Recorded(100, 10)),
        (Recorded(100, 3), 90, Recorded(100, 10)),
        (Recorded(100, 3), 111, Recorded(111, 3)),
        (Recorded(100, 3), 89, Recorded(89, 3)),
        (Recorded(-5, 0), 5, Recorded(-5, 10)),
        (Recorded(-5, 0), 6, Recorded(6, 0)),
    ],
)
def test_moved(before, measured, after):
    """New, the same, within a tolerance of 10, and beyond it."""
    assert moved(before, measured, 10) == after


# ---- merging


def test_merge_of_different_entries():
    """The largest, the spread down to the lower end of the lowest, and a note that names it."""
    a, b = of(("rss", 100, 2), ("uss", 5, 1)), of(("rss", 107, 1), ("uss", 5, 3))
    merged, notes = merge([a, b])
    assert merged == of(("rss", 107, 9), ("uss", 5, 3))
    assert notes == (f"{TEST}: rss: recorded as 100, 107; the largest is kept ({ENV})",)


def test_merge_of_equal_entries():
    """Nothing to tell; other environments do not matter."""
    a, b = of(("rss", 100, 2)), of(("rss", 50, 2), env=OTHER)
    assert merge([a, a, b])[1] == ()
    assert merge([a, a, b])[0].find(OTHER, TEST, "rss") == Recorded(50, 2)


def test_note_is_one_line():
    """Whatever the node id holds."""
    a, b = Baseline(), Baseline()
    a.record(ENV, "t.py::t[\n]", "rss", Recorded(1))
    b.record(ENV, "t.py::t[\n]", "rss", Recorded(2))
    assert merge([a, b])[1][0].startswith("t.py::t[\\n]: rss: recorded as 1, 2;")


def test_merge_of_what_was_changed():
    """With what all of them were before, one that left an entry alone has no say in it."""
    base = of(("rss", 100, 0), ("uss", 5, 0))
    lower, same = of(("rss", 60, 0), ("uss", 5, 0)), of(("rss", 100, 0), ("uss", 5, 0))
    assert merge([lower, same], base) == (lower, ())
    assert merge([same, same], base) == (same, ())
    merged, notes = merge([lower, same, of(("rss", 70, 0))], base)
    assert merged == of(("rss", 70, 10), ("uss", 5, 0))
    assert len(notes) == 1


# ---- environments


@pytest.fixture
def host(monkeypatch):
    """A host of known properties; gives a function that changes them."""

    def put(machine="x86_64", libc="glibc 2.36", thp="always [madvise] never", flags=""):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(os, "confstr", lambda _name: libc)
        monkeypatch.setattr(baseline, "read_line", lambda _path: thp)
        monkeypatch.setattr(sys, "abiflags", flags, raising=False)

    put()
    return put


PYTHON = f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"


def key(sources=("smaps", "maps", "maps"), page_size=4096, workers=False):
    """The key of this environment."""
    return environment(sources=sources, page_size=page_size, workers=workers)


@pytest.mark.usefixtures("host")
def test_environment():
    """Each part in its place; sources sorted."""
    assert key() == f"x86_64 4096 glibc-2.36 {PYTHON} thp=madvise sources=maps,smaps xdist=no"
    assert key(workers=True).endswith(" xdist=yes")
    assert key(page_size=65536).startswith("x86_64 65536 ")


def test_builds_of_python(host):
    """Free-threaded and debug builds are other environments."""
    host(flags="td")
    assert f" {PYTHON}td " in key()


def test_what_cannot_be_told_is_unknown(host, monkeypatch):
    """And still a word in its place."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(sys.implementation, "_multiarch", "", raising=False)
    host(machine="", libc=None, thp="")
    assert key(()) == f"unknown 4096 unknown {PYTHON} thp=unknown sources=none xdist=no"


@pytest.mark.parametrize(
    ("named", "multiarch", "word"),
    [
        (("", ""), "x86_64-linux-musl", "musl"),
        (("musl", "1.2.5"), "x86_64-linux-musl", "musl-1.2.5"),
        (("glibc", "2.9"), "x86_64-linux-musl", "musl"),
        (("libc", ""), "x86_64-linux-gnu", "libc"),
    ],
)
def test_other_libcs(host, monkeypatch, named, multiarch, word):
    """Those that do not know the name of glibc's version."""

    def unknown(_name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    monkeypatch.setattr(platform, "libc_ver", lambda: named)
    monkeypatch.setattr(sys.implementation, "_multiarch", multiarch, raising=False)
    assert key().split()[2] == word


def test_this_environment():
    """Read from this host, and the same whenever it is asked."""
    known = r"\S+ 4096 \S+ \w+-3\.\d+[a-z]* thp=\w+ sources=maps,smaps xdist=no"
    assert re.fullmatch(known, key())
    assert key() == key()


def test_differences():
    """Each part by its name."""
    assert explain_difference(ENV, OTHER) == "python: cpython-3.11 here, cpython-3.12 there"
    theirs = "aarch64 65536 glibc-2.36 cpython-3.11 thp=madvise sources=maps,smaps more=1"
    assert explain_difference(ENV, theirs) == (
        "architecture: x86_64 here, aarch64 there; page size: 4096 here, 65536 there; "
        "xdist: no here, nothing there; more: nothing here, 1 there"
    )
    assert explain_difference(ENV, ENV) == ""
    assert explain_difference("a b c d e", "a b c d f") == "a b c d e here, a b c d f there"
