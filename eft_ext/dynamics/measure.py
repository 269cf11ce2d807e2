"""Statistics of many responses under one model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from eft_ext.dynamics.evaluation import device_of, evaluating
from eft_ext.dynamics.forward import token_logits
from eft_ext.dynamics.responses import Responses, check_batch_size
from eft_ext.dynamics.statistics import TokenStatistics, score_tokens


@torch.no_grad()
def measure(model: nn.Module, responses: Responses, batch_size: int = 16) -> tuple[TokenStatistics, int]:
    """Teacher-forced statistics of every response token, on the CPU, and the number of the model's logits.

    Rows are batched with others of their length, at most `batch_size` of them and fewer where their logits are large;
    they come back in their own order.

    Raises:
        ValueError: `batch_size` below 1.
    """
    check_batch_size(batch_size)
    order = responses.attention.sum(1).argsort(stable=True)
    parts: list[TokenStatistics] = []
    with evaluating(model) as inner, tqdm(total=len(order), desc="probes", leave=False, disable=None) as bar:
        device = device_of(inner)

        def read(rows: Tensor) -> int:
            part = responses.take(rows).to(device)
            logits = token_logits(inner, part)
            parts.append(TokenStatistics(*(x.cpu() for x in score_tokens(logits, part.targets))))
            bar.update(len(rows))
            return logits.shape[-1]

        vocab = read(order[:1])  # the shortest row alone tells how wide logits are
        # Bytes of one pass's logits: they are not to take what training needs.
        most = (128 << 20 if device.type == "cpu" else 1 << 30) // (4 * vocab)
        for rows in _groups(responses.lengths[order[1:]].tolist(), batch_size, most):
            read(order[1:][rows])
    measured = order[responses.take(order).row]  # the true row of each measured token
    back = measured.argsort(stable=True)
    return TokenStatistics(*(torch.cat(column)[back] for column in zip(*parts, strict=True))), vocab


def _groups(lengths: list[int], rows: int, tokens: int) -> Iterator[slice]:
    """At most `rows` rows and `tokens` of their tokens together, but at least one row."""
    first = 0
    for last in range(1, len(lengths) + 1):
        if last == len(lengths) or last == first + rows or sum(lengths[first : last + 1]) > tokens:
            yield slice(first, last)
            first = last


def as_columns(statistics: TokenStatistics, responses: Responses, vocab: int, per_token: bool) -> dict[str, Any]:
    """Columns of a recording, one value for each response, and lists over its tokens if `per_token`.

    ‖A‖_F and ‖G‖ of a whole response are those of the block-diagonal A and the stacked G: roots of sums of squares.
    """
    s = statistics
    a_norm, g_norm = s.a_norm(vocab), s.g_norm
    columns: dict[str, Any] = {
        "tokens": responses.lengths.int(),
        "log_prob": responses.sums(s.log_prob.double()).float(),
        "log_prob_mean": responses.means(s.log_prob),
        "argmax_log_prob": responses.sums(s.argmax_log_prob.double()).float(),
        "argmax_log_prob_mean": responses.means(s.argmax_log_prob),
        "log_rest_mean": responses.means(s.log_rest),
        "entropy_mean": responses.means(s.entropy),
        "pi_squared_mean": responses.means(s.pi_squared),
        "a_norm": responses.sums(a_norm.double().square()).sqrt().float(),
        "g_norm": responses.sums(g_norm.double().square()).sqrt().float(),
    }
    if per_token:
        each = {**s._asdict(), "argmax": s.argmax.int(), "a_norm": a_norm, "g_norm": g_norm}
        columns |= {f"token_{name}": [x.numpy() for x in responses.split(value)] for name, value in each.items()}
    return columns
