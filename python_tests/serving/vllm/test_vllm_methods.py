"""Every method in vLLM: greedy tokens and log-probabilities by formulas in float64 that are written here."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eft_ext.methods import (
    Amplify,
    Conservative,
    Contrast,
    DownScale,
    Guidance,
    Interpolate,
    MixingMethod,
    Plain,
    Realign,
    UpScale,
    Weighted,
)
from eft_ext.ops import SpecialTokens
from python_tests.helpers import tiny_models
from python_tests.helpers.naive import logits

PROMPTS = ([5, 6, 7], [11] * 9, list(range(30, 70)), [199, 3])
TOKENS = 12


def linear(*terms: str) -> Callable[..., Tensor]:
    """The mixture of weights that are expressions of the parameters."""

    def mixed(models: list[Tensor], **own: float) -> Tensor:
        return sum(eval(term, dict(own)) * model for term, model in zip(terms, models, strict=True))  # type: ignore

    return mixed


def contrast(models: list[Tensor], beta: float, plausibility: float) -> Tensor:
    expert, amateur = models
    shares = expert.softmax(-1)
    mixed = (1 + beta) * expert - beta * amateur
    return mixed.masked_fill(shares < plausibility * shares.amax(), -torch.inf)


def conservative(models: list[Tensor], top_p: float, scale: float, of: int, outside: str) -> Tensor:
    """log tuned + scale·(log large − log base) inside the nucleus, log tuned or nothing outside."""
    large, tuned, base = (model.log_softmax(-1) for model in models)
    shares, order = models[of].softmax(-1).sort(descending=True)
    inside = torch.zeros(len(order), dtype=torch.bool)
    inside[order] = shares.cumsum(-1) - shares < top_p
    inside[order[0]] = True
    rest = tuned if outside == "keep" else torch.full_like(tuned, -torch.inf)
    return torch.where(inside, tuned + scale * (large - base), rest)


def nucleus(of: str, outside: str) -> tuple[MixingMethod, Any, list[dict[str, float]]]:
    place = ("large", "tuned", "base").index(of)
    formula = partial(conservative, of=place, outside=outside)
    own = [{"top_p": 0.3}, {"scale": 2.0}, {"top_p": 0.0, "scale": 0.5}, {"top_p": 1.0}]
    return Conservative(0.8, set=of, outside=outside, method=Amplify(1.5)), formula, own


SPECIAL = SpecialTokens(own=tuple(range(120, 150)), never=tuple(range(150, 180)))


def with_special(models: list[Tensor], beta: float) -> Tensor:
    """Own tokens have tuned's odds to the best ordinary one (numerics.md §15)."""
    large, tuned, base = models
    mixed, ordinary = large + beta * (tuned - base), torch.ones(len(large), dtype=torch.bool)
    ordinary[[*SPECIAL.own, *SPECIAL.never]] = False
    found = mixed.masked_fill(~ordinary, -torch.inf)
    if beta > 0:
        own = list(SPECIAL.own)
        found[own] = tuned[own] + mixed[ordinary].max() - tuned[ordinary].max()
    return found


