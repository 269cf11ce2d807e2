"""The V2 model runner's state: each request's parameters go into the model with its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from eft_ext.serving.vllm import names
from eft_ext.serving.vllm.parameters import defaults, row_of
from eft_ext.serving.vllm.sampler import FusedSampler


class EmulatedModelState(names.DefaultModelState):
    """Parameters by request and by token, and the sampler."""

    def __init__(self, vllm_config: Any, model: Any, encoder_cache: Any, device: torch.device) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        own = np.asarray(defaults(model.method), dtype=np.float32)
        self.own = own
        self.by_request = np.tile(own, (self.max_num_reqs, 1))  # [slots, P]
        # One address for all steps, which CUDA graphs keep. [max_tokens, P]
        self.by_token = torch.from_numpy(np.tile(own, (self.max_num_tokens, 1))).to(device)
        self.sampler: FusedSampler | None = None

    def custom_sampler(self, sampler: Any) -> tuple[Any, Any] | None:
        """The sampler that draws with the fused step, and none for drafts; vLLM's own where ours cannot serve."""
        if FusedSampler.fits(self.vllm_config, sampler):
            self.sampler = FusedSampler.over(sampler, self.model)
            return self.sampler, None
        return None

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        super().add_request(req_index, new_req_data)
        row = row_of(self.model.method, new_req_data.sampling_params)
        self.by_request[req_index] = self.own if row is None else row

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        inputs = super().prepare_inputs(input_batch, req_states)
        self.model.leave_mixing = self.sampler is not None and self.sampler.takes(input_batch)
        rows = np.repeat(self.by_request[input_batch.idx_mapping_np], input_batch.num_scheduled_tokens, axis=0)
        names.async_tensor_h2d(rows, out=self.by_token[: len(rows)])
        return {**inputs, "parameters": self.by_token[: input_batch.num_tokens_after_padding]}

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        self.model.leave_mixing = False
        return {**super().prepare_dummy_inputs(num_reqs, num_tokens), "parameters": self.by_token[:num_tokens]}
