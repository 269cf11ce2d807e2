"""A large model that accelerate has spread over the memory and the disk: hooks move weights, tokens stay the same."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from eft_ext.hf import EmulatedModel

accelerate = pytest.importorskip("accelerate")
OPTIONS = {"max_new_tokens": 12, "do_sample": True, "top_k": 0, "seed": 3, "eos_token_id": [999]}


@pytest.fixture
def spread(llamas, tmp_path):
    """The same weights: the last layer on the disk, the others in memory."""
    llamas[0].save_pretrained(tmp_path / "large")
    names = [name for name, _ in llamas[0].model.layers.named_children()]
    places = {f"model.layers.{name}": "cpu" for name in names} | {f"model.layers.{names[-1]}": "disk"}
    places |= {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    large = AutoModelForCausalLM.from_pretrained(
        tmp_path / "large", device_map=places, offload_folder=tmp_path / "offloaded"
    ).eval()
    assert any(p.device.type == "meta" for p in large.parameters()), "something lies on the disk"
    assert any(hasattr(module, "_hf_hook") for module in large.modules())
    return EmulatedModel(large, *llamas[1:])


@pytest.mark.slow
def test_tokens_are_those_of_the_whole_model(spread, llamas, ragged):
    ids, mask = ragged
    whole = EmulatedModel(*llamas)
    for options in ({}, {"repetition_penalty": 1.2}, {"tier": "eager"}):
        given = {**OPTIONS, **options, "attention_mask": mask}
        assert torch.equal(spread.generate(ids, **given), whole.generate(ids, **given))


def test_drafts(spread, llamas, ragged):
    ids, mask = ragged
    given = {**OPTIONS, "attention_mask": mask, "speculate": 3}
    assert torch.equal(spread.generate(ids, **given), EmulatedModel(*llamas).generate(ids, **given))


def test_the_plan_names_the_reason(spread):
    plan = spread.plan([[5, 6]])
    assert plan.tier == "static"
    assert plan.because == "the large model is spread over devices"
    assert "run by Python: it is not on the CPU" in plan.models["large"] or "hooks" in plan.models["large"]


def test_whole_in_memory_but_with_hooks(llamas, ragged):
    """`dispatch_model` to the CPU alone: nothing is recorded, since a recording would leave the hooks out."""
    import copy

    ids, mask = ragged
    large = accelerate.dispatch_model(copy.deepcopy(llamas[0]), {"": "cpu"}, main_device="cpu", force_hooks=True)
    model = EmulatedModel(large, *llamas[1:])
    assert "hooks" in model.plan([[5, 6]]).models["large"]
    given = {**OPTIONS, "attention_mask": mask}
    assert torch.equal(model.generate(ids, **given), EmulatedModel(*llamas).generate(ids, **given))
