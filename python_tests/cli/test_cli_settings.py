"""The settings of the command line are its own: what a model's generation_config says of sampling is set aside."""

import json
import shutil

import pytest
from transformers import GenerationConfig

from eft_ext.cli.settings import settle
from eft_ext.demo import model_path
from eft_ext.hf import EmulatedModel
from python_tests.cli.conftest import WORDS

OPINIONS = {
    "do_sample": True,
    "temperature": 0.6,
    "top_k": 1,
    "top_p": 0.001,
    "min_p": 0.9,
    "typical_p": 0.2,
    "epsilon_cutoff": 0.3,
    "eta_cutoff": 0.3,
    "repetition_penalty": 1.3,
    "encoder_repetition_penalty": 1.5,
    "no_repeat_ngram_size": 2,
    "penalty_alpha": 0.6,
    "num_beams": 4,
    "num_return_sequences": 2,
    "guidance_scale": 1.5,
    "bad_words_ids": [[i] for i in range(2, 12)],
    "suppress_tokens": list(range(2, 12)),
    "begin_suppress_tokens": list(range(2, 12)),
    "forced_eos_token_id": 1,
    "sequence_bias": [[[5], -10.0]],
    "exponential_decay_length_penalty": [1, 9.0],
    "min_length": 12,
    "min_new_tokens": 12,
    "max_length": 4,
    "max_time": 0.0,
    "stop_strings": ["the", "a"],
    "chat_format": "its own",
}
IDS = {"eos_token_id": 1, "pad_token_id": 0}
PROMPT = ("--prompt", "the cat", "--max-new-tokens", 8)


@pytest.fixture(scope="module")
def opinionated(folders, tmp_path_factory):
    """opinionated(settings) -> options naming the same models, of which large has the settings."""

    def options(said):
        large = tmp_path_factory.mktemp("opinionated") / "large"
        shutil.copytree(folders[1], large)
        (large / "generation_config.json").write_text(json.dumps({**IDS, **said}))
        return ("--large", large, *folders[2:])

    return options


WAYS = {
    "batch": ("generate", *PROMPT, "--prompt", "it ran"),
    "stream": ("generate", *PROMPT, "--stream"),
    "speculate": ("generate", *PROMPT, "--speculate", 3),
    "chat": ("chat", "--max-new-tokens", 8),
}


@pytest.mark.parametrize("way", ["batch", *(pytest.param(w, marks=pytest.mark.slow) for w in list(WAYS)[1:])])
def test_greedy_is_greedy(eft, folders, opinionated, way):
    plain = eft(*WAYS[way], *folders, stdin="the cat\nit ran\n")
    assert plain[0] == 0
    assert len(plain[1].split()) > 4
    assert eft(*WAYS[way], *opinionated(OPINIONS), stdin="the cat\nit ran\n")[:2] == plain[:2]


GREEDY = {"max_new_tokens": 8, "do_sample": False}
SAMPLED = {"max_new_tokens": 8, "do_sample": True, "temperature": 5.0, "top_k": 0, "seed": 3}


@pytest.fixture(scope="module")
def told(folders):
    """told(settings) -> what is set aside where large has them, and the tokens, greedy and sampled, in each tier."""
    model = EmulatedModel.from_pretrained(*folders[1::2], quiet=True)

    def run(own):
        found = []
        for asked in (GREEDY, SAMPLED):
            model.large.generation_config = GenerationConfig.from_dict({**IDS, **own})
            aside = settle(model, asked, quiet=True)["set_aside"]
            found.append(
                [model.generate("the cat", **asked, tier=tier).tolist() for tier in ("eager", "static", "async")]
            )
        return aside, found

    return run


# By itself num_return_sequences is wrong to transformers.
ALONE = [name for name in OPINIONS if name != "num_return_sequences"]


@pytest.mark.parametrize("name", [None, *(pytest.param(name, marks=pytest.mark.slow) for name in ALONE)])
def test_no_setting_of_the_model_is_left(told, name):
    """One by one too, since in company one might hide another."""
    own = OPINIONS if name is None else {name: OPINIONS[name]}
    (_, expected), (aside, found) = told({}), told(own)
    assert aside == own
    assert found == expected
    assert expected[0] != expected[1]


