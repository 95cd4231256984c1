"""Which mappings a selector means."""

import os
import pathlib
import re
import sys
import types

import pytest

from pytest_pmaps.errors import AmbiguousMapping, NoSuchMapping
from pytest_pmaps.model import Kind
from pytest_pmaps.select import Entry, Resolution, parse, resolve, stem


def entries(*names):
    """One mapping per name; equal names are the same file."""
    inodes = {name: 100 + i for i, name in enumerate(dict.fromkeys(names))}
    return [_entry(name, inodes[name]) for name in names]


def _entry(name, inode):
    if name.startswith("/"):
        return Entry(name, (0xFE, 0), inode, Kind.FILE)
    return Entry(name, (0, 0), 0, Kind.ANON if name != "[vdso]" else Kind.SPECIAL)


PROCESS = entries(
    "/usr/bin/foo",
    "/usr/bin/foo",
    "[heap]",
    "",
    "/usr/lib/libfoo.so.1",
    "/usr/lib/libfoo.so.1",
    "[anon:jit]",
    "[anon:glibc: malloc]",
    "[anon:glibc: loader malloc]",
    "[stack]",
    "[vdso]",
)


@pytest.mark.parametrize(
    ("selector", "indexes", "name"),
    [
        ("[heap]", (2,), "[heap]"),
        ("[stack]", (9,), "[stack]"),
        ("[vdso]", (10,), "[vdso]"),
        ("[anon]", (3,), "[anon]"),
        ("[anon:jit]", (6,), "[anon:jit]"),
        ("[anon:glibc*]", (7, 8), "[anon:glibc*]"),
        ("libfoo", (4, 5), "libfoo.so.1"),
        ("/usr/lib/libfoo.so.1", (4, 5), "libfoo.so.1"),
        ("libf*", (4, 5), "libfoo.so.1"),
        ("*/lib/*", (4, 5), "libfoo.so.1"),
        ("[l]ibfoo*", (4, 5), "libfoo.so.1"),
        ("foo", (0, 1), "foo"),
        (re.compile(r"lib/.*\.so"), (4, 5), "libfoo.so.1"),
        (re.compile(r"jit"), (6,), "[anon:jit]"),
        (pathlib.Path("/usr/lib/libfoo.so.1"), (4, 5), "libfoo.so.1"),
    ],
)
def test_selectors_select(selector, indexes, name):
    """Each form of the language, on one process."""
    assert resolve(selector, PROCESS) == Resolution(indexes, None, name)


@pytest.mark.parametrize(
    ("selector", "name"),
    [
        ("libfoo", "libfoo.so"),
        ("libfoo", "libfoo.so.1.2.3"),
        ("libfoo", "libfoo-2.31.so"),
        ("libfoo", "libfoo-1a2b3c4d.so.1"),
        ("libfoo", "libfoo-96973f99-934c22de.so.0.0.0"),
        ("libfoo.so", "libfoo.so.1"),
        ("libfoo.so.1", "libfoo.so.1.2.3"),
        ("libfoo.so.1", "libfoo-1a2b3c4d.so.1.0"),
        ("libfoo-2", "libfoo-2.31.so"),
        ("libfoo-2.31", "libfoo-2.31.so"),
        ("libcrypto", "libcrypto.so.1.0.2k"),
        ("libopenblasp-r0.3.23", "libopenblasp-r0-5c2b7639.3.23.so"),
        ("libscipy_openblas64_", "libscipy_openblas64_-56d6093b.so"),
        ("libpython3.11", "libpython3.11.so.1.0"),
        ("foo", "foo.cpython-311-x86_64-linux-gnu.so"),
        ("foo", "foo.cpython-313t-x86_64-linux-musl.so"),
        ("foo", "foo.pypy310-pp73-x86_64-linux-gnu.so"),
        ("foo", "foo.abi3.so"),
        ("foo.abi3", "foo.abi3.so"),
        ("foo", "foo"),
        ("foo", "foo (deleted)"),
        ("libfoo", "libfoo.so.1 (deleted)"),
    ],
)
def test_stems_match(selector, name):
    """What is left out is a version, a hash, a tag or ``.so``."""
    assert resolve(selector, entries(f"/x/{name}")).indexes == (0,)


