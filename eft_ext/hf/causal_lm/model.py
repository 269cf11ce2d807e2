"""EmulatedForCausalLM: one to four models that every tool of transformers takes for one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

import torch
import transformers.processing_utils  # noqa: F401
from torch import Tensor
from transformers import AutoModelForCausalLM, Cache, GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from eft_ext.config import EmulatedConfig
from eft_ext.decoding.placement import together
from eft_ext.hf.causal_lm.cache import EmulatedCache
from eft_ext.hf.causal_lm.composite import Composite
from eft_ext.hf.causal_lm.mixed_logits import mixed_logits
from eft_ext.hf.causal_lm.passes import check_recomputing, last_token_only, new_caches, run_member, why_no_cache
from eft_ext.hf.generation.call import call
from eft_ext.methods import MixingMethod

_OF_LOOPS = ("cache_position", "tokenizer")  # what loops hand on to forward, which has no use for it


class EmulatedForCausalLM(Composite, GenerationMixin):
    """Several models as one model of transformers, over the weights of an `EmulatedModel`.

    `EmulatedModel.over(model)` adds texts, plans and scores.

    Attributes:
        models: the models by name, and their mixing method.
    """

    _mixing: ClassVar[ContextVar[dict[int, MixingMethod]]] = ContextVar("mixing", default={})  # noqa: B039

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: EmulatedCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        outputs_of: str | None = None,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        method: MixingMethod | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """The mixture's logits, differentiable in the models' weights.

        Args:
            input_ids, attention_mask, position_ids, labels, use_cache, logits_to_keep: as for any causal model.
            past_key_values: an `EmulatedCache`; made where it is missing and `use_cache` is on.
            output_attentions, output_hidden_states: of the model `outputs_of`, the method's first unless given.
            beta, scale, conservative_top_p, method: as for `EmulatedModel.generate`, for each row; no function of the
                step.
            others: arguments of the loss (`num_items_in_batch`).

        Returns:
            logits fp32 [rows, positions, config.vocab_size]; loss, caches, attentions and hidden states if requested.

        Raises:
            ValueError: inputs that the models do not share, or parameters that do not fit the rows.
        """
        items = others.pop("num_items_in_batch", None)
        for name, value in others.items():
            if value is not None and value is not False and name not in _OF_LOOPS:
                raise ValueError(f"{name}: expected nothing, since the models share only token ids")
        if input_ids is None:
            raise ValueError("input_ids: expected token ids [rows, length], got None")
        loops = None  # the method of a generation, whose loop may make several rows of a prompt
        if all(weight is None for weight in (beta, scale, conservative_top_p, method)):
            method = loops = self._mixing.get().get(id(self))
        members, chosen = self.models.members, self.models.chosen(beta, scale, conservative_top_p, method)
        check_recomputing(members)
        use_cache = past_key_values is not None if use_cache is None else use_cache
        caches = self._caches(past_key_values) if use_cache else None
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        asked = {name: True for name, wanted in asked.items() if wanted}
        shown = members[0].name if outputs_of is None else outputs_of
        if shown not in chosen.models:
            raise ValueError(f"outputs_of: expected one of {', '.join(chosen.models)}, got {outputs_of!r}")
        found: dict[str, Any] = {}
        for member in members:
            read: tuple[Tensor, Any, Any] = (input_ids, attention_mask, position_ids)
            if member.name in chosen.last_token_only:
                read = last_token_only(member.name, input_ids, caches, logits_to_keep)
            found[member.name] = run_member(member, read, caches, logits_to_keep, asked if member.name == shown else {})
        each = [out.logits for out in found.values()]
        each = together(each, each[0].device)
        logits = mixed_logits(chosen, each, self.models.vocab_size, several=loops is not None)
        loss = None
        if labels is not None:
            counted = {} if items is None else {"num_items_in_batch": items}
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **counted)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=caches,
            hidden_states=getattr(found[shown], "hidden_states", None) if output_hidden_states else None,
            attentions=getattr(found[shown], "attentions", None) if output_attentions else None,
        )

    @contextmanager
    def mixing(self, method: MixingMethod) -> Iterator[None]:
        """Mixes by another method inside the `with` block, in this thread."""
        token = self._mixing.set({**self._mixing.get(), id(self): method})
        try:
            yield
        finally:
            self._mixing.reset(token)

    def _caches(self, given: Any) -> EmulatedCache:
        names = self.models.method.models
        if isinstance(given, EmulatedCache):
            if set(given.caches) != set(names):
                raise ValueError(f"past_key_values: expected caches of {', '.join(names)}, got {given!r}")
            return given
        why = why_no_cache(self.models.members)
        if why is not None:
            raise ValueError(f"use_cache: expected False, since {why}")
        if given is not None and (not isinstance(given, Cache) or given.get_seq_length()):
            raise ValueError(f"past_key_values: expected an EmulatedCache, got {type(given).__name__}")
        return new_caches(self.models.members)

    @torch.no_grad()
    def generate(self, inputs: Any = None, generation_config: GenerationConfig | None = None, **kwargs: Any) -> Any:
        """Generates as `EmulatedModel.generate` does. Beam search and other loops of transformers run over `forward`.

        Scores and logits are as wide as those of `forward`.
        """
        given = {"generation_config": generation_config, **kwargs}
        result = call(self.models, inputs, given, over_forward=lambda: self)
        for name in ("scores", "logits"):
            if (steps := getattr(result, name, None)) is not None:
                result[name] = tuple(step[:, : self.models.vocab_size] for step in steps)
        return result

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], mode: Any, rows: int, length: int, *_: Any
    ) -> None:
        """Called by transformers' loops. Raises ValueError for a cache that the models do not take."""
        given, kind = model_kwargs.get("past_key_values"), generation_config.cache_implementation
        if given is not None and kind is not None:
            raise ValueError(f"cache_implementation: expected none beside past_key_values, got {kind!r}")
        if given is not None:
            model_kwargs["past_key_values"] = caches = self._caches(given)
            caches._is_user_defined = True
            return
        if generation_config.use_cache is False:
            return
        why = why_no_cache(self.models.members)
        if why is not None and generation_config.is_assistant:
            raise ValueError(f"assistant_model: expected models whose caches can be cut, but {why}")
        if why is not None:
            model_kwargs["use_cache"] = generation_config.use_cache = False
            return
        room = max(length, getattr(generation_config, "max_cache_len", None) or 0)
        caches = new_caches(self.models.members, kind, room, getattr(generation_config, "cache_config", None))
        if generation_config.is_assistant:
            caches.activate_past_recording()
        model_kwargs["past_key_values"] = caches

    def init_continuous_batching(self, *_: Any, **__: Any) -> Any:
        """Raises ValueError: a paged cache has one model's shape."""
        raise ValueError("continuous batching: expected one model's cache; EmulatedModel.generate_batch keeps one full")


AutoModelForCausalLM.register(EmulatedConfig, EmulatedForCausalLM, exist_ok=True)
# Where its server and TRL look the architecture up; the import above puts another module in place of the first.
sys.modules["transformers"].EmulatedForCausalLM = EmulatedForCausalLM  # type: ignore[attr-defined]
