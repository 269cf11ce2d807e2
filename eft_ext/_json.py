"""JSON as every command prints and writes it: what is not finite, which JSON lacks, is null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from eft_ext._files import write_text


def dumps(value: Any, **options: Any) -> str:
    """Returns the JSON of a value, of dataclasses too; options are those of `json.dumps`."""
    return json.dumps(plain(value), allow_nan=False, **options)


def write(path: str | Path, value: Any, **options: Any) -> None:
    """A file of one value; see `eft_ext._files.replacing`."""
    write_text(path, dumps(value, **options) + "\n")


def plain(value: Any) -> Any:
    """Dataclasses as objects, sequences as lists, -inf, inf and NaN as None."""
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
