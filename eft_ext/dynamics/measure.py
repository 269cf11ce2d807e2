"""Statistics of many responses under one model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eft_ext.dynamics.forward import device_of, evaluating, kept_logits
from eft_ext.dynamics.responses import Responses
from eft_ext.dynamics.statistics import TokenStatistics, score_tokens


@torch.no_grad()
def measure(model: nn.Module, responses: Responses, batch_size: int = 16) -> tuple[TokenStatistics, int]:
    """Teacher-forced statistics of every response token, on the CPU, and the number of the model's logits.

    Rows are batched with others of their length and come back in their own order.
    """
    order = responses.attention.sum(1).argsort(stable=True)
    device = device_of(model)
    parts: list[TokenStatistics] = []
    vocab = 0
    with evaluating(model):
        for batch in _take(responses, order).batches(batch_size):
            part = batch.to(device)
            logits, column = kept_logits(model, part)
            vocab = logits.shape[-1]
            parts.append(TokenStatistics(*(x.cpu() for x in score_tokens(logits, part.row, column, part.targets))))
    sorted_row = order[_take(responses, order).row]  # the true row of each measured token
    back = sorted_row.argsort(stable=True)
    return TokenStatistics(*(torch.cat(column)[back] for column in zip(*parts, strict=True))), vocab


def _take(responses: Responses, rows: Tensor) -> Responses:
    return Responses(responses.ids[rows], responses.attention[rows], responses.response[rows])


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
