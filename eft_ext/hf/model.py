"""EmulatedModel: several language models that generate as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer

from eft_ext._seam import added_text
from eft_ext.hf.causal_lm.model import EmulatedForCausalLM
from eft_ext.hf.generation.batch import as_completed
from eft_ext.hf.generation.call import call
from eft_ext.hf.generation.decode import ended_by_errors
from eft_ext.hf.inputs.seeds import Seed
from eft_ext.hf.models import Models
from eft_ext.hf.runners.decode_plan import DecodePlan
from eft_ext.methods import MixingMethod

if TYPE_CHECKING:
    from eft_ext.hf.scoring.score import SequenceScore


class EmulatedModel(Models):
    """A large model that behaves as if it had been fine-tuned like a small one (arXiv 2310.12962).

    At every token z = large + beta·(tuned − base); with `scale`, z = tuned + scale·(large − base); with `method`,
    its formula.

    Args:
        large, tuned, base: causal language models of transformers with one vocabulary, in eval mode. They may
            be on different devices and pad their vocabulary to different widths. `tuned` may be a
            peft.PeftModel over `base` (base then is the model it wraps, or None): the shared weights are used
            for both. For interpolation `tuned` is {name: model}, or one PeftModel with adapters of these names.
        tokenizer: needed for text, chats and stop strings only; {name: tokenizer} where special tokens differ.
        beta: weight of the behaviour, the default for every call; a number or one per row.
        scale: weight of up-scaling instead of beta; above 1 it amplifies.
        conservative_top_p: conservative re-weighting of the scale form.
        method: one of `eft_ext.methods` instead of the three weights. `method.set(...)` changes its parameters at any
            time, also while a generation runs. Several tuned models without a method have equal shares.
        special_tokens: {token or id: "mix", "own" or "never"} over the policies found for special tokens that differ.
        models: by name where the method's are others than large, tuned and base (`expert=..., amateur=...,
            method=Contrast()`). The first model of a method reads the prompt and gives the generation's configuration.

    Raises:
        TypeError: not a model.
        ValueError: contradicting weights, other models than the method's, tokenizers that do not fit, too few logits.
    """

    def generate(
        self,
        inputs: Any = None,
        generation_config: GenerationConfig | None = None,
        *,
        prompts: Mapping[str, Any] | None = None,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        method: MixingMethod | None = None,
        seed: Seed | None = None,
        streamer: BaseStreamer | None = None,
        tokenizer: Any = None,
        tier: str | int | None = None,
        speculate: int | str | None = None,
        chat: str = "template",
        **kwargs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """Generates as `transformers` does, from the mixture.

        Args:
            inputs: token ids [rows, length] (also as `input_ids=`), text, a list of texts, a chat, or a list of chats;
                without any, the text is the BOS token. A chat whose last message is the assistant's is continued.
                Shorter texts are padded on the left. In token ids `attention_mask` marks padding; without it
                pad_token_id does, unless that token also ends texts. No model reads a token that it leaves out.
            generation_config, kwargs: as for transformers' generate, resolved by it: lengths, do_sample,
                temperature, top_k (50 unless set, when sampling), top_p, min_p, eos_token_id, stop_strings,
                max_time, num_return_sequences, logits_processor, stopping_criteria, return_dict_in_generate,
                output_scores, output_logits, ... Unless eos_token_id is given, the end-of-text tokens of both
                large and tuned end a row: a chat model often ends at a token that its base never uses.
            prompts: what single models read instead, {"large" | "tuned" | "base": as for `inputs`}; for example a chat
                with another system message. Ids with their mask are a mapping {"input_ids", "attention_mask"}. Models
                not named read what large (the method's first) is given; "tuned" stands for all behaviours of an
                interpolation.
            chat: how a model without a chat template reads a chat: as tuned's "template" renders it, or as a
                "transcript". Every other model reads it through its own template.
            beta, scale, conservative_top_p: as for the class, for this call; a number, or one per prompt or
                per returned sequence.
            method: one of `eft_ext.methods` over the same models, for this call.
            seed: an integer (row b gets its own stream), or one per returned sequence: the same seed then
                gives the same tokens in any batch and slot. None: `torch.manual_seed` governs.
            streamer: as in transformers, for one row.
            tokenizer: for `stop_strings`, and for text where the model has none; the model's own otherwise.
            speculate: how many tokens the small model drafts in a round, for the others to verify in one pass each;
                "auto" measures which number is fastest. The tokens' distribution does not change; under a given seed
                the sampled tokens are others than without, and with "auto" they may differ from run to run. A warning
                says why where a generation cannot use drafts.
            tier: the fastest way of decoding allowed: "eager", "static", "async" (the default) or "device_loop" (see
                `plan`). The tokens do not depend on it.

        Returns:
            The first model's prompt and the new tokens, int64 [rows · num_return_sequences, length]; a
            GenerateDecoderOnlyOutput with return_dict_in_generate (with `speculate` a `SpeculatedOutput`, which also
            says how each token came about and how many drafts were accepted). Rows that have ended are padded and cost
            nothing; their scores give the padding token probability 1. Raw logits are the mixture's. Scores and raw
            logits are as wide as the first model's; columns that another model lacks are −inf.

        Raises:
            ValueError, TypeError: an argument that is not supported or does not fit, named.
            RuntimeError: NaN or +inf in a row's logits, with the row's number.
        """
        given: dict[str, Any] = dict(generation_config=generation_config, prompts=prompts, streamer=streamer, chat=chat)
        given |= dict(beta=beta, scale=scale, conservative_top_p=conservative_top_p, method=method)
        given |= dict(seed=seed, tokenizer=tokenizer, tier=tier, speculate=speculate)
        result: Tensor | GenerateDecoderOnlyOutput = call(self, inputs, kwargs | given, over_forward=self.causal_lm)
        return result

    @classmethod
    def over(cls, model: EmulatedForCausalLM) -> EmulatedModel:
        """Wraps the models, method and tokenizer of an `EmulatedForCausalLM`, without a copy."""
        emulated = object.__new__(cls)
        vars(emulated).update(vars(model.models))
        return emulated

    def causal_lm(self) -> EmulatedForCausalLM:
        """Returns the same models as one of transformers, with a forward pass, beam search and save_pretrained."""
        return EmulatedForCausalLM.over(self)

    def plan(self, inputs: Any = None, generation_config: GenerationConfig | None = None, **kwargs: Any) -> DecodePlan:
        """Shows how `generate` would decode with these arguments, and why no faster. Print it:

            async: static caches, the host behind the device
              large: LlamaForCausalLM on a static cache, traced after 64 steps
              ...

        Takes what `generate` takes; `inputs` may be left out. No model is run.
        """
        if inputs is None and kwargs.get("prompts") is None and "input_ids" not in kwargs:
            inputs, kwargs["attention_mask"] = [[0]], [[1]]
        given = {"generation_config": generation_config, **kwargs}
        found: DecodePlan = call(self, inputs, given, over_forward=self.causal_lm, only_plan=True, looked=True)
        return found

    def generate_batch(self, inputs: Any = None, *, batch_size: int = 8, **kwargs: Any) -> list[list[int]]:
        """Generates for any number of prompts and returns their new tokens.

        Finished rows make room for the next prompts.

        Args:
            inputs, batch_size, kwargs: as for `generate_as_completed`. The results are in the prompts' order.
        """
        results = self.generate_as_completed(inputs, batch_size=batch_size, **kwargs)
        return [tokens for _, tokens in sorted(results)]

    def generate_as_completed(
        self, inputs: Any = None, *, batch_size: int = 8, progress: bool | None = None, **kwargs: Any
    ) -> Iterator[tuple[int, list[int]]]:
        """Generates for any number of prompts and yields each row as it ends. The next prompt takes its place.

        Every row gets the tokens that `generate` gives it alone with its own seed, unless the models' arithmetic
        depends on the batch. Give the seeds as `seed=[...]`; `eft_ext.hf.inputs.seeds.row_seeds` makes them of one
        number.

        Args:
            inputs, kwargs: as for `generate`, except streamers and num_return_sequences. Logits processors, models
                without static caches, and beams and other loops of transformers make it one row at a time.
            batch_size: rows at once.
            progress: show a bar on stderr; None shows it if that is a terminal.

        Yields:
            (number of the prompt, its new tokens including the one that ended it).

        Raises:
            ValueError, TypeError, RuntimeError: as `generate` does.
        """
        return as_completed(self, inputs, batch_size, progress, kwargs, self.causal_lm)

    def generate_text(self, inputs: Any = None, *, return_output: bool = False, **kwargs: Any) -> Any:
        """Generates as `generate` does and returns the new text of each row, list[str], without special tokens.

        With `return_output` it returns the texts and the output of `generate`.
        """
        with ended_by_errors(kwargs.get("streamer")):
            if self.tokenizer is None:
                raise ValueError("tokenizer: generate_text needs one; give it to EmulatedModel")
            encoded = self.encode(inputs, kwargs.pop("prompts", None), kwargs, self.method)
        own = encoded.pop(self.members[0].name)
        out = self.generate(own.inputs, prompts={name: prompt.inputs for name, prompt in encoded.items()}, **kwargs)
        ids = out if isinstance(out, Tensor) else out.sequences
        length = own.ids.shape[1]
        heads = own.repeat(len(ids) // len(own.ids)).rows
        new = ids[:, length:].tolist()
        texts = [added_text(self.tokenizer, head, row) for head, row in zip(heads, new, strict=True)]
        return (texts, out) if return_output else texts

    def score(
        self,
        inputs: Any = None,
        responses: Any = None,
        *,
        prompts: Mapping[str, Any] | None = None,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        method: MixingMethod | None = None,
        num_top: int = 0,
        num_changed: int = 0,
        candidates: int = 0,
        positions: int | None = None,
        **kwargs: Any,
    ) -> SequenceScore:
        """Scores given texts under the models and their mixture, teacher-forced.

        Per token: log-probability, entropy, rank, argmax under each model and the mixture, total variation and KL
        between the mixture and tuned (the method's first model if there is no tuned), the implicit reward
        log π_tuned - log π_base. Logits are computed for some positions at a time, to save memory. The results carry
        no gradient.

        Args:
            inputs: texts, chats or ids as for `generate`: the texts to score, or with `responses` their prompts.
            responses: one for each row of inputs, texts or token ids; only they are scored. A text is tokenized with
                the first model's prompt and cut where that ends. To score an end-of-text token, write it.
            prompts: as for `generate`, what single models read instead before the responses.
            beta, scale, conservative_top_p, method: as for `generate`. For parameters that are functions of the step,
                it is the number of the row's scored tokens so far.
            num_top, num_changed: as for `fused_score`.
            candidates: list the first `candidates` tokens of each distribution, with their probabilities under all.
            positions: the number of positions in one pass; chosen by memory if not given (2^26 logits).
            kwargs: input_ids, attention_mask, chat as for `generate`.

        Returns:
            `SequenceScore`: tokens [B, T, ...], aligned at the texts' ends, with sums, perplexities and rewards.

        Raises:
            ValueError, TypeError: an argument that does not fit, named.
            RuntimeError: NaN or +inf in a row's logits, with the row's number.
        """
        from eft_ext.hf.scoring.responses import scored_texts
        from eft_ext.hf.scoring.score import score

        self.revalidate()
        method = self.chosen(beta, scale, conservative_top_p, method)
        given = self.encode(inputs, prompts, kwargs, method, generating=False)
        if kwargs:
            raise TypeError(f"{min(kwargs)}: not an argument of score")
        texts, targets = scored_texts(given, responses, self.words, method)
        listing = {"num_top": num_top, "num_changed": num_changed, "candidates": candidates}
        return score(self.members, method, self.vocab_size, texts, targets, **listing, positions=positions)
