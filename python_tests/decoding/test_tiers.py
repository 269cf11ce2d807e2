"""EmulatedModel on static caches: the tokens of the eager tier, and a clean state whatever happens."""

import json
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import torch
import transformers as hf
from transformers.generation.streamers import BaseStreamer

from eft_ext.decoding import mixture
from eft_ext.decoding.capture import traced_forward
from eft_ext.hf import EmulatedModel
from eft_ext.hf.generation.call import call
from eft_ext.hf.runners.decode_plan import TIERS
from eft_ext.hf.runners.engine_pool import EnginePool, new_engine

SAMPLED = dict(do_sample=True, temperature=1.2, top_k=0, top_p=0.95, seed=5)  # without near-ties: tiers round otherwise
ENDS = [2, 50, 100, 150, 200, 250]


@pytest.fixture
def model(model_of, family):
    return EmulatedModel(model_of(family, 0, 32, 272), model_of(family, 1, 16), model_of(family, 2, 16))


@pytest.fixture
def llamas(model_of):
    return EmulatedModel(model_of("llama", 0, 32, 272), model_of("llama", 1, 16), model_of("llama", 2, 16))


def both(model, ids, **options):
    """The same tokens from the eager tier and from the engine."""
    eager = model.generate(ids, tier="eager", **options)
    assert torch.equal(model.generate(ids, **options), eager)
    return eager


def test_every_family_ragged_with_early_finishes(model, ragged):
    ids, mask = ragged
    assert model.plan(ids, max_new_tokens=9).tier == "async"
    for how in ({}, SAMPLED):
        options = dict(attention_mask=mask, max_new_tokens=24, **how)
        free = both(model, ids, eos_token_id=[999], **options)[:, 7:].tolist()
        ends = [free[0][4], free[3][9]]
        got = both(model, ids, eos_token_id=ends, pad_token_id=0, **options)[:, 7:]
        ended = [next((i for i, token in enumerate(row) if token in ends), 23) for row in free]
        assert min(ended) < got.shape[1] == max(ended) + 1


def test_every_family_with_prompts_of_their_own(model):
    prompts = {"large": [[5, 6, 7], [8]], "tuned": [[3, 5, 6, 7, 3], [3, 8]], "base": [[9], [10, 11]]}
    both(model, None, prompts=prompts, max_new_tokens=10, **SAMPLED)


@pytest.mark.slow
def test_buckets_grow_while_generating(llamas, ragged, monkeypatch):
    """From the first bucket of slots to the third, with half the room that is asked for at first."""
    ids, mask = ragged
    monkeypatch.setattr("eft_ext.hf.runners.engine_pool.FIRST", 32)
    both(llamas, ids, attention_mask=mask, max_new_tokens=150, eos_token_id=[999], **SAMPLED)


class Failing(BaseStreamer):
    def __init__(self, after):
        self.left, self.ended = after, False

    def put(self, value):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def end(self):
        self.ended = True


def test_an_exception_in_a_streamer_leaves_no_trace(llamas):
    options = dict(max_new_tokens=12, **SAMPLED)
    expected = llamas.generate([[5, 6, 7]], **options)
    for after in (0, 1, 5):
        streamer = Failing(after)
        with pytest.raises(KeyboardInterrupt):
            llamas.generate([[5, 6, 7]], streamer=streamer, **options)
        assert streamer.ended
        assert torch.equal(llamas.generate([[5, 6, 7]], **options), expected)


