"""generate(speculate=...): greedy tokens, what users pass beside it, statistics, and where it says no."""

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from eft_ext import methods as m
from eft_ext.decoding import TokenSource
from eft_ext.hf import EmulatedModel, custom_generate
from python_tests.helpers.slow_params import slowly_but
from python_tests.helpers.watchers import Columns, Counted

pytestmark = pytest.mark.filterwarnings("error:speculate")
NEW = 14
NO_END = {"eos_token_id": [999], "max_new_tokens": NEW}


def test_greedy_is_token_identical(trio, batch):
    model = EmulatedModel(*trio)
    ids, mask = batch
    for options in ({"beta": 0.4}, {"scale": 0.7}, {"scale": 1.0, "conservative_top_p": 0.9}):
        want = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, **options)
        for k in (1, 4):
            got = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, speculate=k, **options)
            assert torch.equal(got, want)


def test_each_row_its_own_weights_ends_and_budget(model, ragged):
    ids, mask = ragged
    options = {"beta": [0.0, 0.3, 1.0, 2.0], "attention_mask": mask}
    free = model.generate(ids, **NO_END, **options)[:, ids.shape[1] :]
    ends = [int(free[0, 2]), int(free[3, 5])]
    want = model.generate(ids, max_new_tokens=NEW, eos_token_id=ends, **options)
    got = model.generate(ids, max_new_tokens=NEW, eos_token_id=ends, speculate=6, **options)
    assert torch.equal(got, want)
    for new in (1, 2, 7):
        got = model.generate(ids, max_new_tokens=new, eos_token_id=[999], speculate=5, **options)
        assert torch.equal(got[:, ids.shape[1] :], free[:, :new])


def test_seeds_are_heard_and_the_batch_is_not(model, ragged):
    ids, mask = ragged
    options = {"do_sample": True, "temperature": 1.2, "top_p": 0.97, "top_k": 0, **NO_END}
    whole = model.generate(ids, attention_mask=mask, speculate=3, seed=[4, 5, 6, 7], **options)
    again = model.generate(ids, attention_mask=mask, speculate=3, seed=[4, 5, 6, 7], **options)
    assert torch.equal(whole, again)
    assert not torch.equal(whole, model.generate(ids, attention_mask=mask, speculate=3, seed=1, **options))
    row = ids[1][mask[1] == 1][None]
    alone = model.generate(row, speculate=3, seed=[5], **options)
    assert torch.equal(alone[0, row.shape[1] :], whole[1, ids.shape[1] :])
    torch.manual_seed(3)
    first = model.generate(row, speculate=3, **options)
    torch.manual_seed(3)
    assert torch.equal(model.generate(row, speculate=3, **options), first)


def test_the_tuned_model_as_its_own_mixture(llamas, tokenizer):
    """scale = 0 is the tuned model: every draft stands, and sampled tokens are those of no speculation."""
    model = EmulatedModel(*llamas, tokenizer, scale=0.0)
    options = {"do_sample": True, "seed": 8, "top_k": 0, **NO_END}
    want = model.generate("one", **options)
    got = model.generate("one", speculate=4, return_dict_in_generate=True, **options)
    assert torch.equal(got.sequences, want)
    assert got.speculation.acceptance == 1
    usual = [TokenSource.step] + ([TokenSource.accepted] * 4 + [TokenSource.bonus]) * 3
    assert got.token_sources[0].tolist()[:-1] == usual[: NEW - 1]


def test_marks_and_statistics(model, ragged):
    ids, mask = ragged
    out = model.generate(ids, attention_mask=mask, beta=0.3, speculate=2, return_dict_in_generate=True, **NO_END)
    assert out.token_sources.shape == (4, NEW)
    assert out.speculation.emitted == 4 * NEW
    assert int((out.token_sources == TokenSource.accepted).sum()) == out.speculation.accepted
    assert int((out.token_sources == TokenSource.resampled).sum()) == out.speculation.drafted - out.speculation.accepted
    assert 1 <= out.speculation.tokens_per_round <= 3
    plain = model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **NO_END)
    assert not hasattr(plain, "token_sources")


OPTIONS = {
    "beta": {"beta": [0.0, 0.3, 1.0, 2.0]},
    "scale": {"scale": 0.7, "temperature": 0.8, "top_k": 12},
    "conservative": {"scale": 1.2, "conservative_top_p": 0.9, "min_p": 0.02},
}


