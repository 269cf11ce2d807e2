"""from_pretrained: folders, per-model options, adapters that share weights, and what is said on the way."""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from eft_ext.hf import EFTLogitsProcessor, EmulatedModel, custom_generate
from eft_ext.hf.loading.memory import available, footprint, readable

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft's call
NEW = 10


def with_lora(base):
    config = peft.LoraConfig(
        r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False
    )
    torch.manual_seed(9)
    return peft.get_peft_model(base, config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer, build):
    """large, tuned, base and an adapter of base, as saved by their libraries; tuned is the merged adapter."""
    root = tmp_path_factory.mktemp("models")
    build("llama", 0, 32, 272).save_pretrained(root / "large")
    build("llama", 2, 16, 264).save_pretrained(root / "base")
    adapted = with_lora(build("llama", 2, 16, 264))
    adapted.peft_config["default"].base_model_name_or_path = str(root / "base")
    adapted.save_pretrained(root / "adapter")
    adapted.merge_and_unload().save_pretrained(root / "tuned")
    for name in ("large", "tuned", "base"):
        tokenizer.save_pretrained(root / name)
    return {name: str(root / name) for name in ("large", "tuned", "base", "adapter")}


@pytest.fixture(scope="module")
def three(folders):
    return {name: folders[name] for name in ("large", "tuned", "base")}


@pytest.fixture(scope="module")
def merged(three):
    return EmulatedModel.from_pretrained(**three, quiet=True)


def test_says_what_it_needs_first(three, capsys):
    model = EmulatedModel.from_pretrained(**three, beta=0.5)
    said = capsys.readouterr().err
    assert said.startswith("loading weights: large ")
    assert " parameters), tuned " in said
    assert " in all of " in said
    assert model.method.beta == 0.5
    assert model.vocab_size == 264
    assert [m.dtype for m in (model.large, model.tuned, model.base)] == [torch.float32] * 3
    assert not model.large.training
    assert model.tokenizer("a")["input_ids"] == model.tokenizer.encode("a")


def test_options_per_model(three):
    model = EmulatedModel.from_pretrained(**three, quiet=True, dtype={"large": torch.bfloat16, "base": "float16"})
    assert [m.dtype for m in (model.large, model.tuned, model.base)] == [
        torch.bfloat16,
        torch.float32,
        torch.float16,
    ]
    model = EmulatedModel.from_pretrained(**three, quiet=True, dtype="bfloat16", attn_implementation="eager")
    assert model.base.dtype == torch.bfloat16
    assert model.large.config._attn_implementation == "eager"


@pytest.mark.slow
def test_adapter_folder_shares_weights(folders, merged, ragged):
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=NEW)
    expected = merged.generate(ids, **options)
    for base in (folders["base"], None):
        model = EmulatedModel.from_pretrained(folders["large"], folders["adapter"], base, quiet=True)
        assert model.base is model.tuned.get_base_model()
        assert torch.equal(model.generate(ids, **options), expected)
    assert not torch.equal(expected, merged.generate(ids, **options, beta=0.0))


@pytest.mark.slow
def test_loaded_adapters(folders, merged, ragged):
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=NEW)
    expected = merged.generate(ids, **options)
    base = merged.base.from_pretrained(folders["base"])
    tuned = peft.PeftModel.from_pretrained(base, folders["adapter"])
    frozen = [p.requires_grad for p in tuned.parameters()]
    for given in (base, tuned, None):
        assert torch.equal(EmulatedModel(merged.large, tuned, given).generate(ids, **options), expected)
    assert torch.equal(merged.large.generate(ids, custom_generate=custom_generate(tuned), **options), expected)
    processor = EFTLogitsProcessor(tuned, base, attention_mask=mask)
    assert torch.equal(merged.large.generate(ids, logits_processor=[processor], **options), expected)
    assert [p.requires_grad for p in tuned.parameters()] == frozen
    assert not any(getattr(module, "_disable_adapters", False) for module in tuned.modules())
    other = merged.base.from_pretrained(folders["base"])  # the same weights twice is fine too
    assert torch.equal(EmulatedModel(merged.large, tuned, other).generate(ids, **options), expected)


def test_a_large_model_with_an_adapter(folders, merged):
    large = with_lora(merged.large.from_pretrained(folders["large"]))
    got = EmulatedModel(large, merged.tuned, merged.base).generate([[5, 6]], max_new_tokens=4, beta=0.0)
    assert torch.equal(got, large.generate(input_ids=torch.tensor([[5, 6]]), max_new_tokens=4))


def test_a_prompt_adapter_is_refused(llamas, folders):
    base = llamas[2].from_pretrained(folders["base"])
    tuned = peft.get_peft_model(base, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).eval()
    with pytest.raises(ValueError, match=r"^tuned: adapters that learn a prompt"):
        EmulatedModel(llamas[0], tuned)


def test_an_adapter_of_another_base(folders):
    with (
        pytest.raises(ValueError, match=r"^tuned: cannot put the adapter .* on base"),
        pytest.warns(UserWarning, match=r"was made for"),
    ):
        EmulatedModel.from_pretrained(folders["large"], folders["adapter"], folders["large"], quiet=True)