def test_samples_differ(eft, opinionated):
    models = opinionated({"top_p": 0.001, "temperature": 0.1})
    hot = ("generate", *PROMPT, *models, "--temperature", 5)
    assert len({eft(*hot, "--seed", seed)[1] for seed in range(3)}) > 1
    results = json.loads(eft(*hot, "--prompt", "the cat", "--prompt", "the cat", "--json")[1])["results"]
    assert len({result["text"] for result in results}) > 1


def test_the_ends_of_the_model_end_an_answer(eft, folders, opinionated):
    words = eft("generate", *PROMPT, *folders)[1].split()
    third = next(i for i, word in enumerate(words) if i > 1 and word not in words[:i])
    ends = opinionated({"eos_token_id": [1, WORDS.index(words[third])]})
    code, out, err = eft("generate", *PROMPT, *ends)
    assert (code, out.split()[:third]) == (0, words[:third])
    assert len(out.split()) <= third + 1
    assert "not used" not in err


@pytest.mark.parametrize("command", ["generate", "chat", pytest.param("report", marks=pytest.mark.slow)])
def test_the_settings_are_said_in_one_line(eft, folders, opinionated, tmp_path, command):
    models = opinionated({"top_p": 0.8, "repetition_penalty": 1.05, "suppress_tokens": list(range(2, 40))})
    asked = {"generate": PROMPT, "chat": (), "report": (*PROMPT, "--out", tmp_path / "page.html")}[command]

    def run(*options):
        code, out, err = eft(command, *asked, *options, stdin="the cat\nit ran\n")
        assert code == 0
        assert err.startswith("loading weights")
        return out, err.splitlines()[1:]

    unused = "top_p 0.8, repetition_penalty 1.05, suppress_tokens [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ..."
    said = f"greedy, at most 1 token; not used: {unused} of large's configuration"
    assert run(*models, "--max-new-tokens", 1)[1] == [said]
    warm = ("--temperature", 0.7, "--top-p", 0.9, "--min-p", 0.05, "--seed", 3, "--max-new-tokens", 8)
    assert run(*folders, *warm)[1] == ["temperature 0.7, top_p 0.9, min_p 0.05, seed 3, at most 8 tokens"]
    out, err = run(*models, "--max-new-tokens", 1, "--json", "--top-k", 5)
    assert err == []
    found = json.loads(out.splitlines()[0] if command == "chat" else out)
    used = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 5, "min_p": 0.0, "seed": None}
    assert {**used, "max_new_tokens": 1}.items() <= found["options"].items()
    assert found["set_aside"] == {"top_p": 0.8, "repetition_penalty": 1.05, "suppress_tokens": list(range(2, 40))}


SEEDED = {
    "generate": ("generate", "--prompt", "a", "--large", "./nowhere"),
    "chat": ("chat", "--large", "./nowhere"),
    "report": ("report", "--prompt", "a", "--large", "./nowhere"),
    "demo": ("demo", "--questions", 2, "--shown", 0, "--models", "./nowhere"),
    "track": ("dynamics", "track", "--out", "run", "--model", "./nowhere"),
    "decompose": ("dynamics", "decompose", "--model", "./nowhere"),
}


@pytest.mark.parametrize("command", SEEDED)
@pytest.mark.parametrize("seed", [2**64, 99999999999999999999, -1])
def test_a_seed_out_of_range(eft, command, seed):
    said = f"eft: --seed: expected a whole number from 0 to 18446744073709551615, got {seed}\n"
    assert eft(*SEEDED[command], f"--seed={seed}") == (2, "", said)


def test_a_seed_out_of_range_when_models_are_made(capsys, monkeypatch, tmp_path):
    from eft_ext.demo import train

    monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path / "out"), "--seed", str(2**64)])
    with pytest.raises(SystemExit) as exit:
        train.main()
    said = f"eft: --seed: expected a whole number from 0 to 18446744073709551615, got {2**64}\n"
    assert (exit.value.code, capsys.readouterr().err) == (2, said)


def test_the_largest_seed(eft, folders):
    first, second = (eft("generate", *PROMPT, *folders, "--temperature", 3, "--seed", 2**64 - 1) for _ in range(2))
    assert (first[0], first[1]) == (0, second[1])


@pytest.mark.slow
@pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models have not been trained")
def test_the_largest_seed_of_the_demonstration(eft):
    options = ("--questions", 1, "--shown", 0, "--json", "--seed", 2**64 - 1)
    assert len(json.loads(eft("demo", *options)[1])["modes"]) == 2
    assert eft("dynamics", "decompose", "--lr", 1e-3, "--batch-size", 1, "--seed", 2**64 - 1)[0] == 0
