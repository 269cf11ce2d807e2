"""Long texts on the command line: announced where they take a while, warned of or refused beyond a model's context."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from enum import Enum
from typing import Annotated

import typer

_LONG = 20_000  # characters that take a while to read


class Beyond(str, Enum):
    """The treatment of a text that is longer than a model was made for."""

    warn = "warn"
    refuse = "refuse"


Context = Annotated[
    Beyond, typer.Option(help="Texts longer than a model was made for: warn or refuse.", rich_help_panel="Models")
]


def heed(context: Beyond) -> None:
    """From here to the command's end a text beyond a model's context is an error, where that was asked for."""
    if context is Beyond.refuse:
        from eft_ext.hf import ContextWarning

        warnings.simplefilter("error", ContextWarning)


def announce(texts: Iterable[str]) -> None:
    """Says on stderr that a text takes a while, before it is tokenized and read."""
    longest = max(map(len, texts), default=0)
    if longest >= _LONG:
        typer.secho(f"reading a text of {longest:,} characters ...", dim=True, err=True)
