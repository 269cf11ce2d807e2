"""The extras of the package, and the one line that names a missing one.

Only torch is always there. Whoever uses another package imports it under `needs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_HF = ("transformers", "tqdm", "filelock")
_CLI = (*_HF, "typer", "rich", "jinja2")
_PEFT = ("peft", "accelerate")
# The packages of each extra in pyproject.toml, those of the extras that it includes too.
EXTRAS = {
    "hf": _HF,
    "cli": _CLI,
    "plots": ("matplotlib",),
    "peft": _PEFT,
    "dynamics": (*_HF, "numpy", "pyarrow", "pandas"),
    "triton": ("triton",),
    "lm-eval": (*_HF, "lm_eval"),
    "serve": (*_CLI, *_PEFT, "fastapi", "openai", "uvicorn"),
    "vllm": (*_CLI, "vllm"),
}


class MissingExtra(ImportError):
    """A package of an extra is not installed; the message is one line with the remedy."""


def install(*extras: str) -> str:
    """The command that installs extras."""
    return f"pip install 'eft_ext[{','.join(extras)}]'"


@contextmanager
def needs(user: str, *extras: str) -> Iterator[None]:
    """Raise MissingExtra where an import fails for want of a package of the extras; any other failure goes through.

    Args:
        user: who needs it, as the line begins.
        extras: what the line says to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # The exact name: a module that an installed package lacks is another matter.
        if not any(error.name in EXTRAS[extra] for extra in extras):
            raise
        raise MissingExtra(f"{user} needs {error.name}: {install(*extras)}", name=error.name) from error
