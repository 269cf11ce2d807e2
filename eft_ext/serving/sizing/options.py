"""vLLM's options that change what fits, read from a command line without vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eft_ext._errors import Parser

_WHOLE = {"max_model_len": (), "max_num_batched_tokens": (), "max_num_seqs": (), "tensor_parallel_size": ("-tp",)}


def options_of(flags: Sequence[str]) -> dict[str, Any]:
    """The keyword arguments of `size` that vLLM's options stand for; others are left aside.

    Raises:
        ValueError: an option without a number.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    for name, short in _WHOLE.items():
        parser.add_argument(f"--{name.replace('_', '-')}", *short, type=number, metavar="NUMBER")
    parser.add_argument("--gpu-memory-utilization", type=float, dest="utilization")
    parser.add_argument("--dtype")
    parser.add_argument("--kv-cache-dtype")
    words = [_dashed(flag) for flag in flags]
    found = {name: value for name, value in vars(parser.parse_known_args(words)[0]).items() if value is not None}
    if "tensor_parallel_size" in found:
        found["tensor_parallel"] = found.pop("tensor_parallel_size")
    return found


def _dashed(flag: str) -> str:
    name, equals, value = flag.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else flag


def number(text: str) -> int | None:
    """A number as vLLM reads it: 32k are 32,000, 32K are 32,768, and -1 or auto what fits, which `size` finds."""
    if text in ("-1", "auto"):
        return None
    units = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
    unit = units.get(text[-1:], 1)
    return int(float(text[: -1 if unit > 1 else None]) * unit)
