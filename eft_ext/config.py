"""EmulatedConfig: several models' configurations, and the method that makes them one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from eft_ext._extras import needs
from eft_ext.methods import MixingMethod, UpScale
from eft_ext.methods.serialized import from_dict, to_dict
from eft_ext.ops.special_tokens import SpecialTokens

with needs("eft_ext.EmulatedConfig", "hf"):
    from transformers import PretrainedConfig
    from transformers.models.auto import CONFIG_MAPPING, AutoConfig

VERSION = 2  # of the format; a folder of a newer one is refused
_WITHOUT_SPECIAL = 1  # written where a reader need not know more
ARCHITECTURE = "EmulatedForCausalLM"
MODULE = "modeling_emulated"  # the file beside config.json by which transformers finds the classes
_AUTO = {"AutoConfig": f"{MODULE}.EmulatedConfig", "AutoModelForCausalLM": f"{MODULE}.{ARCHITECTURE}"}
# Engines size themselves by these: the first model's stand for the whole, unless the file says else.
_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    "head_dim",
)
# Names of no model: arguments and attributes of what loads, saves and runs them.
_TAKEN = {
    *("method", "weights", "emulated_version", "auto_map", "models", "config", "training", "tokenizer", "generate"),
    *("beta", "scale", "conservative_top_p", "device", "generation_config", "bos_token_id", "eos_token_id"),
    *("tokenizers", "special_tokens", "chat_templates"),
    *("pad_token_id", "max_position_embeddings", "vocab_size", *_SIZES),
}
_SMALLEST = ("vocab_size", "max_position_embeddings")  # columns and positions that all models have


class EmulatedConfig(PretrainedConfig):
    """The configuration of an `EmulatedForCausalLM`.

    Args:
        method: one of `eft_ext.methods`, or its name and numbers as JSON; `UpScale()` unless given.
        weights: where each model's weights are, by name: {"folder": a folder beside config.json} or
            {"hub": a hub id, "revision": its commit}, with "adapter": True for an adapter of PEFT.
        emulated_version: format of the file; chosen by what is in it unless given.
        special_tokens: ids that are not mixed, or {"own": ids, "never": ids, "owner": name} as JSON has them.
        tokenizers: folders beside config.json, by the name of each model that has another tokenizer than the one there.
        chat_templates: by the name of each model that has another one than the tokenizer there; None for none.
        models: each model's configuration, by its name in the method, and what `PretrainedConfig` takes.

    Attributes:
        vocab_size: the number of tokens that all models have logits for.

    Raises:
        ValueError: a newer format, a missing model, a model's name that is already taken, or no method.
    """

    model_type = "emulated"
    has_no_defaults_at_init = True
    special_tokens: Any = None
    tokenizers: Any = None
    chat_templates: Any = None

    def __init__(
        self,
        method: MixingMethod | Mapping[str, Any] | None = None,
        weights: Mapping[str, Any] | None = None,
        emulated_version: int | None = None,
        special_tokens: SpecialTokens | Mapping[str, Any] | None = None,
        tokenizers: Mapping[str, str] | None = None,
        chat_templates: Mapping[str, str | None] | None = None,
        **models: Any,
    ) -> None:
        if emulated_version is None:
            emulated_version = VERSION if special_tokens or tokenizers else _WITHOUT_SPECIAL
        if not isinstance(emulated_version, int) or not 1 <= emulated_version <= VERSION:
            later = isinstance(emulated_version, int) and emulated_version > VERSION
            newer = "; a newer eft_ext wrote it" if later else ""
            raise ValueError(f"emulated_version: expected {VERSION} or less, got {emulated_version!r}{newer}")
        found = method if isinstance(method, MixingMethod) else UpScale() if method is None else from_dict(method)
        names = found.models if method is not None or models.keys() & set(found.models) else ()
        check_names(names)
        for name in names:
            if not isinstance(models.get(name), (PretrainedConfig, Mapping)):
                raise ValueError(f"{name}: expected its configuration, got {models.get(name) or 'none'}")
        if not isinstance(weights or {}, Mapping):
            raise ValueError(f"weights: expected where each model's are, by name, got {weights!r}")
        subs = {name: _config(models.pop(name)) for name in names}
        known = [sub.get_text_config(decoder=True) for sub in subs.values() if isinstance(sub, PretrainedConfig)]
        for size in _SIZES:
            if known and (value := getattr(known[0], size, None)) is not None:
                models.setdefault(size, value)
        for size in _SMALLEST:
            values = [value for sub in known if (value := getattr(sub, size, None)) is not None]
            if values:
                models.setdefault(size, min(values))
        self.method, self.weights, self.emulated_version = to_dict(found), dict(weights or {}), emulated_version
        if special_tokens is not None:
            self.special_tokens = _json(_special(special_tokens, found))
        if tokenizers:
            self.tokenizers = _folders(tokenizers, names)
        if chat_templates:
            self.chat_templates = _templates(chat_templates, names)
        models.setdefault("auto_map", dict(_AUTO))
        models.setdefault("architectures", [ARCHITECTURE])
        attention = models.pop("attn_implementation", None)
        super().__init__(**models)
        for name, sub in subs.items():  # afterwards: the base would take their own attention from them
            setattr(self, name, sub)
        if attention is not None:
            self._attn_implementation = attention

    def __setattr__(self, name: str, value: Any) -> None:
        """Keeps a method as JSON has it: from_pretrained of transformers sets its keyword arguments here."""
        super().__setattr__(name, to_dict(value) if isinstance(value, MixingMethod) else value)

    @property
    def mixing_method(self) -> MixingMethod:
        """`method` as an object, with the special tokens."""
        method, special = from_dict(self.method), self.mixing_special_tokens
        return method if special is None else method.with_special_tokens(special)

    @property
    def mixing_special_tokens(self) -> SpecialTokens | None:
        """`special_tokens` as an object."""
        given = self.special_tokens
        return None if given is None else _special(given, from_dict(self.method))

    @property
    def sub_configs(self) -> dict[str, Any]:
        """The classes of the models' configurations, where transformers knows them."""
        there = ((name, vars(self).get(name)) for name in self.mixing_method.models)
        return {name: type(sub) for name, sub in there if isinstance(sub, PretrainedConfig)}

    def get_text_config(self, decoder: Any = None, encoder: Any = None) -> EmulatedConfig:
        """The whole: transformers would take a model named "decoder" or "generator" for it."""
        return self

    def to_diff_dict(self) -> dict[str, Any]:
        """The values that are written, each model's configuration as its own file has it."""
        found: dict[str, Any] = super().to_diff_dict()
        for name in self.sub_configs:
            found[name] = getattr(self, name).to_diff_dict()
        return found


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for a model's name that is no identifier, or that configurations or models have for another."""
    others = PretrainedConfig()
    for name in names:
        taken = hasattr(others, name) or hasattr(nn.Module, name) or name in _TAKEN
        if not name.isidentifier() or taken:
            said = "which configurations or models have for something else" if taken else "which is no identifier"
            raise ValueError(f"method: expected other names of models than {name!r}, {said}")