@pytest.mark.parametrize("options", slowly_but(("beta",), OPTIONS))
def test_the_engine_gives_what_the_eager_loop_gives(model, ragged, options):
    """The static tier, asked for, is the loop in Python: the same tokens, marks and statistics."""
    ids, mask = ragged
    given = {"do_sample": True, "top_k": 0, "top_p": 0.97, "seed": [4, 5, 6, 7], **OPTIONS[options]}
    given |= {"attention_mask": mask, "return_dict_in_generate": True, "max_new_tokens": 30}
    free = model.generate(ids, **given, eos_token_id=[999], speculate=4)
    ends = [int(free.sequences[0, ids.shape[1] + 9]), int(free.sequences[2, ids.shape[1] + 20])]
    both = [model.generate(ids, **given, eos_token_id=ends, speculate=4, tier=tier) for tier in ("static", "async")]
    for loop, engine in ([free, model.generate(ids, **given, eos_token_id=[999], speculate=4, tier="static")], both):
        assert torch.equal(loop.sequences, engine.sequences)
        assert torch.equal(loop.token_sources, engine.token_sources)
        assert loop.speculation == engine.speculation
    assert both[0].sequences.tolist() != free.sequences.tolist()


@pytest.mark.slow
def test_graphs_and_caches_serve_the_next_call(model, ragged, monkeypatch):
    """One engine for each form of call, as on CUDA: other weights, seeds and lengths in it."""
    from eft_ext.hf.generation.call import call
    from eft_ext.hf.runners.engine_pool import EnginePool, new_engine

    made, pooled, engines, (ids, mask) = [], 0, EnginePool(), ragged
    monkeypatch.setattr(
        "eft_ext.hf.generation.run.new_engine", lambda *given, **how: made.append(1) or new_engine(*given, **how)
    )
    for new, k in ((20, 3), (33, 3), (20, 5), (9, 3), (20, "auto")):
        options = {"do_sample": True, "top_k": 0, "seed": new, "beta": 0.4, "eos_token_id": [999]}
        options |= {"attention_mask": mask, "max_new_tokens": new, "return_dict_in_generate": True}
        if k == "auto":  # looks at the clock
            options["do_sample"] = False
        want = model.generate(ids, speculate=k, tier="static", **options)
        before = len(made)
        got = call(model, ids, {**options, "speculate": k}, over_forward=model.causal_lm, engines=engines)
        pooled += len(made) - before
        assert torch.equal(got.sequences, want.sequences)
        assert k == "auto" or got.speculation == want.speculation
    assert pooled == 3, "one for each number of drafts"


def test_plan_says_whether_and_how(model, llamas):
    def said(**options):
        return str(model.plan("abc", **options)).split("speculate: ")[1].split("\n")[0]

    assert "speculate" not in str(model.plan("abc"))
    assert "speculate" not in str(model.plan("abc", speculate=0))
    assert said(speculate=1) == "rounds of 1 draft by tuned, each a step of the engine"
    assert said(speculate="auto") == "rounds of as many drafts as pay by tuned, each a step of the engine"
    assert said(speculate=8, streamer=Columns()).endswith("each a step of the engine")
    for streamer in (None, Columns()):
        asked = said(speculate=8, tier="static", streamer=streamer)
        assert asked == "rounds of 8 drafts by tuned, with Python between them, since the static tier was asked for"
    with_criteria = said(speculate=8, stopping_criteria=[Counted(3)])
    assert with_criteria == "rounds of 8 drafts by tuned, with Python between them, since Counted looks at every step"
    penalised = said(speculate=8, repetition_penalty=1.2)
    assert (
        penalised == "rounds of 8 drafts by tuned, with Python between them, since logits processors run in every step"
    )
    assert said(speculate=8, use_cache=False) == "no drafts, since use_cache is off"
    assert said(speculate=8, tier="eager") == "no drafts, since the eager tier was asked for"


