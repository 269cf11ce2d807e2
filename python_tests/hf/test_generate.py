"""What users pass to transformers' generate, passed to EmulatedModel.generate."""

import copy
import time
from contextlib import ExitStack
from threading import Thread

import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    RwkvConfig,
    RwkvForCausalLM,
    StoppingCriteria,
    StopStringCriteria,
    TextIteratorStreamer,
    TextStreamer,
)

from eft_ext.hf import EmulatedModel, custom_generate

NEW = 12


@pytest.fixture
def model(llamas, tokenizer):
    return EmulatedModel(*llamas, tokenizer)


@pytest.fixture
def free(model, ragged):
    """New tokens [4, NEW] where nothing ends a row."""
    ids, mask = ragged
    return model.generate(ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=[999])[:, ids.shape[1] :]


def test_rows_that_end_leave_the_batch(trio, ragged, shapes_read):
    """In every family, so with every kind of cache: the rows that stay are not disturbed."""
    model = EmulatedModel(*trio)
    ids, mask = ragged
    free = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=[999])[:, ids.shape[1] :]
    ends = [int(free[0, 2]), int(free[3, 5])]
    first = [min((list(row).index(e) for e in ends if e in row), default=NEW - 1) for row in free.tolist()]
    expected = free.clone()
    for row, last in enumerate(first):
        expected[row, last + 1 :] = 0
    with ExitStack() as stack:
        calls = [stack.enter_context(shapes_read(module)) for module in trio]
        got = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=ends)
    assert torch.equal(got[:, ids.shape[1] :], expected[:, : max(first) + 1])
    rows = [sum(last >= step for last in first) for step in range(max(first) + 1)]
    assert min(rows) < 4
    assert calls == [[(4, 7), *((n, 1) for n in rows[1:])]] * 3


