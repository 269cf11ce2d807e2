"""`--model eft` beside HFLM over three models in plain torch: the same scores and the same texts."""

import itertools
import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from eft_ext.demo import model_path

pytest.importorskip("lm_eval", reason="needs the extra lm-eval")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from eft_ext.integrations.lm_eval import EmulatedLM
from python_tests.helpers.one_thread import one_thread as one_thread
from python_tests.integrations.plain_mixture import PlainMixture

pytestmark = pytest.mark.slow

TRIO = {"large": "large-base", "tuned": "small-tuned", "base": "small-base"}
FOLDERS = {name: str(model_path(folder)) for name, folder in TRIO.items()}
TOWNS = ("Neisos", "Hozind", "Brudos", "Vugrond", "Nepos")
WARES = (" rope", " grain", " candles", " salt", " rope and salt.", " nothing at all, as far as anybody knows.")


@pytest.fixture(scope="module")
def models():
    return [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in FOLDERS.values()]


@pytest.fixture
def pair(models):
    """pair(option=...) -> the reference, and ours."""

    def make(beta=1.0, logits_cache=True, **options):
        theirs = {**options, "batch_size": 3, "logits_cache": logits_cache, "tokenizer": FOLDERS["large"]}
        return HFLM(PlainMixture(models, beta), **theirs), EmulatedLM(**FOLDERS, beta=beta, quiet=True, **options)

    return make


def requests(kind, rows):
    return [Instance(kind, {}, row, number) for number, row in enumerate(rows)]


def choices():
    questions = [f"Question: What does the town of {town} trade in?\nAnswer:" for town in TOWNS]
    return list(itertools.product(questions, WARES))


def assert_same_scores(found, expected):
    scores = [torch.tensor([score for score, _ in each]) for each in (found, expected)]
    torch.testing.assert_close(*scores, rtol=2e-7, atol=1e-4)  # HFLM sums in fp32
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_multiple_choice(pair, batch_size, beta):
    theirs, ours = pair(batch_size=batch_size, beta=beta)
    rows = requests("loglikelihood", choices())
    random.Random(5).shuffle(rows)
    assert_same_scores(ours.loglikelihood(rows, disable_tqdm=True), theirs.loglikelihood(rows, disable_tqdm=True))


ROWS = {
    "empty contexts": [("", " salt"), ("", "The town"), ("", " salt"), ("a", " b")],
    "one token": [("a", " b")],
    "one prompt": [("The town of Neisos", " trades")],
    "prefixes of each other": [("The town", " of Neisos"), ("The town of", " Neisos"), ("The town of Neisos", " is")],
    "duplicates": [("The town", " of Neisos")] * 5 + [("The town", " of")],
    "trailing spaces": [("The town of ", "Neisos"), ("The town of   ", "Neisos"), ("The town\n", "of")],
    "other scripts": [("Größe: ", "日本語"), ("🙂", "🙂🙂"), ("é", "\u0301"), ("a\t", "\x00")],
    "begins with the end of text": [("", "<|end|>The town"), ("<|end|>The town", " of"), ("The<|end|>", "<|end|>")],
    "a long context": [("The town of Neisos trades in salt. " * 40, " rope"), ("The town" * 300, " of")],
    "a continuation as long as all that is read": [("The town", " salt" * 128), ("The town", " salt")],
}


@pytest.mark.parametrize("add_bos_token", [None, True, False])
@pytest.mark.parametrize("name", ROWS)
def test_rows(pair, name, add_bos_token):
    """HFLM without its cache, which gathers other positions where texts of one beginning are split at two places."""
    theirs, ours = pair(batch_size=2, add_bos_token=add_bos_token, logits_cache=False)
    rows = requests("loglikelihood", ROWS[name])
    found, expected = (lm.loglikelihood(rows, disable_tqdm=True) for lm in (ours, theirs))
    assert_same_scores(found, expected)


def test_bos_counts():
    """Leaving it out moves scores by nats: that it is where HFLM has it is no detail."""
    rows = requests("loglikelihood", choices())
    scores = []
    for add in (True, False):
        lm = EmulatedLM(**FOLDERS, add_bos_token=add, quiet=True)
        scores.append(torch.tensor(lm.loglikelihood(rows, disable_tqdm=True))[:, 0])
    assert (scores[0] - scores[1]).abs().max() > 1


def test_the_greedy_continuation(pair):
    theirs, ours = pair()
    context = "Question: What does the town of Neisos trade in?\nAnswer:"
    best = ours.generate_until(requests("generate_until", [(context, {"max_gen_toks": 5})]), disable_tqdm=True)[0]
    rows = requests("loglikelihood", [(context, best), (context, best[:-1]), (context, best + "x"), (context, " x")])
    found = ours.loglikelihood(rows, disable_tqdm=True)
    assert found[0][1]
    assert not found[3][1]
    assert_same_scores(found, theirs.loglikelihood(rows, disable_tqdm=True))


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
@pytest.mark.parametrize("max_length", [None, 20])
def test_rolling(pair, batch_size, max_length):
    theirs, ours = pair(batch_size=batch_size, max_length=max_length)
    texts = ["The town of Neisos trades in salt. " * 30, "a", "Größe", "The town of Brudos.\n\nIt is old. " * 3]
    rows = requests("loglikelihood_rolling", [(text,) for text in texts])
    found, expected = (lm.loglikelihood_rolling(rows, disable_tqdm=True) for lm in (ours, theirs))
    for one, other, text in zip(found, expected, texts, strict=True):
        assert one == pytest.approx(other, rel=2e-7, abs=1e-4), text  # HFLM sums in fp32


