"""llama.cpp's sampler chain, a baseline of the step for K = 1 on a CPU, where it can be imported.

It samples one row of fp32 logits. Temperature stands first in the chain, as in transformers, so that both draw from the
same distribution. Every call fills the array of candidates from the logits, as a caller does for each token; NumPy
copies them, as the library's own Python class does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.optional import import_optional

Options = dict[str, float]


def llama_chain(llama: Any, options: Options, seed: int = 1) -> Any:
    """Returns a sampler chain for these options; greedy where the temperature is 0."""
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())

    def add(sampler: Any) -> None:
        llama.llama_sampler_chain_add(chain, sampler)

    if options.get("temperature", 1.0) == 0.0:
        add(llama.llama_sampler_init_greedy())
        return chain
    if "temperature" in options:
        add(llama.llama_sampler_init_temp(options["temperature"]))
    if "top_k" in options:
        add(llama.llama_sampler_init_top_k(int(options["top_k"])))
    if "top_p" in options:
        add(llama.llama_sampler_init_top_p(options["top_p"], 1))
    if "min_p" in options:
        add(llama.llama_sampler_init_min_p(options["min_p"], 1))
    add(llama.llama_sampler_init_dist(seed))
    return chain


def llama_step(logits: Tensor, options: Options) -> Callable[[], list[int]] | None:
    """Returns a call that samples tokens [B] from logits [B, V], or None without llama.cpp. Widening is not timed."""
    llama, _ = import_optional("llama_cpp")
    if llama is None:
        return None
    rows = logits.to(torch.float32).numpy()
    chain = llama_chain(llama, options)
    ids = np.arange(rows.shape[1], dtype=np.int32)
    candidates = np.zeros(rows.shape[1], dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
    data = candidates.ctypes.data_as(llama.llama_token_data_p)

    def sample(row: np.ndarray) -> int:
        candidates["id"], candidates["logit"], candidates["p"] = ids, row, 0
        array = llama.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
        llama.llama_sampler_apply(chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    return lambda: [sample(row) for row in rows]
