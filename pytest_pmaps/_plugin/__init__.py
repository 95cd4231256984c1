"""The pytest plugin, one job a module; ``pytest_pmaps.plugin`` is its entry."""
