"""What runs in a guest, and what has to work there.  New live tests go here."""

from __future__ import annotations

EXPECTED = {
    "6.1": ("softdirty", "pte"),
    "6.12": ("softdirty", "pte", "scan", "scan_zero", "userfaultfd"),
}
"""The kernels, and the sources that must work on each: else skips would hide that they do not."""

CORE = {
    "root": (
        "tests/kernels/guest_tests",
        "tests/live/test_library.py",
        "tests/live/test_names.py",
        "tests/live/test_pte_states.py",
        "tests/live/test_rfc_restored.py",
        "tests/live/test_softdirty.py",
    ),
    "bpf": ("tests/kernels/guest_tests", "tests/live/test_library.py"),
    "nobody": (
        "tests/kernels/guest_tests",
        "tests/live/test_library.py",
        "tests/live/test_softdirty.py",
    ),
}
"""What every boot runs, by user; ``bpf`` is nobody with CAP_BPF and CAP_PERFMON."""

MORE = {
    "root": (
        "tests/live/test_as_root.py",
        "tests/live/test_honesty.py",
        "tests/live/test_objects.py",
        "tests/live/test_pte_real.py",
        "tests/live/test_pte_rights.py",
        "tests/live/test_targets.py",
        "tests/live/test_unprivileged.py",
        "tests/live/test_written.py",
    ),
    "nobody": ("tests/live/test_written.py",),
}
"""What one boot of each kernel runs as well: it does not depend on levels, or on what is random."""

_OPTIONS = "-q -rs --durations=10 --color=no"


def plans(instead: str = "") -> dict[str, str]:
    """The suite as ``guest/run`` reads it: a line a user and the arguments of pytest."""
    core = {"root": (instead,)} if instead else CORE
    more = {} if instead else MORE
    whole = {who: (*files, *more.get(who, ())) for who, files in core.items()}
    return {"core": _text(core), "whole": _text(whole)}


def _text(parts: dict[str, tuple[str, ...]]) -> str:
    return "".join(f"{who} {_OPTIONS} {' '.join(files)}\n" for who, files in parts.items())
