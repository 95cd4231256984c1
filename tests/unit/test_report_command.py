"""``pmaps report``: text, Markdown, a dashboard's JSON, annotations."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from unit.runs import KIB, MIB, budget, failed, process, test, write

from pytest_pmaps.cli import main

Capture = pytest.CaptureFixture[str]
#: What GitHub takes of a step's summary.
MOST = 1 << 20


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


def shown(capsys: Capture, *args: object) -> str:
    """What a successful report prints."""
    assert main(["report", *map(str, args)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


BREACH = budget(verdict="exceeded", value=[3 * MIB, 3 * MIB])
UNKNOWN = budget(verdict="undetermined", value=[0, None], note="grant CAP_SYS_ADMIN for it")


UNKNOWN_TEXT = "anonymous growth <= 64 KiB: undetermined: 0 B..?, grant CAP_SYS_ADMIN for it"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A session with something of everything."""
    large = process(rss_growth=[4 * MIB, 4 * MIB], pid=9, verdict="raced")
    return write(
        tmp_path / "run.json",
        test(nodeid="t.py::test_small", line=None),
        test(nodeid="t.py::test_large", measured=[large]),
        failed("libfoo.so.1 text: 3 dirty pages", nodeid="t.py::test_flaky", outcome="rerun"),
        test(nodeid="t.py::test_flaky", attempt=2, measured=[]),
        failed("anonymous growth: 3 MiB", nodeid="t.py::test_breach", budgets=[BREACH]),
        test(nodeid="t.py::test_quiet", measured=[], budgets=[BREACH, budget()]),
        test(nodeid="t.py::test_unknown", measured=[], budgets=[UNKNOWN]),
        exit_status=1,
    )


def test_text(capsys: Capture, path: Path) -> None:
    """What failed, what grew, what is dirty, file by file; of attempts the last.

    A budget of which the failure speaks is told once.
    """
    assert (
        shown(capsys, path)
        == """\
7 tests in this file: 5 passed, 1 rerun, 1 failed; exit status 1
pytest 9.2.0, Python 3.11.2, Linux 6.12.8 x86_64

Failed for their footprint
t.py::test_breach
  anonymous growth: 3 MiB
t.py::test_quiet
  anonymous growth <= 64 KiB: exceeded: 3 MiB

Undetermined
t.py::test_unknown
  anonymous growth <= 64 KiB: undetermined: 0 B..?, grant CAP_SYS_ADMIN for it

Most growth
test                       process  most of it in  rss growth  new dirty
t.py::test_large   python 9, raced    libfoo.so.1      +4 MiB    +12 KiB
t.py::test_small       python 4711    libfoo.so.1      +8 KiB    +12 KiB
t.py::test_breach      python 4711    libfoo.so.1      +8 KiB    +12 KiB

Most dirty memory
test                       process  most of it in   dirty     rss
t.py::test_small       python 4711    libfoo.so.1  31 MiB  40 MiB
t.py::test_large   python 9, raced    libfoo.so.1  31 MiB  40 MiB
t.py::test_breach      python 4711    libfoo.so.1  31 MiB  40 MiB

Files, the most in any test
file         rss growth  new dirty   dirty
libfoo.so.1      +8 KiB    +12 KiB  12 KiB
"""
    )


def test_limits_that_come_from_a_baseline_are_told(capsys: Capture, tmp_path: Path) -> None:
    """Their budget does not say them; a number of things has no unit."""
    told = budget(
        budget="mappings <= baseline + 2", verdict="exceeded", unit="number",
        value=[320, 320], limit=302, recorded=300,
    )  # fmt: skip
    text = shown(capsys, write(tmp_path / "run.json", test(budgets=[told])))
    assert "  mappings <= baseline + 2: exceeded: 320, limit 302, recorded 300\n" in text


def test_rows(capsys: Capture, tmp_path: Path) -> None:
    """Ten of each table, or as many as asked for; the rest is counted."""
    tests = [test(nodeid=f"t.py::test_{i:02}") for i in range(12)]
    path = write(tmp_path / "run.json", *tests)
    assert shown(capsys, path).count("t.py::") == 2 * 10
    assert shown(capsys, path).count("… 2 more (--rows 0 shows all)") == 2
    assert shown(capsys, path, "--rows", 0).count("t.py::") == 2 * 12
    assert shown(capsys, path, "--rows", 3, "--markdown").count("t.py::") == 2 * 3


