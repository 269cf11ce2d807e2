"""Every family that people use: how it is decoded, and that its tokens are those of three plain forward passes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import pytest
import torch

from eft_ext.decoding.capture import traced_forward
from eft_ext.decoding.static_cache.support import is_tested
from eft_ext.hf import EFTLogitsProcessor, EmulatedModel, custom_generate
from python_tests.families.builders import FAMILIES, trio
from python_tests.families.shapes import EOS, PAD
from python_tests.helpers.one_thread import one_thread as one_thread

PROMPTS = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31], [41, 42, 43, 44, 45, 46, 47]]
NEW = 18  # past the step at which passes are traced here, and past every window
FEW = 8
SHARED = 264  # columns that all three have

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*run on the eager tier", "ignore:.*reads all again", "ignore:speculate"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing"),
]


@pytest.fixture(autouse=True)
def _traced_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced_forward, "AFTER", NEW - 2)


@torch.no_grad()
def mixture_of(models: Sequence[Any], text: list[int]) -> torch.Tensor:
    """large + (tuned - base) in fp32 after each token of `text`, [length, SHARED], nothing being cached."""
    large, tuned, base = (
        model(input_ids=torch.tensor([text]), use_cache=False).logits[0, :, :SHARED].float() for model in models
    )
    return large + (tuned - base)


def plain_loop(models: Sequence[Any], prompt: list[int], guess: Sequence[int] = (), steps: int = NEW) -> list[int]:
    """Greedy tokens, each the best behind all before it. A guess spares passes as far as they say the same."""
    text, new = [*prompt, *guess], list[int]()
    best = mixture_of(models, text).argmax(-1).tolist()
    while len(new) < steps and new[-1:] != [EOS]:
        if text[: len(prompt) + len(new)] != [*prompt, *new]:
            text = [*prompt, *new]
            best = mixture_of(models, text).argmax(-1).tolist()
        new.append(best[len(prompt) + len(new) - 1])
    return new


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


@dataclass
class Case:
    """One family and its models."""

    name: str
    models: tuple[Any, Any, Any]

    @property
    def emulated(self) -> EmulatedModel:
        return EmulatedModel(*self.models)

    @property
    def family(self) -> Any:
        return FAMILIES[self.name]

    @property
    def rows(self) -> list[list[int]]:
        """Prompts of one call."""
        return PROMPTS[1:2] if self.family.alone else PROMPTS

    @cached_property
    def free(self) -> list[list[int]]:
        """Greedy tokens of one call."""
        return self.new(self.emulated.generate(padded(self.rows)[0], **self.options(do_sample=False)))

    @cached_property
    def expected(self) -> list[list[int]]:
        """Greedy tokens of the plain loop for each prompt."""
        guesses = [[]] * len(PROMPTS) if self.family.alone else self.free
        return [plain_loop(self.models, prompt, guess) for prompt, guess in zip(PROMPTS, guesses, strict=True)]

    @property
    def expected_rows(self) -> list[list[int]]:
        return self.expected[1:2] if self.family.alone else self.expected

    def options(self, **more: Any) -> dict[str, Any]:
        mask = padded(self.rows)[1]
        return dict(attention_mask=mask, max_new_tokens=NEW) | more

    def new(self, ids: torch.Tensor, ends: Sequence[int] = (EOS,)) -> list[list[int]]:
        """New tokens of each row, up to and with its end."""
        found = []
        for row in ids[:, len(padded(self.rows)[0][0]) :].tolist():
            end = next((i for i, token in enumerate(row) if token in ends), len(row))
            found.append(row[: end + 1])
        return found


@cache
def case_of(name: str) -> Case:
    try:
        return Case(name, trio(name))
    except (ValueError, KeyError, ImportError) as error:
        pytest.skip(f"this transformers does not build it: {error}")


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


def agree(case: Case, got: list[list[int]], expected: list[list[int]]) -> None:
    """Token for token; where transformers' own cached passes are loose, every token is close to the best."""
    if not case.family.loose:
        assert got == expected
        return
    for prompt, row in zip(PROMPTS if len(got) == 3 else case.rows, got, strict=False):
        close_to_best(case.models, prompt, row, 0.05)


def close_to_best(models: Sequence[Any], prompt: list[int], row: list[int], tolerance: float) -> None:
    z = mixture_of(models, prompt + row)[len(prompt) - 1 : -1]
    lost = z.amax(-1) - z.gather(-1, torch.tensor(row)[:, None])[:, 0]
    assert float((lost / z.abs().amax(-1).clamp(min=1)).max()) <= tolerance


