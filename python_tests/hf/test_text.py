"""Text, chats and ids in, text out."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from eft_ext.hf import custom_generate

NEW = 12


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


@pytest.mark.slow
def test_threads_share_a_tokenizer(model):
    texts = ["one", "two and two", "three and three and three", "four"]
    call = {"max_new_tokens": 4, "do_sample": False, "stop_strings": ["never said"]}
    expected = [(model.generate_text(t, **call), model.score([t], [" five"]).logprobs.tolist()) for t in texts]
    model.tokenizer("pad and cut", padding="max_length", max_length=8, truncation=True)  # leaves its settings behind

    def again(start):
        for turn in range(12):
            i = (start + turn) % len(texts)
            found = model.generate_text(texts[i], **call), model.score([texts[i]], [" five"]).logprobs.tolist()
            assert found == expected[i]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(again, range(8)))
