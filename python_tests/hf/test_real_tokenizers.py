"""Special tokens of published models: Qwen2.5 beside DeepSeek-R1-Distill-Qwen, and Mistral's beside each other."""

import base64

import pytest
import tiktoken

from eft_ext.hf.inputs.special_tokens import added_tokens
from eft_ext.hf.inputs.vocabulary import _PROBES, compare_tokenizers
from eft_ext.hf.inputs.words import joined
from eft_ext.methods import UpScale
from eft_ext.ops.special_tokens import SpecialTokens
from python_tests.helpers import real_tokenizers as real

pytestmark = pytest.mark.slow  # seconds to make each


@pytest.fixture(scope="module")
def qwen():
    return real.qwen()


@pytest.fixture(scope="module")
def r1():
    return real.qwen(real.R1_ADDED)


@pytest.fixture(scope="module")
def mistral():
    return real.tekken({})


def fitting(**tokenizers):
    first, *others = tokenizers
    for name in others:
        compare_tokenizers(first, tokenizers[first], name, tokenizers[name])
    return joined(UpScale(), tokenizers, lambda name: [tokenizers[name].eos_token_id])


def test_made_as_tiktoken_cuts(qwen, mistral):
    """So that the rest is about the published vocabularies, and not about a mistake in making them anew."""
    cut = tiktoken.Encoding("qwen", pat_str=real.QWEN_PATTERN, mergeable_ranks=real.qwen_ranks(), special_tokens={})
    found = real._tekken()
    ranks = {base64.b64decode(each["token_bytes"]): each["rank"] for each in found["vocab"]}
    other = tiktoken.Encoding("tekken", pat_str=found["pattern"], mergeable_ranks=ranks, special_tokens={})
    for probe in _PROBES:
        text = qwen.backend_tokenizer.normalizer.normalize_str(probe)
        assert qwen(probe).input_ids == cut.encode(text, disallowed_special=())
        own = [real.TEKKEN_ADDED + i for i in other.encode(probe, disallowed_special=())]
        assert mistral(probe).input_ids == own
    assert len(qwen) == 151665
    assert len(mistral) == 131072


def test_reasoning_transfer(qwen, r1):
    """Qwen2.5-32B + DeepSeek-R1-Distill-Qwen-1.5B - Qwen2.5-Math-1.5B."""
    words = fitting(large=qwen, tuned=r1, base=real.qwen())
    assert words.special == SpecialTokens(own=tuple(range(151644, 151650)), owner="tuned")
    assert words.tokenizer is words.each["tuned"] is r1
    assert words.each["large"] is words.each["base"] is qwen
    assert [(t.id, t.tokens["large"], t.tokens["tuned"], t.tokens["base"], t.policy) for t in words.found] == [
        (151643, "<|endoftext|>", "<｜end▁of▁sentence｜>", "<|endoftext|>", "mix"),
        (151644, "<|im_start|>", "<｜User｜>", "<|im_start|>", "own"),
        (151645, "<|im_end|>", "<｜Assistant｜>", "<|im_end|>", "own"),
        (151646, "<|object_ref_start|>", "<｜begin▁of▁sentence｜>", "<|object_ref_start|>", "own"),
        (151647, "<|object_ref_end|>", "<|EOT|>", "<|object_ref_end|>", "own"),
        (151648, "<|box_start|>", "<think>", "<|box_start|>", "own"),
        (151649, "<|box_end|>", "</think>", "<|box_end|>", "own"),
    ]
    assert r1("<think>\n").input_ids == [151648, 198]
    assert 151648 not in qwen("<think>\n").input_ids
    assert not words.means("large", 151645)
    assert words.means("large", 151643)


def test_fewer_added_tokens(qwen):
    """Qwen2 had three."""
    old = real.qwen(real.QWEN_ADDED[:3])
    assert fitting(large=qwen, tuned=old, base=old).special == SpecialTokens(never=tuple(range(151646, 151665)))
    assert fitting(large=old, tuned=qwen, base=old).special == SpecialTokens(own=tuple(range(151646, 151665)))


def test_an_ordinary_token_changed(qwen):
    ranks = real.qwen_ranks()
    last = next(token for token, rank in ranks.items() if rank == 151642)
    other = real.qwen(real.R1_ADDED, {**{t: i for t, i in ranks.items() if t != last}, b"zqzqzq": 151642})
    said = (
        r"^tuned: expected the tokenizer of large \(151665 tokens\), got one of 151665 tokens that differs in 2 "
        r"ordinary ones: .*'zqzqzq' is absent in large, 151642 in tuned"
    )
    with pytest.raises(ValueError, match=said):
        compare_tokenizers("large", qwen, "tuned", other)


def test_a_merge_changed(qwen, monkeypatch):
    merges = list(real._qwen_merges())
    merges[-2:] = merges[:-3:-1]
    monkeypatch.setattr(real, "_qwen_merges", lambda: merges)
    with pytest.raises(ValueError, match=r"^tuned: expected to cut text as large does, but merge \d+ is \["):
        compare_tokenizers("large", qwen, "tuned", real.qwen(real.R1_ADDED))


def test_control_tokens(mistral):
    """Places that one model leaves unused, such as 34 and 35, have a meaning in a model that reasons."""
    thinking = real.tekken({34: "[THINK]", 35: "[/THINK]"})
    words = fitting(large=mistral, tuned=thinking, base=mistral)
    assert words.special == SpecialTokens(own=(34, 35), owner="tuned")
    assert [t.tokens for t in words.found] == [
        {"large": "<SPECIAL_34>", "tuned": "[THINK]", "base": "<SPECIAL_34>"},
        {"large": "<SPECIAL_35>", "tuned": "[/THINK]", "base": "<SPECIAL_35>"},
    ]
    assert len(added_tokens(thinking)) == real.TEKKEN_ADDED


def test_another_family(qwen, mistral):
    with pytest.raises(
        ValueError, match=r"^tuned: expected the tokenizer of large \(151665 tokens\), got one of 131072"
    ):
        compare_tokenizers("large", qwen, "tuned", mistral)
