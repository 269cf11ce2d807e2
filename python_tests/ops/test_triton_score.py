"""Scoring in Triton's interpreter beside the float64 reference and the CPU, whose integers are equal.

EFT_FUZZ_SECONDS=600 pytest python_tests/ops/test_triton_score.py -s searches that long with fresh examples.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from eft_ext import Score, fused_score, fused_score_mix, reference
from python_tests.helpers import triton_interpreter_score as child
from python_tests.helpers.fuzzing import COMMON, SECONDS, search
from python_tests.helpers.rows import ROWS, models
from python_tests.helpers.slow_params import slowly_but
from python_tests.helpers.step_problems import Problem, problems
from python_tests.ops.test_score import WEIGHTS, assert_agrees, assert_changes, some_targets
from python_tests.ops.test_score_fuzz import assert_like_the_reference, run

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LISTS = {"num_top": 3, "num_changed": 2}
INTEGERS = ("argmax", "rank", "top_ids", "status")
KINDS = slowly_but(("lm", "nan"), ROWS)


def scored(interpreter, logits, weights, targets, sizes=None, **options) -> Score:
    """Triton's statistics, whose integers are the CPU's."""
    got = interpreter.call(child.scored, logits, weights, targets, options, sizes)
    want = fused_score_mix(logits, weights, targets, backend="cpu", **options)
    for name in INTEGERS:
        assert torch.equal(getattr(got, name), getattr(want, name)), name
    return got


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_row(interpreter, name: str) -> None:
    cases = zip((1, 31, 1025, 3000), WEIGHTS.items(), strict=True)
    for i, (vocab, (count, weights)) in enumerate(cases, list(ROWS).index(name)):
        batch = 1 + (name in ("excluded", "nan", "inf"))  # whose odd rows are the other ones
        logits, targets = models(name, count, batch, vocab, DTYPES[i % 3], i), some_targets(batch, vocab, i)
        got = scored(interpreter, logits, weights, targets, compared=count - 1, **LISTS)
        assert_agrees(got, reference.score(logits, weights, targets, compared=count - 1, **LISTS))
        assert_changes(got, logits, weights, count - 1)


@pytest.mark.slow
def test_no_cut_of_the_work_changes_a_bit(interpreter) -> None:
    logits, targets = models("lm", 3, 2, 2500, torch.bfloat16), some_targets(2, 2500)
    found = [
        scored(interpreter, logits, [1.0, 0.7, -0.7], targets, (tiles, 4, 1, 4, 4), **LISTS) for tiles in (1, 2, 3)
    ]
    for other in found[1:]:
        for name, field in other._asdict().items():
            assert torch.equal(field, getattr(found[0], name)), name


@pytest.mark.slow
@pytest.mark.parametrize("gap", [30.0, 1.0, 60.0, 100.0, 1e5])
def test_certain_tokens_keep_their_digits(interpreter, gap: float) -> None:
    """Agrees with the CPU: log p and log(1 - p) to 2e-6 relative, not absolute."""
    logits = torch.randn(4, 2500, generator=torch.Generator().manual_seed(1))
    hot = torch.tensor([0, 255, 1024, 2499])
    logits[range(4), hot] = logits.amax(1) + gap
    for targets in (hot, (hot + 1) % 2500):
        got, want = scored(interpreter, [logits], [1.0], targets), reference.score([logits], [1.0], targets)
        for name in ("logprobs", "log1m_max"):
            torch.testing.assert_close(getattr(got, name).double(), getattr(want, name), rtol=2e-6, atol=2e-45)
        assert (got.max_prob <= 1).all()


def test_one_token_alone(interpreter) -> None:
    for x in (torch.zeros(1, 1), torch.tensor([[-math.inf, 3.0, -math.inf]])):
        got = scored(interpreter, [x], [1.0], torch.tensor([x.shape[1] // 2]), num_top=2)
        assert got.logprobs.tolist() == got.entropy.tolist() == [[0.0, 0.0]]
        assert got.log1m_max.tolist() == [[-math.inf, -math.inf]]
        assert got.top_ids[0, 0].tolist() == [x.shape[1] // 2, -1]
    got = scored(interpreter, [x], [1.0], torch.tensor([2]))
    assert got.logprobs.tolist() == [[-math.inf, -math.inf]]
    assert got.rank.tolist() == [[2, 2]]


@pytest.mark.slow
def test_bad_and_ignored_rows_leave_their_neighbours_alone(interpreter) -> None:
    logits, targets = models("lm", 3, 8, 1500), some_targets(8, 1500)
    weights = [1.0, torch.tensor([1.0] * 7 + [math.nan]), -1.0]
    logits[0][1, 700] = math.nan
    logits[1][2, 1499] = math.inf
    logits[2][3] = -math.inf
    targets[4], targets[5], targets[6] = -100, 1500, -1
    got = scored(interpreter, logits, weights, targets, num_top=2, num_changed=2)
    assert got.status.tolist() == [0, 1, 1, 1, 2, 1, 1, 1]
    assert_agrees(got, fused_score_mix(logits, weights, targets, num_top=2, num_changed=2, backend="reference"))
    for name in ("up_ids", "down_ids", "up_log_ratios", "down_log_ratios"):
        field = getattr(got, name)[1:]
        assert (field == -1).all() if name.endswith("ids") else (field[3] == 0).all() and field[:3].isnan().all(), name


@pytest.mark.slow
def test_long_lists_and_a_padded_vocabulary(interpreter) -> None:
    logits = models("bf16_ties", 2, 1, 300, torch.bfloat16)
    for size, num in ((290, 40), (3, 5)):
        got = scored(interpreter, logits, [1.5, -0.5], torch.tensor([2]), vocab_size=size, num_top=num, num_changed=num)
        want = fused_score_mix(
            logits, [1.5, -0.5], torch.tensor([2]), vocab_size=size, num_top=num, num_changed=num, backend="cpu"
        )
        torch.testing.assert_close(got.top_logprobs, want.top_logprobs)
        assert_changes(got, [x[:, :size] for x in logits], [1.5, -0.5], 0)
        assert ((got.up_ids >= 0).sum() + (got.down_ids >= 0).sum()) <= size


@pytest.mark.slow
def test_sequences_of_any_strides_and_options_per_position(interpreter) -> None:
    whole = [x.view(2, 4, 500) for x in models("lm", 3, 8, 500, torch.bfloat16)]
    ids, beta = some_targets(8, 500).view(2, 4), torch.tensor([[0.0, 0.5, 1.0, 2.0], [1.5, -1.0, 2.0, 0.1]])
    for cut in (lambda x: x[:, 1:3], lambda x: x[:1].transpose(0, 1)):
        logits, targets = [cut(x)[..., :399] for x in whole], cut(ids) % 399
        weights = [1.0, cut(beta), -cut(beta)]
        assert_agrees(
            scored(interpreter, logits, weights, targets, **LISTS),
            fused_score_mix(logits, weights, targets, **LISTS, backend="reference"),
        )


@pytest.mark.slow
@pytest.mark.parametrize("defining", ["large", "tuned", "base"])
def test_conservative(interpreter, defining: str) -> None:
    for rows, nucleus, outside in (("lm", 0.9, "drop"), ("bf16_ties", 0.6, "keep"), ("nan", 1.0, "keep")):
        logits, targets = models(rows, 3, 3, 1100, torch.bfloat16), some_targets(3, 1100)
        targets[1] = -100 if rows == "lm" else targets[1]
        options = {
            "conservative_top_p": torch.tensor([nucleus, 1.0, 0.5]),
            "conservative_set": defining,
            "conservative_outside": outside,
            **LISTS,
        }
        got = scored(interpreter, logits, [1.5, 1.0, -1.5], targets, **options)
        want = fused_score_mix(logits, [1.5, 1.0, -1.5], targets, backend="reference", **options)
        assert_agrees(got, want)


@pytest.mark.slow
def test_many_rows_go_by_pieces(interpreter) -> None:
    logits, targets, beta = models("lm", 3, 7, 300), some_targets(7, 300), torch.linspace(0, 2, 7)
    got = interpreter.call(child.scored_by_pieces, logits, [1.0, beta, -beta], targets, 3)
    assert_agrees(got, fused_score(*logits, targets, beta=beta, backend="reference"))


@pytest.mark.slow
def test_a_real_vocabulary(interpreter) -> None:
    logits, targets = models("lm", 3, 1, 32000, torch.bfloat16), some_targets(1, 32000)
    got = scored(interpreter, logits, [1.0, 1.0, -1.0], targets, **LISTS)
    assert_agrees(got, reference.score(logits, [1.0, 1.0, -1.0], targets, **LISTS))


def test_exponentials_and_logarithms(interpreter) -> None:
    """exp_or_zero to 2e-7 relative, the double ones to 1e-14."""
    x = -torch.cat([torch.logspace(-12, 2.8, 3000, dtype=torch.float64), torch.tensor([0.0, 87.0, 86.99, 700.5])])
    single, double, logs = interpreter.call(child.exponentials, x)
    want = x.float().double().exp() * (x.float() > -87)
    torch.testing.assert_close(single.double(), want, rtol=2e-7, atol=0)
    torch.testing.assert_close(double, x.exp() * (x > -700), rtol=2e-15, atol=0)
    torch.testing.assert_close(logs, torch.log1p(-x), rtol=1e-14, atol=0)


@pytest.mark.slow
def test_opcheck(interpreter) -> None:
    assert interpreter.call(child.checked_scoring) == "passed"


def check(interpreter, made_up: tuple[Problem, int, int]) -> None:
    problem, seed, listed = made_up
    batch, size = problem.logits[0].shape[0], problem.options["vocab_size"]
    targets = torch.randint(-2, size + 1, (batch,), generator=torch.Generator().manual_seed(seed))
    options = {"num_top": listed, "num_changed": listed, "ignore_index": -2}
    got = interpreter.call(child.scored_problem, problem, targets, options)
    assert_like_the_reference(got, run(problem, targets, "reference", **options))


MADE_UP = st.tuples(problems(), st.integers(0, 2**16), st.integers(0, 3))


@pytest.mark.slow
@pytest.mark.skipif(SECONDS > 0, reason="the long search runs instead")
@settings(max_examples=12, derandomize=True, phases=(Phase.explicit, Phase.generate), **COMMON)
@given(made_up=MADE_UP)
def test_made_up_calls(interpreter, made_up: tuple[Problem, int, int]) -> None:
    check(interpreter, made_up)


@pytest.mark.skipif(not SECONDS, reason="EFT_FUZZ_SECONDS is not set")
def test_search(interpreter) -> None:
    search(lambda made_up: check(interpreter, made_up), [(MADE_UP, 50)], SECONDS)
