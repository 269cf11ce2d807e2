"""What a timing depends on: written into every result file."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch
import transformers

import eft_ext


def describe() -> dict[str, object]:
    """Processor or GPU, versions, commit."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "isa": eft_ext.backends()["cpu"].detail,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "eft_ext": eft_ext.__version__,
        "commit": commit(),
    }


def commit() -> str | None:
    """Of the sources: what git says or, where there is no git, EFT_COMMIT."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout
    except OSError:
        said = ""
    return said.strip() or os.environ.get("EFT_COMMIT")
