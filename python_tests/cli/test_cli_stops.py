"""Stop strings of `eft chat`: no part of one is printed, kept or put into JSON, and nothing else is lost."""

import json
import string
from itertools import cycle, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eft_ext.cli.printer import EndsAt, Printer

STOPS = ["\nUser:", "\nAssistant:"]
PIECES = [*string.ascii_letters, *"▁\n:,", "\nUser:", "er: b", "\nUse", "▁cat", "▁▁", "▁\n"]
SPECIAL = ["<unk>", "<s>", "</s>"]
# What a tokenizer drops where it takes tokens for a text's beginning.
DROPPED = {"nothing": [], "a space": [" "], "a line": ["\n"], "both": [" ", "\n"]}


def spelled(dropped):
    vocabulary = [(piece, -float(len(SPECIAL + PIECES) > i)) for i, piece in enumerate(SPECIAL + PIECES)]
    inner = Tokenizer(models.Unigram(vocabulary, 0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    strips = [decoders.Strip(what, 1, 0) for what in dropped]
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), *strips])
    inner.add_special_tokens([AddedToken(token) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def tokenizers():
    return {name: spelled(dropped) for name, dropped in DROPPED.items()}


def expected(text, stops):
    """Up to the first place where a stop string stands, or where all that is left begins one."""
    for at in range(len(text)):
        if any(text[at:].startswith(stop) or stop.startswith(text[at:]) for stop in stops):
            return text[:at]
    return text


@st.composite
def answers(draw):
    """Stop strings, and an answer's tokens in pieces, as speculation has them."""
    alphabet = st.sampled_from("ab\n ")
    stops = draw(st.one_of(st.just(STOPS), st.lists(st.text(alphabet, min_size=1, max_size=4), min_size=1, max_size=3)))
    part = st.sampled_from([*SPECIAL[1:], *PIECES, "ab", "\n"]) | st.sampled_from(stops)
    pieces = draw(st.lists(part | st.sampled_from("ab\n▁"), max_size=8))
    return stops, pieces, draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))


@pytest.mark.parametrize("dropped", DROPPED)
@settings(max_examples=60, deadline=None)
@given(answers=answers())
def test_what_is_printed_is_the_text_before_a_stop(dropped, answers, tokenizers):
    tokenizer, (stops, pieces, sizes) = tokenizers[dropped], answers
    tokens = [
        tokenizer.convert_tokens_to_ids(token)
        for piece in pieces
        for token in ([piece] if piece in SPECIAL + PIECES else piece.replace(" ", "▁"))
    ]
    text = "".join(tokenizer.convert_ids_to_tokens(t).replace("▁", " ") for t in tokens if t >= len(SPECIAL))
    whole = expected(text, stops).lstrip()
    prompt = tokenizer("User: cat\nAssistant:").input_ids
    printer = Printer(tokenizer, stops, quiet=True)
    ends, stopped = EndsAt(printer), False
    printer.put(torch.tensor([prompt]))
    streamed = [""]
    for size in cycle(sizes):
        if not tokens:
            break
        new, tokens = tokens[:size], tokens[size:]
        prompt += new
        stopped = stopped or ends(torch.tensor([prompt]), None).tolist() == [True]
        printer.put(torch.tensor(new))
        streamed.append(printer.text)
    printer.end()
    assert printer.text == whole
    assert stopped == any(stop in text for stop in stops)
    assert all(whole.startswith(part) for part in streamed)


def chained(tokenizer, chain, folder):
    """Saves a model that says after each of these tokens the next one, whatever came before."""
    size = len(tokenizer)
    torch.manual_seed(0)
    ids = dict(vocab_size=size, bos_token_id=1, eos_token_id=2, pad_token_id=2, head_dim=8)
    shape = dict(hidden_size=size, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaForCausalLM(LlamaConfig(**shape, **ids))
    weights = model.state_dict()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        weights[f"model.layers.0.{name}.weight"].zero_()
    weights["model.embed_tokens.weight"].copy_(torch.eye(size))
    weights["lm_head.weight"].zero_()
    for now, then in pairwise(chain):
        now, then = tokenizer.convert_tokens_to_ids([now, then])
        weights["lm_head.weight"][then, now] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


SAID = {  # tokens after ":", with which a prompt ends, how many of them there may be, and the answer
    "at the beginning": (["\n", *"User", ":"], 30, ""),
    "as one token": (["\nUser:"], 30, ""),
    "in a token with more": (["▁cat", "\n", *"Us", "er: b", ","], 30, "cat"),
    "behind whitespace": (["▁", "▁▁", "▁\n", "\nUse", "r", ":"], 30, ""),
    "behind a special token": (["<s>", "\n", *"User", ":"], 30, ""),
    "within special tokens": (["▁cat", "\n", *"Us", "<s>", *"er", ":"], 30, "cat"),
    "cut in the middle": (["▁cat", "\n", *"User", ":"], 4, "cat"),
    "cut before its last letter": (["▁cat", "\n", *"User", ":"], 6, "cat"),
    "begun only": (["▁cat", "\n", *"Use", ",", "</s>"], 30, "cat\nUse,"),
    "begun where it ends": (["▁cat", "\nUse", "</s>"], 30, "cat"),
    "none": (["▁cat", "▁", *"User", "</s>"], 30, "cat User"),
}
QUICK = "at the beginning"


@pytest.mark.parametrize("where", [pytest.param(w, marks=() if w == QUICK else pytest.mark.slow) for w in SAID])
@pytest.mark.parametrize("dropped", ["both", pytest.param("a space", marks=pytest.mark.slow)])
def test_chat_keeps_no_part_of_a_stop(eft, tokenizers, tmp_path, monkeypatch, where, dropped):
    from eft_ext.cli import chat

    said, most, answer = SAID[where]
    chained(tokenizers[dropped], [":", *said], tmp_path)
    heard = []
    monkeypatch.setattr(chat, "transcript", lambda turns: heard.append(list(turns)) or "cat:")
    models = [part for name in ("large", "tuned", "base") for part in (f"--{name}", tmp_path)]
    for more in ((), ("--speculate", 5)):
        options = (*models, "--max-new-tokens", most, *more)
        code, out, _ = eft("chat", *options, stdin="cat\ncat\n")
        assert (code, out) == (0, f"{answer}\n" * 2)
        assert heard[-1][1] == {"role": "assistant", "content": answer}
        code, out, _ = eft("chat", *options, "--json", stdin="cat\ncat\n")
        assert (code, [json.loads(line)["text"] for line in out.splitlines()]) == (0, [answer] * 2)
        assert heard[-1][1] == {"role": "assistant", "content": answer}


@pytest.mark.parametrize("at_once", [1, 64, 200])
def test_a_stop_is_seen_however_many_tokens_come_behind_it(tokenizers, at_once):
    """A round of speculation may bring more tokens than a stop string has."""
    tokenizer = tokenizers["a space"]
    prompt = tokenizer("cat:").input_ids
    printer = Printer(tokenizer, STOPS, quiet=True)
    printer.put(torch.tensor([prompt]))
    new = tokenizer.convert_tokens_to_ids(["▁cat", "\nUse", "r", ":", *["▁cat"] * 196])
    found = []
    for start in range(0, len(new), at_once):
        found.append(EndsAt(printer)(torch.tensor([prompt + new[: start + at_once]]), None).item())
        printer.put(torch.tensor(new[start : start + at_once]))
    assert found == [(i + 1) * at_once >= 4 for i in range(len(found))]
    printer.end()
    assert printer.text == "cat"
