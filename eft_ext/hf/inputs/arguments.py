"""Arguments of EmulatedModel.generate that are settled before transformers sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationConfig, StoppingCriteriaList, StopStringCriteria

from eft_ext.hf.inputs.chats import Templates, templates_of
from eft_ext.hf.inputs.prompts import Prompt, chats_in, encode, is_text
from eft_ext.hf.inputs.token_ids import UNUSED, as_list
from eft_ext.hf.members import Member, by_model
from eft_ext.methods import MixingMethod

Means = Callable[[str, int], bool]


def prompts_of(
    method: MixingMethod, prompts: Mapping[str, Any] | None, tokenizers: Mapping[str, Any], names: tuple[str, ...]
) -> dict[str, Prompt]:
    """Prompts by the names of models, text encoded by each model's own tokenizer.

    Raises ValueError for a name that is none of `names`, or for no prompt.
    """
    return _encoded(_named(method, prompts, names), templates_of(method, tokenizers))


def encode_all(
    inputs: Any,
    prompts: Mapping[str, Any] | None,
    templates: Templates,
    kwargs: dict[str, Any],
    method: MixingMethod,
    bos: int | None = None,
) -> dict[str, Prompt]:
    """Prompts by model name: the first model's always, the others' where they read something else.

    A text that all read is something else to a model with a tokenizer of its own, a chat also to one with a chat
    template of its own; ids are the same to all.
    Takes input_ids and attention_mask out of `kwargs`. Where nothing at all is given, the text is `bos`, as in
    transformers. Raises ValueError where prompts are missing, given twice, or not prompts.
    """
    lead = method.models[0]
    ids, mask = kwargs.pop("input_ids", None), kwargs.pop("attention_mask", None)
    if inputs is not None and ids is not None:
        raise ValueError("input_ids: expected either inputs or input_ids, got both")
    inputs = inputs if inputs is not None else ids
    given = dict(prompts or {})
    if inputs is None and not given and bos is not None:
        inputs, mask = [[bos]], [[1]]
    if inputs is None:
        inputs = given.pop(lead, None)
    elif lead in given:
        raise ValueError(f"prompts[{lead!r}]: expected nothing beside inputs, which the {lead} model reads")
    values = _named(method, given, method.models)
    if inputs is None:
        raise ValueError(f"inputs: expected token ids, text, or prompts={{{lead!r}: ...}}, got nothing")
    text = is_text(inputs)
    if mask is not None:
        if text:
            raise ValueError("attention_mask: expected none beside text, which brings its own")
        inputs = {"input_ids": inputs, "attention_mask": mask}
    others = [name for name in method.models if text and name not in (*values, *method.last_token_only)]
    alike = templates.alike if chats_in("inputs", inputs) is not None else templates.encoded_alike
    values |= {name: ("inputs", inputs) for name in (lead, *others) if name == lead or not alike(lead, name)}
    encoded = _encoded(values, templates)
    return {n: p for n, p in encoded.items() if n == lead or n not in others or p.rows != encoded[lead].rows}


def _named(
    method: MixingMethod, prompts: Mapping[str, Any] | None, names: tuple[str, ...]
) -> dict[str, tuple[str, Any]]:
    """Each named model's argument and its value."""
    given = by_model(method, prompts or {})
    for name in given:
        if name not in names:
            known = ", ".join((*names, *(set(method.groups) & {"tuned"})))
            raise ValueError(f"prompts: expected the keys {known}, got {name!r}")
    return {name: (f"prompts[{name!r}]", value) for name, value in given.items()}


def _encoded(values: Mapping[str, tuple[str, Any]], templates: Templates) -> dict[str, Prompt]:
    chats = ((name, argument, chats_in(argument, value)) for name, (argument, value) in values.items())
    texts = templates.texts({name: (argument, some) for name, argument, some in chats if some is not None})
    found = {}
    for name, (argument, value) in values.items():
        own = templates.tokenizers.get(name)
        found[name] = encode(argument, texts.get(name, value), own, pad_token_id=getattr(own, "pad_token_id", None))
    return found


def setting(name: str, lead: Any, config: GenerationConfig | None, kwargs: Mapping[str, Any]) -> Any:
    """A setting as transformers resolves it: the call's, its config's, or the first model's; None where none has it."""
    own = getattr(lead, "generation_config", None)
    given = (kwargs.get(name), *(getattr(c, name, None) for c in (config, own)))
    return next((value for value in given if value is not None), None)


def add_ends(
    members: tuple[Member, ...],
    ending: tuple[str, ...],
    config: GenerationConfig | None,
    kwargs: dict[str, Any],
    means: Means | None = None,
) -> None:
    """Unless the caller says which tokens end a row: let those of the `ending` models do so beside the first's.

    Arguments as for `ends_of`.
    The behaviour includes ending: Llama-3's and Qwen's chat models end a turn with a token that their base
    models' generation_config does not list.
    """
    if given_ends(config, kwargs) is not None:
        return
    ends = ends_of(members, ending, means)
    if ends == ends_of(members[:1], ()):
        return
    ends = ends or [UNUSED]  # not None, for which transformers would take the first model's
    if config is None:
        kwargs["eos_token_id"] = ends
    else:
        config.eos_token_id = ends


def ends_of(members: tuple[Member, ...], ending: tuple[str, ...], means: Means | None = None) -> list[int]:
    """The end-of-text tokens of the first model, then those that the `ending` ones have beside them.

    Args:
        means: of a model's name and an id, true if the mixture means by it what the model means; always, if not given.
    """
    each = [members[0], *(member for member in members[1:] if member.name in ending)]
    ends = ((m.name, end) for m in each for end in as_list(setting("eos_token_id", m.model, None, {})))
    return list(dict.fromkeys(end for name, end in ends if means is None or means(name, end)))


def given_ends(config: GenerationConfig | None, kwargs: Mapping[str, Any]) -> list[int] | None:
    """The end-of-text tokens that a call or its config brings, None where it leaves them to the models."""
    if "eos_token_id" in kwargs:
        return as_list(kwargs["eos_token_id"])
    return None if config is None or config.eos_token_id is None else as_list(config.eos_token_id)


def add_stop_strings(lead: Any, config: GenerationConfig | None, kwargs: dict[str, Any], tokenizer: Any) -> None:
    """Turn stop_strings into their criterion here: transformers keeps the tokenizer from custom loops.

    As for any setting, those of the call count before those of its config, and these before the first model's.
    """
    inherited = getattr(getattr(lead, "generation_config", None), "stop_strings", None)
    of_config = getattr(config, "stop_strings", None)
    strings = kwargs.pop("stop_strings", of_config if of_config is not None else inherited)
    if config is not None:
        config.stop_strings = None
    if inherited is not None:
        kwargs["stop_strings"] = None  # or transformers would fall back to them
    if not strings:
        return
    if tokenizer is None:
        raise ValueError("stop_strings: expected a tokenizer beside them; pass tokenizer= or give EmulatedModel one")
    criteria = StoppingCriteriaList(kwargs.get("stopping_criteria") or [])
    criteria.append(StopStringCriteria(tokenizer, strings))
    kwargs["stopping_criteria"] = criteria
