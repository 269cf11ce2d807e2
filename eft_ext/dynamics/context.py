"""Rows of tokens beside the tables of embeddings and positions that a model has."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch import Tensor

from eft_ext.dynamics.evaluation import without_containers
from eft_ext.dynamics.responses import Responses, concatenate


def check_texts(models: dict[str, Any], texts: dict[str, Responses]) -> None:
    """Warns once of rows that are longer than a model was made for; before they are read.

    Modules that are not of transformers say nothing of their tables, and are passed over.

    Args:
        models, texts: by their names; a row that does not know where it comes from is called by its text's.

    Raises:
        ValueError: a row does not fit into a model's table of positions, or has a token that its embedding has not.
        ContextWarning: where warnings are errors.
    """
    known = _of_transformers(models)
    if not known:
        return
    from eft_ext.decoding.model_facts import input_table

    rows = concatenate([each.to("cpu") for each in texts.values()])
    named = ([*each.where] or [f"{name}, row {i}" for i in range(len(each))] for name, each in texts.items())
    where = list(chain.from_iterable(named))
    largest, row = rows.ids.max(1).values.max(0)
    for name, model in known.items():
        vocab_size = input_table(model).weight.shape[0]
        if int(largest) >= vocab_size:
            expected = f"expected tokens of the model's own tokenizer, below the {vocab_size} that {name} has"
            raise ValueError(f"{where[int(row)]}: {expected}, got {int(largest)}")
    check_rows(models, rows.attention, where)


def check_rows(models: dict[str, Any], attention: Tensor, where: Iterable[str]) -> None:
    """Does the same for rows whose tokens are not known yet: attention [rows, length], true on each of them."""
    known = _of_transformers(models)
    if not known:
        return
    from eft_ext.hf.inputs.context import Context
    from eft_ext.hf.members import Member

    members = [Member(*pair) for pair in known.items()]
    Context(members, [(attention, attention)] * len(known), where=list(where))


def _of_transformers(models: dict[str, Any]) -> dict[str, Any]:
    inner = {name: without_containers(model) for name, model in models.items()}
    return {name: m for name, m in inner.items() if hasattr(getattr(m, "config", None), "get_text_config")}
