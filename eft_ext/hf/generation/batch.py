"""Many prompts through a batch that is kept full."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import LogitsProcessorList

from eft_ext.decoding.mixture import spread
from eft_ext.decoding.requests import TokenOutput
from eft_ext.hf.generation.call import WEIGHTS, call
from eft_ext.hf.generation.criteria import copied
from eft_ext.hf.inputs.choose_method import choose_method
from eft_ext.hf.inputs.seeds import row_seeds
from eft_ext.hf.models import Models
from eft_ext.hf.runners.decode_plan import OTHER_LOOP
from eft_ext.methods import MixingMethod

Result = tuple[int, list[int]]  # the prompt's number and its new tokens


def as_completed(
    models: Models,
    inputs: Any,
    batch_size: int,
    progress: bool | None,
    kwargs: dict[str, Any],
    over_forward: Callable[[], Any],
) -> Iterator[Result]:
    """See `EmulatedModel.generate_as_completed`, and `call` for `over_forward`."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size: expected an integer of at least 1, got {batch_size!r}")
    for name in ("streamer", "return_dict_in_generate", "speculate"):
        if kwargs.get(name):
            raise ValueError(f"{name}: not supported here, where rows end at different times; use generate")
    config = kwargs.get("generation_config")
    copies = kwargs.get("num_return_sequences") or getattr(config, "num_return_sequences", None) or 1
    if copies != 1:
        raise ValueError("num_return_sequences: expected 1, repeat the prompt instead")
    given = inputs if inputs is not None else kwargs.get("input_ids")
    if isinstance(given, (list, tuple, Tensor)) and not len(given):
        return iter(())
    method = kwargs.get("method") or models.method
    encoded = models.encode(inputs, kwargs.pop("prompts", None), kwargs, method, tokenizer=kwargs.get("tokenizer"))
    large = encoded.pop(method.models[0])
    prompts = {name: prompt.inputs for name, prompt in encoded.items()}
    rows = len(large.ids)
    seed = kwargs.pop("seed", None)
    seeds = row_seeds(seed, rows)
    results: Iterator[Result]
    given = {**kwargs, "prompts": prompts, "seed": seeds}
    run = partial(call, models, over_forward=over_forward)
    plan = run(large.inputs, given, only_plan=True)
    if plan.refills:
        results = _ended(run(large.inputs, given, slots=batch_size, looked=True))
    else:
        own = [None] * rows if plan.tier == OTHER_LOOP and seed is None else list(seeds.split(1))
        weights = {name: kwargs.pop(name, None) for name in WEIGHTS}
        results = _one_by_one(run, choose_method(models.method, **weights), large.inputs, prompts, own, kwargs)
    return _shown(results, rows, sys.stderr.isatty() if progress is None else progress)


def _ended(steps: Iterator[list[TokenOutput]]) -> Iterator[Result]:
    tokens: dict[int, list[int]] = {}
    for request, token, last, _ in chain.from_iterable(steps):
        tokens.setdefault(request, []).append(token)
        if last:
            yield request, tokens.pop(request)
    yield from tokens.items()  # cut off by max_time


def _one_by_one(
    run: Callable[..., Any],
    method: MixingMethod,
    large: dict[str, Tensor | None],
    prompts: dict[str, Any],
    seeds: Sequence[Tensor | None],
    kwargs: dict[str, Any],
) -> Iterator[Result]:
    """Yields the result of `generate` for each prompt alone."""
    rows = len(seeds)
    criteria = kwargs.pop("stopping_criteria", None) or ()
    processors = kwargs.pop("logits_processor", None) or ()
    for row, seed in enumerate(seeds):
        own = _of_row(method, row, rows)
        one = _row(large, row)
        others = {name: _row(prompt, row) for name, prompt in prompts.items()}
        given = {**kwargs, "method": own, "prompts": others, "seed": seed}
        given["stopping_criteria"] = copied(criteria)
        given["logits_processor"] = LogitsProcessorList(map(copy.copy, processors))  # grammars follow the row they read
        ids = run(one, given, looked=True)
        yield row, ids[0, one["input_ids"].shape[1] :].tolist()


def _of_row(method: MixingMethod, row: int, rows: int) -> MixingMethod:
    """The method as one row has it; itself where rows do not differ, so that what `set` changes is seen."""
    if not any(isinstance(value, Tensor) for value in method.parameters.values()):
        return method

    def one(name: str, value: Any) -> Any:
        return spread(name, value, rows, 1)[row : row + 1] if isinstance(value, Tensor) else value

    return method.mapped(one)


def _row(prompt: dict[str, Tensor | None], row: int) -> dict[str, Any]:
    """One prompt without its padding."""
    ids, mask = prompt["input_ids"], prompt["attention_mask"]
    assert ids is not None
    alone = ids[row] if mask is None else ids[row][mask[row].bool()]
    return {"input_ids": alone[None], "attention_mask": torch.ones_like(alone[None])}


def _shown(results: Iterator[Result], rows: int, progress: bool) -> Iterator[Result]:
    yield from tqdm(results, "generating", rows) if progress else results
