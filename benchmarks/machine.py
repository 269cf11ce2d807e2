"""What a timing depends on: written into every result file."""

from __future__ import annotations

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
    where = Path(__file__).parent
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=where, capture_output=True, text=True, check=False
    )
    return {
        "cpu": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "isa": eft_ext.backends()["cpu"].detail,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "eft_ext": eft_ext.__version__,
        "commit": commit.stdout.strip() or None,
    }
