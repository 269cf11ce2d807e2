"""vLLM's options that change what fits, read from a command line without vLLM."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from typing import Any

from eft_ext._errors import Parser


def options_of(flags: Sequence[str]) -> dict[str, Any]:
    """The keyword arguments of `size` that vLLM's options stand for; others are left aside.

    Raises:
        ValueError: an option without a number, or with one that vLLM refuses.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--max-model-len", type=length)
    parser.add_argument("--max-num-batched-tokens", type=number)
    parser.add_argument("--max-num-seqs", type=count)
    parser.add_argument("--tensor-parallel-size", "-tp", type=count, dest="tensor_parallel")
    parser.add_argument("--gpu-memory-utilization", type=float, dest="utilization")
    parser.add_argument("--dtype")
    parser.add_argument("--kv-cache-dtype")
    words = [_dashed(flag) for flag in flags]
    return {name: value for name, value in vars(parser.parse_known_args(words)[0]).items() if value is not None}


def _dashed(flag: str) -> str:
    name, equals, value = flag.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else flag


def length(text: str) -> int | None:
    """A length in tokens as vLLM reads it; -1 or auto are what fits, which `size` finds."""
    return None if text in ("-1", "auto") else number(text)


def number(text: str) -> int:
    """A number as vLLM reads it: 32k are 32,000, 1.5k are 1,500, and 32K are 32,768."""
    found = re.fullmatch(r"(\d+)([KMGT])|(\d+(?:\.\d+)?)([kmgt])", text)
    if found is None:
        return count(text)
    whole, binary, part, decimal = found.groups()
    return int(whole) << 10 * "_KMGT".index(binary) if whole else int(float(part) * 1000 ** "_kmgt".index(decimal))


def count(text: str) -> int:
    """A whole number from 1 up."""
    if not re.fullmatch(r"0*[1-9]\d{0,17}", text):
        raise ArgumentTypeError(f"expected a whole number from 1 up, got {text!r}")
    return int(text)
