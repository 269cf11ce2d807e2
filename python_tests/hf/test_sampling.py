"""Seeds: the same one gives the same tokens, alone or in any slot of any batch."""

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from eft_ext.hf import EmulatedModel
from eft_ext.hf.generation.processors import plan_processing
from eft_ext.hf.inputs.seeds import row_seeds

OPTIONS = dict(max_new_tokens=8, do_sample=True, temperature=1.3, top_k=0, top_p=0.95)


@pytest.fixture
def model(llamas):
    return EmulatedModel(*llamas)


def sample(model, batch, rows, **options):
    ids, mask = batch
    return model.generate(ids[rows], attention_mask=mask[rows], **{**OPTIONS, **options})[:, ids.shape[1] :]


def alike(a, b):
    """Equal up to where the shorter one stops (a batch goes on until its last row has ended)."""
    n = min(len(a), len(b))
    return torch.equal(a[:n], b[:n])


def test_row_seeds_do_not_depend_on_the_slot(model, ragged):
    together = sample(model, ragged, [0, 1, 2, 3], seed=[5, 6, 7, 8])
    turned = sample(model, ragged, [3, 1, 0, 2], seed=torch.tensor([8, 6, 5, 7]))
    for row, slot in ((0, 2), (1, 1), (2, 3), (3, 0)):
        alone = sample(model, ragged, [row], seed=[5 + row])
        assert alike(together[row], alone[0])
        assert alike(turned[slot], alone[0])


def test_one_seed_for_the_batch(model, ragged):
    first = sample(model, ragged, [0, 1, 2, 3], seed=1)
    assert torch.equal(first, sample(model, ragged, [0, 1, 2, 3], seed=1))
    assert not torch.equal(first, sample(model, ragged, [0, 1, 2, 3], seed=2))
    assert alike(first[0], sample(model, ragged, [0], seed=1)[0]), "row 0 has the same stream in every batch"


def test_seeds_are_those_of_the_fused_step(llamas):
    from eft_ext.ops import fused_mix

    logits = torch.zeros(6, 1000)
    for seed in (0, 7, -3, 2**40):
        by_row = fused_mix([logits], [1.0], seed=row_seeds(seed, 6), position=3)
        assert torch.equal(by_row, fused_mix([logits], [1.0], seed=seed, position=3))


def test_kinds_of_seeds():
    for one in (np.int64(7), torch.tensor(7), np.array(7)):
        assert torch.equal(row_seeds(one, 3), row_seeds(7, 3))
    for each in ((1, 2), np.array([1, 2]), torch.tensor([1, 2], dtype=torch.int32), [np.int64(1), torch.tensor(2)]):
        assert row_seeds(each, 2).tolist() == [1, 2]
    assert row_seeds([2**64 - 1], 1).tolist() == [-1]


def test_without_a_seed_torch_governs(model, ragged):
    torch.manual_seed(3)
    first, second = (sample(model, ragged, [0, 1]) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(first, sample(model, ragged, [0, 1]))
    assert not torch.equal(first, second)


def test_greedy_consumes_no_random_numbers(model):
    before = torch.random.get_rng_state()
    model.generate([[5, 6]], max_new_tokens=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rows_ending_do_not_move_the_others(model, ragged):
    free = sample(model, ragged, [0, 1, 2, 3], seed=4, eos_token_id=[999])
    cut = sample(model, ragged, [0, 1, 2, 3], seed=4, eos_token_id=int(free[0, 1]))
    for row in range(4):
        n = free[row].tolist().index(int(free[0, 1])) + 1 if free[0, 1] in free[row] else free.shape[1]
        assert alike(free[row, :n], cut[row])


def test_num_return_sequences(model, ragged):
    ids, mask = ragged
    options = {**OPTIONS, "attention_mask": mask, "num_return_sequences": 3}
    got = model.generate(ids, seed=list(range(12)), beta=[0.0, 1.0, 2.0, 0.5], **options)
    assert got.shape[0] == 12
    for row in (0, 4, 11):
        beta = [0.0, 1.0, 2.0, 0.5][row // 3]
        alone = sample(model, ragged, [row // 3], seed=[row], beta=beta)
        assert alike(got[row, 7:], alone[0])
    assert len({tuple(row) for row in got[:3, 7:].tolist()}) == 3
    prompts = {"tuned": [[3, 9], [3, 8, 7], [3], [3, 4]]}
    assert model.generate(ids, prompts=prompts, **options).shape[0] == 12


def test_weights_per_row(model, ragged):
    ids, mask = ragged
    betas = [0.0, 0.5, 1.0, 3.0]
    together = model.generate(ids, attention_mask=mask, max_new_tokens=8, beta=torch.tensor(betas))
    for row, beta in enumerate(betas):
        alone = model.generate(ids[row : row + 1], attention_mask=mask[row : row + 1], max_new_tokens=8, beta=beta)
        assert alike(together[row], alone[0])


def test_sampled_frequencies_are_the_mixtures(model, llamas):
    with torch.no_grad():
        z = [m(torch.tensor([[5, 6]])).logits[0, -1, :264] for m in llamas]
    expected = ((z[0] + z[1] - z[2]) / 2.5).softmax(-1)
    got = model.generate(
        [[5, 6]],
        max_new_tokens=1,
        do_sample=True,
        temperature=2.5,
        top_k=0,
        num_return_sequences=4000,
        seed=1,
    )[:, 2]
    seen = torch.bincount(got, minlength=264) / 4000
    assert (seen - expected).abs().max() < 5 * (expected * (1 - expected) / 4000).sqrt().max()


def test_fused_filters_keep_what_transformers_keeps(model):
    """Draws with the filters in the fused step lie in the set that transformers' own warpers keep."""
    out = model.generate(
        [[5, 6]],
        max_new_tokens=1,
        do_sample=True,
        temperature=0.8,
        top_k=20,
        top_p=0.7,
        min_p=0.01,
        num_return_sequences=500,
        return_dict_in_generate=True,
        output_scores=True,
    )
    kept = out.scores[0][0].isfinite()
    drawn = out.sequences[:, 2].unique()
    assert kept[drawn].all()
    assert len(drawn) > kept.sum() // 2


def test_other_warpers_run_as_they_are(model):
    options = dict(max_new_tokens=1, do_sample=True, typical_p=0.3, num_return_sequences=300, seed=1)
    out = model.generate([[5, 6]], **options, return_dict_in_generate=True, output_scores=True)
    kept = out.scores[0][0].isfinite()
    assert kept[out.sequences[:, 2]].all()
    assert kept.sum() < 50


def test_plan():
    heat, k, p, typical = (
        TemperatureLogitsWarper(0.5),
        TopKLogitsWarper(9),
        TopPLogitsWarper(0.9),
        TypicalLogitsWarper(),
    )
    fused = plan_processing(LogitsProcessorList([typical, heat, k, p]), do_sample=True)
    assert list(fused.processors) == [typical]
    assert fused.options == {
        "temperature": 0.5,
        "top_k": 9,
        "top_p": 0.9,
    }
    for kept in (
        [heat, typical],
        [p, k],
        [heat, heat],
        [TopKLogitsWarper(9, filter_value=-9.0)],
        [TopPLogitsWarper(0.9, min_tokens_to_keep=2)],
    ):
        whole = plan_processing(LogitsProcessorList(kept), do_sample=True)
        assert list(whole.processors) == kept
        assert whole.options == {}
    assert plan_processing(LogitsProcessorList([heat]), do_sample=False).options == {"temperature": 0.0}