@pytest.mark.parametrize(
    ("selector", "name"),
    [
        ("foo", "libfoo.so"),
        ("lib", "libfoo.so"),
        ("libfoo", "libfoobar.so"),
        ("libfoo", "libfoo_bar.so.1"),
        ("libfoo", "libfoo-bar.so"),
        ("libfoo.so.1", "libfoo.so.12"),
        ("libfoo-2", "libfoo-21.so"),
        ("libpython3", "libpython3.11.so.1.0"),
        ("python3", "python3.11"),
        ("libfoo", "libfoo.txt"),
        ("LIBFOO", "libfoo.so"),
        ("x", "libfoo.so"),
        ("h", "[heap]"),
        ("[heap]", "h"),
        ("*", "[heap]"),
    ],
)
def test_substrings_do_not_match(selector, name):
    """Stems, never substrings."""
    with pytest.raises(NoSuchMapping):
        resolve(selector, entries(name if name.startswith("[") else f"/x/{name}"))


def test_exact_name_wins_over_stem():
    """Asked for ``libfoo.so``, the later version is not meant."""
    found = resolve("libfoo.so", entries("/x/libfoo.so.1", "/x/libfoo.so"))
    assert found.indexes == (1,)


def test_stem_is_the_shortest_selector():
    """It is what messages suggest."""
    names = ["libfoo-2.31.so", "foo.abi3.so", "libm.so.6", "python3.11", "[heap]"]
    assert [stem(name) for name in names] == ["libfoo", "foo", "libm", "python3.11", "[heap]"]


# ---- parts


@pytest.mark.parametrize("part", ["text", "rodata", "relro", "data", "bss"])
@pytest.mark.parametrize("file", ["libfoo", "libfoo.so.1", "/usr/lib/libfoo.so.1", "libf*"])
def test_a_part_may_follow(file, part):
    """After a name, a path or a glob."""
    assert resolve(f"{file}.{part}", PROCESS) == Resolution((4, 5), part, "libfoo.so.1")


@pytest.mark.parametrize("selector", ["training.data", "/x/training.data", "train*.data"])
def test_exact_file_name_wins_over_part(selector):
    """``training.data`` is a file, whatever else is called ``training``."""
    found = resolve(selector, entries("/x/training", "/x/training.data"))
    assert found == Resolution((1,), None, "training.data")


def test_part_wins_over_a_stem_that_looks_like_one():
    """``libfoo.data`` is data of libfoo, even beside a ``libfoo.data.so``."""
    found = resolve("libfoo.data", entries("/x/libfoo.data.so", "/x/libfoo.so"))
    assert found == Resolution((1,), "data", "libfoo.so")


# ---- paths and modules


def test_deleted_file_is_found_by_its_path():
    """The kernel's note is not part of the path."""
    mapped = entries("/x/libfoo.so (deleted)")
    for selector in ("/x/libfoo.so", "/x/libfoo.so (deleted)"):
        assert resolve(selector, mapped) == Resolution((0,), None, "libfoo.so")


def test_path_with_brackets_is_a_path_first():
    """pytest makes such folders for parametrised tests."""
    path = "/tmp/test_x[1]/libfoo.so"
    assert resolve(path, entries("/tmp/test_x1/libfoo.so", path)).indexes == (1,)


def test_links_lead_to_the_mapped_file(tmp_path):
    """``libz.so.1`` is a link nearly everywhere."""
    real = tmp_path / "libz.so.1.3"
    real.touch()
    link = tmp_path / "libz.so.1"
    link.symlink_to(real)
    mapped = entries(os.path.realpath(real))
    assert [resolve(s, mapped).indexes for s in (link, str(link))] == [(0,), (0,)]


