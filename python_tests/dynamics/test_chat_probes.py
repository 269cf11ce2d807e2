"""Chats as prompts: the tokens are those that the template gives of the whole conversation."""

import copy
import json

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from eft_ext.dynamics import (
    Pairs,
    Probe,
    ProbeSet,
    Recording,
    Responses,
    cross_prompt,
    delta_records,
    own_responses,
    track,
)
from python_tests.dynamics.conftest import Answers, build

SPECIAL = ["<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<unk>"]
KNOWN = [*SPECIAL, "be", "brief", "who", "is", "it", "she", "he"]
TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
TEMPLATE = "{{ bos_token }}" + TURNS + "{% if add_generation_prompt %}<|assistant|>{% endif %}"
ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "who is it"}]
PROMPT = [0, 2, 6, 7, 1, 3, 8, 9, 10, 1, 4]  # by hand


def said(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def words():
    """Whole words; BOS from the template as from the tokenizer."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(KNOWN)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    inner.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    about = {"bos_token": "<s>", "eos_token": "<|end|>", "unk_token": "<unk>", "chat_template": TEMPLATE}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **about)


def other(words, template=TEMPLATE, single="<s> $A"):
    """The same with another chat template, or other special tokens around a text."""
    made = copy.deepcopy(words)
    made.chat_template = template
    ends = [("<s>", 0), ("<|end|>", 1)]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    return made


@pytest.fixture
def probes(tmp_path):
    """A chat of TRL, the same under "messages", and a plain text."""
    rows = [
        {"prompt": ASKED, "chosen": said("she is"), "rejected": said("he")},
        {"messages": ASKED, "chosen": "she is", "rejected": [{"role": "assistant", "content": ""}]},
        {"prompt": "who is it", "chosen": " she"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = ProbeSet.from_jsonl(tmp_path / "p.jsonl")
    assert read == ProbeSet.from_records(rows)
    return read


def tokens(responses):
    return [ids[real].tolist() for ids, real in zip(responses.ids, responses.attention, strict=True)]


def test_read_and_written(probes, tmp_path):
    assert [probe.prompt for probe in probes] == [ASKED, ASKED, "who is it"]
    assert probes.counts == {"chosen": 3, "rejected": 1}
    assert probes[0].responses == {"chosen": "she is", "rejected": "he"}
    probes.to_jsonl(tmp_path / "q.jsonl")
    again = ProbeSet.from_jsonl(tmp_path / "q.jsonl")
    assert again == probes
    assert again.fingerprint == probes.fingerprint
    assert again.fingerprint != ProbeSet((Probe(ASKED[1:], probes[0].responses), *probes[1:])).fingerprint
    assert cross_prompt(ProbeSet(probes[1:])) == [" she", "she is"]


def test_the_tokens_are_those_of_the_conversation(probes, words):
    found = probes.encode(words)
    assert tokens(found) == [[*PROMPT, 11, 9, 1], [*PROMPT, 12, 1], [*PROMPT, 11, 9, 1], [0, 8, 9, 10, 11, 1]]
    whole = words.apply_chat_template(ASKED + said("she is"), tokenize=True, return_dict=False)
    assert tokens(found)[0] == whole
    assert found.split(found.targets)[1].tolist() == [12, 1]
    assert tokens(probes.encode(words, end=False))[0] == whole[:-1]


@pytest.mark.parametrize("single", ["<s> $A", "$A", "<s> $A <|end|>"])
@pytest.mark.parametrize("begins", [True, False])
def test_bos_is_the_template_s(begins, single, words):
    tokenizer = other(words, TEMPLATE if begins else TEMPLATE.removeprefix("{{ bos_token }}"), single)
    chat = ProbeSet((Probe(ASKED, {"chosen": "she"}),))
    wanted = tokenizer.apply_chat_template(ASKED + said("she"), tokenize=True, return_dict=False)
    assert wanted.count(0) == begins
    assert tokens(chat.encode(tokenizer)) == [wanted]


@pytest.mark.parametrize("single", ["<s> $A", "$A", "<s> $A <|end|>"])
def test_a_chat_rendered_beforehand_has_one_bos(single, words):
    text = words.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<s>")
    plain = ProbeSet((Probe(text, {"chosen": "she is"}),))
    assert tokens(plain.encode(other(words, single=single))) == [[*PROMPT, 11, 9, 1]]


def test_recorded_and_read_token_by_token(probes, words, tmp_path):
    pytest.importorskip("pyarrow")
    model = build("llama")
    list(track([None], model, probes, words, tmp_path / "run", every=1))
    recording = Recording(tmp_path / "run")
    assert recording.probes == probes
    with torch.no_grad():
        log_probs = model(torch.tensor([[*PROMPT, 12, 1]])).logits[0].log_softmax(-1)
    alone = float(log_probs[len(PROMPT) - 1, 12] + log_probs[len(PROMPT), 1])
    assert recording.curve("rejected")[0] == pytest.approx([alone], rel=1e-5)
    records = delta_records(recording, "chosen", words)
    assert [[token.id for token in record.tokens] for record in records] == [[11, 9, 1], [11, 9, 1], [11, 1]]
    rendered = "<s><|system|>be brief<|end|><|user|>who is it<|end|><|assistant|>"
    assert [record.prompt for record in records] == [rendered, rendered, "who is it"]


@pytest.mark.parametrize("single", ["<s> $A", "<s> $A <|end|>"])
def test_answers_of_the_model_itself(single, probes, words):
    model = Answers([11, 9, 1])
    texts = own_responses(model, other(words, single=single), probes, batch_size=2)
    assert [text.strip() for text in texts] == ["she is"] * 3
    assert model.read == [PROMPT, PROMPT, [0, 8, 9, 10]]


def test_pairs_of_chats(words):
    chosen, rejected = (Responses.from_text(words, [(ASKED, text), ("who", text)]) for text in ("she", "he"))
    assert tokens(Pairs(chosen, rejected).responses)[::2] == [[*PROMPT, 11, 1], [*PROMPT, 12, 1]]


def test_a_tokenizer_that_takes_no_chat(probes, words):
    place = probes[0].where
    for template, wrong in (
        (None, "expected text, since the tokenizer has no chat template, got a chat"),
        ("{{ raise_exception('no system') }}", "the chat template does not take this chat: no system"),
    ):
        for call in (ProbeSet.encode, lambda probes, tokenizer: own_responses(Answers([11, 9, 1]), tokenizer, probes)):
            with pytest.raises(ValueError, match=f"^{place}: {wrong}$"):
                call(probes, other(words, template))
    with pytest.raises(ValueError, match="^probe 0, chosen: expected text, since"):
        ProbeSet((Probe(ASKED, {"chosen": "she"}),)).encode(other(words, None))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": []}, "key 'prompt': expected a text or messages, got an empty list"),
        ({"prompt": {"role": "user"}}, "key 'prompt': expected a text or messages, got dict"),
        ({"messages": ["who"]}, r"key 'messages\[0\]': expected a message, got str"),
        ({"prompt": [{"content": "who"}]}, r"key 'prompt\[0\].role': expected a text, got none"),
        ({"messages": [ASKED[0], {"role": "user", "content": None}]}, r"key 'messages\[1\].content': .* got NoneType"),
        ({"prompt": ASKED + said("she")}, "key 'prompt': expected messages that the assistant is to answer, got"),
        ({"chosen": said("she")}, ": expected the key 'prompt', got chosen"),
        ({"prompt": ASKED, "chosen": ASKED}, "key 'chosen': .* one message of the assistant, got messages of system,"),
        ({"prompt": ASKED, "chosen": said(3)}, r"key 'chosen\[0\].content': expected a text, got int"),
        ({"prompt": ASKED, "chosen": []}, "key 'chosen': .* got an empty list"),
        ({"prompt": ASKED, "messages": ASKED}, "key 'messages': .* got messages of system, user"),
        ({"messages": ASKED}, ": expected at least one response beside 'messages', got none"),
    ],
)
def test_malformed_messages(row, message, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "who", "chosen": "she"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=f"^{path}, line 2(, )?{message}"):
        ProbeSet.from_jsonl(path)
    if ":" not in message[:1]:
        with pytest.raises(ValueError, match=f"^record 0, {message}"):
            ProbeSet.from_records([row])
