"""The embedded demonstration: a fictional world and the models that learnt it, small enough to ship."""

from __future__ import annotations

from pathlib import Path

TRIO = ("large-base", "small-tuned", "small-base", "large-tuned")  # and what it is compared with
TALKATIVE = "small-talkative"  # another behaviour of the small base
MODELS = (*TRIO, TALKATIVE)


def model_path(name: str) -> Path:
    """The folder of a shipped model, as `from_pretrained` takes it.

    Raises:
        ValueError: the name is none of `MODELS`.
    """
    if name not in MODELS:
        raise ValueError(f"name: expected one of {', '.join(MODELS)}, got {name!r}")
    return Path(__file__).parent / "models" / name