UNTIL = [
    {"until": ["."], "max_gen_toks": 16},
    {"until": [".", "\n\n", "Have a"], "max_gen_toks": 40},
    {"until": "you for", "max_gen_toks": 30},
    {"until": ["k you f", "zz"], "max_gen_toks": 30},
    {"until": ["never said"], "max_gen_toks": 7},
    {"max_gen_toks": 40, "do_sample": False, "temperature": 0.0},
    {"until": ["<|end|>"], "max_gen_toks": 40},
    {"until": ["."], "max_gen_toks": 24, "repetition_penalty": 1.3},
]


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
def test_generation(pair, batch_size):
    """All settings in one call, as several tasks are."""
    theirs, ours = pair(batch_size=batch_size)
    contexts = [f"Question: What does the town of {town} trade in?\nAnswer:" for town in TOWNS]
    contexts += ["Answer: .", "The town of Neisos trades in salt. " * 40, "🙂 Thank"]
    rows = requests("generate_until", [(context, dict(settings)) for settings in UNTIL for context in contexts])
    random.Random(2).shuffle(rows)
    expected = [theirs.generate_until([row], disable_tqdm=True)[0] for row in rows]
    assert ours.generate_until(rows, disable_tqdm=True) == expected
    assert len(set(expected)) > 20


@pytest.mark.parametrize("add_bos_token", [True, False])
def test_generation_with_and_without_bos(pair, add_bos_token):
    theirs, ours = pair(batch_size=4, add_bos_token=add_bos_token)
    contexts = [f"Question: What does the town of {town} trade in?\nAnswer:" for town in TOWNS] + ["<|end|>The town"]
    rows = requests("generate_until", [(context, {"until": ["."], "max_gen_toks": 20}) for context in contexts])
    expected = [theirs.generate_until([row], disable_tqdm=True)[0] for row in rows]
    assert ours.generate_until(rows, disable_tqdm=True) == expected


def test_beams(pair):
    theirs, ours = pair(batch_size=2)
    settings = {"until": ["never said"], "max_gen_toks": 8, "num_beams": 3}
    rows = requests("generate_until", [(context, settings) for context, _ in choices()[::6]])
    expected = [theirs.generate_until([row], disable_tqdm=True)[0] for row in rows]
    assert ours.generate_until(rows, disable_tqdm=True) == expected


@pytest.mark.parametrize("kind", ["text", "token"])
def test_thoughts_are_left_out(pair, kind):
    theirs, ours = pair(think_end_token="asking!", batch_size=2)
    if kind == "token":
        theirs.think_end_token = ours.think_end_token = ours.tok_encode(" asking")[-1]
    rows = requests("generate_until", [(c, {"until": ["."], "max_gen_toks": 30}) for c, _ in choices()[::6]])
    expected = [theirs.generate_until([row], disable_tqdm=True)[0] for row in rows]
    assert ours.generate_until(rows, disable_tqdm=True) == expected


def test_sampling_is_governed_by_torch(pair):
    _, ours = pair(batch_size=2)
    settings = {"until": ["."], "max_gen_toks": 12, "do_sample": True, "temperature": 1.5}
    rows = requests("generate_until", [(context, settings) for context, _ in choices()])
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(ours.generate_until(rows, disable_tqdm=True))
    assert texts[0] == texts[1] != texts[2]


def test_memory_that_does_not_suffice_halves_a_batch(pair, monkeypatch):
    theirs, ours = pair(batch_size="auto")
    whole, sizes = ours.model.score, []

    def scarce(inputs, responses):
        sizes.append(len(responses))
        if len(responses) > 3:
            raise torch.OutOfMemoryError("none left")
        return whole(inputs, responses)

    monkeypatch.setattr(ours.model, "score", scarce)
    rows = requests("loglikelihood", choices())
    assert_same_scores(ours.loglikelihood(rows, disable_tqdm=True), theirs.loglikelihood(rows, disable_tqdm=True))
    assert max(sizes) == len(rows)
    monkeypatch.setattr(ours.model, "score", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none left")))
    with pytest.raises(torch.OutOfMemoryError):
        ours.loglikelihood(rows, disable_tqdm=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "^pretrained: expected a checkpoint here, or large= with tuned= and base=, got neither"),
        ({"pretrained": "a", "large": "b"}, "^pretrained: .*got both"),
        ({**FOLDERS, "peft": "there"}, "^peft: expected nothing, since --model eft loads its models by itself"),
        ({**FOLDERS, "parallelize": True}, "^parallelize: expected nothing"),
        ({**FOLDERS, "beta": "x"}, "^beta: "),
        ({"large": FOLDERS["large"]}, "^tuned: expected a hub id or a folder, got None"),
    ],
    ids=["nothing", "both", "peft", "parallelize", "beta", "no tuned"],
)
def test_wrong_arguments(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        EmulatedLM(**options)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("loglikelihood", ("a", ""), r"^continuation: expected 1 to 20 tokens \(max_length\), got 0"),
        ("loglikelihood", ("a", " salt" * 21), r"^continuation: expected 1 to 20 tokens \(max_length\), got 42"),
        ("loglikelihood", ("\t", "a"), "^context: expected at least one token, got none; add_bos_token"),
        (
            "generate_until",
            ("a", {"max_gen_toks": 20}),
            r"^max_gen_toks: expected fewer than max_length \(20\), got 20",
        ),
        ("generate_until", ("a", {"max_gen_toks": 4, "max_length": 9}), "^max_length: expected max_gen_toks instead"),
    ],
    ids=["empty", "too long", "no context", "too many", "max_length"],
)
def test_wrong_requests(pair, kind, row, message):
    _, ours = pair(max_length=20, add_bos_token=False)
    with pytest.raises(ValueError, match=message):
        getattr(ours, kind)(requests(kind, [row]), disable_tqdm=True)
