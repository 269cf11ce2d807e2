"""The machine and the versions behind a timing, for every results file."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch
import transformers

import eft_ext


def describe() -> dict[str, object]:
    """Returns processor or GPU, versions and commit."""
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
    """Returns the commit of the sources, from git or, without git, from EFT_COMMIT."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout
    except OSError:
        described = ""
    return described.strip() or os.environ.get("EFT_COMMIT")
