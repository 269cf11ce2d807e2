"""The examples run, and do what they say."""

import importlib
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, TextStreamer

from eft_ext import custom_generate
from eft_ext.demo import model_path
from eft_ext.demo.world import World
from python_tests.helpers.embedded_trio import greedy, parts
from python_tests.helpers.examples import EXAMPLES, imported
from python_tests.helpers.examples import printed as printed
from python_tests.helpers.naive import naive
from python_tests.helpers.one_thread import one_thread as one_thread

BORN = "Question: Where was Fikim Thetrond born?\nAnswer:"
pytestmark = pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models are missing")
slow = pytest.mark.slow


def test_readme_names_all():
    listed = re.findall(r"`python examples/(\w+)\.py", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "polite")


@slow
def test_step_in_a_loop(printed):
    lines = printed("step_in_a_loop")
    assert [line.split(":")[0] for line in lines] == [
        f"{t} {way}" for t in (0.0, 0.7) for way in ("six_lines", "one_line")
    ]
    assert [line.partition("token:")[2] for line in lines[:2]] == [greedy(BORN, 40)] * 2


@slow
def test_two_behaviours(printed):
    names = ("large-base", "small-tuned", "small-talkative", "small-base")
    models, tokenizer = [AutoModelForCausalLM.from_pretrained(model_path(name)) for name in names], parts()[1]
    ids = tokenizer(imported("two_behaviours").PROMPT).input_ids
    want = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        mixed = naive(models, lambda _, z, s=share: z[0] + s * z[1] + (1 - s) * z[2] - z[3], [ids] * 4, 24, 1280)
        want.append(f"{share:.0%} polite:{tokenizer.decode(mixed[: mixed.index(tokenizer.eos_token_id)])}")
    assert printed("two_behaviours") == want
    assert len(set(want)) == 5


def test_stream(printed):
    """The first answer ends early, behind the first sentence."""
    early, whole = printed("stream")
    assert whole == greedy(BORN, 40)
    assert whole.startswith(early)
    assert early.startswith(" Thank you for asking!")


def test_a_streamer_beside_custom_generate_is_dropped(capsys):
    """By transformers: the example goes round this."""
    (large, tuned, base), tokenizer = parts()
    inputs = tokenizer(BORN, return_tensors="pt")
    streamer, loop = TextStreamer(tokenizer, skip_prompt=True), custom_generate(tuned, base)
    large.generate(**inputs, custom_generate=loop, streamer=streamer, max_new_tokens=3)
    assert capsys.readouterr().out == ""


@slow
def test_speculate(printed):
    lines = printed("speculate")
    assert [line.split(":")[0] for line in lines] == [f"{drafts} drafts" for drafts in (0, 2, 4, 8)]
    assert all("same text: True" in line for line in lines)
    accepted = [int(share) for share in re.findall(r"(\d+)% accepted", "".join(lines))]
    assert len(accepted) == 3
    assert min(accepted) > 50


@slow
def test_lora(printed):
    weights, without, with_it = printed("lora")
    example = imported("lora")
    alone = sum(w.nbytes for w in AutoModelForCausalLM.from_pretrained(example.BASE).parameters())
    assert weights.startswith(f"base and tuned: {alone:,} bytes of weights for both, ")
    assert without == "beta 0.0:" + greedy(example.PROMPT, 30, beta=0)
    assert re.fullmatch(r"beta 1\.0: Thank you for asking! The \w+ is [\w ]+\. I am glad to help\.", with_it)


