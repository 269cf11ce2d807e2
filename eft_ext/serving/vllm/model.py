"""EmulatedForCausalLM as vLLM runs models: the inner ones one after another, and one mixture of their logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from eft_ext.ops import combine
from eft_ext.serving.vllm import inner, mixing, names
from eft_ext.serving.vllm.parameters import defaults
from eft_ext.serving.vllm.processor import take_rows


class EmulatedForCausalLM(nn.Module):
    """Several models of vLLM as one.

    The inner models are children by their names in the method. Their hidden states go side by side through the
    engine; under the V2 runner each token's parameters go beside them.
    """

    leave_mixing = False  # set by state.py before each step

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        self.method = config.mixing_method
        self.vocab_size = config.vocab_size
        self._sizes: list[int] = []
        for name in self.method.models:
            own = getattr(config, name)
            setattr(self, name, inner.build(vllm_config, name, own, names.maybe_prefix(prefix, name)))
            self._sizes.append(own.hidden_size)
        self.dtype = vllm_config.model_config.dtype
        # Columns that a token's parameters take beside its hidden states; none under the V1 runner.
        count = len(self.method.parameters) if vllm_config.use_v2_model_runner else 0
        self._num_columns = mixing.num_columns(count, self.dtype)
        self._left: tuple[list[Tensor], Any] | None = None

    @staticmethod
    def get_model_state_cls() -> Any:
        """The state that the V2 runner keeps for this model."""
        from eft_ext.serving.vllm.state import EmulatedModelState

        return EmulatedModelState

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """The first model's embeddings, [T, H]; vLLM wants this of each model of text."""
        found: Tensor = getattr(self, self.method.models[0]).embed_input_ids(input_ids)
        return found

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Any = None,
        parameters: Tensor | None = None,
    ) -> Tensor:
        """All models' hidden states side by side, [T, sum of H (+ columns of parameters)].

        Args:
            input_ids, positions: [T].
            parameters: fp32 [T, P], each token's, under the V2 runner.
        """
        count = len(input_ids)
        found = torch.empty(count, sum(self._sizes) + self._num_columns, dtype=self.dtype, device=input_ids.device)
        *parts, columns = found.split([*self._sizes, self._num_columns], dim=-1)
        for name, part in zip(self.method.models, parts, strict=True):
            # Copied before the next model runs: the output of a piecewise CUDA graph is only weakly held.
            part.copy_(getattr(self, name)(input_ids, positions))
        if self._num_columns:
            if parameters is None:
                own = defaults(self.method)
                parameters = torch.tensor(own, dtype=torch.float32, device=found.device).expand(count, -1).contiguous()
            columns.copy_(mixing.as_columns(parameters, self.dtype))
        return found

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """The mixture's logits, fp32 [B, V]; None on a rank that has none.

        Where `leave_mixing` is set the first model's come back, and all wait for the sampler in `take_left`.
        """
        leave, self.leave_mixing, self._left = self.leave_mixing, False, None
        *parts, columns = hidden_states.split([*self._sizes, self._num_columns], dim=-1)
        found = [
            getattr(self, name).compute_logits(part.contiguous())
            for name, part in zip(self.method.models, parts, strict=True)
        ]
        if found[0] is None:
            return None
        logits = [each[..., : self.vocab_size] for each in found]
        method = self._method(columns, len(logits[0]))
        if leave:
            self._left = (logits, method)
            return logits[0]
        return combine(logits, method)

    def _method(self, columns: Tensor, rows: int) -> Any:
        """The method with each row's parameters; its own where no request has others."""
        if self._num_columns:
            return mixing.of_rows(self.method, mixing.from_columns(columns))
        taken = take_rows(self.config, rows)
        if taken is None:
            return self.method
        return mixing.of_rows(self.method, torch.tensor(taken, dtype=torch.float32, device=columns.device))

    def take_left(self) -> tuple[list[Tensor], Any] | None:
        """The models' logits and the method of the step, where `compute_logits` has left the mixing; else None."""
        left, self._left = self._left, None
        return left

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Loads tensors of any of the models, by names such as "tuned.model.embed_tokens.weight".

        Raises:
            ValueError: a name that begins with no model's.
        """
        models = self.method.models

        def checked() -> Iterable[tuple[str, Tensor]]:
            for name, tensor in weights:
                if name.split(".", 1)[0] not in models:
                    raise ValueError(f"weights: expected names that begin with one of {', '.join(models)}, got {name}")
                self._load_tied_head(name, tensor)
                yield name, tensor

        loaded: set[str] = names.AutoWeightsLoader(self).load_weights(checked())
        return loaded

    def _load_tied_head(self, name: str, tensor: Tensor) -> None:
        """Loads an embedding into the head that shares it, where the two are apart.

        vLLM parts them while it replaces weights; on a CPU the head has a packed copy, which would stay as it was.
        """
        model, _, own = name.partition(".")
        inner = getattr(self, model)
        embedding, head = getattr(getattr(inner, "model", None), "embed_tokens", None), getattr(inner, "lm_head", None)
        if own != "model.embed_tokens.weight" or embedding is None or head is None:
            return
        if getattr(inner.config, "tie_word_embeddings", False) and head.weight is not embedding.weight:
            head.weight.weight_loader(head.weight, tensor)
