"""Adapters and their base in one forward pass: what a plain loop gives that runs PEFT's model for each of them."""

import copy

import peft
import pytest
import torch

from eft_ext import methods as m
from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.capture import traced_forward
from eft_ext.decoding.capture.graphs import Graphs, bucket
from eft_ext.decoding.engine import Engine
from eft_ext.decoding.mixture import Mixture
from eft_ext.decoding.requests import Request
from eft_ext.decoding.sampler import Sampler
from eft_ext.decoding.static_cache.joint import JointPass
from eft_ext.hf import EmulatedModel
from eft_ext.hf.members import members_of
from eft_ext.hf.runners.engine_pool import new_engine
from eft_ext.hf.runners.joint import JointSwitch, apart, groups_of
from python_tests.helpers.fake_cuda_graph import RESTORED, FakeGraphDevice
from python_tests.helpers.naive import RAGGED, naive, padded, up_scaled

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(base, names=("default",), **options):
    options = {"r": 3, "lora_alpha": 5, "target_modules": LINEAR, "init_lora_weights": False, **options}
    torch.manual_seed(4)
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**options), adapter_name=names[0])
    for k, name in enumerate(names[1:], 1):
        torch.manual_seed(4 + k)
        model.add_adapter(name, peft.LoraConfig(**options | {"r": 3 + k}))
    return model.eval()


def with_adapter(model, name):
    """A plain model in PEFT's own way; None is without any."""

    def run(ids):
        if name is None:
            with model.disable_adapter():
                return model(ids)
        model.set_adapter(name)
        return model(ids)

    return run


@pytest.fixture
def runs(monkeypatch):
    """The rows and models of each joint pass."""
    found, run = [], JointPass.run
    monkeypatch.setattr(JointPass, "run", lambda one, t: found.append((len(t), len(one.models))) or run(one, t))
    return found


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], [*LINEAR, "embed_tokens"]], ids=["two", "all"])
def test_rows_that_end_and_prompts_that_follow(models, runs, targets):
    tuned = adapted(models[0], target_modules=targets)
    plain = [models[1], with_adapter(tuned, "default"), with_adapter(tuned, None)]
    prompts = [*RAGGED, [9, 8], [7]]
    free = [naive(plain, lambda _, z: up_scaled(1.5)(*z), [p] * 3, 12, 264) for p in prompts]
    ends = [free[0][2], free[3][5]]
    expected = [naive(plain, lambda _, z: up_scaled(1.5)(*z), [p] * 3, 12, 264, ends) for p in prompts]
    assert len(set(map(len, expected))) > 1
    model = EmulatedModel(models[1], tuned, beta=1.5)
    options = dict(max_new_tokens=12, eos_token_id=ends)
    assert [model.generate_batch([p], **options)[0] for p in prompts] == expected
    assert set(runs) == {(1, 2)}
    runs.clear()
    assert model.generate_batch(prompts, batch_size=3, **options) == expected
    assert {count for _, count in runs} == {2}
    assert {rows for rows, _ in runs} >= {3, 1}, "rows were admitted, and the batch became smaller"
    assert tuned.base_model.model.model.layers[0].self_attn.q_proj.scaling == {"default": 5 / 3}, "as it was"


def test_all_models_on_one_set_of_weights_and_prompts_of_their_own(models, runs):
    both = adapted(models[1], ("a", "b", "base"))
    method = m.Interpolate({"a": 0.7, "b": 0.8})
    model = EmulatedModel(models[0], {"a": both, "b": both}, both, method=method)
    plain = [models[0], *(with_adapter(both, name) for name in ("a", "b", None))]
    prompts = [RAGGED[0], RAGGED[1], RAGGED[0], RAGGED[3]]
    expected = naive(plain, lambda _, z: z[0] + 0.7 * (z[1] - z[3]) + 0.8 * (z[2] - z[3]), prompts, 12, 264)
    own = {"a": [prompts[1]], "b": [prompts[2]], "base": [prompts[3]]}
    assert model.generate_batch([prompts[0]], prompts=own, max_new_tokens=12, eos_token_id=[999]) == [expected]
    assert runs[0] == (1, 3)


def test_the_logits_of_a_pass_are_those_of_the_models_alone(models):
    tuned = adapted(models[0], target_modules=["q_proj", "v_proj"])
    members = members_of(m.UpScale(), {"large": models[1], "tuned": tuned, "base": None})
    assert groups_of(members) == [[1, 2]]
    ids = torch.randint(3, 260, (8, 6), generator=torch.Generator().manual_seed(0))
    alone = []
    with torch.inference_mode():
        for member in members[1:]:
            with member.switch()():
                alone.append(tuned(input_ids=ids).logits)
        with JointSwitch(members[1:])(16):
            together = tuned(input_ids=ids.repeat_interleave(2, 0)).logits
    assert not torch.equal(alone[0], alone[1])
    for k in range(2):
        torch.testing.assert_close(together[k::2], alone[k], rtol=1e-6, atol=1e-6)