# By id: the method, its formula, and the parameters of some requests.
METHODS: dict[str, tuple[MixingMethod, Any, list[dict[str, float]]]] = {
    "UpScale": (UpScale(1.5), linear("1", "beta", "-beta"), [{"beta": 0.0}, {"beta": -0.5}, {"beta": 3.0}]),
    "DownScale": (DownScale(0.5), linear("1", "beta", "-beta"), [{"beta": 1.0}, {"beta": 0.1}]),
    "Amplify": (Amplify(1.2), linear("scale", "1", "-scale"), [{"scale": 0.0}, {"scale": 2.0}]),
    "Interpolate": (
        Interpolate({"polite": 0.4, "brief": 0.9}),
        linear("1", "polite", "brief", "-polite - brief"),
        [{"polite": 1.0}, {"brief": -0.3}, {"polite": 0.0, "brief": 0.0}, {"brief": 2, "polite": 1}],
    ),
    "Weighted": (
        Weighted({"one": 1.0, "two": 0.5, "three": -0.7, "four": 0.2}),
        linear("one", "two", "three", "four"),
        [{"three": 0.7}, {"four": 1.5, "one": 0.2}, {"two": 0.0}],
    ),
    "Contrast": (Contrast(0.5, 0.1), contrast, [{"plausibility": 0.0}, {"plausibility": 1.0}, {"beta": 3.0}]),
    "Realign": (Realign(0.7), linear("1 - share", "share"), [{"share": 0.0}, {"share": 1.4}, {"share": -0.5}]),
    "Plain": (Plain(), linear("1"), []),
    "Conservative-tuned-keep": nucleus("tuned", "keep"),
    "Conservative-large-drop": nucleus("large", "drop"),
    "Conservative-base-keep": nucleus("base", "keep"),
    "Special-tokens": (
        UpScale(0.8).with_special_tokens(SPECIAL),
        with_special,
        [{"beta": 2.0}, {"beta": 0.0}, {"beta": -1.0}],
    ),
    "Conservative-off": (
        Conservative(1.0, outside="drop", method=Amplify(1.0)),
        partial(conservative, of=1, outside="drop"),
        [{"top_p": 0.4}],
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four models; the first is larger, and two have more columns than the tokenizer has tokens."""
    where = tmp_path_factory.mktemp("models")
    shapes = [{"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3}, {}, {"vocab_size": 208}, {}]
    return [tiny_models.save(where / str(seed), "llama", seed, **shape) for seed, shape in enumerate(shapes)]


@pytest.fixture(scope="module")
def models(folders: list[str]) -> list[Any]:
    from transformers import AutoModelForCausalLM

    return [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders]


@pytest.mark.slow
@pytest.mark.parametrize("case", METHODS)
def test_tokens_and_logprobs_are_the_formulas(
    case: str, folders: list[str], models: list[Any], start: Any, tmp_path: Path
) -> None:
    from vllm import SamplingParams

    method, formula, own = METHODS[case]
    names = method.models
    checkpoint = tiny_models.packed(tmp_path / "packed", method, dict(zip(names, folders[: len(names)], strict=True)))
    engine = start(checkpoint)
    asked = [({}, prompt) for prompt in PROMPTS]
    asked += [(parameters, prompt) for parameters in own for prompt in PROMPTS[:3]]
    params = [
        SamplingParams(temperature=0, max_tokens=TOKENS, logprobs=4, ignore_eos=True, extra_args=parameters)
        for parameters, _ in asked
    ]
    found = engine.generate([{"prompt_token_ids": prompt} for _, prompt in asked], params, use_tqdm=False)
    for (parameters, prompt), output in zip(asked, found, strict=True):
        completion = output.outputs[0]
        values = {**method.parameters, **parameters}
        each = logits(models[: len(names)], [*prompt, *completion.token_ids])
        for place, (token, given) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
            mixed = formula([model[len(prompt) - 1 + place] for model in each], **values)
            expected = mixed.log_softmax(-1)
            assert token == int(expected.argmax()), (parameters, prompt, place)
            for other, entry in given.items():  # two engines' fp32 logits differ by 1e-4, which weights multiply
                assert entry.logprob == pytest.approx(float(expected[other]), abs=1e-3), (parameters, prompt, place)


@pytest.mark.slow
def test_guidance_is_refused_in_one_line(folders: list[str], start: Any, tmp_path: Path) -> None:
    sources = dict.fromkeys(Guidance().models, folders[1])
    checkpoint = tiny_models.packed(tmp_path / "packed", Guidance(), sources)
    with pytest.raises(RuntimeError, match="method: expected one whose models read one prompt, got Guidance"):
        start(checkpoint)
