"""The seam of a prompt and its response: the tokens are those of the text in one piece."""

import copy

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from eft_ext import EmulatedModel
from eft_ext._seam import encode_pairs
from eft_ext.dynamics import Probe, ProbeSet
from eft_ext.dynamics.builders import own_responses
from eft_ext.dynamics.responses import Responses
from python_tests.dynamics.conftest import Answers

WORDS = ["▁", "▁Where", "▁was", "▁he", "▁born", "▁Paris", "▁Rome", "Paris", "Ro", "?", "\n", ":", "▁A", "me", "▁in"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}"


@pytest.fixture(scope="module")
def sentencepiece():
    """Like Llama 2's: a space before whatever begins a text, BOS by a post-processor, a template that has BOS too."""
    letters = [chr(i) for i in range(33, 127)]
    specials = ["<pad>", "<s>", "</s>"]
    vocab = [(token, 0.0) for token in specials] + [(word, -2.0) for word in WORDS]
    vocab += [(letter, -5.0) for letter in letters if letter not in WORDS]
    inner = Tokenizer(models.Unigram(vocab, unk_id=0))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    inner.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )


@pytest.fixture(scope="module")
def model(sentencepiece, build):
    return EmulatedModel(*(build("llama", seed, 16, 128) for seed in (0, 1, 2)), sentencepiece)


@torch.no_grad()
def log_prob(model, ids, scored):
    """Under the mixture, of the last `scored` tokens of one text."""
    logits = [m(torch.tensor([ids])).logits[0, :-1].double() for m in model.models.values()]
    z = (logits[0] + logits[1] - logits[2]).log_softmax(-1)
    return float(z.gather(1, torch.tensor(ids[1:])[:, None])[-scored:].sum())


# prompt, response, pieces of the response as they stand in the whole text
PAIRS = {
    "a word": ("Where was he born?", " Paris", ["▁Paris"]),
    "several": ("Where was he born?", " in Rome", ["▁in", "▁Rome"]),
    "a line": ("Where was he born?", "\nParis", ["\n", "Paris"]),
    "a word that is cut": ("Where was he born? Ro", "me", ["me"]),  # ▁Rome lies across the seam
    "a space that is cut": ("Where was he born? ", "Paris", ["Paris"]),  # so does ▁Paris
}


@pytest.mark.parametrize("name", PAIRS)
def test_responses(name, model, sentencepiece):
    prompt, response, pieces = PAIRS[name]
    head = sentencepiece(prompt)["input_ids"]
    tail = sentencepiece.convert_tokens_to_ids(pieces)
    assert "cut" in name or sentencepiece(prompt + response)["input_ids"] == head + tail
    score = model.score([prompt], [response])
    assert score.ids.tolist() == [tail]
    assert float(score.logprobs[0, -1]) == pytest.approx(log_prob(model, head + tail, len(tail)), rel=1e-5)
    by_ids = model.score([head], [response])
    if name != "a line":  # the ids of a prompt are not its text
        assert by_ids.ids.tolist() == [tail]
    found = Responses.from_text(sentencepiece, [(prompt, response)])
    assert found.ids.tolist() == [[*head, *tail, sentencepiece.eos_token_id]]
    observed = ProbeSet((Probe(prompt, {"chosen": response}),)).encode(sentencepiece, end=False)
    assert observed.targets.tolist() == tail


def test_other_models_read_the_same_response(model, sentencepiece):
    prompt, response = "Where was he born?", " Paris"
    score = model.score(prompt, response, prompts={"tuned": [{"role": "user", "content": prompt}]})
    tail = sentencepiece.convert_tokens_to_ids(["▁Paris"])
    plain = sentencepiece(prompt)["input_ids"] + tail
    chat = sentencepiece(f"<s>[{prompt}]", add_special_tokens=False)["input_ids"] + tail
    with torch.no_grad():
        each = zip(model.models.values(), (plain, chat, plain), strict=True)
        logits = [m(torch.tensor([ids])).logits[0, -2].double() for m, ids in each]
    z = (logits[0] + logits[1] - logits[2]).log_softmax(-1)
    assert float(score.logprobs[0, -1]) == pytest.approx(float(z[tail[0]]), rel=1e-5)


