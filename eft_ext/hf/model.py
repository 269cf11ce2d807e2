"""EmulatedModel: several language models that generate as one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer

from eft_ext.hf.arguments import add_ends, add_stop_strings, encode_all
from eft_ext.hf.decoder import decode
from eft_ext.hf.members import members_of
from eft_ext.hf.mixture import Mixture, mixture_of
from eft_ext.hf.seeds import Seed
from eft_ext.hf.streaming import ended_by_errors
from eft_ext.hf.support import reject_arguments
from eft_ext.hf.vocabulary import check_widths, warn_softcaps
from eft_ext.methods import Named


class EmulatedModel:
    """A large model that behaves as if it had been fine-tuned like a small one (arXiv 2310.12962).

    At every token z = large + beta·(tuned − base), or z = tuned + scale·(large − base) where `scale` is
    given, or whatever `method` says.

    Args:
        large, tuned, base: causal language models of transformers with one vocabulary, in eval mode. They may
            be on different devices and pad their vocabulary to different widths. `tuned` may be a
            peft.PeftModel over `base` (base then is the model it wraps, or None): the shared weights are used
            for both. For interpolation `tuned` is {name: model}, or one PeftModel with adapters of these names.
        tokenizer: needed for text, chats and stop strings only.
        beta: weight of the behaviour, the default for every call; a number or one per row.
        scale: weight of up-scaling instead of beta ("amplified" where above 1).
        conservative_top_p: conservative re-weighting of the scale form.
        method: one of `eft_ext.methods` instead of the three weights. `method.set(...)` changes its parameters at any
            time, also while a generation runs. Several tuned models without a method have equal shares.
        models: by name where the method's are others than large, tuned and base (`expert=..., amateur=...,
            method=Contrast()`). The first model of a method reads the prompt and gives the generation's configuration.

    Raises:
        TypeError: not a model.
        ValueError: contradicting weights, models that are not the method's, or a model with fewer logits than the
            tokenizer has ids.
    """

    def __init__(
        self,
        large: Any = None,
        tuned: Any = None,
        base: Any = None,
        tokenizer: Any = None,
        *,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        method: Named | None = None,
        **models: Any,
    ) -> None:
        self.mixture = mixture_of(tuned, beta, scale, conservative_top_p, method)
        self.members = members_of(self.mixture.method, {"large": large, "tuned": tuned, "base": base, **models})
        self.tokenizer = tokenizer
        self.vocab_size = check_widths(self.members, tokenizer)
        warn_softcaps(self.members)

    @classmethod
    def from_pretrained(
        cls,
        large: str | None = None,
        tuned: str | Mapping[str, str] | None = None,
        base: str | None = None,
        *,
        tokenizer: Any = None,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        method: Named | None = None,
        check_tokenizers: bool = True,
        quiet: bool = False,
        **options: Any,
    ) -> EmulatedModel:
        """Load the models and their tokenizer, saying first on stderr how much memory the weights will take.

        Args:
            large, tuned, base: hub ids or local folders. `tuned` may hold an adapter (adapter_config.json) of
                `base`: base then is loaded once, shared, and may be left out if the adapter names it. For
                interpolation it is {name: id or folder}, and each may be an adapter.
            tokenizer: a tokenizer, or where to load it; the large model's own otherwise. It takes over the
                tuned model's chat template if it has none.
            beta, scale, conservative_top_p, method: as for the class.
            check_tokenizers: compare the models' tokenizers token by token.
            quiet: say nothing of memory, unless it will not suffice.
            options: the method's models by name, where they are others than these three; and dtype, device_map,
                revision, trust_remote_code, quantization_config, attn_implementation, token, subfolder, ... as for
                transformers' from_pretrained: one value for all models, or a dictionary by the models' names
                (those left out keep transformers' default).

        Raises:
            ValueError: a model that cannot be found or read, or tokenizers that differ.
        """
        from eft_ext.hf.loading import load

        mixture = mixture_of(tuned, beta, scale, conservative_top_p, method)  # said before anything is loaded
        names = {*mixture.method.models, *mixture.method.groups} - {"large", "tuned", "base"}
        sources = {"large": large, "tuned": tuned, "base": base}
        sources |= {name: options.pop(name) for name in names if name in options}
        models, words = load(
            mixture.method, sources, tokenizer=tokenizer, check_tokenizers=check_tokenizers, quiet=quiet, **options
        )
        return cls(tokenizer=words, method=mixture.method, **models)

    @property
    def method(self) -> Named:
        """What is decoded unless a call says else."""
        return self.mixture.method

    @property
    def models(self) -> dict[str, Any]:
        """The models by name, in the method's order; where one shares its weights with an adapter, calling it runs
        that too."""
        return {m.name: m.model.get_base_model() if m.without_adapter else m.model for m in self.members}

    @property
    def large(self) -> Any:
        return self._named("large")

    @property
    def tuned(self) -> Any:
        return self._named("tuned")

    @property
    def base(self) -> Any:
        """The small pre-trained model; where an adapter shares its weights, calling it runs that too."""
        return self._named("base")

    def _named(self, name: str) -> Any:
        found = self.models
        if name not in found:
            raise AttributeError(f"{name}: not a model of {self.method!r}, which has {', '.join(found)}")
        return found[name]

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
        method: Named | None = None,
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
                in a mapping, else it is inferred likewise. Missing models read what large (the method's first) reads;
                "tuned" stands for all behaviours of an interpolation.
            beta, scale, conservative_top_p: as for the class, for this call; a number, or one per prompt or
                per returned sequence.
            method: likewise; one over the same models.
            seed: an integer (row b gets its own stream), or one per returned sequence: the same seed then
                gives the same tokens in any batch and slot. None: `torch.manual_seed` governs.
            streamer: as in transformers, for one row.
            tokenizer: for `stop_strings`; the model's own otherwise.

        Returns:
            The first model's prompt and the new tokens, int64 [rows · num_return_sequences, length]; a
            GenerateDecoderOnlyOutput with return_dict_in_generate. Rows that have ended are padded and cost
            nothing; their scores are those of a certain padding token. Raw logits are the mixture's. Both have
            the first model's columns, −inf where the others have none.

        Raises:
            ValueError, TypeError: an argument that is not supported or does not fit, named.
            RuntimeError: NaN or +inf in a row's logits, with the row's number.
        """
        with ended_by_errors(streamer):
            reject_arguments(kwargs)
            mixture = Mixture.choose(self.mixture, beta, scale, conservative_top_p, method)
            if mixture.method.models != self.method.models:
                raise ValueError(
                    f"method: expected one of {', '.join(self.method.models)}, the models that are here, got "
                    f"{mixture.method!r} of {', '.join(mixture.method.models)}"
                )
            lead = self.members[0]
            tokenizer = tokenizer if tokenizer is not None else self.tokenizer
            encoded = encode_all(inputs, prompts, tokenizer, kwargs, mixture.method)
            own = encoded.pop(lead.name)
            kwargs["input_ids"] = own.ids.to(self.device)
            if own.mask is not None:
                kwargs["attention_mask"] = own.mask.to(self.device)
            config = copy.deepcopy(generation_config)
            add_ends(self.members, mixture.method.ending, config, kwargs)
            add_stop_strings(lead.model, config, kwargs, tokenizer)

            # transformers reads this signature: an option named in it would be taken out of kwargs.
            def emulated(model: Any, input_ids: Tensor, **prepared: Any) -> Any:
                return decode(
                    self.members, mixture, input_ids, prompts=encoded, seed=seed, streamer=streamer, **prepared
                )

            result: Tensor | GenerateDecoderOnlyOutput = lead.model.generate(
                generation_config=config, streamer=streamer, custom_generate=emulated, **kwargs
            )
            return result

    def generate_text(self, inputs: Any = None, **kwargs: Any) -> list[str]:
        """`generate`, returning the new text of each row (the prompt left out, special tokens skipped)."""
        with ended_by_errors(kwargs.get("streamer")):
            if self.tokenizer is None:
                raise ValueError("tokenizer: generate_text needs one; give it to EmulatedModel")
            encoded = encode_all(inputs, kwargs.pop("prompts", None), self.tokenizer, kwargs, self.method)
        own = encoded.pop(self.members[0].name)
        out = self.generate(own.inputs, prompts={name: prompt.inputs for name, prompt in encoded.items()}, **kwargs)
        ids = out if isinstance(out, Tensor) else out.sequences
        return list(self.tokenizer.batch_decode(ids[:, own.ids.shape[1] :], skip_special_tokens=True))
