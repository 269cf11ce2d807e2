"""Adapters that lie on embeddings, and those that are not gone when they are switched off."""

import copy
import json
import warnings

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForCausalLM

from eft_ext import EmulatedModel, custom_generate
from eft_ext.hf.adapters import _SWITCHED, changes_base
from eft_ext.methods import Contrast
from python_tests.helpers.slow_params import slowly, slowly_but
from python_tests.helpers.ways import NEW, WAYS, greedy

PROMPT = torch.tensor([[1, 5, 9, 33, 7]])
ON = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
NEEDS = {  # what a type of adapter cannot do without
    "ADALORA": {"total_step": 10},
    "FOURIERFT": {"n_frequency": 8},
    "IA3": {"feedforward_modules": []},
    "LOKR": {"init_weights": "lycoris"},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "TRAINABLE_TOKENS": {"target_modules": None, "token_indices": [5, 6]},
    "PSOFT": {"r": 4},
    "VBLORA": {"vector_length": 8},
}
EVERYWHERE = {
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "embeddings and head": {"target_modules": ["embed_tokens", "lm_head"]},
    "tokens": {"trainable_token_indices": [5, 6]},
    "whole modules": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True, "init_lora_weights": True},
}
CHANGED = {  # what an adapter does to its base, and what is said
    "pissa": ({"init_lora_weights": "pissa"}, r"init_lora_weights='pissa'"),
    "olora": ({"init_lora_weights": "olora"}, r"init_lora_weights='olora'"),
    "biases": ({"bias": "all", "target_modules": ["c_attn"], "fan_in_fan_out": True}, r"bias='all'"),
    "layers twice": ({"layer_replication": [[0, 2], [1, 2]]}, r"layer_replication"),
}


def adapted(base, seed=9, kind=peft.LoraConfig, **options):
    """A PEFT model over a copy of `base`, as if it had been trained."""
    given = {**ON, "init_lora_weights": False, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(copy.deepcopy(base), kind(**given)).eval()
    torch.manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad:
            p.data += 0.1 * torch.randn_like(p)
    return model


def plainly(model):
    """A PEFT model with its adapter on, called as any other is."""
    return lambda ids: model(input_ids=ids)


@pytest.mark.parametrize("way", slowly_but(("eager", "async", "speculate", "custom_generate"), WAYS))
@pytest.mark.parametrize("where", EVERYWHERE)
def test_adapters_wherever_they_lie(where, way, llamas, naive):
    large, _, base = llamas
    tuned = adapted(base, **EVERYWHERE[where])
    expected = naive((large, plainly(tuned), base), (1.0, 1.0, -1.0), [PROMPT[0].tolist()] * 3, NEW)
    assert greedy(way, (large, tuned, None), PROMPT) == [expected]


@torch.no_grad()
@pytest.mark.parametrize("where", EVERYWHERE)
def test_scores_with_adapters(where, llamas):
    large, _, base = llamas
    tuned = adapted(base, **EVERYWHERE[where])
    found = EmulatedModel(large, tuned).score(PROMPT).logprobs[0].tolist()
    logits = [model(PROMPT).logits[0, :-1, :264].double() for model in (large, plainly(tuned), base)]
    each = [*logits, logits[0] + logits[1] - logits[2]]
    sums = [float(x.log_softmax(-1).gather(1, PROMPT[0, 1:, None]).sum()) for x in each]
    assert found == pytest.approx(sums, rel=1e-5)


@pytest.mark.parametrize("way", slowly_but(("eager", "async"), WAYS))
def test_a_merged_adapter_cannot_be_switched(way, llamas):
    tuned = adapted(llamas[2])
    tuned.merge_adapter()
    weights = copy.deepcopy(tuned.state_dict())
    with pytest.raises(ValueError, match=r"^base: expected adapters beside the weights .* got a merged one"):
        greedy(way, (llamas[0], tuned, None), PROMPT)
    assert all(torch.equal(weights[name], now) for name, now in tuned.state_dict().items()), "left as it was"


@pytest.mark.parametrize("kind", slowly_but(("IA3", "LORA", "OFT"), sorted(_SWITCHED)))
@pytest.mark.filterwarnings("ignore")
def test_types_that_switch_off(kind, build):
    """Bit for bit the base, or one that was changed is taken for it."""
    base = build("llama", 3, 32, 64)
    config = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[kind]]
    model = adapted(base, kind=lambda **_: config(**{**ON, **NEEDS.get(kind, {})}))
    with torch.no_grad():
        before, on = base(PROMPT).logits, model(input_ids=PROMPT).logits
        for layer in model.modules():
            if hasattr(layer, "_disable_adapters"):
                layer._disable_adapters = True
        assert torch.equal(model(input_ids=PROMPT).logits, before)
    assert not torch.equal(on, before)
    assert changes_base(model.peft_config["default"]) is None