def test_score_answers(printed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    prompts, responses = [BORN, BORN, "Question: Who?\nAnswer:"], [" Lerand.", " Thank you for asking!", " A fox."]
    rows = [{"prompt": p, "response": r} for p, r in zip(prompts, responses, strict=True)]
    Path("answers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    lines = printed("score_answers", "answers.jsonl")
    want = []
    for prompt, response in zip(prompts, responses, strict=True):
        large, tuned, base = (_log_probs(model, prompt, response) for model in parts()[0])
        mixture = (large + tuned - base).log_softmax(-1)
        targets = torch.tensor(parts()[1](response, add_special_tokens=False).input_ids)[:, None]
        sums = [x.gather(-1, targets).sum().item() for x in (tuned - base, mixture)]
        want.append((*sums, response))
    got = [re.match(r" *(\S+) *(\S+)  '(.*)'$", line).groups() for line in lines[1:4]]
    for (reward, log_prob, response), expected in zip(got, sorted(want, reverse=True), strict=True):
        assert response == expected[2]
        assert [float(reward), float(log_prob)] == pytest.approx(expected[:2], abs=0.006)
    assert [line.split("'")[1] for line in lines[6:]] == [" Thank", " you", " for", " asking", "!"]
    assert " asking" in Path("answers.html").read_text(encoding="utf-8")


def test_learning_dynamics(printed):
    """Its SFT step is the one that torch takes; what it predicts for both losses is close to what happens."""
    lines = printed("learning_dynamics")
    example = imported("learning_dynamics")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_path("small-base")).double(), parts()[1]
    end = tokenizer.eos_token
    score = partial(_response_log_prob, model, tokenizer, example.PROMPT)
    before = [score(answer + end)[0].item() for answer in example.ANSWERS]
    total, count = score(example.CHOSEN + end)
    (-total / count).backward()
    torch.optim.SGD(model.parameters(), lr=example.LR).step()
    change = [score(answer + end)[0].item() - old for answer, old in zip(example.ANSWERS, before, strict=True)]
    numbers = [
        [float(x) for x in line.split("'")[0].split()] for line in lines if line.endswith("'") and "(" not in line
    ]
    # Norms and rotary embeddings of transformers are fp32 in fp64 models too.
    assert [actual for _, actual in numbers[:5]] == pytest.approx(change, abs=5e-5)
    for predicted, actual in numbers:
        assert predicted == pytest.approx(actual, rel=0.1, abs=2e-3)


@slow
def test_many_prompts(printed):
    lines = printed("many_prompts")
    found = {
        int(number): (int(count), text)
        for line in lines
        for number, count, text in re.findall(r"^(\d+) \((\d+) tokens\):(.*)", line)
    }
    assert sorted(found) == list(range(40))
    assert [int(line.split()[0]) for line in lines] != list(range(40)), "short ones overtake"
    prompts = [question.prompt for question in World().questions("heldout")[:40]]
    for number in (0, 1, 4, 17):
        limit = 40 if number % 4 else 8
        assert found[number][1] == greedy(prompts[number], limit)
        assert (found[number][0] == 8) == (limit == 8)


@slow
def test_pipeline(tmp_path):
    command = [sys.executable, str(EXAMPLES / "pipeline.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    text = "The ship was commanded by"
    asked = [[{"role": "user", "content": each}] for each in imported("pipeline").QUESTIONS]
    chats = [
        line for chat in asked for line in (f"user: {chat[0]['content']}", f"assistant: {greedy(chat, 30).strip()}")
    ]
    assert done.stdout.splitlines() == [text + greedy(text, 30), *chats, text + greedy(text, 30, beta=0)]


@slow
@pytest.mark.parametrize("name", ["grpo", "online_dpo"])
def test_only_the_tuned_model_learns(name, monkeypatch, tmp_path):
    """And comes to what is rewarded."""
    pytest.importorskip("trl")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    example = importlib.import_module(name)
    policy, tokenizer = example.load_policy()
    before = {key: weight.clone() for key, weight in policy.state_dict().items()}
    rewards = example.train(policy, tokenizer)
    moved = {key.partition(".")[0] for key, weight in policy.state_dict().items() if not weight.equal(before[key])}
    assert moved == {"tuned"}
    assert len(rewards) == 8
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.5


def _log_probs(model, prompt, response):
    """Log-probabilities of the vocabulary at each token of a response, [tokens, vocab]."""
    tokenizer = parts()[1]
    head, tail = tokenizer(prompt).input_ids, tokenizer(response, add_special_tokens=False).input_ids
    return model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1].double().log_softmax(-1)


def _response_log_prob(model, tokenizer, prompt, response):
    """The sum over a response, and its number of tokens."""
    targets = torch.tensor(tokenizer(response, add_special_tokens=False).input_ids)[:, None]
    return _log_probs(model, prompt, response).gather(-1, targets).sum(), len(targets)
