"""The V2 model runner's sampler with the fused step: one read of the models' logits to a token."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from eft_ext.ops import fused_mix
from eft_ext.serving.vllm import names


class FusedSampler(names.Sampler):
    """Samples requests that ask for no more than temperature, top-k, top-p, min-p, a grammar and a seed.

    Others are vLLM's own sampler's. It goes by the request alone, so that a seed gives the same tokens whichever
    requests are beside it.
    """

    sampling_states: Any

    @staticmethod
    def fits(vllm_config: Any, sampler: Any) -> bool:
        """True where vLLM's own sampler can be replaced."""
        plain = type(sampler) is names.Sampler and not sampler.return_sampling_mask and not sampler.use_fp64_gumbel
        return (
            plain and vllm_config.speculative_config is None and sampler.logprobs_mode in ("raw_logprobs", "raw_logits")
        )

    @classmethod
    def over(cls, sampler: Any, model: Any) -> FusedSampler:
        """This sampler with the state of vLLM's."""
        found = cls.__new__(cls)
        found.__dict__.update(sampler.__dict__)
        found.model = model
        found.covered = np.zeros(len(sampler.needs_logits_processing), dtype=bool)  # by slot
        return found

    def add_request(self, req_idx: int, sampling_params: Any) -> None:
        """Notes whether the fused step covers the request: nothing beside the draw itself touches its logits."""
        states = self.sampling_states
        quiet = _Quiet(states)
        self.sampling_states = quiet
        try:
            super().add_request(req_idx, sampling_params)
        finally:
            self.sampling_states = states
        others = bool(self.needs_logits_processing[req_idx])
        self.needs_logits_processing[req_idx] = others or quiet.needed
        # vLLM applies min-p before top-p, the step after it: the nucleus is another one.
        both = sampling_params.min_p > 0 and sampling_params.top_p < 1
        self.covered[req_idx] = not others and not both

    def takes(self, input_batch: Any) -> bool:
        """True where nobody needs the mixture's logits themselves: the model may leave the mixing to the sampler."""
        slots = input_batch.idx_mapping_np
        alone = self.covered[slots].all() and self.get_logprobs_dims(slots) is None
        return bool(alone) and not input_batch.has_structured_output_reqs and not self.compute_nans

    def sample(
        self,
        logits: Tensor,
        expanded_idx_mapping: Tensor,
        idx_mapping: Tensor,
        idx_mapping_np: np.ndarray,
        pos: Tensor,
        *others: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """Token ids [B], and the logits that they were drawn from.

        Args:
            logits: the mixture's [B, V]; the first model's where `takes` was true.
            expanded_idx_mapping: each row's slot, [B].
            pos: each row's place in its text, [B].
        """
        left = self.model.take_left()
        covered = self.covered[idx_mapping_np]
        if left is None and not covered.any():
            return super().sample(logits, expanded_idx_mapping, idx_mapping, idx_mapping_np, pos, *others, **options)
        tensors, weights = left or ([logits], [1.0])
        states, slots = self.sampling_states, expanded_idx_mapping
        tokens = fused_mix(
            tensors,
            weights,
            temperature=states.temperature.gpu[slots],
            top_k=states.top_k.gpu[slots],
            top_p=states.top_p.gpu[slots],
            min_p=states.min_p.gpu[slots],
            seed=states.seeds.gpu[slots],
            position=(pos + 1 - self.req_states.prompt_len.gpu[slots]).long(),
        ).clamp_(min=0)  # an invalid row's -1 is no id to embed
        if covered.all():
            return tokens, logits
        drawn, processed = super().sample(
            logits, expanded_idx_mapping, idx_mapping, idx_mapping_np, pos, *others, **options
        )
        return torch.where(names.async_tensor_h2d(covered, drawn.device), tokens, drawn), processed


class _Quiet:
    """The states of the draw itself, whose needs are left out of what vLLM's sampler notes of a request's."""

    def __init__(self, states: Any) -> None:
        self.states = states
        self.needed = False

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """False, whatever the draw does to the logits."""
        self.needed = self.states.add_request(req_idx, sampling_params)
        return False
