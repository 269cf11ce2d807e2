"""EmulatedLM: an `EmulatedModel` as the harness asks for it. Text, BOS and windows are HFLM's own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from tqdm.auto import tqdm

from eft_ext.hf import EmulatedModel
from eft_ext.hf.scoring.score import IGNORED
from eft_ext.integrations.harness.rows import Row, batches, cut, left_padded
from eft_ext.integrations.harness.stops import StopText

Answer = tuple[float, bool]  # log-probability of a continuation, and whether it is the greedy one
# Arguments of HFLM about how it loads and runs one model.
_OTHERS = (
    *("parallelize", "max_memory_per_gpu", "max_cpu_memory", "tp_plan", "peft", "delta", "autogptq", "gptqmodel"),
    *("gguf_file", "softmax_dtype", "mixed_precision_dtype"),
)


class _Placed(EmulatedModel):
    """Models that were loaded to where they belong, so that HFLM has none to move."""

    def to(self, device: Any) -> _Placed:
        return self


@register_model("eft")
class EmulatedLM(HFLM):
    """Several models as one, for `--model eft`.

    Args:
        pretrained: a checkpoint of `eft pack`; otherwise `large` with `tuned` and `base`.
        kwargs: as for HFLM (dtype, device, batch_size, max_length, add_bos_token, ...) and as for
            `EmulatedModel.from_pretrained` (tuned, base, beta, scale, method, device_map, ...).

    Raises:
        ValueError: neither or both of `pretrained` and `large`, or an argument that HFLM has for a single model.
    """

    def __init__(self, pretrained: str | None = None, large: str | None = None, **kwargs: Any) -> None:
        if (pretrained is None) == (large is None):
            got = "both" if pretrained else "neither"
            raise ValueError(f"pretrained: expected a checkpoint here, or large= with tuned= and base=, got {got}")
        for name in _OTHERS:
            if kwargs.pop(name, None):
                raise ValueError(f"{name}: expected nothing, since --model eft loads its models by itself")
        kwargs["device"] = kwargs.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
        super().__init__(pretrained or large, backend="causal", **kwargs)
        self._asked_size = self.batch_size

    def _create_model(self, pretrained: str, **kwargs: Any) -> None:
        """Loads the models where HFLM loads one."""
        known = ("revision", "dtype", "trust_remote_code", "subfolder")
        options = {name: kwargs[name] for name in known if kwargs.get(name) is not None}
        of_one = (*known, *_OTHERS, "gpus", "offload_folder", "quantization_config")
        options |= {name: value for name, value in kwargs.items() if name not in of_one}
        if not options.get("subfolder"):
            options.pop("subfolder", None)
        if self.device.type != "cpu":
            options.setdefault("device_map", str(self.device))
        self._model = _Placed.from_pretrained(pretrained, tokenizer=self.tokenizer, **options)

    @property
    def max_length(self) -> int:
        """Tokens that every one of the models reads, unless a number was given."""
        if self._max_length:
            return int(self._max_length)
        configs = [member.model.config for member in self.model.members]
        return min(resolve_max_length(c, self.tokenizer, default=self._DEFAULT_MAX_LENGTH) for c in configs)

    def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:
        """`max_batch_size` where the size is "auto"; scoring halves a batch for which memory does not suffice."""
        return int(self.max_batch_size)

    @property
    def _size(self) -> int:
        return self._detect_batch_size() if self._asked_size == "auto" else int(self._asked_size)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """HFLM's, which gives all windows at once, so that those of one length can be read together."""
        self.batch_size_per_gpu = sys.maxsize
        try:
            return list(super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm))
        finally:
            self.batch_size_per_gpu = self._asked_size

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Answer]:
        """The answers to requests (texts, context, continuation): each context is read once for all that follow it."""
        rows = [cut(context, continuation, self.max_length) for _, context, continuation in requests]
        asked: dict[Row, list[int]] = {}
        for number, row in enumerate(rows):
            asked.setdefault(row, []).append(number)
        answers: dict[Row, Answer] = {}
        with tqdm(
            total=len(rows), disable=disable_tqdm or self.rank != 0, desc="Running loglikelihood requests"
        ) as bar:
            for batch in batches(rows, self._size):
                for row, answer in zip(batch, self._answers(batch), strict=True):
                    answers[row] = answer
                    for number in asked[row]:
                        if (texts := requests[number][0]) is not None:
                            self.cache_hook.add_partial("loglikelihood", texts, answer)
                    bar.update(len(asked[row]))
        return [answers[row] for row in rows]

    def _answers(self, rows: list[Row]) -> list[Answer]:
        try:
            return self._scored(rows)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        half = len(rows) // 2  # outside of the handler, which keeps tensors alive
        return self._answers(rows[:half]) + self._answers(rows[half:])

    def _scored(self, rows: list[Row]) -> list[Answer]:
        found = self.model.score(left_padded([context for context, _ in rows]), [list(own) for _, own in rows])
        greedy = (found.tokens.argmax[..., -1] == found.ids) | (found.ids == IGNORED)
        return list(zip(found.logprobs[:, -1].tolist(), greedy.all(dim=1).tolist(), strict=True))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The new texts, each until a stop string or its number of tokens; a row that ends is followed by another."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        texts: dict[int, str] = {}
        with tqdm(
            total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Running generate_until requests"
        ) as bar:
            for numbers in groups.values():
                settings = requests[numbers[0]].args[1]
                contexts = [requests[number].args[0] for number in numbers]
                for place, text in self._generated(contexts, settings):
                    texts[numbers[place]] = text
                    self.cache_hook.add_partial("generate_until", (contexts[place], settings), text)
                    bar.update()
        return [texts[number] for number in range(len(requests))]

    def _generated(self, contexts: list[str], settings: dict[str, Any]) -> Any:
        """Yields (number of the context, new text) as rows end."""
        kwargs = normalize_gen_kwargs(settings, self.max_gen_toks)
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(kwargs.pop("until", None), eos=eos)
        new = kwargs.pop("max_gen_toks")
        room = self.max_length - new
        if room < 1:
            raise ValueError(f"max_gen_toks: expected fewer than max_length ({self.max_length}), got {new}")
        if "max_length" in kwargs:
            raise ValueError(f"max_length: expected max_gen_toks instead, got {kwargs['max_length']!r}")
        if not kwargs["do_sample"]:
            kwargs.pop("temperature", None)
        prompts = [self._prompt(context, room) for context in contexts]
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        results = self.model.generate_as_completed(
            left_padded([prompts[place] for place in order]),
            batch_size=self._size,
            progress=False,
            max_new_tokens=new,
            stopping_criteria=[StopText(self.tokenizer, until)],
            pad_token_id=self.tokenizer.pad_token_id,
            **kwargs,
        )
        for number, tokens in results:
            yield order[number], self._text(tokens, until)

    def _prompt(self, context: str, room: int) -> list[int]:
        """The ids of a context, as HFLM has them where it is alone; the prefix where there are none."""
        ids, _ = self.tok_batch_encode([context], left_truncate_len=room, truncation=self.truncation)
        return [int(token) for token in ids[0].tolist()] or [self.prefix_token_id]

    def _text(self, tokens: list[int], until: list[str]) -> str:
        """The text behind a thought, up to the first stop string, as HFLM cuts it."""
        end, text_end = self.think_end_token, None
        if isinstance(end, int):
            thought = next((at + 1 for at in range(len(tokens) - 1, -1, -1) if tokens[at] == end), 0)
            text = self.tok_decode(tokens[thought:]).lstrip()
        else:
            text, text_end = self.tok_decode(tokens), end
        return str(postprocess_generated_text(generation=text, stop=until, think_end_token=text_end))

    def get_model_info(self) -> dict[str, Any]:
        """HFLM's, with the parameters of all models and the method that makes them one."""
        weights = {id(p): p.numel() for member in self.model.members for p in member.model.parameters()}
        own = {"model_num_parameters": sum(weights.values()), "eft_method": repr(self.model.method)}
        return {**super().get_model_info(), **own}
