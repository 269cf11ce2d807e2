"""Every way to new tokens: the driver in all tiers, speculation, stock transformers, batches. One signature for all."""

from eft_ext import EFTLogitsProcessor, EmulatedModel, custom_generate

NEW = 8


def _driver(models, ids, mask, prompts, **call):
    out = EmulatedModel(*models).generate(ids, attention_mask=mask, prompts=prompts, **call)
    return out[:, ids.shape[1] :].tolist()


def _in_stock_generate(models, ids, mask, prompts, **call):
    loop = custom_generate(*models[1:])
    out = models[0].generate(ids, attention_mask=mask, custom_generate=loop, prompts=prompts, **call)
    return out[:, ids.shape[1] :].tolist()


def _processed(models, ids, mask, prompts, **call):
    processor = EFTLogitsProcessor(*models[1:], attention_mask=mask, prompts=prompts)
    out = models[0].generate(ids, attention_mask=mask, logits_processor=[processor], **call)
    return out[:, ids.shape[1] :].tolist()


def _batch(models, ids, mask, prompts, **call):
    return EmulatedModel(*models).generate_batch(ids, attention_mask=mask, prompts=prompts, batch_size=2, **call)


WAYS = {
    **{tier: lambda *a, _tier=tier, **call: _driver(*a, tier=_tier, **call) for tier in ("eager", "static", "async")},
    "speculate": lambda *a, **call: _driver(*a, speculate=3, **call),
    "speculate, static": lambda *a, **call: _driver(*a, speculate=3, tier="static", **call),
    "custom_generate": _in_stock_generate,
    "EFTLogitsProcessor": _processed,
    "generate_batch": _batch,
}


def greedy(way, models, ids, mask=None, prompts=None, **call):
    """New tokens of each row, NEW unless a call says else; no token ends one."""
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": [999], "pad_token_id": 0}
    return WAYS[way](models, ids, mask, prompts, **{**options, **call})
