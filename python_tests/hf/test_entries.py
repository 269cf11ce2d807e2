"""Every method at every entry: operations, driver, stock transformers, command line. All say the same next token."""

import io
import json
import math
from functools import cache

import pytest
import torch

import eft_ext
from eft_ext import EFTLogitsProcessor, EmulatedModel, custom_generate
from eft_ext import methods as m
from eft_ext.cli import main
from eft_ext.hf.generated import generated_records
from python_tests.helpers.slow_params import slowly_but

PROMPT, NEW, OTHER = "abc", 3, "z"

# method, places of its models among the folders large, a, b, base, and what the command line says
METHODS = {
    "up-scale": (m.UpScale(0.6), (0, 1, 3), ["--beta=0.6"]),
    "down-scale": (m.DownScale(0.6), (1, 0, 3), ["--method=down-scale", "--beta=0.6"]),
    "amplify": (m.Amplify(1.4), (0, 1, 3), ["--method=amplify", "--scale=1.4"]),
    "interpolate": (m.Interpolate.between("a", "b", 0.3), (0, 1, 2, 3), ["--method=interpolate", "--lambda=0.3"]),
    "conservative": (
        m.Conservative(0.7, "large", "drop", m.Amplify(1.3)),
        (0, 1, 3),
        ["--scale=1.3", "--conservative-top-p=0.7", "--conservative-set=large", "--conservative-outside=drop"],
    ),
    "contrast": (m.Contrast(0.5, 0.2), (0, 1), ["--method=contrast", "--plausibility=0.2"]),
    "realign": (m.Realign(1.5), (3, 1), ["--method=realign", "--lambda=1.5"]),
    "guidance": (m.Guidance(1.7), (0, 0), ["--method=guidance", "--scale=1.7", f"--negative-prompt={OTHER}"]),
    "plain": (m.Plain(), (0,), ["--method=plain"]),
    "weighted": (
        m.Weighted({"x": 1.0, "y": -0.4}),
        (0, 3),
        ["--method=weighted", "--weight=x=1", "--weight=y=-0.4"],
    ),
    "changing": (m.UpScale(lambda step: 1.0 / (1 + step)), (0, 1, 3), None),  # a function has no name there
}


class Case:
    """One method: its models, what they say after the prompt, and the mixture's next token."""

    def __init__(self, name, models, folders, tokenizer):
        self.method, places, self.options = METHODS[name]
        self.lead = models[places[0]]
        self.folders = dict(zip(self.method.models, (folders[p] for p in places), strict=True))
        self.chosen = dict(zip(self.method.models, (models[p] for p in places), strict=True))
        if "model" in self.method.groups:
            self.chosen, self.folders = {"model": self.lead}, {"model": folders[places[0]]}
        ids = {text: tokenizer(text, return_tensors="pt")["input_ids"] for text in (PROMPT, OTHER)}
        self.ids, self.prompts = ids[PROMPT], dict.fromkeys(self.method.last_token_only, ids[OTHER])
        self.read = {self.method.models[0]: self.ids, **self.prompts}
        self.model = EmulatedModel(tokenizer=tokenizer, method=self.method, **self.chosen)
        with torch.no_grad():
            each = zip(places, self.method.models, strict=True)
            self.logits = [models[p](self.prompts.get(n, self.ids)).logits[:, -1:] for p, n in each]
        self.last = [x[:, 0] for x in self.logits]
        self.next = int(eft_ext.combine(self.last, self.method, position=0).argmax())
        self.call = {"max_new_tokens": NEW, "eos_token_id": [999], "do_sample": False}


def generated(case, **more):
    return case.model.generate(case.ids, prompts=case.prompts, **case.call, **more)[0, case.ids.shape[1]]


def verified(case):
    logits = [x.expand(1, 2, -1) for x in case.logits]
    options = {"temperature": 0.0, "position": 0, "seed": 0}
    found = eft_ext.fused_verify(torch.tensor([[case.next]]), None, logits, case.method, **options)
    assert found.num_accepted.tolist() == [1]
    return found.tokens[0, 0]


def scored(case):
    found = case.model.score(responses=[[case.next, 9]], prompts=case.read, candidates=1)
    assert found.names == (*case.method.models, "mixture")
    assert case.next in found.candidates.ids[0, 0]
    return found.tokens.argmax[0, 0, -1]


