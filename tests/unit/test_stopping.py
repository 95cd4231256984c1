"""Why a process may not be stopped, in words, for hosts other than this one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pytest_pmaps import AccessDenied, PmapsError, Unsupported, stopping


@pytest.mark.parametrize(
    ("scope", "says"),
    [("1", "PR_SET_PTRACER"), ("2", "CAP_SYS_PTRACE"), ("3", "started anew")],
)
def test_yama(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scope: str, says: str):
    """The setting is named with its value, and what would help under it."""
    setting = tmp_path / "ptrace_scope"
    setting.write_text(f"{scope}\n")
    monkeypatch.setattr(stopping, "_YAMA", setting)
    monkeypatch.setattr(stopping, "may_trace_all", lambda: False)
    error = stopping._explained(os.getpid(), errno.EPERM, 0)
    assert isinstance(error, AccessDenied)
    assert f"{setting} is {scope}: " in str(error)
    assert says in str(error)


@pytest.mark.parametrize("scope", [None, "0", "1"])
def test_yama_is_not_blamed_for_what_it_allows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scope: str | None
):
    """Without Yama, with it off, and for whoever has CAP_SYS_PTRACE."""
    setting = tmp_path / "ptrace_scope"
    if scope is not None:
        setting.write_text(f"{scope}\n")
    monkeypatch.setattr(stopping, "_YAMA", setting)
    monkeypatch.setattr(stopping, "may_trace_all", lambda: scope == "1")
    error = str(stopping._explained(os.getpid(), errno.EPERM, 0))
    assert str(setting) not in error
    assert "security module" in error


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (errno.ENOSYS, Unsupported, "ptrace is forbidden here"),
        (errno.EDEADLK, PmapsError, "this one cannot stand still"),
        (errno.ETIMEDOUT, PmapsError, "did not stop within 2 s, and goes on: threads came"),
        (errno.EPIPE, PmapsError, "its tracer was killed"),
        (errno.ENOMEM, PmapsError, "Cannot allocate memory"),
    ],
)
def test_other_reasons(code: int, kind: type[PmapsError], says: str):
    """One line each."""
    error = stopping._explained(os.getpid(), code, 0)
    assert type(error) is kind
    assert says in str(error)
    assert "\n" not in str(error)
