"""The contenders: three peers' loops, the large model alone, and ours, each a call that returns tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import common  # noqa: F401
import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from eft_ext import EmulatedModel
from eft_ext.decoding.capture.traced_forward import AFTER
from peers.loops import arithmetic, disalignment, proxy_tuning

OURS = "eft_ext"
ALONE = "large alone"
AUTO = "eft_ext, auto drafts"
DRAFTS: dict[str, Any] = {OURS: None, "eft_ext, 4 drafts": 4, "eft_ext, 8 drafts": 8, AUTO: "auto"}
ALONE_TOO = (ALONE, "large alone, static cache")  # their text is another: these are not the mixture
PEERS = ("proxy-tuning", "emulated-disalignment", "language-model-arithmetic")
NAMES = (*PEERS, *ALONE_TOO, *DRAFTS)
FEW = ("proxy-tuning", ALONE, OURS)  # where a call takes half a minute
MOST_WARM = 12  # calls
SAMPLED = {"temperature": 0.7, "top_p": 0.9}

Run = Callable[[int], Tensor]


class Ours:
    """A model of our own for each number of drafts: one model keeps the caches of its last calls only."""

    def __init__(self, models: Sequence[Any], ids: Tensor, options: dict[str, Any], drafts: Any) -> None:
        self._model, self._ids, self._options = EmulatedModel(*models), ids, dict(options, seed=1)
        self._speculate = {} if drafts is None else {"speculate": drafts}

    def __call__(self, new: int) -> Tensor:
        tokens: Tensor = self._generate(new)
        return tokens

    def warm_up(self, new: int) -> None:
        """Calls until the passes of its steps have been traced; "auto" makes steps and rounds, traced apart."""
        steps, wanted = 0, 2 * AFTER if self._speculate.get("speculate") == "auto" else AFTER
        for _ in range(MOST_WARM if self._ids.device.type == "cpu" else 1):  # a GPU captures in the first call
            out = self._generate(new, return_dict_in_generate=True)
            steps += len(out.speculation.draft_lengths) if self._speculate else new
            if steps > wanted:
                break

    def accepted(self, new: int) -> tuple[Tensor, float | None]:
        """Returns tokens and the share of drafts that stood, None without drafts."""
        out = self._generate(new, return_dict_in_generate=True)
        return out.sequences, out.speculation.acceptance if self._speculate else None

    def _generate(self, new: int, **more: Any) -> Any:
        mask = torch.ones_like(self._ids)
        return self._model.generate(
            self._ids, attention_mask=mask, max_new_tokens=new, **self._options, **self._speculate, **more
        )


def contenders(models: Sequence[Any], ids: Tensor, names: Sequence[str], sample: bool) -> dict[str, Run]:
    """Returns by name calls that read prompts [rows, length] and return them with so many new tokens."""
    large, never = models[0], large_vocabulary(models) + 999  # no row ends before its time
    options: dict[str, Any] = {"do_sample": sample, "eos_token_id": never, "pad_token_id": 0}
    warpers = LogitsProcessorList()
    if sample:
        options |= {"top_k": 0, **SAMPLED}
        warpers += [TemperatureLogitsWarper(SAMPLED["temperature"]), TopPLogitsWarper(SAMPLED["top_p"])]
    alone = {"attention_mask": torch.ones_like(ids), **options}
    static = {"cache_implementation": "static", "disable_compile": True}
    makers: dict[str, Callable[[], Run]] = {
        PEERS[0]: lambda: lambda n: proxy_tuning(models, ids, n, warpers, sample, never),
        PEERS[1]: lambda: lambda n: disalignment(models, ids, n, options),
        PEERS[2]: lambda: lambda n: arithmetic(models, ids, n, warpers, sample),
        ALONE_TOO[0]: lambda: lambda n: large.generate(ids, max_new_tokens=n, **alone),
        ALONE_TOO[1]: lambda: lambda n: large.generate(ids, max_new_tokens=n, **alone, **static),
    }
    for name, drafts in DRAFTS.items():
        makers[name] = lambda drafts=drafts: Ours(models, ids, options, drafts)
    return {name: makers[name]() for name in names}


def large_vocabulary(models: Sequence[Any]) -> int:
    return max(model.config.vocab_size for model in models)
