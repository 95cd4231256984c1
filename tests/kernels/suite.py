"""What runs in a guest, and what has to work there.  New live tests go here."""

from __future__ import annotations

AS_ROOT = (
    "tests/kernels/guest_tests",
    "tests/live/test_as_root.py",
)
AS_NOBODY = ("tests/kernels/guest_tests",)

EXPECTED = {
    "6.1": ("softdirty", "pte"),
    "6.12": ("softdirty", "pte", "scan", "scan_zero"),
}
"""The kernels, and the sources that must work on each: else skips would hide that they do not."""

_OPTIONS = "-q -rs --durations=10 --color=no"


def plan(instead: str = "") -> str:
    """The suite as ``guest/run`` reads it: a line a user and the arguments of pytest."""
    if instead:
        return f"root {_OPTIONS} {instead}\n"
    return "".join(
        f"{who} {_OPTIONS} {' '.join(files)}\n"
        for who, files in (("root", AS_ROOT), ("nobody", AS_NOBODY))
    )
