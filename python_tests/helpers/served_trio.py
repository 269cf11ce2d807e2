"""The shipped trio in vLLM beside the same models in plain torch."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from python_tests.helpers.embedded_trio import ids_of, parts
from python_tests.helpers.naive import logits, up_scaled

EOS = 0
# A smaller difference between the two likeliest tokens is within what two engines' fp32 sums may differ by.
CLOSE = 1e-4
PROMPTS = (
    "The quick",
    "A",
    "Harbour of Tonin",
    "Question: What does the town of Tonin trade in?\nAnswer:",
    "\n\n",
    "The ship was commanded by",
    "Once there was a mayor who kept a lantern in the tower and a goat in the yard, and every morning at the bell",
    "where",
)


def prompts() -> list[list[int]]:
    """The ids of `PROMPTS`."""
    return [list(ids_of(text)) for text in PROMPTS]


def mixture(ids: Sequence[int], beta: float) -> Tensor:
    """The mixture's logits at every position, float64 [length, V]."""
    return up_scaled(beta)(*logits(parts()[0], ids))


def sampling(beta: float | None = None, **options: Any) -> Any:
    """Sampling parameters of vLLM: greedy unless they say otherwise."""
    from vllm import SamplingParams

    own = {} if beta is None else {"extra_args": {"beta": beta}}
    return SamplingParams(**{"temperature": 0.0, "max_tokens": 24, **own, **options})


def ask(llm: Any, requests: Iterable[tuple[Sequence[int], Any]]) -> list[Any]:
    """The outputs of requests that are given as ids and sampling parameters, all at once."""
    ids, given = zip(*requests, strict=True)
    return llm.generate([{"prompt_token_ids": list(each)} for each in ids], list(given), use_tqdm=False)


def tokens(output: Any) -> list[int]:
    """The tokens of the first sequence of an output."""
    return list(output.outputs[0].token_ids)


def check_greedy(
    ids: Sequence[int],
    found: Sequence[int],
    beta: float,
    *,
    count: int = 24,
    change: Callable[[Tensor, int], Tensor] = lambda z, step: z,
) -> None:
    """Asserts that tokens are the mixture's likeliest one after another, and end with EOS or after `count`.

    One pass over the whole text tells the same as the naive loop: by induction each token has the same text before it.

    Args:
        change: of one position's logits [V], by the number of tokens so far.
    """
    assert found
    assert len(found) == count or found[-1] == EOS
    assert EOS not in found[:-1]
    rows = mixture([*ids, *found], beta)[len(ids) - 1 : -1]
    for step, (row, token) in enumerate(zip(rows, found, strict=True)):
        first, second = change(row.clone(), step).topk(2).values.tolist()
        assert first - second > CLOSE, f"step {step}: too close to compare"
        assert change(row.clone(), step).argmax() == token, f"beta {beta}, step {step}: {token}"


def counted(llm: Any, name: str) -> int:
    """A counter of the engine's metrics, over all engines of this process."""
    return sum(int(each.value) for each in llm.get_metrics() if each.name == f"vllm:{name}")
