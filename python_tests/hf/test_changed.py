"""Models that change between calls, or are run in another state than they were made in."""

import copy
import io
import pickle

import pytest
import torch

from eft_ext import EmulatedModel, custom_generate
from eft_ext.decoding.capture import traced_forward
from python_tests.helpers.naive import naive
from python_tests.helpers.slow_params import slowly_but
from python_tests.helpers.ways import NEW, WAYS, greedy
from python_tests.hf.conftest import VOCAB, build_model

PROMPT = torch.tensor([[1, 5, 9, 33, 7]])
AFTER = 16
LONG = AFTER + 6  # tokens, so that the forward passes are traced
FEW = slowly_but(("async",), WAYS)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(traced_forward, "AFTER", AFTER)


@pytest.fixture
def models():
    """(large, tuned, base), for one test to change."""
    shapes = zip((32, 16, 16), VOCAB.values(), strict=True)
    return [build_model("llama", seed, *shape) for seed, shape in enumerate(shapes)]


def plain(models, vocab=264):
    """The new tokens of a loop over the whole text, with the weights 1, 1, -1."""
    return naive(models, lambda step, x: x[0] + x[1] - x[2], [PROMPT[0].tolist()] * 3, LONG, vocab)


@pytest.mark.parametrize("way", slowly_but(("static", "async"), WAYS))
def test_autocast(way, models):
    greedy(way, models, PROMPT, max_new_tokens=LONG)  # traced without
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(models)
        assert greedy(way, models, PROMPT, max_new_tokens=LONG) == [expected]
        assert "is under autocast" in str(EmulatedModel(*models).plan())
    without = plain(models)
    assert without != expected
    assert greedy(way, models, PROMPT, max_new_tokens=LONG) == [without], "autocast has left nothing behind"


def test_scores_under_autocast(models):
    texts = torch.tensor([[1, 5, 9, 33, 7, 8]])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = EmulatedModel(*models).score(texts)
        logits = [model(texts).logits[0, :-1, :264].double() for model in models]
    z = [*logits, logits[0] + logits[1] - logits[2]]
    sums = [float(x.log_softmax(-1).gather(1, texts[0, 1:, None]).sum()) for x in z]
    assert found.logprobs[0].tolist() == pytest.approx(sums, rel=1e-5)


def changed_in_place(models):
    other = build_model("llama", 7, 16, VOCAB["tuned"])
    models[1].load_state_dict(other.state_dict())


def changed_by_assignment(models):
    other = build_model("llama", 7, 16, VOCAB["tuned"])
    models[1].load_state_dict(other.state_dict(), assign=True)


def hooked(models):
    models[1].model.layers[0].mlp.register_forward_hook(lambda module, args, out: out * 1.5)


def with_another_forward(models):
    layer = models[1].model.layers[1].mlp
    plain_forward = layer.forward
    layer.forward = lambda x: 0.5 * plain_forward(x)


def in_another_type(models):
    for model in models:
        model.double()


CHANGES = [changed_in_place, changed_by_assignment, hooked, with_another_forward, in_another_type]


@pytest.mark.parametrize("way", FEW)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_models_that_were_traced_and_then_changed(change, way, models):
    before = greedy(way, models, PROMPT, max_new_tokens=LONG)
    assert before == [plain(models)]
    change(models)
    expected = plain(models)
    assert change is in_another_type or [expected] != before
    assert greedy(way, models, PROMPT, max_new_tokens=LONG) == [expected]


@pytest.mark.parametrize("way", FEW)
def test_half_precision_after_construction(way, models):
    model = EmulatedModel(*models)
    call = {"do_sample": False, "eos_token_id": [999], "max_new_tokens": LONG}
    model.generate(PROMPT, **call)
    for one in models:
        one.bfloat16()
    assert model.generate(PROMPT, **call)[0, 5:].tolist() == plain(models)


@pytest.mark.parametrize("way", FEW)
def test_adapters_merged_after_a_call(way, models):
    import peft

    torch.manual_seed(3)
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(copy.deepcopy(models[2]), config).eval()
    whole = [models[0], lambda ids: tuned(input_ids=ids), models[2]]
    given = (models[0], tuned, models[2])
    expected = plain(whole)
    assert greedy(way, given, PROMPT, max_new_tokens=LONG) == [expected]
    tuned.merge_adapter()
    assert greedy(way, given, PROMPT, max_new_tokens=LONG) == [expected]
    tuned.unmerge_adapter()
    tuned.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] = 3.0
    changed = plain(whole)
    assert changed != expected
    assert greedy(way, given, PROMPT, max_new_tokens=LONG) == [changed]