def engine_of(models, tuned, joint, device=None):
    members = members_of(m.UpScale(), {"large": models[1], "tuned": tuned, "base": None})
    ids, mask = padded(RAGGED)
    sampler = Sampler(Mixture(m.UpScale(), 4), {"temperature": 1.2, "top_p": 0.95})
    made = new_engine(members, [(ids, mask)] * 3, 30, sampler, [999], tier="async", lag=0)
    passes = [one for one in made._passes if isinstance(one, JointPass)]
    assert len(passes) == 1
    how = {"joint": passes} if joint else {}
    if not joint:
        made.models = [StaticCacheModel(x.model, switch=x.switch()) for x in members]
    if device is not None:
        how |= dict(bucket=bucket, parallel=device.parallel, launcher=lambda e: Graphs(e, device))
    return Engine(made.models, sampler, [999], **how)


def tokens_of(engine, budgets):
    ids, mask = padded(RAGGED)
    requests = [Request(i, 5 + i, budget) for i, budget in enumerate(budgets)]
    engine.start(requests[:3], [(ids[:3], mask[:3])] * 3)
    state, begun, tokens = engine.state, 3, [[] for _ in requests]
    for outputs in engine.run():
        RESTORED[:] = [*state._all.values(), state.ring, state.tick, *(x.stored_lengths for x in engine.models)]
        for number, token, *_ in outputs:
            tokens[number].append(token)
        if engine.free and begun == 3:
            engine.admit(requests[3:], [(ids[3:], mask[3:])] * 3)
            begun = 4
    return tokens


def test_captured_steps(models, monkeypatch):
    monkeypatch.setattr(traced_forward, "unfit", lambda model: "is captured")
    tuned, budgets, device = adapted(models[0]), [20, 9, 20, 14], FakeGraphDevice()
    expected = tokens_of(engine_of(models, tuned, joint=False), budgets)
    assert tokens_of(engine_of(models, tuned, joint=True), budgets) == expected
    engine = engine_of(models, tuned, joint=True, device=device)
    assert tokens_of(engine, budgets) == expected
    assert engine._launch_step.reason is None
    assert device.replays > 0
    assert tokens_of(engine, budgets[::-1]) == tokens_of(engine_of(models, tuned, joint=False), budgets[::-1])


def test_drafts_run_the_models_apart(models, runs):
    tuned, ids = adapted(models[0]), torch.tensor([RAGGED[0]])
    model = EmulatedModel(models[1], tuned)
    options = dict(max_new_tokens=12, eos_token_id=[999])
    expected = model.generate(ids, **options)
    assert runs
    runs.clear()
    assert torch.equal(model.generate(ids, speculate=3, **options), expected)
    assert not runs


def merged(model):
    model.merge_adapter()
    return model


REFUSED = {
    "has an adapter that is not plain LoRA": lambda base: adapted(base, use_dora=True),
    "has adapters in a ModulesToSaveWrapper": lambda base: adapted(base, modules_to_save=["lm_head"]),
    "is in training mode": lambda base: adapted(base).train(),
    "has an adapter that is merged": lambda base: merged(adapted(base)),
    "scales by 1.66": lambda base: adapted(base).bfloat16(),
    "has adapters in a Linear, which are not plain": lambda base: peft.get_peft_model(
        copy.deepcopy(base), peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    ).eval(),
}


@pytest.mark.parametrize("why", REFUSED)
def test_adapters_that_are_not_rows_of_one_pass(models, why):
    tuned = REFUSED[why](copy.deepcopy(models[0]))
    members = members_of(m.UpScale(), {"large": models[1], "tuned": tuned, "base": models[2]})
    said = apart(members[1:2])
    assert said is not None
    assert said.startswith(why)


def test_layers_that_read_other_shapes_are_found_by_a_trial(models):
    tuned = adapted(models[0])
    mlp = tuned.base_model.model.model.layers[0].mlp
    inner = mlp.forward
    mlp.forward = lambda x: inner(x.flatten(0, 1)).view(x.shape)  # tokens [some, width], as experts read them
    members = members_of(m.UpScale(), {"large": models[1], "tuned": tuned, "base": None})
    assert apart(members[1:]) == "gives other logits in one pass"
    assert groups_of(members) == []
