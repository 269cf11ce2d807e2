"""The trial of a model of a family that the tests do not know."""

from __future__ import annotations

from typing import Any

import torch

from eft_ext.decoding.model_facts import input_table, layer_windows
from eft_ext.decoding.padding import read_prompts
from eft_ext.decoding.static_cache.forward import Forward
from eft_ext.decoding.static_cache.native_view import native_view
from eft_ext.decoding.static_cache.storage import Storage


@torch.inference_mode()
def static_is_right(model: Any) -> bool:
    """True if rows of different lengths get the logits that they get alone."""
    device = input_table(model).weight.device
    rows = [[1, 2, 3, 4], [2, 1]]
    ids, mask = torch.tensor([rows[0], [0, 0, *rows[1]]], device=device), torch.ones(2, 4, device=device).long()
    mask[1, :2] = 0
    windows = layer_windows(model.config.get_text_config(decoder=True))
    view = native_view(model)
    storage, forward = Storage(windows), Forward(view, windows)
    storage.start(*read_prompts(view, ids, mask)[1:], capacity=6)
    new = torch.tensor([[3, 1], [4, 2]], device=device)
    found = []
    for tokens in new.split(1, dim=1):
        found.append(forward(tokens, storage.lengths, *storage.inputs(6)))
        storage.lengths.add_(1)
    got = torch.cat(found, dim=1)
    for row, said in enumerate(rows):
        alone = model(input_ids=torch.tensor([said + new[row].tolist()], device=device)).logits[0, -2:].float()
        scale = alone.abs().amax().clamp(min=1)
        if not bool(((got[row].float().to(alone.device) - alone).abs() <= 0.05 * scale).all()):
            return False
    return True