@pytest.mark.parametrize("name", CHANGED)
def test_a_base_that_the_adapter_changed(name, build, tmp_path, naive, tokenizer):
    """Refused where it is given; loaded from scratch where we load."""
    options, said = CHANGED[name]
    base = build("gpt2" if name == "biases" else "llama", 4, 16, 264)
    large = build("llama", 0, 32, 272)
    tuned = adapted(base, **options)
    for given in (None, tuned, tuned.get_base_model()):
        with pytest.raises(ValueError, match=rf"^base: expected a model of its own, .* adapter over it .*{said}"):
            EmulatedModel(large, tuned, given)
        with pytest.raises(ValueError, match=r"^base: expected a model of its own"):
            large.generate(PROMPT, custom_generate=custom_generate(tuned, given), max_new_tokens=2)
    whole = plainly(tuned)
    expected = naive((large, whole, base), (1.0, 1.0, -1.0), [PROMPT[0].tolist()] * 3, NEW)
    assert greedy("async", (large, tuned, base), PROMPT) == [expected]

    for folder, model in (("large", large), ("base", base), ("tuned", tuned)):
        model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    folders = [str(tmp_path / folder) for folder in ("large", "tuned", "base")]
    loaded = EmulatedModel.from_pretrained(*folders, quiet=True)
    with torch.no_grad():
        # Loading computes the initialisation once more, which need not be the same to the last bit.
        for mine, own in zip(loaded.members, (large, whole), strict=False):
            torch.testing.assert_close(mine.model(input_ids=PROMPT).logits, own(PROMPT).logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(loaded.base(PROMPT).logits, base(PROMPT).logits)
    assert loaded.models["base"] is not loaded.tuned.get_base_model()


def test_one_adapter_shares_its_base_and_the_other_does_not(build, tmp_path, tokenizer, naive):
    base, large = build("llama", 4, 16, 264), build("llama", 0, 32, 272)
    models = {"large": large, "base": base, "b": adapted(base)}
    models["a"] = adapted(base, init_lora_weights="pissa")
    for folder, model in models.items():
        model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    folders = {name: str(tmp_path / name) for name in models}
    tuned = {"a": folders["a"], "b": folders["b"]}
    loaded = EmulatedModel.from_pretrained(folders["large"], tuned, folders["base"], quiet=True)
    a, b, under = (member.model for member in loaded.members[1:])
    assert b is under is not a
    whole = (large, plainly(models["a"]), plainly(models["b"]), base)
    expected = naive(whole, (1.0, 0.5, 0.5, -1.0), [PROMPT[0].tolist()] * 4, NEW)
    call = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": [999]}
    assert loaded.generate(PROMPT, **call)[0, 5:].tolist() == expected


def test_an_adapter_that_acts_from_some_tokens_on(llamas):
    tuned = adapted(llamas[2], alora_invocation_tokens=[9, 33])
    with pytest.raises(ValueError, match=r"^tuned: expected an adapter that is always on, .*alora_invocation_tokens"):
        EmulatedModel(llamas[0], tuned, llamas[2])


def test_an_adapter_of_load_adapter_as_its_own_base(llamas, tmp_path, naive):
    tuned = adapted(llamas[2])
    tuned.save_pretrained(tmp_path / "adapter")
    llamas[2].save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    model.load_adapter(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=r"^base: expected a model without the adapter of tuned, .* load_adapter"):
        EmulatedModel(llamas[0], model, model)
    expected = naive((llamas[0], plainly(tuned), llamas[2]), (1.0, 1.0, -1.0), [PROMPT[0].tolist()] * 3, NEW)
    assert greedy("async", (llamas[0], model, llamas[2]), PROMPT) == [expected]


@pytest.mark.parametrize("lies", ["whole modules", "embeddings"])
def test_an_adapter_of_a_larger_vocabulary(lies, build, tmp_path, tokenizer):
    base, large = build("llama", 4, 16, 264), build("llama", 0, 32, 272)
    grown = copy.deepcopy(base)
    grown.resize_token_embeddings(269, mean_resizing=False)
    for folder, model in (("large", large), ("base", base), ("tuned", adapted(grown, **EVERYWHERE[lies]))):
        model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    folders = [str(tmp_path / folder) for folder in ("large", "tuned", "base")]
    with pytest.raises(ValueError, match=r"^tuned: .*269 tokens, .* base has 264: .*resize_token_embeddings\(269\)"):
        EmulatedModel.from_pretrained(*folders, quiet=True)


@pytest.mark.parametrize("way", ["eager", *slowly("static"), "async", *slowly("speculate", "generate_batch")])
def test_the_first_model_has_the_adapter(way, llamas, naive):
    """And another one is the model under it."""
    large = adapted(llamas[0])
    expected = naive((plainly(large), llamas[1], llamas[0]), (1.0, 1.0, -1.0), [PROMPT[0].tolist()] * 3, NEW)
    assert greedy(way, (large, llamas[1], large.get_base_model()), PROMPT) == [expected]
    changed = adapted(llamas[0], init_lora_weights="pissa")
    with pytest.raises(ValueError, match=r"^base: expected a model of its own, .*init_lora_weights='pissa'"):
        greedy(way, (changed, llamas[1], changed.get_base_model()), PROMPT)


def test_two_adapters_put_on_one_model(llamas):
    first = adapted(llamas[0])
    second = peft.get_peft_model(first.get_base_model(), peft.LoraConfig(**ON))
    with pytest.raises(ValueError, match=r"^tuned: expected an adapter of large's PEFT model"):
        EmulatedModel(first, second.eval(), llamas[2])


def test_an_adapter_over_an_adapter(build, llamas, tmp_path, tokenizer):
    base, large = build("llama", 4, 16, 264), llamas[0]
    base.save_pretrained(tmp_path / "plain")
    for folder, model in (("large", large), ("base", adapted(base)), ("tuned", adapted(base))):
        model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    config = tmp_path / "base" / "adapter_config.json"
    found = json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "plain")}
    config.write_text(json.dumps(found))
    folders = [str(tmp_path / folder) for folder in ("large", "tuned", "base")]
    with pytest.raises(ValueError, match=r"^base: expected a whole model under the adapter of tuned"):
        EmulatedModel.from_pretrained(*folders, quiet=True)
    native = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    native.load_adapter(str(tmp_path / "base"))
    over = peft.PeftModel.from_pretrained(native, str(tmp_path / "tuned"), "other").eval()
    with pytest.raises(ValueError, match=r"^base: .* adapter over it lies over another one of load_adapter"):
        EmulatedModel(large, over)


def test_one_adapted_model_as_expert_and_amateur(llamas, tmp_path):
    adapted(llamas[2]).save_pretrained(tmp_path)
    model = copy.deepcopy(llamas[2])
    model.load_adapter(str(tmp_path))
    with pytest.raises(ValueError, match=r"^expert: expected a model without the adapter of amateur"):
        EmulatedModel(expert=model, amateur=model, method=Contrast())
