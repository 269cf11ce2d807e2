"""transformers' text-generation pipeline over a checkpoint says what three plain passes say."""

import logging

import pytest
from transformers import pipeline

from eft_ext.demo import checkpoint_path
from python_tests.helpers.embedded_trio import greedy
from python_tests.helpers.one_thread import one_thread as one_thread

TEXTS = ["The ship was commanded by", "A town", "Question: Where was Fikim Thetrond born?\nAnswer:"]
CHATS = [[{"role": "user", "content": text}] for text in ("Where was Fikim Thetrond born?", "Who are you?")]
OPTIONS = {"do_sample": False, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def generate(one_thread):
    """The pipeline over the embedded trio; its making says nothing of models that it does not support."""
    said = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = said.append
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    made = pipeline("text-generation", str(checkpoint_path()))
    logger.removeHandler(handler)
    assert said == []
    return made


def test_a_text(generate):
    (found,) = generate(TEXTS[0], **OPTIONS)
    assert found == {"generated_text": TEXTS[0] + greedy(TEXTS[0], 16)}


@pytest.mark.parametrize("beta", [None, 0.0, 2.5])
def test_a_batch_of_texts(generate, beta):
    given = {} if beta is None else {"beta": beta}
    found = generate(TEXTS, batch_size=3, return_full_text=False, **OPTIONS, **given)
    wanted = [greedy(text, 16, 1.0 if beta is None else beta) for text in TEXTS]
    assert [one["generated_text"] for (one,) in found] == wanted


def test_chats(generate):
    found = generate(CHATS, batch_size=2, **OPTIONS)
    answers = [{"role": "assistant", "content": greedy(chat, 16)} for chat in CHATS]
    assert [one["generated_text"] for (one,) in found] == [
        [*chat, answer] for chat, answer in zip(CHATS, answers, strict=True)
    ]


def test_beams_and_samples(generate):
    """Two ways that have no plain loop here: what a pipeline makes of several texts for one prompt."""
    beams = generate(TEXTS[0], num_beams=3, num_return_sequences=2, **OPTIONS)
    assert len({one["generated_text"] for one in beams}) == 2
    assert len(generate(TEXTS[0], do_sample=True, num_return_sequences=3, max_new_tokens=4)) == 3
