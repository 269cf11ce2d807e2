"""Many prompts through a batch that is kept full: exactly what each gets alone."""

import pytest
import torch

from eft_ext.hf import EmulatedModel
from eft_ext.hf.generation.call import call
from eft_ext.hf.inputs.seeds import row_seeds
from eft_ext.hf.runners.engine_pool import EnginePool

SAMPLED = dict(do_sample=True, temperature=1.2, top_k=0, top_p=0.95)


@pytest.fixture(scope="module")
def exact(build):
    """A trio in float64, whose roundings no batch can turn into another token."""
    models = [
        build("llama", i, hidden, vocab).double() for i, hidden, vocab in ((0, 16, 272), (1, 8, 264), (2, 8, 264))
    ]
    return EmulatedModel(*models)


def mixed(count, longest=24):
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, longest, (count,), generator=draw).tolist()
    return [torch.randint(3, 260, (n,), generator=draw).tolist() for n in lengths]


def alone(model, prompts, row, seeds, **options):
    ids = model.generate([prompts[row]], seed=[int(seeds[row])], **options)
    return ids[0, len(prompts[row]) :].tolist()


@pytest.mark.slow
def test_a_thousand_prompts(exact):
    prompts, seeds = mixed(1000), row_seeds(7, 1000)
    options = dict(max_new_tokens=8, eos_token_id=[2, 40, 80, 120, 160, 200, 240], **SAMPLED)
    got = exact.generate_batch(prompts, batch_size=32, seed=7, **options)
    assert len(got) == 1000
    assert {len(tokens) for tokens in got} == set(range(1, 9))
    for row in range(0, 1000, 50):
        assert got[row] == alone(exact, prompts, row, seeds, **options)
        assert got[row] == alone(exact, prompts, row, seeds, tier="eager", **options)
    assert exact.generate_batch(prompts[:40], batch_size=1, seed=seeds[:40], **options) == got[:40]


def test_results_come_as_rows_end(exact):
    prompts = mixed(9)
    options = dict(max_new_tokens=20, eos_token_id=[2, 40, 80, 120, 160, 200, 240], seed=1, **SAMPLED)
    results = exact.generate_as_completed(prompts, batch_size=3, progress=False, **options)
    seen = list(results)
    assert sorted(number for number, _ in seen) == list(range(9))
    assert [number for number, _ in seen] != list(range(9)), "short ones overtake"
    assert [tokens for _, tokens in sorted(seen)] == exact.generate_batch(prompts, batch_size=9, **options)


def test_per_row_weights_and_per_model_prompts(exact):
    prompts, tuned, betas = mixed(7), mixed(7, 9)[::-1], [0.0, 0.5, 1.0, 1.5, 2.0, 0.3, 0.7]
    got = exact.generate_batch(prompts, prompts={"tuned": tuned}, beta=betas, batch_size=3, max_new_tokens=8)
    for row, tokens in enumerate(got):
        ids = exact.generate([prompts[row]], prompts={"tuned": [tuned[row]]}, beta=betas[row], max_new_tokens=8)
        assert tokens == ids[0, len(prompts[row]) :].tolist()


def test_what_looks_at_every_step_goes_one_by_one(exact):
    prompts = mixed(4)
    options = dict(max_new_tokens=6, repetition_penalty=1.4, beta=[0.0, 0.5, 1.0, 1.5])
    got = exact.generate_batch(prompts, batch_size=2, **options)
    for row, tokens in enumerate(got):
        ids = exact.generate([prompts[row]], **{**options, "beta": options["beta"][row]})
        assert tokens == ids[0, len(prompts[row]) :].tolist()


def test_leaving_early_and_a_time_limit(exact):
    results = exact.generate_as_completed(mixed(50), batch_size=4, max_new_tokens=5, eos_token_id=[999])
    assert len(next(results)[1]) == 5
    results.close()
    assert len(exact.generate_batch(mixed(2), max_new_tokens=5, eos_token_id=[999])[0]) == 5
    cut = exact.generate_batch(mixed(4), batch_size=2, max_new_tokens=10**6, eos_token_id=[999], max_time=0.3)
    assert len(cut) == 2
    assert all(0 < len(tokens) < 10**6 for tokens in cut)


def test_progress_is_shown_on_stderr(exact, capsys):
    exact.generate_batch(mixed(3), max_new_tokens=2, progress=True)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"^batch_size: expected an integer of at least 1, got 0"),
        ({"num_return_sequences": 2}, r"^num_return_sequences: expected 1"),
        ({"streamer": object()}, r"^streamer: not supported here"),
        ({"use_mtp": True}, r"^use_mtp: "),
        ({"seed": [1, 2]}, r"^seed: expected a number or 3 of them"),
    ],
)
def test_what_it_does_not_take(exact, options, message):
    with pytest.raises(ValueError, match=message):
        exact.generate_batch(mixed(3), **options)


def test_an_invalid_row_is_named_by_its_number(exact, build):
    broken = build("llama", 5, 8, 264).double()
    with torch.no_grad():
        broken.model.embed_tokens.weight[77] = torch.nan
    model = EmulatedModel(exact.large, broken, exact.base)
    prompts = [[5, 6], [7], [8, 9], [77, 5], [10]]
    with pytest.raises(RuntimeError, match=r"^row 3, new token 0: the logits of tuned hold NaN"):
        model.generate_batch(prompts, batch_size=2, max_new_tokens=3)


def test_only_static_caches_are_kept_for_the_next_call(exact):
    """An engine on transformers' caches has nothing that would serve again, and is not asked to."""
    engines, ids = EnginePool(), torch.tensor([[5, 6, 7], [8, 9, 10]])
    for new in (4, 9):
        given = {"max_new_tokens": new, "eos_token_id": [999], "tier": "eager"}
        found = call(exact, ids, given, over_forward=exact.causal_lm, engines=engines)
        assert torch.equal(found, exact.generate(ids, **given))


def test_beams_one_row_at_a_time(model):
    """The tokens that `generate` gives each prompt alone; a seed belongs to the engine."""
    prompts, call = [[5, 6, 7], [8], [9, 10]], {"num_beams": 2, "max_new_tokens": 4, "eos_token_id": [999]}
    expected = [model.generate([prompt], **call)[0, len(prompt) :].tolist() for prompt in prompts]
    assert model.generate_batch(prompts, batch_size=2, **call) == expected
    with pytest.raises(ValueError, match="^seed: expected none beside num_beams=2"):
        model.generate_batch(prompts, seed=1, **call)
