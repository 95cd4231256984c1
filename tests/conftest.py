"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Time says something about the machine, which may be busy, and nothing about what is tested.
settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("busy")