def test_one_bos_before_a_chat(model, sentencepiece):
    chat = [{"role": "user", "content": "Where was he born?"}]
    call = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": [999]}
    ids = model.generate(chat, **call)[0].tolist()
    assert ids[:2].count(1) == 1
    assert ids.count(1) == 1 + ids[-4:].count(1)
    score = model.score([chat], [" Paris"])
    head = sentencepiece("<s>[Where was he born?]", add_special_tokens=False)["input_ids"]
    tail = sentencepiece("<s>[Where was he born?] Paris", add_special_tokens=False)["input_ids"][len(head) :]
    assert head.count(1) == 1
    assert score.ids.tolist() == [tail]
    assert float(score.logprobs[0, -1]) == pytest.approx(log_prob(model, head + tail, len(tail)), rel=1e-5)


def test_generated_text_goes_on_from_the_prompt(model, sentencepiece):
    prompts = ["Where was he born?", "Where"]
    paris, rome = sentencepiece.convert_tokens_to_ids(["▁Paris", "▁Rome"])

    def only(batch, ids):
        return [paris] if not (ids == paris).any() else [rome]

    call = {"max_new_tokens": 2, "prefix_allowed_tokens_fn": only}
    assert model.generate_text(prompts, **call) == [" Paris Rome"] * 2
    assert model.generate_text(prompts[0], num_return_sequences=2, do_sample=True, **call) == [" Paris Rome"] * 2
    texts, out = model.generate_text(prompts, return_output=True, **call)
    wholes = sentencepiece.batch_decode(out, skip_special_tokens=True)
    assert [p + t for p, t in zip(prompts, texts, strict=True)] == wholes


@pytest.fixture
def closing(sentencepiece):
    """EOS behind every text, as SentencePiece with add_eos_token puts it."""
    other = copy.deepcopy(sentencepiece)
    ends = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    other.backend_tokenizer.post_processor = ends
    assert other("Where").input_ids[-1] == 2
    return other


def test_no_end_between_prompt_and_response(closing, build):
    where, paris = closing.convert_tokens_to_ids(["▁Where", "▁Paris"])
    assert encode_pairs(closing, [("Where", " Paris"), ("<s>Where", " Paris")]) == [([1, where], [paris])] * 2
    assert encode_pairs(closing, [("Where</s>", " Paris")])[0][0] == [1, where, 2]  # the text's own
    assert Responses.from_text(closing, [("Where", " Paris")]).ids.tolist() == [[1, where, paris, 2]]
    model = EmulatedModel(*(build("llama", seed, 16, 128) for seed in (0, 1, 2)), closing)
    score = model.score(["Where"], [" Paris"])
    assert score.ids.tolist() == [[paris]]
    assert float(score.logprobs[0, -1]) == pytest.approx(log_prob(model, [1, where, paris], 1), rel=1e-5)


def test_answers_of_the_model_itself(sentencepiece):
    """Answers as probes: the text goes on from the prompt, which has one BOS whoever put it there."""
    table = Answers(sentencepiece.convert_tokens_to_ids(["▁Paris", "▁Rome", "</s>"]))
    probes = ProbeSet(tuple(Probe(p, {"chosen": "x"}) for p in ("<s>Where was he born?", "Where")))
    assert own_responses(table, sentencepiece, probes) == [" Paris Rome"] * 2
    born = sentencepiece("<s>Where was he born?", add_special_tokens=False)["input_ids"]
    assert table.read == [born, sentencepiece("Where")["input_ids"]]


def test_text_behind_padding_special_tokens_and_half_a_character(model, sentencepiece, tokenizer, llamas):
    (paris,) = sentencepiece.convert_tokens_to_ids(["▁Paris"])
    call = {"max_new_tokens": 1, "prefix_allowed_tokens_fn": lambda batch, ids: [paris]}
    head = sentencepiece("Where")["input_ids"]
    padded = torch.tensor([head + [0] * 9])
    assert model.generate_text(padded, **call) == [" Paris"]
    assert model.generate_text([head + [1] * 9], attention_mask=[[1] * (len(head) + 9)], **call) == [" Paris"]
    *start, last = tokenizer("Hello 😀")["input_ids"]
    bytewise = EmulatedModel(*llamas, tokenizer)
    call["prefix_allowed_tokens_fn"] = lambda batch, ids: [last]
    assert bytewise.generate_text([start], **call) == ["😀"]
