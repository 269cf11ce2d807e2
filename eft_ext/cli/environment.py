"""`eft env`: what can be used here, and what is missing and why."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer

from eft_ext._json import dumps
from eft_ext.cli import options as o

NAME = "env"
_PACKAGES = ("torch", "transformers", "triton", "peft", "accelerate", "tokenizers", "safetensors")
_FEATURES = ("avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve")


def run(
    as_json: o.Json = False,
) -> None:
    """Say which backends exist here, and for each missing one why and what would enable it.

    Then the versions of what they stand on, the processor and the GPUs.

    Examples:

        eft env

        eft env --json
    """
    found = describe()
    if as_json:
        typer.echo(dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("backend", "", "what it runs on, or why it is missing", box=None, pad_edge=False)
    for name, backend in found["backends"].items():
        ready = backend["available"]
        lines = [backend["detail"]]
        if not ready:
            lines += [backend["reason"], f"enable: {backend['remedy']}" if backend["remedy"] else ""]
        mark = Text("yes", "green") if ready else Text("no", "yellow")
        table.add_row(Text(name), mark, Text("\n".join(filter(None, lines))))
    console.print(table)
    facts = Table.grid(padding=(0, 2))
    for name, value in found["versions"].items():
        facts.add_row(Text(name, "dim"), Text(value or "not installed"))
    cpu = found["cpu"]
    facts.add_row(Text("cpu", "dim"), Text(f"{cpu['name']}, {cpu['threads']} threads: {' '.join(cpu['features'])}"))
    for gpu in found["gpus"]:
        facts.add_row(Text("gpu", "dim"), Text(f"{gpu['name']}, sm_{gpu['architecture']}, {gpu['memory']}"))
    console.print()
    console.print(facts)


def describe() -> dict[str, Any]:
    """Everything `eft env` prints."""
    import torch

    import eft_ext
    from eft_ext.hf.loading.memory import readable

    versions: dict[str, str | None] = {"eft_ext": eft_ext.__version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in _PACKAGES}
    versions["cuda (of torch)"] = torch.version.cuda
    backends = {
        name: {field: getattr(backend, field) for field in ("available", "detail", "reason", "remedy")}
        for name, backend in eft_ext.backends().items()
    }
    gpus = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(i)
        memory = readable(about.total_memory)
        gpus.append({"name": about.name, "architecture": f"{about.major}{about.minor}", "memory": memory})
    return {"backends": backends, "versions": versions, "cpu": _cpu(torch.get_num_threads()), "gpus": gpus}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu(threads: int) -> dict[str, Any]:
    """Name and instruction sets as Linux tells them; elsewhere the architecture alone."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    name = facts.get("model name") or platform.machine()
    return {"name": name, "threads": threads, "features": [f for f in _FEATURES if f in flags]}
