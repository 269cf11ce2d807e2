"""A model of several as a whole, which tools move, copy, store and compile."""

import copy
import io
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from eft_ext import methods as m
from eft_ext.hf import EmulatedConfig, EmulatedForCausalLM, EmulatedModel

IDS = torch.tensor([[5, 6, 7]])
OPTIONS = dict(max_new_tokens=5, eos_token_id=[999])


@pytest.fixture
def copies(models):
    return [copy.deepcopy(model) for model in models[:3]]


@pytest.fixture
def causal(copies):
    return EmulatedModel(*copies).causal_lm()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_types_and_modes(causal, copies):
    assert causal.dtype == torch.float32
    assert not causal.training
    assert causal.train() is causal
    assert all(model.training for model in copies)
    with pytest.warns(UserWarning, match=r"^large is in training mode"):
        causal.generate(IDS, **OPTIONS)
    causal.eval()
    for make in (lambda: causal.to(torch.bfloat16), causal.half, causal.bfloat16, causal.float):
        assert make() is causal
        assert {p.dtype for p in causal.parameters()} == {causal.dtype} == {copies[1].dtype}
        assert logits(causal).dtype == torch.float32
    assert causal.to("cpu") is causal


def test_parameters(causal, copies):
    sizes = [sum(p.numel() for p in model.parameters()) for model in copies]
    assert causal.num_parameters() == sum(sizes)
    assert causal.get_memory_footprint() >= 4 * sum(sizes)
    names = [name for name, _ in causal.named_parameters()]
    assert len(names) == len(set(names)) == sum(len(list(model.parameters())) for model in copies)
    assert {name.split(".")[0] for name in names} == {"large", "tuned", "base"}
    assert causal.state_dict().keys() == set(names)
    assert causal.large is copies[0]
    assert causal.get_input_embeddings() is copies[0].get_input_embeddings()
    assert causal.get_output_embeddings() is None


def test_one_model_in_two_places(copies, tmp_path):
    large, tuned, _ = copies
    causal = EmulatedModel(tuned, tuned, large).causal_lm()
    assert causal.num_parameters() == sum(p.numel() for model in (large, tuned) for p in model.parameters())
    again = copy.deepcopy(causal)
    assert again.models.members[0].model is again.models.members[1].model is again.large
    assert torch.equal(logits(again), logits(causal))
    causal.save_pretrained(tmp_path, state_dict=causal.state_dict())
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(causal))


def test_weights_come_and_go(causal, build):
    other = EmulatedModel(
        *(build("llama", 7 + k, h, v) for k, (h, v) in enumerate(((32, 272), (16, 264), (16, 264))))
    ).causal_lm()
    assert not torch.equal(logits(other), logits(causal))
    found = other.load_state_dict(causal.state_dict())
    assert not found.missing_keys
    assert not found.unexpected_keys
    assert torch.equal(logits(other), logits(causal))


@pytest.mark.parametrize("way", ["deepcopy", "torch.save"])
def test_copies(causal, way):
    if way == "deepcopy":
        again = copy.deepcopy(causal)
    else:
        file = io.BytesIO()
        torch.save(causal, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
    assert torch.equal(logits(again), logits(causal))
    expected = causal.generate(IDS, **OPTIONS)
    assert torch.equal(again.generate(IDS, **OPTIONS), expected)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.mul_(0.5)
    assert [member.model for member in again.models.members] == list(again.children())
    assert not torch.equal(logits(again), logits(causal))
    assert torch.equal(causal.generate(IDS, **OPTIONS), expected)
    assert not torch.equal(again.generate(IDS, **OPTIONS), expected)
    assert all(getattr(again.config, name) is child.config for name, child in again.named_children())


def test_a_copy_of_models_that_share_weights(models):
    peft = pytest.importorskip("peft")
    torch.manual_seed(9)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(copy.deepcopy(models[2]), config).eval()
    causal = EmulatedModel(models[0], tuned).causal_lm()
    again = copy.deepcopy(causal)
    assert torch.equal(logits(again), logits(causal))
    assert torch.equal(again.generate(IDS, **OPTIONS), causal.generate(IDS, **OPTIONS))
    assert again.models.members[2].model is again.tuned


def test_what_one_table_would_be_needed_for(causal):
    for call in (
        lambda: causal.resize_token_embeddings(300),
        lambda: causal.set_input_embeddings(causal.large.get_input_embeddings()),
        lambda: causal.set_output_embeddings(torch.nn.Linear(2, 2)),
    ):
        with pytest.raises(ValueError, match=r"^\w+: expected nothing, since each model has its own table"):
            call()


def test_tied_weights():
    def tied(seed):
        torch.manual_seed(seed)
        shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=264)
        return LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, **shape)).eval()

    causal = EmulatedModel(*map(tied, range(3))).causal_lm()
    names = [name for name, _ in causal.named_parameters()]
    assert not any("lm_head" in name for name in names)
    expected = logits(causal)
    causal.tie_weights()
    causal.tie_weights(missing_keys=set(), recompute_mapping=False)
    assert torch.equal(logits(causal), expected)
    again = copy.deepcopy(causal)
    assert all(x.lm_head.weight is x.model.embed_tokens.weight for x in again.children())


def test_settings_of_generation(causal, copies):
    assert causal.generation_config is copies[0].generation_config
    causal.generation_config = GenerationConfig(max_new_tokens=2, eos_token_id=2, pad_token_id=0)
    assert copies[0].generation_config.max_new_tokens == 2
    assert causal.generate(IDS).shape[1] <= 5
    assert causal.can_generate()


def test_configurations(causal):
    config = causal.config
    assert config.large is causal.large.config
    written = json.loads(config.to_json_string(use_diff=False))
    for again in (EmulatedConfig(**written), EmulatedConfig.from_dict(config.to_dict()), copy.deepcopy(config)):
        assert again.mixing_method.weights() == m.UpScale().weights()
        assert again.vocab_size == config.vocab_size == 264
        assert again.base.to_dict() == causal.base.config.to_dict()
        assert again.to_dict() == config.to_dict()
    assert repr(config)
    made = AutoModelForCausalLM.from_config(EmulatedConfig.from_dict(config.to_dict()))
    assert isinstance(made, EmulatedForCausalLM)
    made.load_state_dict(causal.state_dict())
    assert torch.equal(logits(made), logits(causal))


def test_tags(causal):
    causal.add_model_tags(["emulated"])
    assert causal.model_tags == ["emulated"]


@pytest.mark.slow
def test_compiled(causal):
    torch._dynamo.reset()
    compiled = torch.compile(causal, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(IDS).logits, causal(IDS).logits)


def test_a_model_is_not_replaced(llamas):
    """The one before would go on running."""
    model = EmulatedModel(*llamas).causal_lm()
    with pytest.raises(ValueError, match=r"^tuned: expected the model that is there"):
        model.tuned = model.base
    model.tuned = model.tuned
    model.note = "anything else is set"