def test_plan_and_greedy_tokens(case):
    plan = case.emulated.plan()
    assert plan.tier == case.family.tier
    assert case.family.because in plan.because
    assert case.family.tier != "async" or is_tested(case.models[0]), "its static caches are tried at every first call"
    got = case.new(case.emulated.generate(padded(case.rows)[0], **case.options(do_sample=False, max_new_tokens=FEW)))
    guessed = zip(case.rows, got, strict=True)
    agree(case, got, [plain_loop(case.models, prompt, row, FEW) for prompt, row in guessed])
    if case.family.alone:
        with pytest.raises(ValueError, match="expected one prompt at a time"):
            case.emulated.generate(*padded(PROMPTS)[:1], attention_mask=padded(PROMPTS)[1], max_new_tokens=2)


@pytest.mark.slow
def test_greedy_in_a_padded_batch_whose_rows_end(case):
    ids, _ = padded(case.rows)
    ends = [EOS, case.expected_rows[0][min(3, len(case.expected_rows[0]) - 1)]]
    got = case.new(case.emulated.generate(ids, **case.options(eos_token_id=ends, do_sample=False)), ends)
    cut = [row[: next((i for i, t in enumerate(row) if t in ends), len(row)) + 1] for row in case.expected_rows]
    agree(case, got, cut)
    agree(case, case.free, case.expected_rows)


@pytest.mark.slow
def test_the_ways_in(case):
    ids, mask = padded(case.rows)
    large, tuned, base = case.models
    short = case.options(do_sample=False, max_new_tokens=FEW)
    expected = [row[:FEW] for row in case.expected_rows]
    agree(case, case.new(large.generate(ids, custom_generate=custom_generate(tuned, base), **short)), expected)
    processor = EFTLogitsProcessor(tuned, base, attention_mask=mask)
    agree(case, case.new(large.generate(ids, logits_processor=[processor], **short)), expected)
    many = case.emulated.generate_batch(PROMPTS, batch_size=2, max_new_tokens=FEW, do_sample=False)
    agree(case, many, [row[:FEW] for row in case.expected])
    agree(case, case.new(case.emulated.generate(ids, speculate=4, **short)), expected)


@pytest.mark.slow
def test_sampled_tokens_do_not_depend_on_the_tier(case):
    if case.family.tier == "eager":
        pytest.skip("there is one tier only")
    ids, _ = padded(case.rows)
    sampled = case.options(do_sample=True, top_k=40, seed=7)
    found = [case.emulated.generate(ids, tier=tier, **sampled).tolist() for tier in ("eager", "async")]
    assert found[0] == found[1]


@pytest.mark.slow
def test_scores_in_one_piece_and_in_several(case):
    rows = [row[:7] for row in case.rows]
    expected = []
    for row in rows:
        z = mixture_of(case.models, row)[:-1].double().log_softmax(-1)
        expected.append(float(z.gather(-1, torch.tensor(row[1:])[:, None]).sum()))
    for positions in (None, 3):
        got = case.emulated.score(rows, positions=positions).logprobs[:, -1]
        assert torch.allclose(got, torch.tensor(expected, dtype=torch.float64), atol=0.1 if case.family.loose else 1e-2)


@pytest.mark.slow
def test_responses_that_share_prompts(case):
    """Rows of one length where the family gets no padding right; some of these take one row at a time."""
    alone = case.family.alone
    prompts = [PROMPTS[1], PROMPTS[1], PROMPTS[1 if alone else 2], PROMPTS[1]]
    responses = [[50, 57], [51, 52], [54, 55], [56, 57]] if alone else [[50], [51, 52, 53], [54, 55], [50]]
    expected = []
    for prompt, response in zip(prompts, responses, strict=True):
        z = mixture_of(case.models, prompt + response)[len(prompt) - 1 : -1].double().log_softmax(-1)
        expected.append(float(z.gather(-1, torch.tensor(response)[:, None]).sum()))
    with suppress(ValueError) if alone else nullcontext():
        got = case.emulated.score(prompts, responses).logprobs[:, -1]
        assert torch.allclose(got, torch.tensor(expected).double(), atol=0.1 if case.family.loose else 1e-2)


@pytest.mark.slow
def test_bf16(case):
    models = [copy.deepcopy(model).to(torch.bfloat16) for model in case.models]
    ids, _ = padded(case.rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        short = case.options(do_sample=False, max_new_tokens=FEW)
        got = case.new(EmulatedModel(*models).generate(ids, **short))
    for prompt, row in zip(case.rows, got, strict=True):
        close_to_best(models, prompt, row, 0.25)  # experts are chosen by rounded numbers, also by the plain loop
