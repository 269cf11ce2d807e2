"""The requests of load_server.py: greedy, with betas of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from python_tests.helpers.served_trio import PROMPTS

BETAS = (None, 0.0, 0.5, 1.0, 2.5)
# The kinds of sixteen requests; more of them repeat it. Streams end in "d", and so do requests that a client gives up.
KINDS = ("whole", "streamed") * 4 + ("stream closed", "stream closed", "whole closed")
KINDS += ("schema whole", "schema streamed", "schema streamed", "bad whole", "bad streamed")
SCHEMA = {
    "type": "object",
    "properties": {
        "town": {"enum": ["Tonin", "Neisos", "Nepos"]},
        "year": {"type": "string", "pattern": "^1[0-9]{3}$"},
        "trades": {"type": "array", "items": {"enum": ["wool", "salt"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["town", "year", "trades"],
    "additionalProperties": False,
}
# Fields that no server of the checkpoint takes, and what its message says.
BAD: tuple[tuple[dict[str, Any], str], ...] = (
    ({"vllm_xargs": {"beta": "x"}}, "beta: expected a finite number, got 'x'"),
    ({"vllm_xargs": {"betta": 1}}, "betta: not a parameter of UpScale, which has beta"),
    ({"max_tokens": 100_000}, "cannot be greater than max_model_len"),
    ({"temperature": -1}, "temperature must be"),
)


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        kind: one of `KINDS`.
        new: tokens at most.
        bad: place in `BAD`, of a bad one.
    """

    kind: str
    prompt: str
    beta: float | None = None
    new: int = 24
    bad: int = 0

    @property
    def streamed(self) -> bool:
        return self.kind.startswith("stream") or self.kind.endswith("streamed")

    @property
    def fields(self) -> dict[str, Any]:
        """Those of the request's JSON that every endpoint knows."""
        own: dict[str, Any] = {} if self.beta is None else {"vllm_xargs": {"beta": self.beta}}
        own |= {"temperature": 0, "max_tokens": self.new, "stream": self.streamed}
        if self.kind.endswith("closed"):  # long enough that only its client can end it
            own |= {"ignore_eos": True, "max_tokens": 230}
        return own | (BAD[self.bad][0] if self.kind.startswith("bad") else {})


def plain(number: int, kind: str = "whole", new: int = 24) -> Request:
    """One of the prompts, at one of the betas; all pairs come in turn."""
    beta = BETAS[sum(divmod(number, len(PROMPTS))) % len(BETAS)]
    return Request(kind, PROMPTS[number % len(PROMPTS)], beta, new)


def mixed(count: int) -> list[Request]:
    """Requests of all kinds. Each prompt and beta is asked both whole and streamed."""
    found = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        one = plain(number // 2, kind, 120 if kind.startswith("schema") else 24)
        found.append(Request(one.kind, one.prompt, one.beta, one.new, number // len(KINDS) % len(BAD)))
    return found