def test_training_mode_with_gradient_checkpointing(models):
    model = EmulatedModel(*models)
    models[1].train()
    models[1].gradient_checkpointing_enable()
    message = r"^tuned: expected a model in eval mode, .* gradient checkpointing, .*call \.eval\(\)"
    for call in (
        lambda: model.generate(PROMPT, max_new_tokens=2),
        lambda: model.generate_batch(PROMPT, max_new_tokens=2),
        lambda: model.score(PROMPT),
        lambda: models[0].generate(PROMPT, custom_generate=custom_generate(*models[1:]), max_new_tokens=2),
        lambda: greedy("EFTLogitsProcessor", models, PROMPT),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    models[1].eval()
    assert greedy("async", models, PROMPT, max_new_tokens=LONG) == [plain(models)]
    models[1].gradient_checkpointing_disable()
    models[1].train()
    with pytest.warns(UserWarning, match=r"^tuned is in training mode"):
        model.generate(PROMPT, max_new_tokens=2)


def test_more_tokens_after_construction(models):
    model = EmulatedModel(*models)
    for one in models:
        one.resize_token_embeddings(280, mean_resizing=False)
    assert model.vocab_size == 280
    with torch.no_grad():
        logits = [one(PROMPT).logits[0, :-1].double() for one in models]
    z = logits[0] + logits[1] - logits[2]
    expected = float(z.log_softmax(-1).gather(1, PROMPT[0, 1:, None]).sum())
    assert float(model.score(PROMPT).logprobs[0, -1]) == pytest.approx(expected, rel=1e-5)
    call = {"do_sample": False, "eos_token_id": [999], "max_new_tokens": LONG}
    assert model.generate(PROMPT, **call)[0, 5:].tolist() == plain(models, vocab=280)


def test_fewer_tokens_than_the_tokenizer_has(models, tokenizer):
    model = EmulatedModel(*models, tokenizer)
    models[2].resize_token_embeddings(250)
    with pytest.raises(ValueError, match=r"^base: expected logits for the tokenizer's 260 ids, got 250 columns"):
        model.generate(PROMPT, max_new_tokens=2)


@pytest.mark.parametrize("way", slowly_but(("static", "async"), [way for way in WAYS if "speculate" not in way]))
@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantization(way, models):
    """Against transformers' own loop: int8 rounds by the largest number a pass reads, so passes over more differ."""
    large = torch.ao.quantization.quantize_dynamic(models[0], {torch.nn.Linear})
    call = {"do_sample": False, "eos_token_id": [999], "pad_token_id": 0, "max_new_tokens": NEW}
    expected = large.generate(PROMPT, **call)[0, PROMPT.shape[1] :].tolist()
    small = torch.ao.quantization.quantize_dynamic(models[1], {torch.nn.Linear})
    assert greedy(way, (large, small, small), PROMPT) == [expected], "the small ones cancel"


def test_copies(models, tokenizer):
    model = EmulatedModel(*models, tokenizer, beta=0.7)
    call = {"do_sample": False, "eos_token_id": [999], "max_new_tokens": LONG}
    expected = model.generate(PROMPT, **call)
    stored = io.BytesIO()
    pickle.dump(model, stored)
    stored.seek(0)
    for other in (copy.copy(model), copy.deepcopy(model), pickle.load(stored)):
        assert torch.equal(other.generate(PROMPT, **call), expected)
    other = copy.deepcopy(model)
    assert other.large is not model.large
    assert other.engines is not model.engines


@torch.no_grad()
def test_scores_in_double_precision(models):
    in_another_type(models)
    logits = [model(PROMPT).logits[0, :-1, :264] for model in models]
    z = (logits[0] + logits[1] - logits[2]).log_softmax(-1)
    expected = float(z.gather(1, PROMPT[0, 1:, None]).sum())
    assert float(EmulatedModel(*models).score(PROMPT).logprobs[0, -1]) == pytest.approx(expected, rel=1e-5)
