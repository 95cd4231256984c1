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
        "tests/live/test_pte_states.py",
        "tests/live/test_pte_rights.py",
        "tests/live/test_rfc_restored.py",
        "tests/live/test_softdirty.py",
        "tests/live/test_touched.py",
        "tests/live/test_written.py",
        "tests/live/test_written_softdirty.py",
    ),
    "bpf": ("tests/kernels/guest_tests",),
    "nobody": ("tests/kernels/guest_tests", "tests/live/test_softdirty.py"),
}
"""What every boot runs, by user; ``bpf`` is nobody with CAP_BPF and CAP_PERFMON.  As root tests
become nobody themselves where that matters.
"""

MORE = {
    "root": (
        "tests/live/test_library.py",
        "tests/live/test_as_root.py",
        "tests/live/test_honesty.py",
        "tests/live/test_objects.py",
        "tests/live/test_peaks.py",
        "tests/live/test_pte_real.py",
        "tests/live/test_targets.py",
        "tests/live/test_unprivileged.py",
    ),
    "bpf": ("tests/live/test_library.py",),
    "nobody": (
        "tests/live/test_library.py",
        "tests/live/test_written.py",
        "tests/live/test_written_softdirty.py",
    ),
}
"""What one boot of each kernel runs as well: it does not depend on levels, or on what is random."""

NAMES = {
    "root": ("tests/kernels/guest_tests/test_guest.py", "tests/live/test_names.py"),
    "nobody": ("tests/live/test_names.py",),
}
"""What the kernel that is made for its names runs."""

_OPTIONS = "-q -rs --durations=10 --color=no"


def plans(instead: str = "", user: str = "root") -> dict[str, str]:
    """The suite, or other arguments of pytest for one user, as ``guest/run`` reads it: a line a
    user and the arguments.
    """
    whole = {who: (*files, *MORE.get(who, ())) for who, files in CORE.items()}
    every = {"core": CORE, "whole": whole, "names": NAMES}
    return {name: _text({user: (instead,)} if instead else plan) for name, plan in every.items()}


def _text(parts: dict[str, tuple[str, ...]]) -> str:
    return "".join(f"{who} {_OPTIONS} {' '.join(files)}\n" for who, files in parts.items())
