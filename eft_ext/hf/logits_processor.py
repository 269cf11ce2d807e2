"""EFTLogitsProcessor: emulated fine-tuning for decoding loops that run the first model themselves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from eft_ext.decoding.mixture import for_rows
from eft_ext.decoding.placement import together
from eft_ext.hf.generation.processor_order import ran_before
from eft_ext.hf.inputs.arguments import prompts_of
from eft_ext.hf.inputs.choose_method import method_of
from eft_ext.hf.inputs.context import Context
from eft_ext.hf.inputs.prompts import Prompt
from eft_ext.hf.members import check_modes, members_of
from eft_ext.hf.runners.checks import checked
from eft_ext.hf.runners.dynamic_cache_model import DynamicCacheModel
from eft_ext.methods import MixingMethod
from eft_ext.ops import combine
from eft_ext.ops.method import Method


class EFTLogitsProcessor(LogitsProcessor):
    """Turns the first model's logits (large's) into the mixture's; put it before any other processor.

    transformers puts the processors that come from settings (repetition_penalty, forced_eos_token_id, ...) before
    those that you pass. They see large alone, and a warning says so. `custom_generate` applies them to the mixture.
    The loop decides which tokens end a text: add tuned's to its `eos_token_id`.

    The other models run with caches of their own. A call whose ids continue those of the call before reads only the
    new ones. Anything else (a new prompt, a rollback, reordered rows) is read from its start, which is slower. Rows
    that have ended are still computed. Beam search works on log-probabilities: pass `renormalize_logits=True` to it;
    it is read again at every step.

    Args:
        tuned, base: the small models; `tuned` may be a peft.PeftModel over `base`, or {name: model} for interpolation.
        beta, scale, conservative_top_p, method: as for EmulatedModel; numbers, or one per row. The method's first
            model is the loop's own. A function of the step gets the tokens since the prompt.
        attention_mask: [rows, prompt length] of the prompt, needed where rows are padded on the left. A row stands for
            all the sequences that num_return_sequences or beams make of it.
        pad_token_id: instead of a mask: this token counts as padding where a prompt begins with it.
        prompts: what single models read instead of the loop's prompt, by name, as token ids; for a new prompt, as
            with a mask, call `reset`.
        models: by name, where the method's are others (`unconditional=model` for guidance, say).

    Raises:
        ValueError: at a call, where attention_mask does not belong to the prompt (see `reset`), or at
            construction, where weights contradict each other.
    """

    def __init__(
        self,
        tuned: Any = None,
        base: Any = None,
        *,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        method: MixingMethod | None = None,
        attention_mask: Tensor | None = None,
        pad_token_id: int | None = None,
        prompts: Mapping[str, Any] | None = None,
        **models: Any,
    ) -> None:
        self._method = method_of(tuned, beta, scale, conservative_top_p, method)
        self._members = members_of(self._method, {"tuned": tuned, "base": base, **models}, led=True)
        self._pad_token_id = pad_token_id
        self.reset(attention_mask, prompts)

    def reset(self, attention_mask: Tensor | None = None, prompts: Mapping[str, Any] | None = None) -> None:
        """Forgets the sequence so far; `attention_mask` [rows, prompt length] and `prompts` belong to the next one."""
        method = self._method
        self._prompts = prompts_of(method, prompts, {}, method.models[1:])
        self._prompt_mask = attention_mask
        self._prompt: Tensor | None = None  # the loop's, as it was first seen
        self._seen: Tensor | None = None
        self._models: tuple[DynamicCacheModel, ...] = ()
        self._context = Context((), ())

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids [rows, length], the first model's scores [rows, vocab] -> the mixture's, fp32 [rows, vocab]."""
        logits = together([scores, *self._forward(input_ids)], scores.device)
        step = input_ids.shape[1] - self._start
        z = combine(logits, for_rows(self._method.at(step), len(input_ids), device=scores.device))
        if z.shape[1] == scores.shape[1]:
            return z
        # Padded columns that the small models lack stay, so that the loop finds the width it expects.
        return torch.nn.functional.pad(z, (0, scores.shape[1] - z.shape[1]), value=-torch.inf)

    def _forward(self, ids: Tensor) -> list[Tensor]:
        seen = self._seen
        self._seen = None  # an exception on the way must not leave half a step behind
        if seen is not None and ids.shape[1] > seen.shape[1] and torch.equal(ids[:, : seen.shape[1]], seen):
            for column in range(seen.shape[1], ids.shape[1]):
                logits = [model.forward(ids[:, column, None])[:, -1] for model in self._models]
        else:
            known = self._continues(ids)
            if not known:
                self._prompt = ids.clone()
                self._look_before()
            check_modes(self._members)
            self._models = tuple(DynamicCacheModel(member) for member in self._members)
            mask = self._mask(ids)
            prompts = [self._read(member.name, ids, mask) for member in self._members]
            if not known:
                self._context = Context(self._members, prompts)
            prompts = [checked(member, *prompt) for member, prompt in zip(self._members, prompts, strict=True)]
            logits = [model.prefill(*prompt) for model, prompt in zip(self._models, prompts, strict=True)]
        for row in range(len(ids)):
            self._context.reached(row, ids.shape[1] - self._start + 1)
        self._seen = ids.clone()
        return logits

    def _look_before(self) -> None:
        method = self._method
        weighted = type(method).conservative is Method.conservative and type(method).prepare is Method.prepare
        earlier = ran_before(self, weighted=weighted)
        if earlier:
            warnings.warn(
                f"{', '.join(earlier)}: applied to {method.models[0]} alone, before EFTLogitsProcessor; put processors "
                "behind it, or use custom_generate, which applies settings to the mixture",
                stacklevel=2,
            )

    @property
    def _start(self) -> int:
        return 0 if self._prompt is None else self._prompt.shape[1]

    def _continues(self, ids: Tensor) -> bool:
        """True if each row begins with a row of the prompt: where beams are reordered or a loop has gone back."""
        if self._prompt is None:
            return False
        same = (ids[:, None, : self._start] == self._prompt[None]).all(-1) if ids.shape[1] >= self._start else None
        if same is not None and bool(same.any(-1).all()):  # [rows, rows of the prompt]
            return True
        for name, given in (("prompts", self._prompts), ("attention_mask", self._prompt_mask is not None)):
            if given:
                raise ValueError(f"{name}: expected those of this prompt; for a new one call reset({name}=...)")
        return False

    def _read(self, name: str, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The tokens that a model has to read: the loop's, or its own prompt and the tokens after the loop's."""
        if name in self._prompts:
            own = self._prompts[name].packed(f"prompts[{name!r}]")
        elif name in self._method.last_token_only:
            prompt = Prompt(ids[:, : self._start], None if mask is None else mask[:, : self._start])
            own = prompt.packed("attention_mask").last
        else:
            return Prompt(ids, mask).packed("attention_mask").pair
        if len(ids) % len(own.ids) != 0:
            raise ValueError(f"prompts[{name!r}]: expected {len(ids)} rows, got {len(own.ids)}; for others call reset")
        own, new = own.repeat(len(ids) // len(own.ids)), ids[:, self._start :]
        whole = torch.cat([own.ids.to(ids.device), new], dim=1)
        return whole, None if own.mask is None else torch.cat([own.mask.to(ids.device), torch.ones_like(new)], dim=1)

    def _mask(self, ids: Tensor) -> Tensor | None:
        given = self._prompt_mask
        if given is not None:
            if given.ndim == 2 and len(given) and len(ids) % len(given) == 0:  # num_return_sequences repeats each row
                given = given.repeat_interleave(len(ids) // len(given), 0)
            if given.ndim != 2 or given.shape[0] != ids.shape[0] or given.shape[1] > ids.shape[1]:
                raise ValueError(
                    f"attention_mask: expected that of a prompt of [{ids.shape[0]}, up to {ids.shape[1]}] "
                    f"tokens, got {list(given.shape)}; for a new prompt call reset(attention_mask)"
                )
            if bool(((given[:, -1] == 0) & (given != 0).any(1)).any()):  # the loop's model goes on from its last column
                raise ValueError("attention_mask: expected no row to end in padding, since the loop reads it as text")
            new = given.new_ones(ids.shape[0], ids.shape[1] - given.shape[1])
            return torch.cat([given, new], dim=1).to(ids.device)
        if self._pad_token_id is None:
            return None
        return ((ids != self._pad_token_id).cumsum(-1) > 0).long()
