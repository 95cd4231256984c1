"""Why a source is not there, in words, and what would help."""

from __future__ import annotations

import errno

import pytest

from pytest_pmaps import _native, host


def pte(monkeypatch: pytest.MonkeyPatch, code: int, **files: str) -> host.SourceStatus:
    """What is said of page tables that are refused with a code, on a host that reads so."""
    read = host.read_line
    monkeypatch.setattr(_native, "probe", lambda: {"pte": code})
    monkeypatch.setattr(
        host, "read_line", lambda path: files.get(path.rpartition("/")[2]) or read(path)
    )
    (status,) = host.sources()
    return status


def test_works(monkeypatch: pytest.MonkeyPatch):
    """Then there is nothing to be said."""
    status = pte(monkeypatch, 0)
    assert status.works
    assert (status.reason, status.remedy) == ("", "")


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        ("0", "has no CAP_BPF and no CAP_PERFMON"),
        (f"{1 << 38:x}", "has no CAP_BPF"),
        (f"{1 << 39:x}", "has no CAP_PERFMON"),
    ],
)
def test_rights(monkeypatch: pytest.MonkeyPatch, held: str, missing: str):
    """The one that is missing is named, and how to get it without closing one's own pagemap."""
    status = pte(monkeypatch, errno.EPERM, status=f"Name:\tx\nCapEff:\t{held}\n")
    assert status.reason.endswith(missing)
    assert "--ambient-caps +bpf,+perfmon" in status.remedy


@pytest.mark.parametrize("held", [1 << 38 | 1 << 39, 1 << 21])
def test_rights_that_do_not_help(monkeypatch: pytest.MonkeyPatch, held: int):
    """In another user namespace, or behind a filter."""
    caps = f"CapEff:\t{held:x}\n"
    inside = pte(monkeypatch, errno.EPERM, status=caps, uid_map="0 1000 1")
    assert "only in the initial user namespace" in inside.reason
    filtered = pte(monkeypatch, errno.EPERM, status=caps, uid_map="0 0 4294967295")
    assert "seccomp" in filtered.reason


def test_not_dumpable(monkeypatch: pytest.MonkeyPatch):
    """It is pagemap that is refused then."""
    caps = f"CapEff:\t{1 << 38 | 1 << 39:x}\n"
    status = pte(monkeypatch, errno.EACCES, status=caps, uid_map="0 0 4294967295")
    assert "not dumpable" in status.reason


@pytest.mark.parametrize(
    ("code", "reason", "remedy"),
    [
        (20001, "x86-64 alone", ""),
        (20002, "/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"),
        (20003, "refused the program", "5.10"),
        (20004, "physical memory was not found", "report"),
        (20005, "read otherwise", "report"),
        (errno.ENOSYS, "has no bpf", "CONFIG_BPF_SYSCALL"),
        (errno.ENOMEM, "Cannot allocate memory", ""),
    ],
)
def test_other_refusals(monkeypatch: pytest.MonkeyPatch, code: int, reason: str, remedy: str):
    """Each has words of its own."""
    status = pte(monkeypatch, code, lockdown="[none] integrity confidentiality")
    assert reason in status.reason
    assert remedy in status.remedy


def test_lockdown(monkeypatch: pytest.MonkeyPatch):
    """Named where it is the reason."""
    status = pte(monkeypatch, 20003, lockdown="none integrity [confidentiality]")
    assert status.reason == "the kernel is locked down for confidentiality"


def test_every_refusal_has_words():
    """Of the engine's own codes none is left to strerror."""
    known = {value for name, value in vars(_native.lib).items() if name.startswith("PM_PTE_NO")}
    assert known == set(host._REFUSALS)
