"""EmulatedModel: three language models that generate as one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer

from eft_ext.hf.arguments import add_ends, add_stop_strings, encode_all
from eft_ext.hf.decoder import decode
from eft_ext.hf.members import members
from eft_ext.hf.mixture import Mixture
from eft_ext.hf.seeds import Seed
from eft_ext.hf.streaming import ended_by_errors
from eft_ext.hf.support import reject_arguments
from eft_ext.hf.vocabulary import check_widths, warn_softcaps

if TYPE_CHECKING:
    from eft_ext.hf.score import SequenceScore


class EmulatedModel:
    """A large model that behaves as if it had been fine-tuned like a small one (arXiv 2310.12962).

    At every token z = large + beta·(tuned − base), or z = tuned + scale·(large − base) where `scale` is
    given.

    Args:
        large, tuned, base: causal language models of transformers with one vocabulary, in eval mode. They may
            be on different devices and pad their vocabulary to different widths. `tuned` may be a
            peft.PeftModel over `base` (base then is the model it wraps, or None): the shared weights are used
            for both.
        tokenizer: needed for text, chats and stop strings only.
        beta: weight of the behaviour, the default for every call; a number or one per row.
        scale: weight of up-scaling instead of beta ("amplified" where above 1).
        conservative_top_p: conservative re-weighting of the scale form.

    Raises:
        TypeError: not a model.
        ValueError: contradicting weights, or a model with fewer logits than the tokenizer has ids.
    """

    def __init__(
        self,
        large: Any,
        tuned: Any,
        base: Any = None,
        tokenizer: Any = None,
        *,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
    ) -> None:
        self.members = members(large, tuned, base)
        self.tokenizer = tokenizer
        self.mixture = Mixture.choose(Mixture(), beta, scale, conservative_top_p)
        self.vocab_size = check_widths(self.members, tokenizer)
        warn_softcaps(self.members)

    @classmethod
    def from_pretrained(
        cls,
        large: str,
        tuned: str,
        base: str | None = None,
        *,
        tokenizer: Any = None,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        check_tokenizers: bool = True,
        quiet: bool = False,
        **options: Any,
    ) -> EmulatedModel:
        """Load three models and their tokenizer, saying first on stderr how much memory the weights will take.

        Args:
            large, tuned, base: hub ids or local folders. `tuned` may hold an adapter (adapter_config.json) of
                `base`: base then is loaded once, shared, and may be left out if the adapter names it.
            tokenizer: a tokenizer, or where to load it; the large model's own otherwise. It takes over the
                tuned model's chat template if it has none.
            beta, scale, conservative_top_p: as for the class.
            check_tokenizers: compare the models' tokenizers token by token.
            quiet: say nothing of memory, unless it will not suffice.
            options: dtype, device_map, revision, trust_remote_code, quantization_config, attn_implementation,
                token, subfolder, ... as for transformers' from_pretrained: one value for all three models, or
                a dictionary with the keys large, tuned, base (those left out keep transformers' default).

        Raises:
            ValueError: a model that cannot be found or read, or tokenizers that differ.
        """
        from eft_ext.hf.loading import load

        Mixture.choose(Mixture(), beta, scale, conservative_top_p)  # said before anything is loaded
        loaded = load(
            large, tuned, base, tokenizer=tokenizer, check_tokenizers=check_tokenizers, quiet=quiet, **options
        )
        return cls(*loaded, beta=beta, scale=scale, conservative_top_p=conservative_top_p)

    @property
    def large(self) -> Any:
        return self.members[0].model

    @property
    def tuned(self) -> Any:
        return self.members[1].model

    @property
    def base(self) -> Any:
        """The small pre-trained model; where an adapter shares its weights, calling it runs that too."""
        base = self.members[2]
        return base.model.get_base_model() if base.without_adapter else base.model

    @property
    def device(self) -> torch.device:
        """Where prompts are read and results are returned."""
        return self.members[0].device or torch.device("cpu")

    def generate(
        self,
        inputs: Any = None,
        generation_config: GenerationConfig | None = None,
        *,
        prompts: Mapping[str, Any] | None = None,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        seed: Seed | None = None,
        streamer: BaseStreamer | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """Generate as `transformers` does, from the mixture.

        Args:
            inputs: token ids [rows, length] (also as `input_ids=`), text, a list of texts, a chat, or a list
                of chats. Shorter rows are padded on the left; `attention_mask` says where, and where it is
                missing pad_token_id does, unless that also ends texts.
            generation_config, kwargs: as for transformers' generate, resolved by it: lengths, do_sample,
                temperature, top_k (50 unless set, when sampling), top_p, min_p, eos_token_id, stop_strings,
                max_time, num_return_sequences, logits_processor, stopping_criteria, return_dict_in_generate,
                output_scores, output_logits, ... Unless eos_token_id is given, the end-of-text tokens of both
                large and tuned end a row: a chat model often ends at a token that its base never uses.
            prompts: what single models read instead, {"large" | "tuned" | "base": as for `inputs`}; for
                example the tuned model its chat template, the others plain text. A mask stands beside input_ids
                in a mapping, else it is inferred likewise. Missing models read what large reads.
            beta, scale, conservative_top_p: as for the class, for this call; a number, or one per prompt or
                per returned sequence.
            seed: an integer (row b gets its own stream), or one per returned sequence: the same seed then
                gives the same tokens in any batch and slot. None: `torch.manual_seed` governs.
            streamer: as in transformers, for one row.
            tokenizer: for `stop_strings`; the model's own otherwise.

        Returns:
            The large model's prompt and the new tokens, int64 [rows · num_return_sequences, length]; a
            GenerateDecoderOnlyOutput with return_dict_in_generate. Rows that have ended are padded and cost
            nothing; their scores are those of a certain padding token. Raw logits are the mixture's. Both have
            the large model's columns, −inf where the small models have none.

        Raises:
            ValueError, TypeError: an argument that is not supported or does not fit, named.
            RuntimeError: NaN or +inf in a row's logits, with the row's number.
        """
        with ended_by_errors(streamer):
            reject_arguments(kwargs)
            mixture = Mixture.choose(self.mixture, beta, scale, conservative_top_p)
            tokenizer = tokenizer if tokenizer is not None else self.tokenizer
            encoded = encode_all(inputs, prompts, tokenizer, kwargs)
            large = encoded.pop("large")
            kwargs["input_ids"] = large.ids.to(self.device)
            if large.mask is not None:
                kwargs["attention_mask"] = large.mask.to(self.device)
            config = copy.deepcopy(generation_config)
            add_ends(self.members, config, kwargs)
            add_stop_strings(self.large, config, kwargs, tokenizer)

            # transformers reads this signature: an option named in it would be taken out of kwargs.
            def emulated(model: Any, input_ids: Tensor, **prepared: Any) -> Any:
                return decode(
                    self.members, mixture, input_ids, prompts=encoded, seed=seed, streamer=streamer, **prepared
                )

            result: Tensor | GenerateDecoderOnlyOutput = self.large.generate(
                generation_config=config, streamer=streamer, custom_generate=emulated, **kwargs
            )
            return result

    def generate_text(self, inputs: Any = None, **kwargs: Any) -> list[str]:
        """`generate`, returning the new text of each row (the prompt left out, special tokens skipped)."""
        with ended_by_errors(kwargs.get("streamer")):
            if self.tokenizer is None:
                raise ValueError("tokenizer: generate_text needs one; give it to EmulatedModel")
            encoded = encode_all(inputs, kwargs.pop("prompts", None), self.tokenizer, kwargs)
        large = encoded.pop("large")
        out = self.generate(large.inputs, prompts={name: prompt.inputs for name, prompt in encoded.items()}, **kwargs)
        ids = out if isinstance(out, Tensor) else out.sequences
        return list(self.tokenizer.batch_decode(ids[:, large.ids.shape[1] :], skip_special_tokens=True))

    def score(
        self,
        inputs: Any = None,
        responses: Any = None,
        *,
        prompts: Mapping[str, Any] | None = None,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        num_top: int = 0,
        num_changed: int = 0,
        candidates: int = 0,
        positions: int | None = None,
        **kwargs: Any,
    ) -> SequenceScore:
        """What the three models and their mixture say of given texts, teacher-forced.

        Per token: log-probability, entropy, rank, argmax under each model and the mixture, total variation and KL
        between the mixture and tuned, the implicit reward log π_tuned - log π_base. The models' logits exist for some
        positions at a time only. Nothing is differentiable here.

        Args:
            inputs: texts, chats or ids as for `generate`: what is scored, or with `responses` what comes before it.
            responses: one for each row of inputs: texts (tokenized without special tokens; write the end-of-text
                token where it is to be scored), or token ids. Only they are scored.
            prompts: as for `generate`, what single models read instead before the responses.
            beta, scale, conservative_top_p: as for the class, for this call; a number or one per row.
            num_top, num_changed: as for `fused_score`: tokens to list of each distribution, and that gain or lose.
            candidates: list what all distributions say of each one's first `candidates` tokens.
            positions: read so many at a time; chosen by memory if not given (2^26 logits).
            kwargs: input_ids, attention_mask as for `generate`.

        Returns:
            `SequenceScore`: tokens [B, T, ...], aligned at the texts' ends, with sums, perplexities and rewards.

        Raises:
            ValueError, TypeError: an argument that does not fit, named.
            RuntimeError: NaN or +inf in a row's logits, with the row's number.
        """
        from eft_ext.hf.responses import whole_targets, with_responses
        from eft_ext.hf.score import score

        mixture = Mixture.choose(self.mixture, beta, scale, conservative_top_p)
        texts = encode_all(inputs, prompts, self.tokenizer, kwargs)
        if kwargs:
            raise TypeError(f"{min(kwargs)}: not an argument of score")
        pad, end = (getattr(self.tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        texts = {name: text.inferred(pad, [] if end is None else [end]) for name, text in texts.items()}
        if responses is None:
            if len(texts) > 1:
                raise ValueError("prompts: expected responses beside them, which all models read, got None")
            targets = whole_targets(texts["large"])
        else:
            texts, targets = with_responses(texts, responses, self.tokenizer)
        listing = {"num_top": num_top, "num_changed": num_changed, "candidates": candidates}
        return score(self.members, mixture, self.vocab_size, texts, targets, **listing, positions=positions)