def reported(case):
    (record,) = generated_records(case.model, case.read, [PROMPT], max_new_tokens=NEW, speculate=2)
    assert record.names == [*case.method.models, "mixture"]
    assert record.options["method"] == repr(case.method)
    return record.tokens[0].id


def others(case):
    """The models that whoever runs the first one has to be given."""
    if case.method.last_token_only:
        return dict.fromkeys(case.method.last_token_only, case.lead)
    return {name: model for name, model in case.chosen.items() if name != case.method.models[0]}


def in_stock_generate(case):
    loop = custom_generate(method=case.method, **others(case))
    return case.lead.generate(case.ids, custom_generate=loop, prompts=case.prompts, **case.call)[0, case.ids.shape[1]]


def processed(case):
    processor = EFTLogitsProcessor(method=case.method, prompts=case.prompts, **others(case))
    return case.lead.generate(case.ids, logits_processor=[processor], **case.call)[0, case.ids.shape[1]]


ENTRIES = {
    "fused_mix": lambda c: eft_ext.fused_mix(c.last, c.method, temperature=0.0, position=0, seed=0)[0],
    "fused_score_mix": lambda c: eft_ext.fused_score_mix(c.last, c.method, torch.tensor([5]), position=0).argmax[0, -1],
    "fused_verify": verified,
    "generate": generated,
    "generate, eager": lambda c: generated(c, tier="eager"),
    "generate, of a call": lambda c: generated(c, method=c.method),
    "generate, speculating": lambda c: generated(c, speculate=2),
    "generate_batch": lambda c: c.model.generate_batch(c.ids, prompts=c.prompts, **c.call)[0][0],
    "score": scored,
    "generated_records": reported,
    "custom_generate": in_stock_generate,
    "EFTLogitsProcessor": processed,
}


@pytest.fixture(scope="module")
def world(build, tokenizer, tmp_path_factory):
    """Four random models, the folders they are saved in, their tokenizer."""
    models = [build("llama", seed, 32 if seed == 0 else 16, 260) for seed in range(4)]
    root = tmp_path_factory.mktemp("entries")
    names = ("large", "a", "b", "base")
    for name, model in zip(names, models, strict=True):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return models, [root / name for name in names], tokenizer


@pytest.fixture(scope="module")
def cases(world):
    return cache(lambda name: Case(name, *world))


def test_no_method_is_left_out():
    assert {type(method).__name__ for method, _, _ in METHODS.values()} == {*m.__all__} - {"MixingMethod"}


@pytest.mark.filterwarnings("ignore:speculate")
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", METHODS)
def test_every_entry_takes_every_method(name, entry, cases):
    case = cases(name)
    assert int(ENTRIES[entry](case)) == case.next


TOLD = [name for name, (_, _, options) in METHODS.items() if options is not None]
FAST = ("interpolate", "guidance")


@pytest.mark.parametrize("name", slowly_but(FAST, TOLD))
def test_every_command_takes_every_method(name, cases, capsys, monkeypatch, tmp_path):
    case = cases(name)
    sources = [f"--model={name}={folder}" for name, folder in case.folders.items()]
    options = [*sources, *case.options]

    def eft(*arguments):
        capsys.readouterr()
        assert main([*map(str, arguments), *options]) == 0
        return capsys.readouterr().out

    asked = ("--prompt", PROMPT, "--max-new-tokens", NEW, "--json")
    found = json.loads(eft("generate", *asked))
    (text,) = case.model.generate_text(prompts=case.read, max_new_tokens=NEW, do_sample=False)
    assert found["results"][0]["text"] == text
    assert found["options"]["method"] == repr(case.method)
    page = tmp_path / "page.html"
    (record,) = json.loads(eft("report", *asked, "--out", page))["records"]
    assert record["tokens"][0]["id"] == case.next
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"prompt": PROMPT, "response": "xy"}) + "\n")
    (line,) = json.loads(eft("score", texts, "--json"))["results"]
    scored = case.model.score(responses=["xy"], prompts=case.read)
    want = float(scored.logprobs[0, -1])
    assert line["logprobs"]["mixture"] == (pytest.approx(want, rel=1e-5) if math.isfinite(want) else None)
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT + "\n"))
    assert eft("chat", "--max-new-tokens", NEW).count("\n") >= 1
