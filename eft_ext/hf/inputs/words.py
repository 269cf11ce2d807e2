"""The tokenizers of a mixture's models, which may differ in their special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eft_ext.ops.special_tokens import SpecialTokens


@dataclass(frozen=True)
class Words:
    """What turns text into ids and back.

    Attributes:
        tokenizer: decodes what is generated and finds stop strings in it; None where there is none.
        each: encodes a model's text, by the model's name; one object where they are equal.
        special: ids that are not mixed; None where all ids mean the same to all models.
    """

    tokenizer: Any = None
    each: Mapping[str, Any] = field(default_factory=dict)
    special: SpecialTokens | None = None

    @classmethod
    def one(cls, tokenizer: Any, names: tuple[str, ...]) -> Words:
        """The same tokenizer for all models."""
        return cls(tokenizer, dict.fromkeys(names, tokenizer))

    @property
    def several(self) -> bool:
        """True where models have tokenizers of their own."""
        return any(other is not self.tokenizer for other in self.each.values())
