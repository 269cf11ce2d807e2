"""Rows beside the positions that a model was made for."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch import Tensor

from eft_ext.dynamics.evaluation import without_containers
from eft_ext.dynamics.responses import Responses, concatenate


def check_positions(models: dict[str, Any], texts: dict[str, Responses]) -> None:
    """Warns once of rows that are longer than a model was made for; before they are read.

    Modules that are not of transformers say nothing of their positions, and are passed over.

    Args:
        models, texts: by their names; a row that does not know where it comes from is called by its text's.

    Raises:
        ValueError: a row does not fit into a model's table of positions.
        ContextWarning: where warnings are errors.
    """
    rows = concatenate([each.to("cpu") for each in texts.values()])
    where = chain.from_iterable(
        each.where or (f"{name}, row {i}" for i in range(len(each))) for name, each in texts.items()
    )
    check_rows(models, rows.attention, where)


def check_rows(models: dict[str, Any], attention: Tensor, where: Iterable[str]) -> None:
    """As `check_positions`, of rows whose tokens are not known yet: attention [rows, length], true on each of them."""
    inner = {name: without_containers(model) for name, model in models.items()}
    known = {name: m for name, m in inner.items() if hasattr(getattr(m, "config", None), "get_text_config")}
    if not known:
        return
    from eft_ext.hf.context import Context
    from eft_ext.hf.members import Member

    members = [Member(*pair) for pair in known.items()]
    Context(members, [(attention, attention)] * len(known), where=list(where))