def test_chat_template_of_tuned_is_taken_over(folders, tmp_path, tokenizer):
    import shutil

    shutil.copytree(folders["tuned"], tmp_path / "tuned")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(tmp_path / "tuned")
    tokenizer.chat_template = None
    model = EmulatedModel.from_pretrained(folders["large"], str(tmp_path / "tuned"), folders["base"], quiet=True)
    assert model.tokenizer.chat_template == "{{ messages[0]['content'] }}"


def test_tokenizers_are_compared(folders, tmp_path, tokenizer):
    import copy
    import shutil

    shutil.copytree(folders["tuned"], tmp_path / "tuned")
    other = copy.deepcopy(tokenizer)
    vocab = json.loads(other.backend_tokenizer.to_str())
    vocab["model"]["vocab"]["xyz"] = 260
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(vocab)))
    other.save_pretrained(tmp_path / "tuned")
    models = (folders["large"], str(tmp_path / "tuned"), folders["base"])
    with pytest.raises(
        ValueError, match=r"^tuned: expected the tokenizer of large .* 'xyz' is absent in large, 260 in tuned"
    ):
        EmulatedModel.from_pretrained(*models, quiet=True)
    assert EmulatedModel.from_pretrained(*models, quiet=True, check_tokenizers=False).vocab_size == 264


def test_a_tokenizer_that_is_given(three, folders, tokenizer):
    assert EmulatedModel.from_pretrained(**three, tokenizer=tokenizer, quiet=True).tokenizer is tokenizer
    assert EmulatedModel.from_pretrained(**three, tokenizer=folders["base"], quiet=True).tokenizer is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"large": "./nowhere"}, r"^large: no such folder: \./nowhere"),
        ({"base": None}, r"^base: expected a model, got None"),
        ({"tuned": 3}, r"^tuned: expected a hub id or a folder, got int"),
        ({"dtype": {"base": "float3"}}, r"^dtype: expected one of torch's, such as 'bfloat16', .* got 'float3'"),
        ({"beta": 1.0, "scale": 1.0}, r"^beta: expected nothing beside scale"),
    ],
)
def test_errors(three, change, message):
    with pytest.raises(ValueError, match=message):
        EmulatedModel.from_pretrained(**{**three, **change}, quiet=True)


def test_a_folder_that_is_no_model(three, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"^base: cannot read .*"):
        EmulatedModel.from_pretrained(three["large"], three["tuned"], str(tmp_path), quiet=True)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "vocab_size": 300, "hidden_size": 16, "num_attention_heads": 4})
    )
    with pytest.raises(ValueError, match=r"^base: cannot load .*"):
        EmulatedModel.from_pretrained(three["large"], three["tuned"], str(tmp_path), quiet=True)


@pytest.mark.slow
def test_footprint(merged, folders, tmp_path):
    count = sum(p.numel() for p in merged.large.parameters())
    seen = footprint("large", folders["large"])
    assert (seen.parameters, seen.bytes) == (count, 4 * count)
    assert footprint("large", folders["large"], dtype=torch.bfloat16).bytes == 2 * count
    assert (
        footprint("large", folders["large"], dtype="float16", quantization_config={"load_in_4bit": True}).bytes
        == count // 2
    )
    merged.large.config.save_pretrained(tmp_path)  # weights not here yet, as on the hub
    assert footprint("large", str(tmp_path)).parameters == count
    assert available("cpu") > 2**20
    assert [readable(n) for n in (12, 1536, 3 * 2**30, 200 * 2**20)] == [
        "12 B",
        "1.5 KiB",
        "3.0 GiB",
        "200 MiB",
    ]


def test_too_little_memory_is_warned_of(three, monkeypatch):
    monkeypatch.setattr("eft_ext.hf.loading.load.available", lambda device_map: 1000)
    with pytest.warns(UserWarning, match=r"the weights need .* and 1000 B are available"):
        EmulatedModel.from_pretrained(**three, quiet=True)


def test_without_tokenizers(folders, tmp_path):
    import shutil

    names = ("large", "tuned", "base")
    for name in names:
        shutil.copytree(folders[name], tmp_path / name, ignore=shutil.ignore_patterns("*token*"))
    with pytest.warns(UserWarning, match=r"brings a tokenizer"):
        model = EmulatedModel.from_pretrained(*(str(tmp_path / name) for name in names), quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.generate([[5, 6]], max_new_tokens=2).shape == (1, 4)


@pytest.mark.slow
def test_two_threads_share_an_adapter(folders, merged):
    """Each needs the adapter on for one forward pass and off for the next."""
    base = merged.base.from_pretrained(folders["base"])
    tuned = peft.PeftModel.from_pretrained(base, folders["adapter"])
    models = [EmulatedModel(merged.large, tuned, base) for _ in range(2)]
    expected = merged.generate([[5, 6]], max_new_tokens=40)
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(lambda model: model.generate([[5, 6]], max_new_tokens=40), models * 3))
    assert all(torch.equal(ids, expected) for ids in got)