def test_it_fits(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names are cut or wrapped, numbers never."""
    wide = {name: [1234567890, 2345678901] for name in ("rss_growth", "new_dirty", "rss", "dirty")}
    name = "very_long_file_name_" * 5
    long = process(comm="c" * 15, **wide, mappings=[{"name": name, **wide}])
    path = write(
        tmp_path / "run.json",
        failed("word " * 50 + "x" * 200, nodeid="t" * 300, measured=[long]),
        environment="e" * 100,
    )
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = shown(capsys, path)
        assert max(map(len, text.splitlines())) <= columns
        assert text.count("1.1..2.2 GiB") == 7


@pytest.mark.parametrize("wanted", [True, False])
def test_colour(capsys: Capture, path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    """On a terminal, unless NO_COLOR is set."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    if not wanted:
        monkeypatch.setenv("NO_COLOR", "1")
    text = shown(capsys, path)
    assert ("\033[31m  anonymous growth: 3 MiB\033[0m" in text) == wanted
    assert ("\033" in text) == wanted


def test_names_do_not_move_the_cursor(capsys: Capture, tmp_path: Path) -> None:
    """Nor do they break lines, in any form."""
    odd = failed("dirty \033[2J\r\n", nodeid="t.py::test[\033[2J\n]\udc80")
    path = write(tmp_path / "run.json", odd)
    for form in ([], ["--markdown"], ["--annotations"], ["--benchmark"]):
        text = shown(capsys, path, *form)
        assert not re.search(r"[^\n -~…]", text)
        text.encode()


# ---- Markdown


def test_markdown(capsys: Capture, path: Path) -> None:
    """What failed is in sight, tables are folded; nothing in a name is Markdown or HTML."""
    text = shown(capsys, path, "--markdown")
    assert text.startswith("## Memory footprint\n\n7 tests in this file: 5 passed")
    assert "**Failed for their footprint: 2**\n\n| test | what |\n| --- | --- |\n" in text
    assert "\n| <code>t.py::test&#95;breach</code> | <code>anonymous growth: 3 MiB</code> |" in text
    assert "<details><summary><b>Most growth: 3</b></summary>\n\n| test | process | " in text
    assert "| --- | --- | --- | ---: | ---: |" in text
    assert text.count("<details") == text.count("</details>") == 3


def test_markdown_escapes(capsys: Capture, tmp_path: Path) -> None:
    """Pipes, backquotes, tags, links and emphasis."""
    name = "t.py::test[a|b-`x`-<img src=x>-*b*-[l](u)-\\-~s~-$m$-&amp;]"
    text = shown(capsys, write(tmp_path / "run.json", test(nodeid=name)), "--markdown")
    (row, *_) = [line for line in text.splitlines() if "t.py" in line]
    inner = row.removeprefix("| <code>").partition("</code>")[0]
    assert not set(inner) & set("|`<>*[]()\\~$_")
    assert re.sub(r"&#(\d+);", lambda m: chr(int(m[1])), inner) == name


def test_markdown_fits_a_summary(capsys: Capture, tmp_path: Path) -> None:
    """However many tests failed, whatever they are called; what is left out is counted."""
    tests = [failed("<" * 3000, nodeid=f"{'*' * 500}{i}") for i in range(3000)]
    text = shown(capsys, write(tmp_path / "run.json", *tests), "--markdown")
    assert len(text.encode()) < MOST
    assert "<details open><summary><b>Failed for their footprint: 3,000</b></summary>" in text
    assert len(re.findall(r"^… [\d,]+ more$", text, re.M)) == 3
    assert text.count("<details") == text.count("</details>")


# ---- for programs


def test_annotations(capsys: Capture, path: Path) -> None:
    """A command a line, at the test's place; errors fail it, warnings do not."""
    place = "file=tests/test_foo.py,line=7,title=Memory footprint"
    assert shown(capsys, path, "--annotations").splitlines() == [
        f"::error {place}%3A test_breach::anonymous growth: 3 MiB",
        f"::error {place}%3A test_quiet::anonymous growth <= 64 KiB: exceeded: 3 MiB",
        f"::warning {place} undetermined%3A test_unknown::{UNKNOWN_TEXT}",
    ]


def test_annotations_escape(capsys: Capture, tmp_path: Path) -> None:
    """Percent signs first, then what ends a property or the line."""
    odd = failed("50% of a,b: c\nsecond", nodeid="t.py::test[a,b:1%\r]", file="a,b.py", line=None)
    path = write(tmp_path / "run.json", odd)
    assert shown(capsys, path, "--annotations", "--prefix", "sub/") == (
        "::error file=sub/a%2Cb.py,title=Memory footprint%3A test[a%2Cb%3A1%25%0D]"
        "::50%25 of a,b: c\n"
    )


@pytest.mark.parametrize(
    ("nodeid", "title"),
    [
        ("t.py::test_odd[::error::x%0A]", "test_odd[%3A%3Aerror%3A%3Ax%250A]"),
        ("a[1]/t.py::TestIt::test_it[x[y]]", "test_it[x[y]]"),
        ("a/t.py::TestIt::test_it", "test_it"),
        ("a/t.txt", "a/t.txt"),
    ],
)
def test_annotations_title(capsys: Capture, tmp_path: Path, nodeid: str, title: str) -> None:
    """The test's name, whatever its parameters hold."""
    path = write(tmp_path / "run.json", failed("dirty", nodeid=nodeid))
    (line,) = shown(capsys, path, "--annotations").splitlines()
    assert line.endswith(f",title=Memory footprint%3A {title}::dirty")


def test_expected_failures(capsys: Capture, tmp_path: Path) -> None:
    """Of a test that did not fail, no failure is told."""
    expected = test(outcome="xfailed", budgets=[budget(verdict="exceeded", value=[MIB, MIB])])
    path = write(tmp_path / "run.json", expected)
    assert shown(capsys, path, "--annotations") == ""
    for form in ([], ["--markdown"]):
        assert "Failed for their footprint" not in shown(capsys, path, *form)


def test_annotations_of_version_1(capsys: Capture, tmp_path: Path) -> None:
    """Which had no places but the node id's."""
    old = failed("dirty", nodeid="tests/t.py::test_a")
    for key in ("file", "line", "budgets"):
        del old[key]
    path = write(tmp_path / "run.json", old)
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    assert shown(capsys, path, "--annotations").startswith("::error file=tests/t.py,title=")


def test_benchmark(capsys: Capture, tmp_path: Path) -> None:
    """Exact numbers, upper ends under a name that says so, nothing of what is not known."""
    told = process(rss=[4096, 8192], anonymous=[4096, None])
    kept = budget(spread=4096, recorded=0)
    counted = budget(budget="mappings <= 9", unit="number", value=[7, 7])
    path = write(
        tmp_path / "run.json",
        test(nodeid="t", measured=[told, process(pid=1)], budgets=[kept, counted]),
        test(nodeid="broken", outcome="failed"),
        test(nodeid="skipped", outcome="skipped"),
    )
    entries = json.loads(shown(capsys, path, "--benchmark"))
    extra = "Python 3.11.2, Linux 6.12.8 x86_64"
    assert [(e["name"], e["unit"], e["value"], e.get("range"), e["extra"]) for e in entries] == [
        ("t: python rss (upper end)", "bytes", 8192, None, f"4 KiB..8 KiB; {extra}"),
        ("t: python dirty", "bytes", 31 * MIB, None, extra),
        ("t: python rss", "bytes", 40 * MIB, None, extra),
        ("t: python anonymous", "bytes", 30 * MIB, None, extra),
        ("t: python dirty (2)", "bytes", 31 * MIB, None, extra),
        ("t: budget anonymous growth", "bytes", 8 * KIB, "± 4096", extra),
        ("t: budget mappings", "number", 7, None, extra),
    ]


# ---- mistakes


def test_special_files(capsys: Capture, tmp_path: Path) -> None:
    """A FIFO that nobody writes to is not waited for, here and by the others."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    other = write(tmp_path / "run.json", test())
    for command in (["report", fifo], ["compare", other, fifo], ["merge", other, other, fifo]):
        assert main([str(word) for word in command]) == 2
        assert capsys.readouterr().err == f"pmaps: {fifo}: not a regular file\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file or directory"),
        ("", "this is no JSON"),
        ("{}", 'no pytest-pmaps run: those begin with "format"'),
        ('{"format": "pytest-pmaps run", "version": 9}', "understands version 2"),
        ('{"format": "pytest-pmaps run", "version": 2,\n "session": 1}', "an object belongs here"),
    ],
)
def test_trouble_is_one_line(capsys: Capture, tmp_path: Path, text: str | None, says: str) -> None:
    """File, place and reason; exit status 2."""
    path = tmp_path / "run.json"
    if text is not None:
        path.write_text(text)
    assert main(["report", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.match(rf"pmaps: {re.escape(str(path))}(:\d)?: ", err)
    assert says in err


def test_options_that_make_no_sense(capsys: Capture, path: Path) -> None:
    """One form at a time, and rows are counted."""
    for options in (["--markdown", "--benchmark"], ["--rows", "x"], ["--rows", "-1"]):
        with pytest.raises(SystemExit) as ended:
            main(["report", str(path), *options])
        assert ended.value.code == 2
        assert options[0] in capsys.readouterr().err
