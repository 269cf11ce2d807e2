"""Writes step.json: problems, and the tokens that the reference draws for them.

python -m python_tests.golden.make

The file is made once for a version of docs/internals/numerics.md. A change in it is a change of every user's tokens.
"""

from __future__ import annotations

import itertools
import json
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eft_ext.ops import fused_mix, fused_step
from python_tests.golden import inputs

PATH = Path(__file__).with_name("step.json")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "warm": {"temperature": 0.7},
    "hot": {"temperature": 3.0, "top_p": 0.99},
    "coldest": {"temperature": 2.0**-20},
    "top_p_90": {"top_p": 0.9},
    "top_p_50": {"top_p": 0.5},
    "top_p_0": {"top_p": 0.0},
    "top_k_50": {"top_k": 50},
    "top_k_1": {"top_k": 1},
    "min_p_05": {"min_p": 0.05},
    "all": {"temperature": 0.75, "top_k": 50, "top_p": 0.9, "min_p": 0.0625},
}
ROWS_OPTIONS = {
    "temperature": [0.5, 0.0, 1.0, 2.0],
    "top_k": [0, 5, 50, 0],
    "top_p": [0.9, 1.0, 0.5, 1.0],
    "min_p": [0.0, 0.0, 0.0625, 0.5],
    "seed": [1, -2, 2**62, 4],
    "position": [0, 2**40, 2, 3],
}
BAD_ROWS = {
    "temperature": [1.0, -1.0, 1.0, 1.0],
    "top_k": [0, 0, -1, 0],
    "top_p": [0.9, 0.9, 0.9, 1.5],
}
WEIGHTS = [[1.0], [1.5, -0.5], [1.0, 1.0, -1.0], [1.0, 0.75, 0.5, -1.25]]


def problems() -> list[dict[str, Any]]:
    """Each: the call's arguments as JSON holds them; `inputs` and `tensors` make the tensors of it."""
    listed: list[dict[str, Any]] = []

    def add(kind: str, vocab: int, weights: list[float], options: dict[str, Any], **more: Any) -> None:
        number = len(listed)
        problem = {"kind": kind, "batch": 2, "vocab": vocab, "dtypes": ["fp32"] * len(weights), "weights": weights}
        problem |= {"inputs_seed": 1000 * number, "options": {"seed": 7 + number, "position": number} | options}
        listed.append(problem | more)

    names = itertools.cycle(OPTIONS.values())
    dtypes = itertools.cycle(inputs.DTYPES)
    for kind, vocab in itertools.product(inputs.KINDS, (1, 33, 2500)):
        for _ in range(3):
            weights = WEIGHTS[len(listed) % 4]
            add(kind, vocab, weights, next(names), dtypes=[next(dtypes)] * len(weights))
        next(dtypes)
    for vocab, options in itertools.product((2, 31, 1024, 1025, 4000), OPTIONS.values()):
        weights = WEIGHTS[len(listed) % 4]
        add("peaked", vocab, weights, options, dtypes=[next(dtypes)] * len(weights))
    for weights in WEIGHTS[1:]:
        add("broad", 1500, weights, {"top_p": 0.9}, dtypes=[next(dtypes) for _ in weights])
        add("lowest", 1500, weights, {}, dtypes=[next(dtypes) for _ in weights])
    for options in ({}, {"top_p": 0.9}, {"temperature": 0.0}):
        add("peaked", 1111, WEIGHTS[2], options, bias=[1111])
        add("broad", 1111, WEIGHTS[0], options, bias=[2, 1111])
        add("peaked", 1111, WEIGHTS[1], options, token_bitmask=True)
        add("masked", 1111, WEIGHTS[2], options, token_bitmask=True, bias=[1111])
    for which, outside, nucleus in itertools.product(("large", "tuned", "base"), ("keep", "drop"), (0.0, 0.5, 0.9)):
        conservative = {"scale": 1.5, "conservative_top_p": nucleus, "conservative_set": which}
        kind = ("peaked", "broad", "lowest", "nan")[len(listed) % 4]
        add(kind, 1300, WEIGHTS[2], {"top_p": 0.95}, conservative=conservative | {"conservative_outside": outside})
    add("peaked", 2048, WEIGHTS[2], ROWS_OPTIONS, batch=4, dtypes=["bf16"] * 3)
    add("steps", 5000, WEIGHTS[0], ROWS_OPTIONS, batch=4)
    add("broad", 300, WEIGHTS[1], BAD_ROWS, batch=4)
    add("peaked", 1000, WEIGHTS[2], {"top_p": 0.9, "vocab_size": 970}, batch=40)
    add("peaked", 32000, WEIGHTS[2], OPTIONS["top_p_90"], dtypes=["bf16"] * 3)
    add("broad", 128256, WEIGHTS[2], OPTIONS["plain"], dtypes=["bf16"] * 3)
    add("broad", 128256, WEIGHTS[0], OPTIONS["top_p_90"], dtypes=["bf16"])  # a wide nucleus
    # A mass that is p in decimals has reached it: 198, 160, 126 and 82 tokens of 200.
    add("equal", 200, WEIGHTS[0], {"top_p": 0.99})
    add("equal", 200, WEIGHTS[0], {"top_p": [0.99, 0.8, 0.63, 0.41]}, batch=4)
    return listed


def logits_of(problem: dict[str, Any]) -> list[Tensor]:
    """The models' logits [batch, vocab]."""
    return [
        inputs.rows(problem["kind"], problem["batch"], problem["vocab"], dtype, problem["inputs_seed"] + 10 * k)
        for k, dtype in enumerate(problem["dtypes"])
    ]


def checksum(logits: list[Tensor]) -> int:
    """CRC-32 of the logits' bytes: tells wrong inputs from wrong tokens."""
    crc = 0
    for x in logits:
        crc = zlib.crc32(x.contiguous().view(torch.uint8).numpy().tobytes(), crc)
    return crc


def call(problem: dict[str, Any], device: str = "cpu", return_details: bool = True, **more: Any) -> Any:
    """The step of one problem: `StepDetails`, or tokens; `more` are arguments of `fused_step` beside it."""
    batch, vocab, at = problem["batch"], problem["vocab"], problem["inputs_seed"]
    integers = ("top_k", "seed", "position")

    def option(name: str, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return torch.tensor(value, dtype=torch.int64 if name in integers else torch.float32, device=device)

    logits = [x.to(device) for x in logits_of(problem)]
    options: dict[str, Any] = {name: option(name, value) for name, value in problem["options"].items()}
    extras: dict[str, Tensor] = {}
    if "bias" in problem:
        extras["bias"] = inputs.bias(problem["bias"], at + 100).to(device)
    if "token_bitmask" in problem:
        extras["token_bitmask"] = inputs.token_bitmask(batch, vocab, at + 200).to(device)
    common = {"return_details": return_details, **options, **extras, **more}
    if "conservative" in problem:
        return fused_step(*logits, **problem["conservative"], **common)
    return fused_mix(logits, problem["weights"], **common)


def main() -> None:
    lines = []
    for problem in problems():
        found = call(problem, backend="reference")
        expected = {name: getattr(found, name).tolist() for name in ("tokens", "num_kept", "status")}
        made = {"crc32": checksum(logits_of(problem)), "expected": expected}
        lines.append(json.dumps(problem | made, separators=(",", ":")))
    PATH.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{PATH.name}: {len(lines)} problems, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
