"""Imports of packages that a benchmark compares with and does not need."""

from __future__ import annotations

import importlib
from types import ModuleType


def import_optional(name: str) -> tuple[ModuleType | None, str]:
    """Returns the module, or None and the reason why it cannot be imported."""
    try:
        return importlib.import_module(name), ""
    except Exception as error:  # a package may fail in any way: no CUDA compiler, another torch
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        return None, f"{name}: {type(error).__name__}: {reason}"