def test_extension_module_selects_its_file():
    """By ``__file__``."""
    module = types.ModuleType("foo")
    module.__file__ = "/x/foo.abi3.so"
    assert resolve(module, entries("/x/bar.so", "/x/foo.abi3.so")).indexes == (1,)


@pytest.mark.parametrize("module", [sys, re])
def test_module_without_a_mapping_says_so(module):
    """Built in, or Python code."""
    with pytest.raises(NoSuchMapping, match=f"module '{module.__name__}'"):
        resolve(module, PROCESS)


@pytest.mark.parametrize("selector", [b"libfoo", 3, None, re.compile(b"libfoo")])
def test_other_types_are_no_selectors(selector):
    """And the error names those that are."""
    with pytest.raises(TypeError, match="a string, a compiled regex"):
        parse(selector)


# ---- none, and too many


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("libfo", "no mapping matches 'libfo'; near: libfoo.so.1"),
        ("[haep]", "no mapping matches '[haep]'; near: [heap]"),
        ("zzz", "no mapping matches 'zzz'; mapped are: foo, [heap], [anon], libfoo.so.1, "),
        ("", "no mapping matches ''; nameless anonymous memory is '[anon]'"),
        ("libfo.text", "no mapping matches 'libfo.text'; near: libfoo.so.1"),
        ("libfoo.so.2", "no mapping matches 'libfoo.so.2'; near: libfoo.so.1"),
        ("a\0/b", "no mapping matches 'a\\x00/b'; mapped are"),
        ("\ud800/b", "no mapping matches '\\ud800/b'; mapped are"),
    ],
)
def test_no_match_shows_what_is_near(selector, expected):
    """It is an error, never a pass."""
    with pytest.raises(NoSuchMapping) as caught:
        resolve(selector, PROCESS)
    assert str(caught.value)[: len(expected)] == expected


def test_no_match_among_nothing():
    """There is nothing near."""
    with pytest.raises(NoSuchMapping, match="nothing is mapped"):
        resolve("libfoo", [])


def test_misspelt_part_names_the_parts():
    """The file is there, the part is none."""
    with pytest.raises(NoSuchMapping) as caught:
        resolve("libfoo.txt", PROCESS)
    assert str(caught.value) == (
        "no mapping matches 'libfoo.txt': libfoo.so.1 has no part 'txt', its parts are "
        "text, rodata, relro, data, bss; did you mean 'libfoo.text'?"
    )


def test_two_files_are_ambiguous():
    """Both are named in full, with the way to take both."""
    with pytest.raises(AmbiguousMapping) as caught:
        resolve("libfoo", entries("/a/libfoo.so", "/b/libfoo.so", "/a/libfoo.so"))
    assert str(caught.value) == (
        "'libfoo' matches 2 files: /a/libfoo.so, /b/libfoo.so; "
        "name one by its path, or take all of them with select()"
    )


def test_replaced_file_is_two_files():
    """The old one is still mapped, deleted, and another inode."""
    mapped = entries("/x/libfoo.so (deleted)", "/x/libfoo.so")
    for selector in ("libfoo", "/x/libfoo.so"):
        with pytest.raises(AmbiguousMapping, match=r"inode 100\), .*inode 101\)"):
            resolve(selector, mapped)


def test_many_takes_all_on_purpose():
    """And is called what was asked for."""
    found = resolve("libfoo.text", entries("/a/libfoo.so", "/b/libfoo.so.1", "/c/x"), many=True)
    assert found == Resolution((0, 1), "text", "libfoo.text")


def test_many_needs_one_too():
    """Nothing is not many."""
    with pytest.raises(NoSuchMapping):
        resolve("libbar", PROCESS, many=True)


def test_nameless_memory_is_anonymous_only():
    """What has no name for another reason is not ``[anon]``."""
    with pytest.raises(NoSuchMapping):
        resolve("[anon]", [Entry("", (0, 0), 0, Kind.SPECIAL)])


def test_regex_does_not_find_nameless_memory():
    """Even if it finds something in nothing."""
    assert resolve(re.compile(""), entries("", "[heap]")).indexes == (1,)
