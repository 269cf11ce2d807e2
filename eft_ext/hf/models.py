"""One to four models with one vocabulary, by name, and the method that makes them one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eft_ext.hf.checkpoint.load import load_checkpoint
from eft_ext.hf.checkpoint.read import is_checkpoint, read
from eft_ext.hf.inputs.arguments import Means, encode_all, ends_of, given_ends, setting
from eft_ext.hf.inputs.chats import FORMS, Templates, templates_of
from eft_ext.hf.inputs.choose_method import choose_method, method_of
from eft_ext.hf.inputs.prompts import Prompt
from eft_ext.hf.inputs.token_ids import as_list
from eft_ext.hf.inputs.vocabulary import check_widths, warn_softcaps, widths_of
from eft_ext.hf.inputs.words import Asked
from eft_ext.hf.loading.load import load
from eft_ext.hf.loading.tokenizers import given_words
from eft_ext.hf.members import check_modes, members_of
from eft_ext.hf.named_models import NamedModels
from eft_ext.hf.runners.engine_pool import EnginePool
from eft_ext.methods import MixingMethod
from eft_ext.ops.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from typing_extensions import Self


class Models(NamedModels):
    """The parts of an `EmulatedModel`, which documents the arguments.

    Attributes:
        words: the tokenizers of the models, and what their special tokens mean in the mixture.
        engines: what is kept on CUDA for the next call.
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
        method: MixingMethod | None = None,
        special_tokens: Asked = None,
        **models: Any,
    ) -> None:
        self.method = method_of(tuned, beta, scale, conservative_top_p, method)
        self.members = members_of(self.method, {"large": large, "tuned": tuned, "base": base, **models})
        asked = self.method.special_tokens if special_tokens is None else special_tokens
        self.words = given_words(tokenizer, self.members, self.method, asked)
        self._widths = check_widths(self.members, self.words)
        warn_softcaps(self.members)
        self.engines = EnginePool()

    @property
    def tokenizer(self) -> Any:
        """Decodes what is generated; None where there is none."""
        return self.words.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self.words = self.words.with_tokenizer(tokenizer)

    @property
    def tokenizers(self) -> Mapping[str, Any]:
        """Each model's own, by name; all the same object unless their special tokens differ."""
        return self.words.each

    @property
    def special_tokens(self) -> SpecialTokens | None:
        """Ids that are not mixed, since the models mean different things by them (numerics.md §15); None for none."""
        return self.words.special

    @property
    def vocab_size(self) -> int:
        """The number of tokens that all of the models have logits for."""
        return min(widths_of(self.members).values())

    def revalidate(self) -> None:
        """Checks, when a call begins, what may have changed since the last one.

        Raises ValueError for a model that cannot be run as it is now.
        """
        check_modes(self.members)
        if widths_of(self.members) != self._widths:
            self._widths = check_widths(self.members, self.words)

    def release(self) -> None:
        """Frees the caches and graphs that are kept on CUDA for the next call."""
        self.engines.clear()

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
        method: MixingMethod | None = None,
        check_tokenizers: bool = True,
        special_tokens: Asked = None,
        quiet: bool = False,
        **options: Any,
    ) -> Self:
        """Loads the models and their tokenizers. First prints on stderr how much memory the weights will take, and the
        special tokens that the models do not share.

        Args:
            large, tuned, base: hub ids or local folders. `tuned` may hold an adapter (adapter_config.json) of
                `base`: base then is loaded once, shared, and may be left out if the adapter names it. For
                interpolation it is {name: id or folder}, and each may be an adapter. `large` alone may be a checkpoint
                of `eft pack`, which holds all of them and the method.
            tokenizer: a tokenizer, or where to load it; the first model's own otherwise. It takes over the
                tuned model's chat template if it has none.
            beta, scale, conservative_top_p, method: as for the class.
            check_tokenizers: compare the models' tokenizers token by token.
            special_tokens: as for the class.
            quiet: print neither the memory needed, unless it will not fit, nor the special tokens.
            options: the method's models by name, where they are others than these three; and dtype, device_map,
                revision, trust_remote_code, quantization_config, attn_implementation, token, subfolder, ... as for
                transformers' from_pretrained: one value for all models, or a dictionary by the models' names
                (those left out keep transformers' default). Of a checkpoint, revision, subfolder and token are its own,
                and `trust_model_code` names the models whose code may run.

        Raises:
            ValueError: a model that cannot be found or read, or tokenizers that differ.
        """
        weights = (beta, scale, conservative_top_p, method)
        if large is not None and tuned is None and base is None and is_checkpoint(large, options):
            options |= {"tokenizer": tokenizer, "special_tokens": special_tokens, "quiet": quiet}
            return cls._from_checkpoint(large, weights, **options)
        method = method_of(tuned, *weights)  # said before anything is loaded
        names = {*method.models, *method.groups} - {"large", "tuned", "base"}
        sources = {"large": large, "tuned": tuned, "base": base}
        sources |= {name: options.pop(name) for name in names if name in options}
        options |= {"check_tokenizers": check_tokenizers, "special_tokens": special_tokens, "quiet": quiet}
        models, words = load(method, sources, tokenizer=tokenizer, **options)
        return cls(tokenizer=words, method=method, **models)

    @classmethod
    def _from_checkpoint(
        cls,
        source: str,
        weights: tuple[Any, ...],
        *,
        config: Any = None,
        generation_config: Any = None,
        trust_model_code: str | Sequence[str] | None = None,
        trust_remote_code: Any = None,  # of the checkpoint's own file, which nothing here needs
        **options: Any,
    ) -> Self:
        """See `from_pretrained`."""
        found = read(source, options, config=config, trusted=trust_model_code)
        own = found.config.mixing_method
        method = choose_method(own, *weights)
        if method.special_tokens is not None:  # they come with the tokenizers, or are asked for
            method = method.with_special_tokens(None)
        if method.models != own.models:
            held = ", ".join(own.models)
            raise ValueError(f"method: expected one of {held}, which {found.source!r} holds, got {method!r}")
        models, words = load_checkpoint(found, method, **options)
        if (settings := generation_config or found.generation_config) is not None:
            models[method.models[0]].generation_config = settings
        return cls(tokenizer=words, method=method, **models)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__}: has no forward pass; score gives log-probabilities, causal_lm() a model with one"
        )

    def chat_templates(self, form: str = FORMS[0]) -> Templates:
        """The models' chat templates; `form` as `generate(chat=)`."""
        return templates_of(self.method, self.tokenizers, self.words.templates, form)

    def encode(
        self,
        inputs: Any,
        prompts: Mapping[str, Any] | None,
        kwargs: dict[str, Any],
        method: MixingMethod,
        *,
        tokenizer: Any = None,
        generating: bool = True,
    ) -> dict[str, Prompt]:
        """`encode_all`, with a mask wherever ids came without one and hold padding.

        Args:
            kwargs: of the call, with generation_config; `chat` is taken out of it.
            tokenizer: for all models, where they have none of their own.
            generating: as for `generate`; otherwise a text is not begun where none is given, and the tokenizer says
                what pads where the first model does not.
        """
        lead, config = self.members[0].model, kwargs.get("generation_config")
        bos, pad = (setting(f"{name}_token_id", lead, config, kwargs) for name in ("bos", "pad"))
        mine = tokenizer is None or self.tokenizer is not None
        tokenizers = self.tokenizers if mine else dict.fromkeys(method.models, tokenizer)
        ends = given_ends(config, kwargs) or ends_of(self.members, method.ending, self.means(method))
        if pad is None and not generating:
            words = tokenizers[method.models[0]]
            pad = getattr(words, "pad_token_id", None)
            ends = ends + as_list(getattr(words, "eos_token_id", None))
        form = kwargs.pop("chat", None) or FORMS[0]
        templates = self.chat_templates(form) if mine else templates_of(method, tokenizers, form=form)
        encoded = encode_all(inputs, prompts, templates, kwargs, method, bos if generating else None)
        return {name: prompt.inferred(pad, ends) for name, prompt in encoded.items()}

    def means(self, method: MixingMethod) -> Means:
        """`Words.means` for the special tokens that a call's method carries."""
        own = method.special_tokens
        return self.words.means if own is None or own == self.special_tokens else own.means

    def chosen(self, *weights: Any) -> MixingMethod:
        """A call's weights over the model's own. Raises ValueError for a method of other models."""
        method = choose_method(self.method, *weights)
        if method.models != self.method.models:
            raise ValueError(
                f"method: expected one of {', '.join(self.method.models)}, the models that are here, got "
                f"{method!r} of {', '.join(method.models)}"
            )
        own = method.special_tokens or self.special_tokens
        return method if own is None else method.with_special_tokens(own)
