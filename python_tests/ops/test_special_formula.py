"""Tokens that the models do not share (numerics.md §15): the formula, and equal tokens from each instruction set."""

import math

import pytest
import torch

from eft_ext.ops import combine, fused_mix, fused_score, fused_step, fused_verify, reference
from eft_ext.ops.backends import native
from eft_ext.ops.special_tokens import SpecialTokens
from python_tests.helpers.rows import models
from python_tests.helpers.special_problems import formula, packed, problems
from python_tests.ops.test_step import assert_same

OWN = SpecialTokens(own=(1500, 3, 1023), never=(1501, 8))
WEIGHTS = {"beta": [1.0, 0.6, -0.6], "scale": [1.7, 1.0, -1.7]}
PROBLEMS = problems()


def logits_with_marks(rows=5, size=1600, dtype=torch.float32):
    logits = [x.clone() for x in models("lm", 3, rows, size, dtype)]
    for s, away in zip(OWN.own, (-0.5, 0.3, -4.0), strict=True):
        logits[1][:, s] = logits[1].amax(dim=1) + away
    return logits


@pytest.mark.parametrize("form", WEIGHTS)
def test_probabilities_are_the_formulas(form):
    logits, weights = logits_with_marks(), WEIGHTS[form]
    want = formula(logits, weights, OWN, owner=1)
    got = reference.distribution(logits, weights, special_tokens=OWN)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-12)
    z = combine(logits, weights, special_tokens=OWN, backend="cpu").double()
    torch.testing.assert_close(z.softmax(dim=1), want, rtol=1e-5, atol=1e-12)


def test_ordinary_tokens_keep_their_relative_odds():
    logits = logits_with_marks()
    z = combine(logits, WEIGHTS["beta"], special_tokens=OWN)
    plain = combine(logits, WEIGHTS["beta"])
    ordinary = torch.ones(z.shape[1], dtype=torch.bool)
    ordinary[[*OWN.own, *OWN.never]] = False
    assert torch.equal(z[:, ordinary], plain[:, ordinary])
    assert (z[:, list(OWN.never)] == -math.inf).all()


def test_an_own_token_is_chosen_greedily_where_its_owner_alone_would():
    logits = [x.clone() for x in models("lm", 3, 64, 900, torch.float32)]
    away = torch.linspace(-0.2, 0.2, 64)
    special = SpecialTokens(own=(880,))
    logits[1][:, 880] = logits[1].amax(dim=1) + away
    tokens = fused_step(*logits, temperature=0, special_tokens=special)
    assert torch.equal(tokens == 880, logits[1].argmax(dim=1) == 880)


def test_without_the_owner_there_are_no_own_tokens():
    logits = logits_with_marks()
    z = combine(logits, [1.0, 0.0, 0.0], special_tokens=OWN)
    assert (z[:, list(OWN.own)] == -math.inf).all()
    amplified = combine(logits, [0.0, 1.0, -0.0], special_tokens=OWN)  # scale 0 is tuned itself
    assert torch.equal(amplified[:, list(OWN.own)], logits[1][:, list(OWN.own)])


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_every_instruction_set_is_the_reference(problem, isa):
    if native.ISA[isa] > native._native.cpu_best_isa():
        pytest.skip(f"this processor has no {isa}")
    common = {"seed": 11, "position": 5, "return_details": True, "top_logprobs": 6, "special_tokens": problem.special}
    want = fused_mix(problem.logits, problem.weights, backend="reference", **common, **problem.options)
    native.force_isa(isa)
    try:
        got = fused_mix(problem.logits, problem.weights, backend="cpu", **common, **problem.options)
        z = combine(problem.logits, problem.weights, special_tokens=problem.special, backend="cpu", **_mixed(problem))
    finally:
        native.force_isa("auto")
    assert_same(got, want, problem.name)
    of = combine(
        problem.logits, problem.weights, special_tokens=problem.special, backend="reference", **_mixed(problem)
    )
    assert torch.equal(z.nan_to_num(nan=7e30), of.nan_to_num(nan=7e30))
    assert (got.tokens >= 0).any() or problem.name == "broken rows"


def _mixed(problem):
    return {name: value for name, value in problem.options.items() if name in ("bias", "token_bitmask")}


def test_a_problem_in_which_own_tokens_are_drawn():
    drawn = set()
    for problem in PROBLEMS:
        for seed in range(5):
            tokens = fused_mix(problem.logits, problem.weights, special_tokens=problem.special, seed=seed, position=0,
                               **problem.options)  # fmt: skip
            drawn |= {"own" for t in tokens.tolist() if t in problem.special.own}
            assert not {*tokens.tolist()} & {*problem.special.never}
    assert drawn == {"own"}


@pytest.mark.parametrize("conservative", [{}, {"conservative_outside": "drop"}])
def test_conservative_re_weighting(conservative):
    logits = logits_with_marks(dtype=torch.bfloat16)
    options = {"conservative_top_p": 0.8, "scale": 1.5, "special_tokens": OWN, "seed": 2, "position": 1, **conservative}
    got, want = (fused_step(*logits, return_details=True, backend=name, **options) for name in ("cpu", "reference"))
    assert_same(got, want, "conservative")