@pytest.mark.slow
def test_two_threads_with_the_same_models(llamas, ragged):
    ids, mask = ragged
    runs = [dict(seed=seed, beta=beta) for seed, beta in ((1, 0.5), (2, 1.5), (3, 1.0))]
    options = {**SAMPLED, "attention_mask": mask, "max_new_tokens": 40, "eos_token_id": [999]}
    expected = [llamas.generate(ids, **{**options, **run}) for run in runs]
    got: dict[int, list[torch.Tensor]] = {i: [] for i in range(3)}

    def work(i):
        got[i] += [llamas.generate(ids, **{**options, **runs[i]}) for _ in range(3)]

    threads = [Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        assert len(got[i]) == 3
        assert all(torch.equal(result, expected[i]) for result in got[i])


@pytest.mark.slow
def test_memory_does_not_grow_over_many_steps():
    """A process of its own: what other tests have left, and the peak they reached, say nothing there."""
    command = [sys.executable, "-m", "python_tests.helpers.many_steps"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["shape"] == [1, 10_001]
    (tensors, peak), (tensors_after, peak_after) = found["before"], found["after"]
    assert tensors_after <= tensors
    assert peak_after - peak < 40_000  # KiB


def test_an_adapter_on_its_base(llamas, model_of, ragged):
    peft = pytest.importorskip("peft")
    ids, mask = ragged
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    import copy

    tuned = peft.get_peft_model(copy.deepcopy(model_of("llama", 1, 16)), config).eval()
    model = EmulatedModel(llamas.large, tuned)
    assert model.plan().tier == "async"
    both(model, ids, attention_mask=mask, max_new_tokens=40, eos_token_id=[999], **SAMPLED)


def test_the_plan_says_what_looks_at_every_step(llamas, capsys):
    assert str(llamas.plan()).startswith(f"async: {TIERS['async']}\n  large: LlamaForCausalLM on a static cache")
    plans = {
        "streamed": dict(streamer=Failing(9)),
        "processors run": dict(repetition_penalty=1.2),
        "scores are returned": dict(return_dict_in_generate=True, output_scores=True),
        "AtNine looks at every step": dict(stopping_criteria=[AtNine()]),
    }
    for because, options in plans.items():
        plan = llamas.plan([[5, 6]], **options)
        assert (plan.tier, because in str(plan)) == ("static", True)
    for options in ({"use_cache": False}, {"tier": "eager"}):
        plan = llamas.plan(**options)
        assert (plan.tier, "traced" in str(plan)) == ("eager", False)


class AtNine(hf.StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 9)


@pytest.mark.parametrize(
    "options",
    [
        dict(repetition_penalty=1.3),
        dict(stopping_criteria=[AtNine()]),
        dict(return_dict_in_generate=True, output_scores=True),
    ],
    ids=["processor", "criterion", "scores"],
)
def test_python_in_every_step(model, ragged, options):
    ids, mask = ragged
    options = {
        **options,
        "attention_mask": mask,
        "max_new_tokens": 12,
        "eos_token_id": ENDS,
        "pad_token_id": 0,
        **SAMPLED,
    }
    expected, got = model.generate(ids, tier="eager", **options), model.generate(ids, **options)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(got, expected)
        return
    assert torch.equal(got.sequences, expected.sequences)
    for mine, theirs in zip(got.scores, expected.scores, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_static_runs_eagerly_with_one_warning(build, llamas, recwarn):
    config = hf.LlamaConfig(
        vocab_size=264,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    )
    torch.manual_seed(0)
    tuned = hf.LlamaForCausalLM(config).eval()
    model = EmulatedModel(llamas.large, tuned, llamas.base)
    assert (model.plan().tier, "traced" in str(model.plan())) == ("eager", False)
    for _ in range(2):
        model.generate([[5, 6]], max_new_tokens=4)
    said = [str(w.message) for w in recwarn if "eager tier" in str(w.message)]
    assert len(said) == 1
    assert said[0].startswith("tuned: LlamaForCausalLM has RoPE of type 'dynamic'")


def test_float64_models(build, ragged):
    ids, mask = ragged
    models = [build("qwen2", seed, 16).double() for seed in range(3)]
    both(EmulatedModel(*models), ids, attention_mask=mask, max_new_tokens=12, **SAMPLED)


def test_traces_serve_later_calls(build, ragged, monkeypatch):
    monkeypatch.setattr(traced_forward, "AFTER", 4)
    model = EmulatedModel(*(build("llama", seed, 16) for seed in range(3)))
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=12, eos_token_id=ENDS, pad_token_id=0, **SAMPLED)
    expected = model.generate(ids, tier="eager", **options)
    for _ in range(3):
        assert torch.equal(model.generate(ids, **options), expected)
    assert False in traced_forward._STATES[model.large].traces


@pytest.mark.slow
def test_engines_of_earlier_calls_serve_again(llamas, ragged, monkeypatch):
    """Engines are kept as on CUDA, for their graphs: other rows, lengths and weights in the same storage."""
    ids, mask = ragged
    engines = EnginePool()
    calls = [
        (4, dict(max_new_tokens=20, beta=0.5)),
        (2, dict(max_new_tokens=12, beta=0.5)),
        (4, dict(max_new_tokens=90, beta=0.5)),
        (4, dict(max_new_tokens=20, beta=[0.1, 0.2, 0.3, 0.4])),
        (4, dict(max_new_tokens=20, beta=[0.4, 0.3, 0.2, 0.1])),
        (4, dict(max_new_tokens=9, beta=0.5)),
        (4, dict(max_new_tokens=20, beta=lambda step: 0.5 + 0.02 * step)),
        (4, dict(max_new_tokens=20, beta=lambda step: 1.0 - 0.02 * step)),
    ]
    monkeypatch.setattr(mixture, "CAPACITY", 8)  # the table grows in the first of the two
    for rows, options in calls:
        options |= {**SAMPLED, "attention_mask": mask[:rows], "eos_token_id": ENDS, "pad_token_id": 0}
    wanted = [llamas.generate(ids[:rows], tier="eager", **options) for rows, options in calls]
    made = []
    counted = lambda *given, **how: made.append(1) or new_engine(*given, **how)  # noqa: E731
    monkeypatch.setattr("eft_ext.hf.generation.run.new_engine", counted)
    for (rows, options), expected in zip(calls, wanted, strict=True):
        assert torch.equal(call(llamas, ids[:rows], options, over_forward=llamas.causal_lm, engines=engines), expected)
    assert len(made) == 4, "one for four rows, one for two, one for weights by row, one for functions"
    engines.clear()
