"""Scoring with every instruction set: each kind of row as the reference has it, the same bits, small digits."""

import itertools

import pytest
import torch

from eft_ext import fused_score, fused_score_mix, reference
from eft_ext.ops import force_isa
from python_tests.helpers.rows import ROWS
from python_tests.helpers.rows import models as rows
from python_tests.helpers.slow_params import slowly
from python_tests.ops.test_fuzz import instruction_sets
from python_tests.ops.test_score import WEIGHTS, assert_agrees, assert_changes, exact_changes, some_targets


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request):
    try:
        force_isa(request.param)
        fused_score_mix([torch.zeros(1, 2)], [1.0], torch.tensor([0]))
    except NotImplementedError:
        pytest.skip(f"this processor has no {request.param}")
    finally:
        force_isa("auto")
    force_isa(request.param)
    yield request.param
    force_isa("auto")


@pytest.mark.parametrize("part", [0, *slowly(1)])
@pytest.mark.parametrize("name", ROWS)
def test_every_instruction_set_agrees_with_the_reference(name, part):
    """Four sizes of vocabulary for each number of models; part 0 has one of the four, another one for every kind."""
    sizes = [(1, torch.float32), (31, torch.bfloat16), (1025, torch.float16), (3000, torch.bfloat16)]
    for (seed, (vocab, dtype)), (count, weights) in itertools.product(enumerate(sizes), WEIGHTS.items()):
        if ((seed + count + list(ROWS).index(name)) % 4 == 0) != (part == 0):
            continue
        logits = rows(name, count, 5, vocab, dtype, seed)
        targets = some_targets(5, vocab, seed)
        options = {"num_top": 4, "num_changed": 3, "compared": count - 1}
        want = reference.score(logits, weights, targets, **options)
        exact = exact_changes(logits, weights, count - 1)
        for isa in instruction_sets():
            force_isa(isa)
            try:
                got = fused_score_mix(logits, weights, targets, **options)
            finally:
                force_isa("auto")
            assert_agrees(got, want)
            assert_changes(got, logits, weights, count - 1, exact)


def test_every_instruction_set_gives_the_same_bits():
    logits, targets = rows("lm", 3, 4, 5000, torch.bfloat16), some_targets(4, 5000)
    found = []
    for name in ("portable", "avx2", "avx512"):
        force_isa(name)
        try:
            found.append(fused_score(*logits, targets, num_top=3, num_changed=3))
        except NotImplementedError:
            pass
        finally:
            force_isa("auto")
    for other in found[1:]:
        for name, field in other._asdict().items():
            assert torch.equal(field, getattr(found[0], name)), name


@pytest.mark.parametrize("gap", [1.0, 17.0, 30.0, 60.0, 100.0, 1000.0, 1e5])
def test_certain_tokens_keep_their_digits(gap, isa):
    """The largest at `gap` nats above the rest: log p and log(1 - p) to 2e-6 relative, not absolute."""
    logits = torch.randn(4, 2500, generator=torch.Generator().manual_seed(1))
    hot = torch.tensor([0, 1023, 1024, 2499])
    logits[range(4), hot] = logits.amax(1) + gap
    got = fused_score_mix([logits], [1.0], hot)
    want = reference.score([logits], [1.0], hot)
    for name in ("logprobs", "log1m_max"):
        torch.testing.assert_close(getattr(got, name).double(), getattr(want, name), rtol=2e-6, atol=2e-45)
    assert (got.max_prob <= 1).all()
    others = fused_score_mix([logits], [1.0], (hot + 1) % 2500)
    torch.testing.assert_close(
        others.logprobs.double(), reference.score([logits], [1.0], (hot + 1) % 2500).logprobs, rtol=2e-6, atol=0
    )
