"""The callable that transformers' generate hands its prepared inputs to (`custom_generate=`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer

from eft_ext.decoding.cached_model import CachedModel
from eft_ext.decoding.requests import TokenOutput
from eft_ext.hf.generation.loop import Loop
from eft_ext.hf.generation.mixture import Mixture
from eft_ext.hf.generation.processors import plan
from eft_ext.hf.generation.rows import budget_of, collect, stream_rows
from eft_ext.hf.generation.speculation import SpeculatedOutput, check, decode_speculated, planned, why_not
from eft_ext.hf.inputs.context import Context
from eft_ext.hf.inputs.prompts import Prompt
from eft_ext.hf.inputs.rejected import reject_config
from eft_ext.hf.inputs.seeds import Seed, row_seeds
from eft_ext.hf.inputs.token_ids import as_list
from eft_ext.hf.members import Member
from eft_ext.hf.runners.checks import checked
from eft_ext.hf.runners.distributed import sharded
from eft_ext.hf.runners.dynamic_cache_model import DynamicCacheModel
from eft_ext.hf.runners.engine_pool import EnginePool, feeders
from eft_ext.hf.runners.tiers import DecodePlan, ahead, choose, warn

# What transformers may have put beside the arguments above; anything else would be silently ignored here.
_KNOWN = {"attention_mask", "position_ids", "past_key_values", "cache_params", "use_cache", "logits_to_keep"}


def decode(
    members: tuple[Member, ...],
    mixture: Mixture,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    prompts: Mapping[str, Prompt] | None = None,
    seed: Seed | None = None,
    streamer: BaseStreamer | None = None,
    tier: int | None = None,
    only_plan: bool = False,
    slots: int | None = None,
    speculate: int | str | None = None,
    engines: EnginePool | None = None,
    looked: bool = False,
    **model_kwargs: Any,
) -> GenerateDecoderOnlyOutput | Tensor | DecodePlan | Iterator[list[TokenOutput]]:
    """Decode from what `generate` prepared for the first model.

    Args:
        members: the models of the mixture's method, in its order.
        mixture: weights, not yet spread over the rows.
        input_ids: the first model's prompts [rows, length], each already repeated num_return_sequences times.
        logits_processor, stopping_criteria, generation_config: as transformers resolved them.
        prompts: other prompts for the models after the first (ids and mask, one row per prompt).
        seed: see `row_seeds`.
        streamer: receives every step's tokens and the end; who calls this ends it where this raises.
        tier: no higher one is chosen (see `eft_ext.hf.runners.tiers`).
        only_plan: return how it would be decoded instead.
        engines: idle engines of earlier calls.
        slots: decode in a batch of so many rows and return what each step brings, as it comes.
        speculate: tokens that the small model drafts in a round, or "auto"; None or 0 for none.
        looked: at whether the prompts suit the models' contexts.
        model_kwargs: attention_mask [rows, length] or None for all ones; caches are made here.

    Raises:
        ValueError: a setting or model input that is not supported, named.
    """
    reject_config(generation_config)
    drafts = check(speculate)
    # Of a model that reads images too, transformers prepares an empty mapping where there are none.
    given = {k: v for k, v in model_kwargs.items() if v is not None and not (isinstance(v, Mapping) and not v)}
    unknown = sorted(given.keys() - _KNOWN)
    if unknown:
        raise ValueError(f"{unknown[0]}: not supported by emulated fine-tuning (the models share only token ids)")
    if _filled(model_kwargs.get("past_key_values")):
        raise ValueError("past_key_values: expected none or an empty cache, since each of the models has its own")

    rows = input_ids.shape[0]
    copies = generation_config.num_return_sequences or 1
    mask = model_kwargs.get("attention_mask")
    _check_positions(model_kwargs.get("position_ids"), mask)
    own = Prompt(input_ids, mask).packed("attention_mask")
    pad, ends = generation_config.pad_token_id, as_list(generation_config.eos_token_id)
    others = {name: prompt.inferred(pad, ends).repeat(copies) for name, prompt in (prompts or {}).items()}
    for name, prompt in others.items():
        if prompt.ids.shape[0] != rows:
            raise ValueError(f"prompts[{name!r}]: expected {rows // copies} rows, got {prompt.ids.shape[0] // copies}")
        others[name] = prompt.packed(f"prompts[{name!r}]")
    usual = {member.name: own.last if member.name in mixture.method.last_token_only else own for member in members}
    read = [others.get(name, prompt).pair for name, prompt in usual.items()]

    has_eos = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
    sampled = bool(generation_config.do_sample)
    details = bool(generation_config.return_dict_in_generate)
    use_cache = model_kwargs.get("use_cache", True) is not False
    keep_scores = details and bool(generation_config.output_scores)
    keep_logits = details and bool(generation_config.output_logits)
    work = plan(logits_processor, do_sample=sampled)
    how = choose(
        members,
        stopping_criteria,
        use_cache=use_cache,
        processors=bool(work.processors),
        records=keep_scores or keep_logits,
        streamer=streamer is not None,
        weights=mixture.needs_python,
        highest=tier,
        detailed=only_plan,
    )
    no_drafts = why_not(members, mixture, work, how, keep_scores or keep_logits) if drafts else ""
    context = Context(members, read, looked=looked)
    if only_plan:
        return planned(members, mixture, how, drafts, no_drafts)
    warn(how, members)
    seeds = row_seeds(seed if sampled or seed is not None else 0, rows)  # greedy consumes nothing
    weights = mixture.per_row(rows, copies)
    fill = _padding(generation_config, members[0].vocab_size) if has_eos else None
    emit = streamer.put if streamer is not None else None
    budget = budget_of(stopping_criteria, input_ids.shape[1])
    if no_drafts:
        warnings.warn(f"speculate: decoding without drafts, since {no_drafts}", stacklevel=2)
    elif drafts:
        new, marks, statistics = decode_speculated(
            members,
            read,
            weights,
            work.options,
            seeds,
            stopping_criteria,
            ids=input_ids,
            drafts=drafts,
            how=how,
            pad=fill or 0,
            emit=emit,
            engines=engines,
            context=context,
        )
        if streamer is not None:
            streamer.end()
        ids = torch.cat([input_ids, new.to(input_ids.device)], dim=1)
        return SpeculatedOutput(sequences=ids, marks=marks, speculation=statistics) if details else ids
    if not how.loop:
        lag = ahead(input_ids.device, how)
        news = stream_rows(
            members,
            read,
            weights,
            work.options,
            seeds,
            stopping_criteria,
            budget=budget,
            ahead=lag,
            slots=slots,
            loop=how.tier == 3,
            engines=engines,
            context=context,
        )
        if slots is not None:
            return news
        new = collect(news, rows, fill or 0, emit)
        if streamer is not None:
            streamer.end()
        ids = torch.cat([input_ids, new.to(input_ids.device)], dim=1)
        return GenerateDecoderOnlyOutput(sequences=ids) if details else ids
    read = [checked(member, *prompt) for member, prompt in zip(members, read, strict=True)]
    models: Sequence[CachedModel] = (
        feeders(members, read, budget)
        if how.tier
        else [DynamicCacheModel(member, use_cache=use_cache) for member in members]
    )
    loop = Loop(
        models=models,
        mixture=weights,
        plan=work,
        criteria=stopping_criteria,
        seeds=seeds,
        pad_token_id=fill,
        context=context,
        emit=emit,
        keep_scores=keep_scores,
        keep_logits=keep_logits,
        once=sharded(members),
    )
    ids = loop.run(input_ids, read)
    if streamer is not None:
        streamer.end()
    return loop.output(ids) if details else ids


def _filled(cache: Any) -> bool:
    try:
        return cache is not None and cache.get_seq_length() > 0
    except ValueError:  # a new cache of a model without attention layers
        return False


def _check_positions(positions: Tensor | None, mask: Tensor | None) -> None:
    """Raise ValueError for positions other than those that follow from the mask, as transformers derives them."""
    if positions is None:
        return
    if mask is None:
        usual = bool((positions == torch.arange(positions.shape[-1], device=positions.device)).all())
    else:
        usual = bool(((positions == mask.cumsum(-1) - 1) | (mask == 0)).all())
    if not usual:
        raise ValueError("position_ids: not supported by emulated fine-tuning (each model's follow from its mask)")


def _padding(config: GenerationConfig, width: int) -> int | None:
    """The token that fills a row that has ended: pad_token_id, else the first EOS, as in transformers.

    None where only ids that no model has end a text, such as −1: no row ends by them, and nothing is padded.

    Raises:
        ValueError: pad_token_id is outside the first model's `width` logits, where scores have their columns.
    """
    pad, end = config.pad_token_id, next((end for end in as_list(config.eos_token_id) if 0 <= end < width), None)
    if pad is None or (end is None and not 0 <= int(pad) < width):
        return end
    if not 0 <= int(pad) < width:
        raise ValueError(f"pad_token_id: expected 0 to {width - 1}, the first model's vocabulary, got {pad}")
    return int(pad)
