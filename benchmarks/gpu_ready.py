"""Says in one line what a GPU command lacks here, and ends with 2; says nothing where all is there.

python benchmarks/gpu_ready.py
"""

from __future__ import annotations

import sys

import checkout  # noqa: F401


def missing() -> str:
    """What the CUDA step wants and does not find, or nothing."""
    import torch

    import eft_ext

    if not torch.cuda.is_available():
        return f"a CUDA device: torch {torch.__version__} sees none"
    cuda = eft_ext.backends()["cuda"]
    return "" if cuda.available else f"the CUDA step: {cuda.reason}; to enable it: {cuda.remedy}"


def main() -> int:
    if lacks := missing():
        print(f"not run, it needs {lacks}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
