"""The parts of a step of the trio in vLLM."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import common  # noqa: F401
import torch


def shares(engine: Any, run: Callable[[], int]) -> dict[str, float]:
    """Seconds of a pass in the forward passes, the heads and the mixing, and of the whole: CPU time without a GPU."""
    from eft_ext.serving.vllm import model as own

    spent = {"forward": 0.0, "logits": 0.0, "combine": 0.0, "whole": 0.0}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            begin = _now()
            found = call(*args, **kwargs)
            spent[name] += _now() - begin
            return found

        return wrapped

    plain, found = own.combine, []
    engine.apply_model(found.append)
    model = found[0]
    own.combine = timed("combine", plain)
    model.forward, model.compute_logits = timed("forward", model.forward), timed("logits", model.compute_logits)
    timed("whole", run)()
    own.combine = plain
    del model.forward, model.compute_logits
    heads = spent["logits"] - spent["combine"]
    return {"forward": spent["forward"], "heads": heads, "combine": spent["combine"], "whole": spent["whole"]}


def _now() -> float:
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
