"""Methods over adapters of one base, and loading models by the names of a method."""

import copy

import peft
import pytest
import torch

from eft_ext import methods as m
from eft_ext.hf import EFTLogitsProcessor, EmulatedModel
from python_tests.helpers.naive import NEW


def with_adapters(base, names):
    torch.manual_seed(9)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    return model.eval()


@pytest.fixture(scope="module")
def folders(models, tokenizer, tmp_path_factory):
    """Hub-like folders: large, base, and two adapters of base."""
    root = tmp_path_factory.mktemp("methods")
    for name, model in (("large", models[0]), ("base", models[2]), ("other", models[1])):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    both = with_adapters(copy.deepcopy(models[2]), ["one", "two"])
    both.save_pretrained(root)  # to root/one and root/two
    for name in ("one", "two"):
        path = root / name / "adapter_config.json"
        path.write_text(
            path.read_text().replace('"base_model_name_or_path": null', f'"base_model_name_or_path": "{root}/base"')
        )
    return root


def merged(folders, name):
    base = peft.AutoPeftModelForCausalLM.from_pretrained(str(folders / name))
    return base.merge_and_unload().eval()


@pytest.mark.slow
def test_two_adapters_of_one_base(folders, models):
    a, b = merged(folders, "one"), merged(folders, "two")
    ids = [[5, 6, 7]]
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    expected = EmulatedModel(models[0], {"a": a, "b": b}, models[2]).generate(ids, **options)
    assert not torch.equal(expected, EmulatedModel(models[0], {"a": a, "b": a}, models[2]).generate(ids, **options))
    tuned = {"a": str(folders / "one"), "b": str(folders / "two")}
    for base in (str(folders / "base"), None):
        loaded = EmulatedModel.from_pretrained(str(folders / "large"), tuned, base, quiet=True)
        small = [member.model for member in loaded.members[1:]]
        assert small[0] is small[1] is small[2], "the weights are in memory once"
        assert torch.equal(loaded.generate(ids, **options), expected)
    again = EmulatedModel(models[0], small[0], method=m.Interpolate({"a": 0.5, "b": 0.5}))
    assert torch.equal(again.generate(ids, **options), expected)
    mixed = EmulatedModel.from_pretrained(
        str(folders / "large"), {"a": tuned["a"], "b": str(folders / "other")}, str(folders / "base"), quiet=True
    )
    whole = EmulatedModel(models[0], {"a": a, "b": models[1]}, models[2])
    assert torch.equal(mixed.generate(ids, **options), whole.generate(ids, **options))


def test_realignment_with_an_adapter(folders, models):
    loaded = EmulatedModel.from_pretrained(
        reference=str(folders / "base"), aligned=str(folders / "one"), method=m.Realign(0.5), quiet=True
    )
    assert loaded.members[0].model is loaded.members[1].model
    expected = EmulatedModel(reference=models[2], aligned=merged(folders, "one"), method=m.Realign(0.5))
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    assert torch.equal(loaded.generate([[5, 6]], **options), expected.generate([[5, 6]], **options))


@pytest.mark.slow
def test_the_model_under_an_adapter_in_another_place(folders, models):
    """Large equal to base, or a behaviour that is the base: none of them sees the adapter."""
    base, one = str(folders / "base"), str(folders / "one")
    tuned = merged(folders, "one")
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    expected = tuned.generate(torch.tensor([[5, 6]]), **options)
    for given in (base, None):
        loaded = EmulatedModel.from_pretrained(base, one, given, quiet=True)
        assert torch.equal(loaded.generate([[5, 6]], **options), expected)
    peft_model = loaded.members[1].model
    inside = peft_model.get_base_model()
    assert torch.equal(EmulatedModel(inside, peft_model).generate([[5, 6]], **options), expected)
    shares = m.Interpolate({"a": 0.5, "b": 0.5})
    whole = EmulatedModel(models[0], {"a": tuned, "b": models[2]}, models[2], method=shares)
    expected = whole.generate([[5, 6]], **options)
    both = EmulatedModel.from_pretrained(str(folders / "large"), {"a": one, "b": base}, base, method=shares, quiet=True)
    assert torch.equal(both.generate([[5, 6]], **options), expected)
    again = EmulatedModel(models[0], {"a": peft_model, "b": inside}, method=shares)
    assert torch.equal(again.generate([[5, 6]], **options), expected)


def test_adapters_that_cannot_be_told_apart(folders, models):
    base = copy.deepcopy(models[2])
    first = with_adapters(base, ["one"])
    second = with_adapters(base, ["two"])
    with pytest.raises(ValueError, match=r"^b: expected an adapter of a's PEFT model .* over the base of a"):
        EmulatedModel(models[0], {"a": first, "b": second}, base)
    with pytest.raises(ValueError, match=r"^aligned: expected a whole model, since the loop runs reference"):
        EFTLogitsProcessor(aligned=first, method=m.Realign())


def test_loading_by_the_names_of_a_method(folders, models):
    large, base = str(folders / "large"), str(folders / "base")
    contrast = EmulatedModel.from_pretrained(
        expert=large, amateur=base, method=m.Contrast(), quiet=True, dtype={"expert": "float32", "amateur": "bfloat16"}
    )
    assert contrast.models["amateur"].dtype == torch.bfloat16
    guided = EmulatedModel.from_pretrained(model=large, method=m.Guidance(), quiet=True)
    assert guided.models["conditional"] is guided.models["unconditional"], "loaded once"
    text = guided.generate_text("hello", prompts={"unconditional": "bye"}, max_new_tokens=4)
    assert text == EmulatedModel(model=models[0], tokenizer=guided.tokenizer, method=m.Guidance()).generate_text(
        "hello", prompts={"unconditional": "bye"}, max_new_tokens=4
    )
    plain = EmulatedModel.from_pretrained(model=large, method=m.Plain(), quiet=True)
    assert plain.generate([[5]], max_new_tokens=2).shape == (1, 3)
