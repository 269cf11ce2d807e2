"""The callable that transformers' generate hands its prepared inputs to (`custom_generate=`).

A call is resolved into what runs, planned, run, and finished: four functions below, in this order.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer

from eft_ext.decoding.requests import TokenOutput
from eft_ext.hf.generation.criteria import Criteria
from eft_ext.hf.generation.processed_sampler import ProcessedSampler
from eft_ext.hf.generation.processors import plan_processing
from eft_ext.hf.generation.run import Call, Run
from eft_ext.hf.generation.speculation import IF_POSSIBLE, SpeculatedOutput, draft_count, plan_drafts, why_not
from eft_ext.hf.generation.texts import Texts
from eft_ext.hf.inputs.context import Context
from eft_ext.hf.inputs.prepared import check_prepared, pad_token, prompts_of_models
from eft_ext.hf.inputs.prompts import Prompt
from eft_ext.hf.inputs.rejected import reject_config
from eft_ext.hf.inputs.seeds import Seed, row_seeds
from eft_ext.hf.members import Member
from eft_ext.hf.runners.decode_plan import DecodePlan, plan_decoding, warn
from eft_ext.hf.runners.distributed import agreed, sharded
from eft_ext.hf.runners.engine_pool import EnginePool
from eft_ext.methods import MixingMethod


def decode(
    members: tuple[Member, ...],
    method: MixingMethod,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    prompts: Mapping[str, Prompt] | None = None,
    seed: Seed | None = None,
    streamer: BaseStreamer | None = None,
    tier: str | int | None = None,
    speculate: int | str | None = None,
    only_plan: bool = False,
    slots: int | None = None,
    engines: EnginePool | None = None,
    looked: bool = False,
    **model_kwargs: Any,
) -> GenerateDecoderOnlyOutput | Tensor | DecodePlan | Iterator[list[TokenOutput]]:
    """Decode from what `generate` prepared for the first model.

    Args:
        members: the models of the method, in its order.
        method: parameters not yet spread over the rows.
        input_ids: the first model's prompts [rows, length], each already repeated num_return_sequences times.
        logits_processor, stopping_criteria, generation_config: as transformers resolved them.
        prompts: other prompts for the models after the first (ids and mask, one row per prompt).
        seed: see `row_seeds`.
        streamer: receives every step's tokens and the end; who calls this ends it where this raises.
        tier: no faster one is chosen (see `eft_ext.hf.runners.decode_plan`).
        speculate: tokens that the small model drafts in a round, or "auto"; None or 0 for none. `IF_POSSIBLE` is
            "auto" without a warning where there can be none.
        only_plan: return how it would be decoded instead.
        slots: decode in a batch of so many rows and return what each step brings, as it comes.
        engines: idle engines of earlier calls.
        looked: at whether the prompts suit the models' contexts.
        model_kwargs: attention_mask [rows, length] or None for all ones; caches are made here.

    Raises:
        ValueError: a setting or model input that is not supported, named.
    """
    reject_config(generation_config)
    check_prepared(model_kwargs)
    call = _resolve(
        members, method, input_ids, logits_processor, stopping_criteria, generation_config, prompts or {}, model_kwargs
    )
    call.drafts, call.streamer = draft_count(speculate, len(members)), streamer
    plan, no_drafts = _plan(call, tier, detailed=only_plan)
    context = Context(members, call.prompts, looked=looked)
    if only_plan:
        return plan
    warn(plan, members)
    sampled = bool(generation_config.do_sample)
    call.seeds = row_seeds(seed if sampled or seed is not None else 0, len(input_ids))  # greedy consumes nothing
    if call.criteria.has_eos:
        call.pad = pad_token(generation_config, members[0].vocab_size)
    if no_drafts:
        if speculate != IF_POSSIBLE:
            warnings.warn(f"speculate: decoding without drafts, since {no_drafts}", stacklevel=2)
        call.drafts = 0
    watched = call.in_python or (slots is None and bool(call.criteria.others))
    texts = Texts(input_ids, call.pad or 0, watched=watched)
    run = Run(call, plan, texts, slots=slots, engines=engines)
    steps = _observed(run.steps(), texts, context)
    if slots is not None:
        return _stopped(call, run, steps, texts) if call.criteria.others else steps
    _run(call, run, steps, texts)
    return _finish(call, run, texts)


def _resolve(
    members: tuple[Member, ...],
    method: MixingMethod,
    ids: Tensor,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    config: GenerationConfig,
    prompts: Mapping[str, Prompt],
    given: Mapping[str, Any],
) -> Call:
    """The call as transformers has prepared it; `given` are its model inputs."""
    details = bool(config.return_dict_in_generate)
    return Call(
        members=members,
        method=method,
        ids=ids,
        prompts=prompts_of_models(members, method, ids, given.get("attention_mask"), prompts, config),
        copies=config.num_return_sequences or 1,
        processing=plan_processing(processors, do_sample=bool(config.do_sample)),
        criteria=Criteria(criteria, ids.shape[1], agreed if sharded(members) else None),
        use_cache=given.get("use_cache", True) is not False,
        details=details,
        keep_scores=details and bool(config.output_scores),
        keep_logits=details and bool(config.output_logits),
    )


def _plan(call: Call, tier: str | int | None, *, detailed: bool) -> tuple[DecodePlan, str]:
    """The plan, and why there are no drafts though they were asked for."""
    plan = plan_decoding(
        call.members,
        call.criteria.others,
        use_cache=call.use_cache,
        processors=bool(call.processing.processors),
        records=call.records,
        streamer=call.streamer is not None,
        tier=tier,
        detailed=detailed,
    )
    if not call.drafts:
        return plan, ""
    why = why_not(call.members, call.processing, plan, call.records)
    return (plan_drafts(call.members, call.method, plan, call.drafts, why) if detailed else plan), why


def _observed(steps: Iterator[list[TokenOutput]], texts: Texts, context: Context) -> Iterator[list[TokenOutput]]:
    """The steps, which texts and context see first."""
    for outputs in steps:
        texts.add(outputs)
        for row, *_ in outputs:
            context.reached(row, len(texts.tokens[row]))
        yield outputs


def _stopped(call: Call, run: Run, steps: Iterator[list[TokenOutput]], texts: Texts) -> Iterator[list[TokenOutput]]:
    """The steps, after each of which criteria are asked about every row as if it were alone."""
    ids, mask = call.prompts[0]
    for outputs in steps:
        shown = {}
        for row, _, last, _ in outputs:
            if not last:
                prompt = ids[row] if mask is None else ids[row][mask[row].bool()]
                shown[row] = torch.cat([prompt, prompt.new_tensor(texts.tokens[row])])
        ended = call.criteria.ended_rows(shown)
        run.end(ended)
        yield [output._replace(last=output.last or output.request in ended) for output in outputs]


def _run(call: Call, run: Run, steps: Iterator[list[TokenOutput]], texts: Texts) -> None:
    """Runs until every row has ended, showing each column to the streamer and to criteria.

    A row that ends leaves the batch, unless nothing could stand in for its tokens (no end-of-text token): then, as in
    transformers, it goes on until all have ended.
    """
    over = [False] * len(call.ids)
    for _ in steps:
        for column in texts.next_columns():
            _emit(call, column)
            if not call.criteria.others:
                continue
            scores = getattr(run.sampler, "scores", None) if call.keep_scores else None
            found = call.criteria.ended(texts.ids(texts.columns), None if scores is None else tuple(scores))
            over = [before or now for before, now in zip(over, found, strict=True)]
            further = texts.further()
            if call.pad is None and not all(over[row] for row in further):
                continue
            ended = [row for row in further if over[row]]
            for row in ended:
                texts.end(row, texts.columns)
            run.end(ended)
    for column in texts.next_columns(all_of_them=True):
        _emit(call, column)


def _emit(call: Call, column: Sequence[int]) -> None:
    if call.streamer is not None:
        call.streamer.put(torch.tensor(column, device="cpu"))


def _finish(call: Call, run: Run, texts: Texts) -> GenerateDecoderOnlyOutput | Tensor:
    """Returns the result of `generate`, when all rows have ended."""
    if call.streamer is not None:
        call.streamer.end()
    new, sources = texts.whole()
    ids = torch.cat([call.ids, new.to(call.ids.device)], dim=1)
    if not call.details:
        return ids
    if run.statistics is not None:
        run.statistics.emitted = sum(map(len, texts.tokens))
        return SpeculatedOutput(sequences=ids, token_sources=sources, speculation=run.statistics)
    scores: tuple[Tensor, ...] = ()
    logits: tuple[Tensor, ...] = ()
    if isinstance(run.sampler, ProcessedSampler):
        scores, logits = tuple(run.sampler.scores), tuple(run.sampler.logits)
    return GenerateDecoderOnlyOutput(
        sequences=ids,
        scores=scores if call.keep_scores else None,
        logits=logits if call.keep_logits else None,
    )


@contextmanager
def ended_by_errors(streamer: BaseStreamer | None) -> Iterator[None]:
    """Ends `streamer` where what is done inside raises, be it a rejected argument or a failing step."""
    try:
        yield
    except BaseException:
        if streamer is not None:
            with suppress(Exception):
                streamer.end()
        raise
