"""Single families' own needs: turning frequencies, learned tables, wrappers from folders, refusals."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
import transformers as hf

from eft_ext.hf import EmulatedModel
from eft_ext.hf.members import Member
from eft_ext.hf.runners.checks import reads_pieces
from python_tests.families.builders import FAMILIES, build, trio
from python_tests.families.table import BEGIN, DOCS, END
from python_tests.families.test_families import mixture_of, padded
from python_tests.helpers.slow_params import slowly

pytestmark = pytest.mark.filterwarnings("ignore:.*run on the eager tier", "ignore:.*reads all again")


def test_the_table_in_the_docs_has_every_family_and_its_tier():
    written = DOCS.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in written.strip().splitlines()[2:]]
    assert [(name, kind, tier) for name, kind, tier, *_ in rows] == [
        (name, f"`{family.kind}`", family.tier) for name, family in FAMILIES.items()
    ]
    for (*_, why), family in zip(rows, FAMILIES.values(), strict=True):
        assert family.because in why
        assert ("one prompt at a time" in why) == family.alone


def test_longrope_turns_to_other_frequencies_in_the_middle_of_a_generation():
    models = trio("Phi-3 128k, Phi-4-mini (longrope)")
    model = EmulatedModel(*models)
    prompt, short = list(range(5, 64)), list(range(70, 100))
    text = list(prompt)
    for _ in range(14):  # over 64 tokens, where the longest row turns all of the batch
        text.append(int(mixture_of(models, text)[-1].argmax()))
    new = text[len(prompt) :]
    got = model.generate([prompt], max_new_tokens=14, eos_token_id=[999])
    assert got[0].tolist() == text
    ids, mask = padded([prompt, short])
    rows = model.generate(ids, attention_mask=mask, max_new_tokens=14, eos_token_id=[new[8]], pad_token_id=0)
    new_of_long = rows[0, ids.shape[1] :].tolist()
    assert new_of_long[:9] == new[:9]
    pieces, whole = (model.score([text], positions=n).logprobs for n in (5, None))
    assert torch.allclose(pieces, whole)


@pytest.mark.parametrize(
    ("name", "pieces"), [("Mamba", False), ("Jamba", False), ("LFM 2", True), ("Llama 4 (text)", True)]
)
def test_which_caches_take_several_tokens_after_others(name, pieces):
    assert reads_pieces(Member("large", build(name)), 7) is pieces


def test_mamba_reads_token_by_token():
    models, shapes = trio("Mamba"), []
    hook = models[0].register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        EmulatedModel(*models).generate([[5, 6, 7]], max_new_tokens=4, eos_token_id=[999])
    finally:
        hook.remove()
    assert shapes == [(1, 3), (1, 1), (1, 1), (1, 1)]


def test_what_is_said_of_models_alike_is_said_once():
    models = [build("LFM 2", seed) for seed in range(3)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        EmulatedModel(*models).generate([[5, 6, 7]], max_new_tokens=2)
    found = [str(warning.message) for warning in said if "eager tier" in str(warning.message)]
    assert found == ["large, tuned, base: Lfm2ForCausalLM has layers of kind 'conv'; all models run on the eager tier"]


def test_a_cache_that_is_off_in_the_models_own_configuration():
    models = trio("MPT")
    model = EmulatedModel(*models)
    with pytest.warns(UserWarning, match="^large: MptForCausalLM has use_cache=False in its own generation_config"):
        slow = model.generate([[5, 6, 7]], max_new_tokens=6, eos_token_id=[999])
    assert torch.equal(model.generate([[5, 6, 7]], max_new_tokens=6, eos_token_id=[999], use_cache=True), slow)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["Gemma 3 (4B and larger, with images)", "Mistral Small 3.1 (with images)", "Qwen 2 VL"]
)
def test_models_that_read_images_too_load_from_folders(name, tmp_path):
    for seed, part in enumerate(("large", "tuned", "base")):
        build(name, seed).save_pretrained(tmp_path / part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = EmulatedModel.from_pretrained(
            *(str(tmp_path / part) for part in ("large", "tuned", "base")), quiet=True
        )
    assert type(model.large) is type(build(name))
    expected = EmulatedModel(*(build(name, seed) for seed in range(3)))
    ids = torch.tensor([[5, 6, 7, 8]])
    options = dict(max_new_tokens=6, eos_token_id=[999])
    assert torch.equal(model.generate(ids, **options), expected.generate(ids, **options))
    with pytest.raises(ValueError, match="^pixel_values: not supported by emulated fine-tuning"):
        model.generate(ids, pixel_values=torch.zeros(1, 3, 28, 28), **options)


def test_encoder_decoders_are_refused_before_anything_is_loaded(tmp_path):
    config = hf.T5Config(
        vocab_size=264, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    model = hf.T5ForConditionalGeneration(config)
    model.save_pretrained(tmp_path / "t5")
    build("GPT-2").save_pretrained(tmp_path / "gpt2")
    small = str(tmp_path / "gpt2")
    with pytest.raises(ValueError, match=r"^large: expected a decoder-only model, got .* an encoder-decoder \(t5\)"):
        EmulatedModel.from_pretrained(str(tmp_path / "t5"), small, small, quiet=True)
    with pytest.raises(TypeError, match="^tuned: expected a decoder-only model, got the encoder-decoder T5For"):
        EmulatedModel(build("GPT-2"), model, build("GPT-2"))


MIXED = ("Llama 2, 3 (llama3 RoPE)", "Qwen 2, 2.5 (tied)", "Gemma 3 (text)")


def test_three_families_in_one_mixture():
    models = [
        build(name, seed, vocab=vocab) for name, seed, vocab in zip(MIXED, range(3), (272, 264, 264), strict=True)
    ]
    prompt = list(range(20, 31))
    text = list(prompt)
    for _ in range(12):
        text.append(int(mixture_of(models, text)[-1].argmax()))
    got = EmulatedModel(*models).generate([prompt], max_new_tokens=12, eos_token_id=[999])
    assert got[0].tolist() == text


MORE = ("gpt-oss (sinks)", "Gemma 3n (text)", "Qwen 3 Next", "GPT-2", "Qwen 2 VL")
ADAPTED = ["Qwen 3", *slowly(*MORE)]


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out", "ignore:.*gradient_checkpointing")
@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapter_as_the_tuned_model(name):
    peft = pytest.importorskip("peft")
    large, _, base = trio(name)
    torch.manual_seed(5)
    layers = [n for n, m in base.named_modules() if re.search(r"(q_proj|v_proj|c_attn)$", n) and "visual" not in n]
    config = peft.LoraConfig(target_modules=layers, init_lora_weights=False, r=2)
    tuned = peft.get_peft_model(copy.deepcopy(base), config).eval()
    model, whole = EmulatedModel(large, tuned), (large, copy.deepcopy(tuned).merge_and_unload(), base)
    ids, mask = padded([[5, 6, 7], [8, 9, 10, 11, 12]])
    options = dict(attention_mask=mask, max_new_tokens=10, eos_token_id=[999])
    assert torch.equal(model.generate(ids, **options), EmulatedModel(*whole).generate(ids, **options))
