"""The compiled binding; mypy cannot see into it, and _native.py is its only importer."""

from typing import Any

ffi: Any
lib: Any
