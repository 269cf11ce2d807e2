"""Makes the classes of a checkpoint known to transformers' Auto classes, as soon as somebody imports these."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# A module of transformers -> ours that registers with it as it is imported. A configuration is read without the rest.
_AFTER = {
    "transformers.models.auto.configuration_auto": "eft_ext.config",
    "transformers.models.auto.modeling_auto": "eft_ext.hf.causal_lm.model",
}


class _Watcher(MetaPathFinder):
    """Imports ours behind a module in `_AFTER`: to import transformers ourselves would take seconds."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _AFTER else None
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _import(_AFTER[name])

        loader.exec_module = exec_module
        return spec


def _import(name: str) -> None:
    try:
        import_module(name)
    except Exception as error:  # transformers itself has to go on
        warnings.warn(f"eft_ext: transformers does not know checkpoints of several models: {error}", stacklevel=2)


def register() -> None:
    """Registers now where transformers' Auto classes are there, and otherwise when they are."""
    for name, ours in _AFTER.items():
        if name in sys.modules:
            _import(ours)
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())