def test_drafts_are_verified_against_the_formula():
    rows, k, size = 6, 3, 1600
    logits = [x.clone() for x in models("lm", 3, rows * (k + 1), size, torch.bfloat16)]
    logits[1][:, 1500] = logits[1].amax(dim=1)
    steps = [x.reshape(rows, k + 1, size) for x in logits]
    q = steps[1][:, :k]
    drafts = torch.stack([fused_mix([q[:, i]], [1.0], seed=4, position=7 + i) for i in range(k)], dim=1)
    drafts[0, 0], drafts[1, 0] = OWN.never[0], OWN.own[0]
    options = {"special_tokens": OWN, "seed": 4, "position": 7, "top_p": 0.98}
    got, want = (
        fused_verify(drafts, q, steps, WEIGHTS["beta"], backend=name, **options) for name in ("cpu", "reference")
    )
    for x, y in zip(got, want, strict=True):
        assert torch.equal(x, y)
    assert got.tokens[0, 0] != OWN.never[0]


def test_scores_are_the_formulas():
    logits = logits_with_marks(rows=8)
    targets = torch.tensor([1500, 3, 1023, 1501, 8, 20, 21, 22])
    got = fused_score(*logits, targets, beta=0.6, special_tokens=OWN, num_top=4, num_changed=3)
    p = formula(logits, WEIGHTS["beta"], OWN, owner=1)
    own = p[torch.arange(8), targets]
    torch.testing.assert_close(got.logprobs[:, 3].double(), own.log(), rtol=2e-6, atol=3e-7)
    torch.testing.assert_close(got.entropy[:, 3].double(), torch.special.entr(p).sum(dim=1), rtol=2e-6, atol=3e-7)
    q = logits[1].double().softmax(dim=1)
    torch.testing.assert_close(got.tv.double(), (p - q).abs().sum(dim=1) / 2, rtol=2e-6, atol=3e-7)
    assert torch.equal(got.rank[:, 3], (p > own[:, None]).sum(dim=1) + _earlier(p, targets))
    want = fused_score(*logits, targets, beta=0.6, special_tokens=OWN, num_top=4, num_changed=3, backend="reference")
    for name, x, y in zip(got._fields, got, want, strict=True):
        if x.is_floating_point():
            torch.testing.assert_close(x.double(), y.double(), rtol=2e-6, atol=3e-7, msg=name)
        else:
            assert torch.equal(x, y), name


def _earlier(p, targets):
    tied = (p == p.gather(1, targets[:, None])) & (torch.arange(p.shape[1]) < targets[:, None])
    return tied.sum(dim=1)


def test_only_what_lies_in_the_vocabulary_counts():
    logits = logits_with_marks()
    far = SpecialTokens(own=(5000,), never=(4096,))
    assert torch.equal(combine(logits, [1, 1, -1], special_tokens=far), combine(logits, [1, 1, -1]))


def test_masks_are_those_of_the_ids():
    from eft_ext.ops.special_tokens import special_masks

    given = SpecialTokens(own=(0, 31, 1055, 5000), never=(32, 2047, 151935), owner=2)
    masks = special_masks(given, ("a", "b", "c"), 151936, torch.device("cpu"))
    assert masks.tokens == given
    assert special_masks(given, ("a", "b", "c"), 1025, torch.device("cpu")).tokens.own == (0, 31)


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "never: expected ids beside those of own, got 3 in both", lambda: SpecialTokens((3,), (3, 4))),
        (TypeError, "own: expected token ids, got 'a'", lambda: SpecialTokens(("a",))),
        (ValueError, "never: expected token ids from 0, got -1", lambda: SpecialTokens((), (-1,))),
        (TypeError, "owner: expected a model's name or index, got None", lambda: SpecialTokens(owner=None)),
        (
            ValueError,
            "special_tokens: expected an owner among large, tuned, base, got 'expert'",
            lambda: combine(logits_with_marks(), [1, 1, -1], special_tokens=SpecialTokens((1,), owner="expert")),
        ),
        (
            TypeError,
            "special_tokens: expected SpecialTokens, got dict",
            lambda: combine(logits_with_marks(), [1, 1, -1], special_tokens={"own": [1]}),
        ),
    ],
)
def test_errors(error, message, make):
    with pytest.raises(error, match="^" + message.replace("(", r"\(")):
        make()


def test_a_compiled_step_has_the_same_tokens():
    logits = logits_with_marks(dtype=torch.bfloat16)

    @torch.compile(fullgraph=True, backend="eager")
    def step(*given):
        return fused_step(*given, special_tokens=OWN, seed=3, position=0, top_p=0.9)

    assert torch.equal(step(*logits), fused_step(*logits, special_tokens=OWN, seed=3, position=0, top_p=0.9))


def test_a_bitmask_with_every_bit():
    allowed = torch.ones(2, 70, dtype=torch.bool)
    assert packed(allowed).tolist() == [[-1, -1, 63]] * 2