def test_only_the_last_position_is_computed(model, ragged, llamas):
    ids, mask = ragged
    shapes = []
    hooks = [m.register_forward_hook(lambda *a: shapes.append(tuple(a[-1].logits.shape[:2]))) for m in llamas]
    model.generate(ids, attention_mask=mask, max_new_tokens=3)
    for hook in hooks:
        hook.remove()
    assert set(shapes) == {(4, 1)}


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`")
def test_lengths(model, ragged):
    ids, mask = ragged
    assert model.generate(ids, attention_mask=mask, max_length=10).shape[1] == 10
    assert model.generate(ids, attention_mask=mask).shape[1] == 7 + 20  # transformers' default
    early = model.generate(ids, attention_mask=mask, max_new_tokens=10**6, max_time=0.3)
    assert 7 < early.shape[1] < 10_000


def test_generation_config_and_overrides(model, ragged):
    ids, mask = ragged
    config = GenerationConfig(max_new_tokens=5, stop_strings=["\u0001\u0001"])
    got = model.generate(ids, config, attention_mask=mask)
    assert got.shape[1] == 12
    assert config.stop_strings == ["\u0001\u0001"], "the caller's object is left alone"
    assert torch.equal(got, model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5))


def test_stop_strings(model, ragged, free, tokenizer, llamas):
    ids, mask = ragged
    # Most of the 256 byte tokens are no text by themselves.
    row, at = next((r, t) for r in range(4) for t in range(2, NEW) if tokenizer.decode(free[r, t]).isalnum())
    text = tokenizer.decode(free[row, at])
    only = ids[row][mask[row].bool()][None]
    got = model.generate(only, max_new_tokens=NEW, stop_strings=[text])
    new = got[0, only.shape[1] :].tolist()
    assert new == free[row, : len(new)].tolist()
    assert text in tokenizer.decode(new[-1])
    assert len(new) <= at + 1
    large, tuned, base = llamas
    stock = large.generate(
        only,
        max_new_tokens=NEW,
        custom_generate=custom_generate(tuned, base),
        stopping_criteria=[StopStringCriteria(tokenizer, [text])],
    )
    assert torch.equal(stock, got)


def test_stop_strings_of_the_large_models_own_config(model, llamas, tokenizer, free, ragged):
    ids, mask = ragged
    row, at = next((r, t) for r in range(4) for t in range(1, NEW) if tokenizer.decode(free[r, t]).isalnum())
    only, own = ids[row][mask[row].bool()][None], llamas[0].generation_config
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    expected = model.generate(only, stop_strings=[tokenizer.decode(free[row, at])], **options)
    own.stop_strings = [tokenizer.decode(free[row, at])]
    try:
        assert torch.equal(model.generate(only, **options), expected)
        assert torch.equal(model.generate(only, GenerationConfig(**options)), expected)
        assert torch.equal(EmulatedModel(*llamas).generate(only, tokenizer=tokenizer, **options), expected)
        assert model.generate(only, stop_strings=None, **options).shape[1] == only.shape[1] + NEW
        with pytest.raises(ValueError, match=r"^stop_strings: expected a tokenizer"):
            EmulatedModel(*llamas).generate(only, **options)
    finally:
        own.stop_strings = None


def test_stopping_criteria(model, ragged):
    class AtNine(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 9, device=input_ids.device)

    ids, mask = ragged
    assert model.generate(ids, attention_mask=mask, max_new_tokens=NEW, stopping_criteria=[AtNine()]).shape[1] == 9


def test_rows_without_an_end_token_go_on_as_in_transformers(model, llamas, ragged):
    class FirstRow(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.arange(input_ids.shape[0]) < max(0, input_ids.shape[1] - 8)

    ids, mask = ragged
    config = GenerationConfig(max_new_tokens=NEW, pad_token_id=0)
    large = llamas[0]
    saved, large.generation_config.eos_token_id = large.generation_config.eos_token_id, None
    model.tuned.generation_config.eos_token_id, also = None, model.tuned.generation_config.eos_token_id
    try:
        options = dict(attention_mask=mask, stopping_criteria=[FirstRow()])
        expected = large.generate(ids, config, suppress_tokens=list(range(264, 272)), **options)
        assert torch.equal(model.generate(ids, config, beta=0.0, **options), expected)
    finally:
        large.generation_config.eos_token_id = saved
        model.tuned.generation_config.eos_token_id = also


def test_an_end_of_the_tuned_model_ends_a_row(model, ragged, free, llamas):
    ids, mask = ragged
    tuned = llamas[1]
    saved, tuned.generation_config.eos_token_id = tuned.generation_config.eos_token_id, [2, int(free[0, 1])]
    try:
        got = model.generate(ids[:1], attention_mask=mask[:1], max_new_tokens=NEW)
        other = model.generate(ids[:1], attention_mask=mask[:1], max_new_tokens=NEW, eos_token_id=2)
    finally:
        tuned.generation_config.eos_token_id = saved
    assert got[0, 7:].tolist() == free[0, : got.shape[1] - 7].tolist()
    assert got.shape[1] <= 9
    assert other.shape[1] == 7 + NEW


def test_streamers(model, tokenizer, capsys, llamas):
    large, tuned, base = llamas
    text = model.generate_text("hello", max_new_tokens=NEW)[0]
    model.generate(
        "hello",
        max_new_tokens=NEW,
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
    )
    assert capsys.readouterr().out.rstrip("\n") == text.rstrip("\n")

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    thread = Thread(target=model.generate, args=("hello",), kwargs=dict(max_new_tokens=NEW, streamer=streamer))
    thread.start()
    assert "".join(streamer) == text
    thread.join()

    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    ids = tokenizer("hello", return_tensors="pt").input_ids
    large.generate(ids, max_new_tokens=NEW, custom_generate=custom_generate(tuned, base, streamer=streamer))
    assert capsys.readouterr().out.rstrip("\n") == text.rstrip("\n")


def test_text_and_ids(model, tokenizer):
    texts = ["one", "a longer prompt"]
    encoded = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    encoded.pop("token_type_ids", None)
    expected = model.generate(**encoded, max_new_tokens=NEW)
    assert torch.equal(model.generate(texts, max_new_tokens=NEW), expected)
    decoded = tokenizer.batch_decode(expected[:, encoded.input_ids.shape[1] :], skip_special_tokens=True)
    assert model.generate_text(texts, max_new_tokens=NEW) == decoded
    assert model.generate_text(prompts={"large": texts}, max_new_tokens=NEW) == decoded
    assert model.generate_text(**encoded, max_new_tokens=NEW) == decoded


def test_the_mask_of_another_prompt_is_inferred_as_that_of_inputs(model, llamas, ragged):
    ids, mask = ragged
    large, tuned, base = llamas
    short = ids[:, -3:]
    expected = model.generate(short, prompts={"tuned": {"input_ids": ids, "attention_mask": mask}}, max_new_tokens=NEW)
    assert torch.equal(model.generate(short, prompts={"tuned": ids}, max_new_tokens=NEW), expected)
    stock = custom_generate(tuned, base)
    got = large.generate(short, prompts={"tuned": ids}, max_new_tokens=NEW, custom_generate=stock)
    assert torch.equal(got, expected)
    ones = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for ends in (0, [2, 0]):  # what also ends a text may stand in one
        options = dict(attention_mask=mask[:, -3:], max_new_tokens=NEW, eos_token_id=ends)
        unmasked = model.generate(short, prompts={"tuned": ids}, **options)
        assert torch.equal(unmasked, model.generate(short, prompts={"tuned": ones}, **options))


def test_text_holds_no_padding(model):
    """Equally long texts come without padding, whatever tokens they are made of."""
    got = model.generate(["a<pad>b", "abc"], prompts={"tuned": ["a<pad>b", "abc"]}, max_new_tokens=NEW)
    ids = {"input_ids": got[:, :3], "attention_mask": torch.ones(2, 3)}
    assert (got[0, :3] == 0).any()
    assert torch.equal(model.generate(ids, max_new_tokens=NEW), got)


def test_chats_use_the_template(model, tokenizer):
    tokenizer.chat_template = "{% for m in messages %}<turn>{{ m['content'] }}{% endfor %}<turn>"
    try:
        chat = [{"role": "user", "content": "hi"}]
        got = model.generate("hi", prompts={"tuned": chat}, max_new_tokens=NEW)
        ids = {"large": tokenizer("hi").input_ids, "tuned": [3, *tokenizer("hi").input_ids, 3]}
        assert torch.equal(got, model.generate(prompts=ids, max_new_tokens=NEW))
        assert model.generate([chat, chat], max_new_tokens=2).shape == (2, 4 + 2)
    finally:
        tokenizer.chat_template = None


@pytest.mark.parametrize("do_sample", [False, True])
def test_scores_and_logits(model, llamas, ragged, do_sample):
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=4, do_sample=do_sample, top_k=5, temperature=0.7, seed=3)
    plain = model.generate(ids, **options, eos_token_id=[999])
    out = model.generate(
        ids,
        **options,
        eos_token_id=[999],
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    assert torch.equal(out.sequences, plain), "looking does not change what is drawn"
    assert len(out.scores) == len(out.logits) == 4
    with torch.no_grad():
        z = [
            m(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits[:, -1, :264]
            for m in llamas
        ]
    z = z[0] + z[1] - z[2]
    torch.testing.assert_close(out.logits[0][:, :264], z, rtol=1e-4, atol=1e-4)
    assert out.scores[0].shape == out.logits[0].shape == (4, 272)
    assert (out.logits[0][:, 264:] == -torch.inf).all()
    if do_sample:
        kept = out.scores[0].isfinite()
        assert kept.sum(-1).tolist() == [5] * 4
        torch.testing.assert_close(out.scores[0][kept], (z / 0.7)[kept[:, :264]], rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(out.scores[0], out.logits[0])
    assert model.generate(ids, **options, return_dict_in_generate=True).scores is None


def test_scores_of_rows_that_have_ended(model, ragged, free):
    ids, mask = ragged
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=6,
        eos_token_id=int(free[0, 1]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert out.scores[-1].shape == (4, 272)
    assert out.scores[-1][0].softmax(-1)[0] == 1.0, "certain of the padding token"


class Forbid(LogitsProcessor):
    """A user's own, which insists on seeing every row."""

    def __init__(self, token, rows):
        self.token, self.rows = token, rows

    def __call__(self, input_ids, scores):
        assert input_ids.shape[0] == scores.shape[0] == self.rows
        return scores.index_fill(1, torch.tensor([self.token]), -torch.inf)


def test_processors_see_what_stock_generate_shows_them(model, llamas, ragged, free):
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=NEW, repetition_penalty=1.7, eos_token_id=int(free[0, 1]))
    forbid = Forbid(int(free[1, 0]), 4)
    expected = llamas[0].generate(ids, suppress_tokens=list(range(264, 272)), logits_processor=[forbid], **options)
    assert torch.equal(model.generate(ids, beta=0.0, logits_processor=[forbid], **options), expected)
    assert not (expected[:, 7:] == forbid.token).any()


def test_repetition_penalty_is_put_on_the_mixture(model, llamas, ragged):
    ids, _mask = ragged
    got = model.generate(ids[1:2], max_new_tokens=5, repetition_penalty=1.9)
    penalty, sequence = RepetitionPenaltyLogitsProcessor(1.9), ids[1:2]
    for _ in range(5):
        with torch.no_grad():
            z = [m(sequence).logits[:, -1, :264] for m in llamas]
        scores = penalty(sequence, z[0] + z[1] - z[2])
        sequence = torch.cat([sequence, scores.argmax(-1, keepdim=True)], 1)
    assert torch.equal(got, sequence)


def test_time_limit_is_kept(model):
    start = time.monotonic()
    model.generate([[5, 6]], max_new_tokens=10**6, max_time=0.2)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "weights",
    [{"beta": 0.6}, {"scale": 1.4}, {"scale": 1.2, "conservative_top_p": 0.5}, {"beta": [0.2, 0.4, 0.6, 0.8]}],
)
def test_processing_the_mixture_does_not_change_it(model, ragged, weights):
    """Tokens drawn by one fused step are those drawn from the combined logits."""
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=NEW, **weights)
    for how in ({}, {"do_sample": True, "seed": 1, "top_p": 0.9, "top_k": 30}):
        expected = model.generate(ids, **options, **how)
        assert torch.equal(
            model.generate(ids, **options, **how, logits_processor=[lambda ids, scores: scores]), expected
        )


def test_offloaded_weights(llamas, ragged):
    accelerate = pytest.importorskip("accelerate")
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=4)
    expected = EmulatedModel(*llamas).generate(ids, **options)
    away = [accelerate.cpu_offload(copy.deepcopy(model), execution_device="cpu") for model in llamas]
    assert away[0].lm_head.weight.device.type == "meta"
    for models in ((*llamas[:1], *away[1:]), away):
        assert torch.equal(EmulatedModel(*models).generate(ids, **options), expected)


def test_a_model_without_a_cache_is_read_anew(llamas):
    config = RwkvConfig(vocab_size=264, hidden_size=16, num_hidden_layers=2, context_length=64)
    torch.manual_seed(0)
    rwkv = RwkvForCausalLM(config).eval()
    large, _, base = llamas
    with pytest.warns(UserWarning, match=r"^tuned: RwkvForCausalLM takes no key-value cache"):
        got = EmulatedModel(large, rwkv, base).generate([[5, 6, 7]], max_new_tokens=5, eos_token_id=[999])
    ids = torch.tensor([[5, 6, 7]])
    for _ in range(5):
        with torch.no_grad():
            z = [m(ids).logits[:, -1, :264] for m in (large, rwkv, base)]
        ids = torch.cat([ids, (z[0] + z[1] - z[2]).argmax(-1, keepdim=True)], 1)
    assert torch.equal(got, ids)
