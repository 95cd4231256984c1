"""What runs in a guest, and what has to work there.  New live tests go here."""

from __future__ import annotations

ROOT = (
    "tests/kernels/guest_tests",
    "tests/live/test_as_root.py",
    "tests/live/test_honesty.py",
    "tests/live/test_library.py",
    "tests/live/test_names.py",
    "tests/live/test_objects.py",
    "tests/live/test_softdirty.py",
    "tests/live/test_targets.py",
    "tests/live/test_touched.py",
    "tests/live/test_unprivileged.py",
)
BPF = ("tests/kernels/guest_tests", "tests/live/test_library.py")
"""Nobody with CAP_BPF and CAP_PERFMON, and no other."""
NOBODY = (
    "tests/kernels/guest_tests",
    "tests/live/test_library.py",
    "tests/live/test_names.py",
    "tests/live/test_softdirty.py",
)

EXPECTED = {
    "6.1": ("softdirty", "pte"),
    "6.12": ("softdirty", "pte", "scan", "scan_zero"),
}
"""The kernels, and the sources that must work on each: else skips would hide that they do not."""

_OPTIONS = "-q -rs --durations=10 --color=no"


def plan(instead: str = "") -> str:
    """The suite as ``guest/run`` reads it: a line a user and the arguments of pytest."""
    parts = {"root": (instead,)} if instead else {"root": ROOT, "bpf": BPF, "nobody": NOBODY}
    return "".join(f"{who} {_OPTIONS} {' '.join(files)}\n" for who, files in parts.items())
