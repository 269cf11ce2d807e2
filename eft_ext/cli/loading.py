"""The models that a command runs: named ones, a checkpoint, or the embedded ones."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eft_ext.cli.methods import Name, chosen, option_of, sources

if TYPE_CHECKING:
    from eft_ext.hf import EmulatedModel
    from eft_ext.methods import MixingMethod


def load(
    large: str | None,
    tuned: str | None,
    base: str | None,
    weights: Mapping[str, Any],
    *,
    method: Name | None = None,
    models: Sequence[str] | None = None,
    any_tokenizers: bool = False,
    **options: Any,
) -> tuple[EmulatedModel, bool]:
    """The models asked for, or the embedded ones if none are named.

    Args:
        large, tuned, base: where they are; `large` alone may be a checkpoint of `eft pack`.
        weights: beta, scale, lambda, plausibility and conservative_top_p, _set, _outside as given, None where not.
        method: as `--method` says.
        models: as `--model` says.
        any_tokenizers: they are not compared.
        options: dtype, device_map, special_tokens, ...

    Returns:
        The model, and whether it is made of embedded ones.

    Raises:
        ValueError: some models are named and others are missing, one cannot be loaded, none has a tokenizer, options
            contradict each other.
    """
    import torch  # seconds

    from eft_ext.hf import EmulatedModel
    from eft_ext.hf.checkpoint.read import is_checkpoint, read

    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if large is not None and tuned is None and base is None and not models and is_checkpoint(large, {}):
        packed = read(large, {}).config.mixing_method
        how = _over(packed, method, weights)
        if given.pop("trust_remote_code", False):
            given["trust_model_code"] = packed.models
        hush(bars=sys.stderr.isatty())
        model, embedded = EmulatedModel.from_pretrained(large, method=how, **given), False
    else:
        how, named, embedded = asked(large, tuned, base, weights, method=method, models=models)
        hush(bars=sys.stderr.isatty() and not embedded)
        if embedded:
            torch.set_num_threads(1)  # layers this small take longer to share than to compute
        given["check_tokenizers"] = not any_tokenizers
        model = EmulatedModel.from_pretrained(method=how, quiet=embedded, **given, **named)  # type: ignore[arg-type]
    if model.tokenizer is None:
        option = "--model" if models else "--large"
        raise ValueError(f"{option}: expected a model with a tokenizer, found none in any of them")
    return model, embedded


def asked(
    large: str | None,
    tuned: str | None,
    base: str | None,
    weights: Mapping[str, Any],
    *,
    method: Name | None = None,
    models: Sequence[str] | None = None,
) -> tuple[MixingMethod, dict[str, str], bool]:
    """The method that is asked for, hub ids or folders by name, and whether these are the embedded models.

    Arguments, and what is raised, as for `load`.
    """
    named = sources(models, large, tuned, base)
    how, trio = _chosen(method, named, weights)
    embedded = not named
    if embedded:
        from eft_ext.demo import model_path

        folders = {name: model_path(folder) for name, folder in trio.items()}
        if not all(folder.is_dir() for folder in folders.values()):
            raise ValueError("--large, --tuned, --base: expected models, since this copy has no embedded ones")
        named = {name: str(folder) for name, folder in folders.items()}
    for name in named:
        if name not in (*how.models, *how.groups):
            raise ValueError(f"--model {name}=...: not a model of {how!r}, which has {', '.join(how.models)}")
    for name in how.models:
        standing = any(name in group and other in named for other, group in how.groups.items())
        if name not in named and name != how.adapter_base and not standing:
            raise ValueError(f"{option_of(name)}: expected a model beside the others, got none")
    return how, named, embedded


def _over(packed: MixingMethod, method: Name | None, weights: Mapping[str, Any]) -> MixingMethod:
    """The method of a checkpoint, with the parameters that are given; another one where they are not its own."""
    names = ((name, "share" if name == "lambda" else name) for name in weights)
    own = {parameter: weights[name] for name, parameter in names if weights[name] is not None}
    if method is None and own.keys() <= packed.parameters.keys():
        packed.set(**own)
        return packed
    return _chosen(method, {}, weights)[0]


def _chosen(
    method: Name | None, named: Mapping[str, str], weights: Mapping[str, Any]
) -> tuple[MixingMethod, dict[str, str]]:
    nucleus = {part: weights.get(f"conservative_{part}") for part in ("top_p", "set", "outside")}
    return chosen(method, named, {n: v for n, v in weights.items() if not n.startswith("conservative_")}, nucleus)


def hush(*, bars: bool) -> None:
    """Leaves errors of what transformers says, and its progress bars if wanted."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
