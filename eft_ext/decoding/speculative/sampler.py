"""The draws of speculation: an ordinary step of the mixture, a proposal of the draft model, a verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from eft_ext.ops import VerifyResult, fused_mix, fused_step, fused_verify
from eft_ext.ops.method import Method, at_positions


@dataclass(frozen=True)
class Sampler:
    """The mixture of the rows, and the options they are drawn with.

    Attributes:
        weights: one for each model, numbers or tensors [rows]; or a method with such parameters, or with functions of
            the step, which brings its conservative settings along.
        options: temperature, top_k, top_p, min_p, conservative_top_p, ...: as for `fused_verify`.
        draft: the model that proposes.
        draft_options: its temperature and filters, where they are not those of `options`.
    """

    weights: Sequence[float | Tensor] | Method
    options: dict[str, Any] = field(default_factory=dict)
    draft: int = 1
    draft_options: dict[str, Any] = field(default_factory=dict)

    def keep(self, rows: Tensor) -> Sampler:
        def own(option: Any) -> Any:
            return option[rows.to(option.device)] if isinstance(option, Tensor) else option

        def parameter(name: str, value: Any) -> Any:
            if callable(value) and not isinstance(value, Tensor):
                return lambda step: own(value(step))
            return own(value)

        options, drafting = ({n: own(x) for n, x in o.items()} for o in (self.options, self.draft_options))
        given = self.weights
        weights = given.mapped(parameter) if isinstance(given, Method) else [own(w) for w in given]
        return Sampler(weights, options, self.draft, drafting)

    def step(self, logits: Sequence[Tensor], seeds: Tensor, positions: Tensor) -> Tensor:
        """Tokens [rows] from every model's logits [rows, vocab]."""
        drawn = {"seed": seeds, "position": positions, **self.options}
        if isinstance(self.weights, Method):
            now = at_positions(self.weights, positions.shape, positions, logits[0].device)
            tokens: Tensor = fused_mix(logits, now, **drawn)
        elif "conservative_top_p" in self.options:
            tokens = fused_step(*logits, scale=self.weights[0], **drawn)
        else:
            tokens = fused_mix(logits, self.weights, **drawn)
        return tokens

    def propose(self, logits: Tensor, width: int, seeds: Tensor, positions: Tensor) -> Tensor:
        """A draft [rows] from the draft model's logits [rows, vocab], by an ordinary step of that model alone."""
        own = {name: x for name, x in self.options.items() if not name.startswith("conservative")}
        own.update(self.draft_options)
        tokens: Tensor = fused_mix([logits], [1.0], seed=seeds, position=positions, vocab_size=width, **own)
        return tokens

    def verify(
        self, drafts: Tensor, logits: Sequence[Tensor], lengths: Tensor, seeds: Tensor, at: Tensor
    ) -> VerifyResult:
        """Verifies `drafts` [rows, k], given every model's logits [rows, k + 1, vocab]."""
        own = {f"draft_{name}": x for name, x in self.draft_options.items()}
        q = logits[self.draft][:, :-1]
        return fused_verify(
            drafts, q, logits, self.weights, lengths=lengths, seed=seeds, position=at, **self.options, **own
        )
