"""Problems on a CUDA device, and the sizes and settings that its tests share."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, Phase
from torch import Tensor

from python_tests.helpers.step_problems import Problem

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
WEIGHTS = ([1.0], [1.5, -0.5], [1.0, 1.0, -1.0], [1.0, 0.75, 0.5, -1.25])
VOCABS = (1, 31, 1025, 32000, 128256, 151936, 256000)
DERANDOMIZED: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "phases": (Phase.explicit, Phase.generate, Phase.shrink),
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
}


def moved(value: Any) -> Any:
    """The same on the device: rows keep their strides, their odd address and what lies between them."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() < 2:
        return value.cuda()
    offset, last = value.storage_offset() % 16, zip(value.shape, value.stride(), strict=True)
    elements = 1 + sum((size - 1) * stride for size, stride in last)
    whole = torch.empty(offset + elements, dtype=value.dtype, device="cuda")
    whole[offset:].copy_(value.as_strided((elements,), (1,)))
    return whole.as_strided(value.shape, value.stride(), offset)


def on_device(problem: Problem) -> Problem:
    options, conservative = ({k: moved(v) for k, v in d.items()} for d in (problem.options, problem.conservative))
    return Problem([moved(x) for x in problem.logits], [moved(w) for w in problem.weights], options, conservative)
