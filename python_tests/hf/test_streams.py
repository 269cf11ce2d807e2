"""Streamers: what they receive, and that they end where a call fails."""

from threading import Thread

import pytest
import torch
from transformers import (
    TextIteratorStreamer,
    TextStreamer,
)

from eft_ext.hf import custom_generate

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`")
NEW = 12


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


def test_a_plan_shows_a_stream_nothing(model, tokenizer, capsys):
    plan = model.plan("hello", streamer=TextStreamer(tokenizer))
    assert plan.tier == "static"
    assert capsys.readouterr().out.strip() == ""


def test_a_stream_ends_when_generation_fails(model, tokenizer):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    processors = [lambda ids, scores: scores.fill_(-torch.inf)]
    with pytest.raises(RuntimeError, match=r"^row 0"):
        model.generate([[5]], streamer=streamer, logits_processor=processors, max_new_tokens=3)
    assert "".join(streamer) == ""


REJECTED = {
    "top_p": dict(inputs="a", do_sample=True, top_p=3.0),
    "inputs_embeds": dict(inputs="a", inputs_embeds=torch.ones(1, 2, 3)),
    "inputs": dict(inputs=[]),
    "beta": dict(inputs="a", beta="a"),
    "seed": dict(inputs="a", do_sample=True, seed=1.5),
}


@pytest.mark.parametrize("name", REJECTED)
@pytest.mark.parametrize("method", ["generate", "generate_text"])
def test_a_stream_ends_when_a_call_is_rejected(model, tokenizer, name, method):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=10)
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: "):
        getattr(model, method)(streamer=streamer, max_new_tokens=3, **REJECTED[name])
    assert "".join(streamer) == ""
    assert streamer.text_queue.empty(), "it ends once"


@pytest.mark.parametrize(
    "options", [{"top_p": 3.0}, {"beta": "a"}, {"prompts": {"tune": [[1]]}}], ids=lambda options: next(iter(options))
)
def test_a_stream_ends_when_stock_generate_is_rejected(llamas, tokenizer, options):
    large, tuned, base = llamas
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=10)
    stock = custom_generate(tuned, base, streamer=streamer)
    with pytest.raises((TypeError, ValueError), match=rf"^{next(iter(options))}: "):
        large.generate(torch.tensor([[5]]), do_sample=True, max_new_tokens=3, custom_generate=stock, **options)
    assert "".join(streamer) == ""
    assert streamer.text_queue.empty(), "it ends once"
