"""Structured output: both examples give what the mixture prefers among all texts that fit the schema."""

import itertools
import json

import pytest
import torch

from eft_ext import EmulatedModel, fused_step
from eft_ext.demo import model_path
from python_tests.helpers.embedded_trio import parts
from python_tests.helpers.examples import imported
from python_tests.helpers.examples import printed as printed
from python_tests.helpers.one_thread import one_thread as one_thread

YEARS = range(1400, 1480)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models are missing"),
]


def test_json_xgrammar(printed):
    """Both ways: the processor in `generate`, and the bitmask in a loop."""
    xgrammar = pytest.importorskip("xgrammar")
    example = imported("json_xgrammar")
    prompts = [f"Question: When was {name} born?\nAnswer:" for name in example.PEOPLE]
    want = [_constrained(prompt, {f'{{"born": {year}}}' for year in YEARS}) for prompt in prompts]
    assert printed("json_xgrammar") == [f"{name}: {text}" for name, text in zip(example.PEOPLE, want, strict=True)]
    assert all(json.loads(text)["born"] in YEARS for text in want)

    models, tokenizer = parts()
    model = EmulatedModel(*models, tokenizer)
    grammar = example.grammar_of(model, example.SCHEMA)
    matcher = xgrammar.GrammarMatcher(grammar)
    bitmask = xgrammar.allocate_token_bitmask(1, models[0].config.vocab_size)
    ids = tokenizer(prompts[0], return_tensors="pt").input_ids
    new = []
    while not matcher.is_terminated():
        matcher.fill_next_token_bitmask(bitmask)
        with torch.no_grad():
            logits = [
                each(torch.cat([ids, torch.tensor([new], dtype=torch.int64)], dim=1)).logits[:, -1] for each in models
            ]
        new.append(fused_step(*logits, temperature=0, token_bitmask=bitmask).item())
        assert matcher.accept_token(new[-1])
    assert tokenizer.decode(new) == want[0] + tokenizer.eos_token

    processor = example.LogitsProcessor
    batch = model.generate_batch(prompts, max_new_tokens=40, logits_processor=[processor(grammar)])
    assert tokenizer.batch_decode(batch, skip_special_tokens=True) == want
    with pytest.warns(UserWarning, match="decoding without drafts"):
        drafted = model.generate_text(prompts, max_new_tokens=40, logits_processor=[processor(grammar)], speculate=4)
    assert drafted == want


def test_json_outlines(printed):
    pytest.importorskip("outlines")
    example = imported("json_outlines")
    blanks = itertools.product(("", " "), repeat=4)
    answers = {f'{{{a}"born"{b}:{c}{year}{d}}}' for a, b, c, d in blanks for year in YEARS}
    want = [_constrained(f"<|end|>Question: When was {name} born?\nAnswer:", answers) for name in example.PEOPLE]
    try:
        lines = printed("json_outlines")
    finally:
        torch.compiler.set_stance("default")
    assert lines[:3] == [f"{name}: {text}" for name, text in zip(example.PEOPLE, want, strict=True)]
    assert lines[3] == f"Person(born={json.loads(want[0])['born']})"


def _constrained(prompt, answers):
    """The greedy answer of the mixture among some texts, token by token."""
    models, tokenizer = parts()
    pieces = tokenizer.batch_decode([[token] for token in range(tokenizer.vocab_size)])
    beginnings = {answer[:n] for answer in answers for n in range(len(answer) + 1)}
    ids, text = tokenizer(prompt).input_ids, ""
    while text not in answers:
        with torch.no_grad():
            large, tuned, base = (model(torch.tensor([ids])).logits[0, -1].double() for model in models)
        allowed = [token for token, piece in enumerate(pieces) if piece and text + piece in beginnings]
        ids.append(max(allowed, key=(large + tuned - base).__getitem__))
        text += pieces[ids[-1]]
    return text