UNFIXED = {
    "contrast": m.Contrast([0.2, 0.5, 0.8, 0.3], [0.05, 0.1, 0.2, 0.3]),
    "contrast by step": m.Contrast(lambda step: 0.1 * step, 0.1),
    "by step": m.UpScale(lambda step: 1.0 / (1 + step)),
    "by step and row": m.UpScale(lambda step: [0.1 * step, 0.5, 1.0, 2.0 - 0.1 * step]),
    "conservative by step": m.Conservative(
        lambda step: 0.9 - 0.02 * step, method=m.Amplify(lambda step: 1 + 0.1 * step)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", UNFIXED.values(), ids=UNFIXED)
def test_methods_whose_weights_are_not_all(llamas, tokenizer, ragged, method):
    """They exclude tokens, or change with the step; rows at different steps leave the batch one by one."""
    names = method.models
    own = {"large": llamas[0], "expert": llamas[0], "tuned": llamas[1], "amateur": llamas[1], "base": llamas[2]}
    model = EmulatedModel(method=method, tokenizer=tokenizer, **{name: own[name] for name in names})
    ids, mask = ragged
    free = model.generate(ids, attention_mask=mask, **NO_END)[:, ids.shape[1] :]
    options = {"attention_mask": mask, "max_new_tokens": NEW, "eos_token_id": [int(free[0, 2]), int(free[3, 5])]}
    want = model.generate(ids, **options)
    for k in (1, 4):
        assert torch.equal(model.generate(ids, speculate=k, **options), want)
    assert "each a step of the engine" in str(model.plan(ids, speculate=4)), "though they change with the step"


@pytest.mark.slow
def test_a_function_that_is_constant_draws_as_the_constant(llamas, tokenizer, ragged):
    model = EmulatedModel(*llamas, tokenizer)
    ids, mask = ragged
    options = {"attention_mask": mask, "do_sample": True, "seed": 4, "top_p": 0.9, "speculate": 3, **NO_END}
    want = model.generate(ids, method=m.UpScale([0.5, 1.0, 0.2, 0.0]), **options)
    assert torch.equal(model.generate(ids, method=m.UpScale(lambda step: [0.5, 1.0, 0.2, 0.0]), **options), want)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"output_scores": True, "return_dict_in_generate": True}, "scores of every step"),
        ({"use_cache": False}, "use_cache is off"),
    ],
)
def test_what_cannot_be_speculated_says_so(model, options, why):
    want = model.generate("abc", **NO_END, **options)
    with pytest.warns(UserWarning, match=f"speculate: decoding without drafts, since .*{why}"):
        got = model.generate("abc", speculate=4, **NO_END, **options)
    assert torch.equal(getattr(got, "sequences", got), getattr(want, "sequences", want))


def test_a_family_without_static_caches(llamas):
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=264, hidden_size=16, num_hidden_layers=1, state_size=4, pad_token_id=0, eos_token_id=2
    )
    model = EmulatedModel(MambaForCausalLM(config).eval(), *llamas[1:])
    ids = torch.tensor([[11, 12, 13]])
    with pytest.warns(UserWarning, match=r"speculate: decoding without drafts, since large: MambaForCausalLM"):
        got = model.generate(ids, speculate=4, **NO_END)
    assert torch.equal(got, model.generate(ids, **NO_END))


@pytest.mark.parametrize("value", [-1, 64, True, "often", 2.5])
def test_wrong_values(model, value):
    with pytest.raises(ValueError, match="speculate: expected 'auto' or a number of drafts from 0 to 63"):
        model.generate("abc", speculate=value, max_new_tokens=2)


def test_inside_stock_transformers(llamas, ragged):
    large, tuned, base = llamas
    ids, mask = ragged
    want = EmulatedModel(*llamas).generate(ids, attention_mask=mask, **NO_END)
    got = large.generate(
        ids, attention_mask=mask, custom_generate=custom_generate(tuned, base), speculate=3, pad_token_id=0, **NO_END
    )
    assert torch.equal(got, want)


def test_nan_is_blamed(llamas, tokenizer, build):
    broken = build("llama", 5, 16, 264)
    with torch.no_grad():
        broken.lm_head.weight[7] = torch.nan
    model = EmulatedModel(llamas[0], llamas[1], broken, tokenizer)
    with pytest.raises(RuntimeError, match="row 0, new token 0"):
        model.generate("abc", speculate=3, max_new_tokens=5)


@pytest.mark.slow
def test_auto_is_token_identical_too(model, ragged):
    ids, mask = ragged
    options = {"beta": 0.3, "attention_mask": mask, "max_new_tokens": 60, "eos_token_id": [999]}
    want = model.generate(ids, **options)
    for call in range(2):  # the second time it knows the costs
        out = model.generate(ids, speculate="auto", return_dict_in_generate=True, **options)
        assert torch.equal(out.sequences, want)
        assert len(set(out.speculation.draft_lengths)) > 1 or call == 1
