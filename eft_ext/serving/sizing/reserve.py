"""The memory that vLLM needs beside weights and cache: an estimate, made to be too high rather than too low."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from eft_ext.serving.sizing.gpus import GIB, Gpus

# Bytes of CUDA graphs for a layer and a captured batch size: 32 MiB for a layer at vLLM's usual 51 sizes. Logs of
# models of 8 B parameters and 36 layers have half of that, 0.55 GiB; vLLM sets aside an estimate of its own, which is
# higher than what graphs then take.
GRAPH = 640 << 10
# Beside each model's logits: the mixture in fp32, and the copy that a sampler works on.
SAMPLING = 4 + 4


@dataclass(frozen=True)
class Batch:
    """The largest step: its tokens, and the requests whose logits it computes."""

    tokens: int
    requests: int


SMALL = Batch(2048, 64)  # for GPUs that the models nearly fill


def batch_of(gpus: Gpus, length: int, tokens: int | None, requests: int | None) -> Batch:
    """The server's `max_num_batched_tokens` and `max_num_seqs`, where not given the defaults of vLLM 0.32.

    Those depend on the memory of a GPU. An A100 of 80 GB gets the middle ones here, and less in vLLM.
    """
    defaults = (16384, 1024) if gpus.bytes >= 160 * GIB else (8192, 1024) if gpus.bytes >= 70 * GIB else (2048, 256)
    rows = requests or defaults[1]
    return Batch(tokens or min(defaults[0], rows * length), rows)


def reserve(configs: Sequence[Any], mixed: int, batch: Batch, size: int, ranks: int, drafts: int) -> int:
    """Bytes on one GPU.

    Args:
        configs: of all models, those that are mixed first.
        mixed: how many are.
        size: bytes of an activation.
        ranks: GPUs of a replica.
        drafts: tokens drafted in a step.
    """
    # Models run one after another. Of a layer there are the residual stream, its input and its output, and in the
    # feed-forward part the gate, the other half and their product. The models' hidden states lie side by side.
    largest = max(3 * own.hidden_size + 3 * ceil(_inner(own) / ranks) for own in configs)
    activations = batch.tokens * size * (largest + sum(own.hidden_size for own in configs[:mixed]))
    rows = min(batch.requests * (1 + drafts), batch.tokens)
    logits = rows * max(own.vocab_size for own in configs) * (mixed * size + SAMPLING)
    graphs = GRAPH * _captured(batch.requests * (1 + drafts)) * sum(own.num_hidden_layers for own in configs)
    return int(activations + logits + graphs)


def _captured(tokens: int) -> int:
    """The number of batch sizes that vLLM captures: 1, 2, 4, every eighth, from 256 every sixteenth, at most 512."""
    most = min(2 * tokens, 512)
    return sum(each <= most for each in (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)))


def feed_forward(config: Any) -> int:
    """The inner width of a dense feed-forward layer; where a configuration has no name for it, four times the outer."""
    found = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None)
    return int(found or 4 * config.hidden_size)


def _inner(config: Any) -> int:
    """Values of a token in a feed-forward layer, over all experts that it takes; the larger kind of two."""
    experts = getattr(config, "num_experts_per_tok", None) or 1
    one = getattr(config, "moe_intermediate_size", None)
    return int(max(feed_forward(config), experts * one) if one else experts * feed_forward(config))
