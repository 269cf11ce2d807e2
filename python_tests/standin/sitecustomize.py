"""With this folder first on PYTHONPATH, Python finds the stand-in of `cuda.py` in place of a CUDA device.

Python imports a module of this name when it starts; the rest happens when somebody imports torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

AFTER = {
    "torch": "install",
    "eft_ext.ops.tracing": "ignore_captures",
    "eft_ext.ops.backends.registry": "interpret_triton",
    "triton.runtime.interpreter": "launch_triton",
}


class AfterImport(MetaPathFinder):
    """Calls a function of `cuda.py` once a module of `AFTER` has been imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in AFTER:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            standin = importlib.import_module("python_tests.standin.cuda")
            getattr(standin, AFTER[name])(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, AfterImport())