def _special(given: Any, method: MixingMethod) -> SpecialTokens:
    """Special tokens as an object. Raises ValueError for what is none, or an owner that is no model."""
    try:
        found = given if isinstance(given, SpecialTokens) else SpecialTokens(**given)
        found.index_of_owner(method.models)
    except (TypeError, ValueError) as error:
        said = str(error).removeprefix("special_tokens: ")
        raise ValueError(f"special_tokens: expected own, never and owner, got {given!r}: {said}") from error
    return found


def _folders(given: Any, names: Sequence[str]) -> dict[str, str]:
    """Folders by model. Raises ValueError for what is none."""
    if not isinstance(given, Mapping) or not all(n in names and isinstance(f, str) for n, f in given.items()):
        raise ValueError(f"tokenizers: expected folders by the names {', '.join(names)}, got {given!r}")
    return dict(given)


def _templates(given: Any, names: Sequence[str]) -> dict[str, str | None]:
    """Chat templates by model. Raises ValueError for what is none."""
    kinds = (str, type(None))
    if not isinstance(given, Mapping) or not all(n in names and isinstance(t, kinds) for n, t in given.items()):
        raise ValueError(f"chat_templates: expected templates by the names {', '.join(names)}, got {given!r}")
    return dict(given)


def _json(given: SpecialTokens) -> dict[str, Any]:
    return {"own": list(given.own), "never": list(given.never), "owner": given.owner}


def _config(given: Any) -> Any:
    """A model's configuration; as it stands in JSON where its class comes with the model's own code."""
    if isinstance(given, PretrainedConfig):
        return given
    values = dict(given)
    kind = values.pop("model_type", None)
    return CONFIG_MAPPING[kind].from_dict(values) if kind in CONFIG_MAPPING else dict(given)


AutoConfig.register(EmulatedConfig.model_type, EmulatedConfig, exist_ok=True)
