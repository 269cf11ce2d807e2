"""accelerate and transformers' Trainer over a model of several."""

import copy

import accelerate
import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM, Trainer, TrainingArguments

from eft_ext.hf import EmulatedModel
from python_tests.helpers.mixtures import PlainMixture, weighted
from python_tests.helpers.slow_params import slowly

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])
OPTIONS = dict(max_new_tokens=5, eos_token_id=[999])


@pytest.fixture
def causal(models):
    return EmulatedModel(*map(copy.deepcopy, models[:3])).causal_lm()


def logits(model, **options):
    with torch.no_grad():
        return model(IDS, **options).logits


def test_maps_of_devices(causal):
    assert causal._no_split_modules == {"LlamaDecoderLayer"} or causal._no_split_modules == ["LlamaDecoderLayer"]
    room = 4 * causal.num_parameters()
    placed = accelerate.infer_auto_device_map(
        causal, max_memory={0: room // 2, "cpu": room}, no_split_module_classes=causal._no_split_modules
    )
    assert set(placed.values()) == {0, "cpu"}
    assert {name.split(".")[0] for name in placed} == {"large", "tuned", "base"}
    assert "cuda" not in str(accelerate.infer_auto_device_map(causal, max_memory={"cpu": room * 2}))


@pytest.mark.filterwarnings("ignore:.*has offloaded weights")
@pytest.mark.parametrize("way", ["cpu_offload", "dispatch_model"])
def test_weights_that_are_elsewhere(causal, way, tmp_path):
    expected, tokens = logits(causal), causal.generate(IDS, **OPTIONS)
    beams = causal.generate(IDS, num_beams=2, **OPTIONS)
    if way == "cpu_offload":
        away = accelerate.cpu_offload(causal, execution_device="cpu")
    else:
        where = {"large": "disk", "tuned": "cpu", "base": "disk"}
        away = accelerate.dispatch_model(causal, where, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
        assert away.hf_device_map == where
    assert away.device == torch.device("cpu")
    assert away.large.lm_head.weight.device.type == "meta"
    assert torch.equal(logits(away), expected)
    assert torch.equal(away.generate(IDS, **OPTIONS), tokens)
    assert torch.equal(away.generate(IDS, num_beams=2, **OPTIONS), beams)


def test_models_that_were_placed_before(models, tmp_path):
    large, tuned, base = map(copy.deepcopy, models[:3])
    assert not hasattr(EmulatedModel(large, tuned, base).causal_lm(), "hf_device_map")
    where = {"model": "cpu", "lm_head": "disk"}
    accelerate.dispatch_model(large, where, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    causal = EmulatedModel(large, tuned, base).causal_lm()
    cpu = torch.device("cpu")
    assert causal.hf_device_map == {"large.model": "cpu", "large.lm_head": "disk", "tuned": cpu, "base": cpu}
    with pytest.raises(RuntimeError, match=r"^You can't move a model that has some modules offloaded"):
        causal.to("cpu")


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, at):
        ids = torch.arange(5 + at, 13 + at)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


@pytest.mark.parametrize("checkpointing", [*slowly(False), True], ids=["plain", "gradient checkpointing"])
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_training(causal, tmp_path, checkpointing):
    causal.requires_grad_(False)
    causal.tuned.requires_grad_(True)
    before = {name: value.clone() for name, value in causal.state_dict().items()}
    arguments = TrainingArguments(
        output_dir=tmp_path,
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        gradient_checkpointing=checkpointing,
        gradient_accumulation_steps=2,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
    )
    trainer = Trainer(causal, arguments, train_dataset=Rows())
    first = trainer.evaluate(Rows())["eval_loss"]
    trainer.train()
    assert trainer.evaluate(Rows())["eval_loss"] < first
    moved = {name.split(".")[0] for name, value in causal.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"tuned"}
    trainer.save_model(tmp_path / "end")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "end")
    assert torch.equal(logits(again), logits(causal.eval()))
    assert torch.equal(again.generate(IDS, **OPTIONS), causal.generate(IDS, **OPTIONS))


def test_the_loss_of_training_counts_all_items(causal):
    """Trainer hands the number of items over all accumulated batches to models whose forward takes it."""
    batch = {"input_ids": IDS, "labels": IDS}
    assert Trainer(causal, TrainingArguments(use_cpu=True, report_to=[])).model_accepts_loss_kwargs
    one, half = (causal(**batch, num_items_in_batch=torch.tensor(n)).loss for n in (4, 8))
    torch.testing.assert_close(one, causal(**batch).loss)
    torch.testing.assert_close(half, one / 2)


@pytest.fixture
def mamba(models):
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=264, hidden_size=16, num_hidden_layers=2, state_size=4, eos_token_id=2, pad_token_id=0
    )
    return MambaForCausalLM(config).eval()


@pytest.mark.filterwarnings("ignore:.*has a forward pass without past_key_values")
@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"output_hidden_states": True}], ids=str)
def test_a_model_with_a_state_of_its_own(models, mamba, more):
    trio = (models[0], mamba, models[2])
    expected = PlainMixture(trio, weighted(1, 1, -1)).generate(IDS, use_cache=False, **OPTIONS, **more)
    model = EmulatedModel(*trio)
    assert torch.equal(model.generate(IDS, **OPTIONS, **more), expected)
    assert torch.equal(model.causal_lm().generate(IDS, **OPTIONS, **more), expected)
    with pytest.raises(ValueError, match=r"^use_cache: expected False, since tuned: MambaForCausalLM keeps a cache"):
        model.causal_lm()(IDS, use_cache=True)


def test_a_draft_without_a_cache(models, mamba):
    causal = EmulatedModel(models[3], mamba, models[2]).causal_lm()
    with pytest.raises(
        ValueError, match=r"^assistant_model: expected models whose caches can be cut, but tuned: Mamba"
    ):
        models[1].generate(IDS[:1], assistant_model=causal, **OPTIONS)
    with pytest.raises(ValueError, match=r"requires `use_cache=True`"):
        causal.generate(IDS[:1], prompt_lookup_num_tokens=2, **OPTIONS)
