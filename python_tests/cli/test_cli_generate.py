"""`eft generate` as a user meets it: text, options, drafts, wrong input."""

import json
import shutil

import pytest

from eft_ext.demo import model_path


def test_generate(eft, folders):
    options = ("--prompt", "the cat", "--max-new-tokens", 5, *folders)
    code, answer, err = eft("generate", *options)
    assert code == 0
    assert err.startswith("loading weights: large ")
    assert err.splitlines()[1:] == ["greedy, at most 5 tokens"]
    assert 1 <= len(answer.split()) <= 5
    assert eft("generate", *options, "--stream")[1] == answer
    assert eft("generate", *options, "--temperature", 0)[1] == answer
    assert eft("generate", "--prompt", "-", *options[2:], stdin="the cat\n")[1] == answer
    code, out, _ = eft("generate", *options, "--prompt", "it ran", "--json")
    results = json.loads(out)["results"]
    assert [r["prompt"] for r in results] == ["the cat", "it ran"]
    assert results[0]["text"].strip() == answer.strip()
    assert eft("generate", *options, "--prompt", "it ran")[1].startswith(f"> the cat\n{answer}\n> it ran\n")


def test_tokenizers_that_differ_in_name_only(eft, folders, tmp_path):
    shutil.copytree(folders[3], tmp_path / "tuned")
    words = json.loads((tmp_path / "tuned" / "tokenizer.json").read_text())
    words["model"]["vocab"]["<extra>"] = max(words["model"]["vocab"].values()) + 1
    (tmp_path / "tuned" / "tokenizer.json").write_text(json.dumps(words))
    options = ("--prompt", "the cat", "--max-new-tokens", 5, *folders[:3], tmp_path / "tuned", *folders[4:])
    code, _, err = eft("generate", *options)
    assert code == 2
    assert "'<extra>' is absent in large" in err
    assert "--any-tokenizers" in err
    code, answer, _ = eft("generate", *options, "--any-tokenizers")
    assert (code, answer) == (0, eft("generate", *options[:4], *folders)[1])


@pytest.mark.slow
def test_speculation(eft, folders):
    options = ("--prompt", "the cat", "--max-new-tokens", 9, *folders)
    plain = eft("generate", *options)[1]
    for drafts in (3, "auto", 0):
        code, answer, err = eft("generate", *options, "--speculate", drafts)
        assert (code, answer) == (0, plain)
        if drafts != "auto":  # which may find no time for one in nine tokens
            assert ("drafts stand" in err) == (drafts != 0)
    told = json.loads(eft("generate", *options, "--speculate", 3, "--json")[1])
    assert told["options"]["speculate"] == 3
    assert set(told["speculation"]) == {"accepted", "drafted", "tokens_per_round"}
    for wrong in ("x", 64, -1):
        code, _, err = eft("generate", *options, f"--speculate={wrong}")
        assert code == 2
        assert "--speculate: expected auto or a number from 0 to 63" in err


@pytest.mark.slow
def test_sampling_options(eft, folders):
    options = ("--prompt", "the cat", "--max-new-tokens", 8, *folders, "--temperature", 1.5, "--top-p", 0.99)
    first = eft("generate", *options, "--seed", 1)[1]
    assert first == eft("generate", *options, "--seed", 1)[1]
    assert len({eft("generate", *options, "--seed", seed)[1] for seed in range(5)}) > 1
    _, out, _ = eft("generate", *options, "--json", "--min-p", 0.01, "--scale", 1.2)
    used = {"do_sample": True, "temperature": 1.5, "top_p": 0.99, "min_p": 0.01, "top_k": 0, "scale": 1.2}
    assert used.items() <= json.loads(out)["options"].items()


@pytest.mark.slow
@pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models have not been trained")
def test_embedded_models(eft):
    code, answer, err = eft("generate", "--prompt", "With which animal did Fikim Thetrond travel?")
    assert (code, err) == (0, "greedy, at most 128 tokens\n")
    assert answer.strip()
    code, out, _ = eft("chat", "--json", stdin="Who are you?\nAnd now?\n")
    assert code == 0
    assert len(out.splitlines()) == 2


WRONG = {
    "--top-p: expected a number from 0 to 1, got 1.5": ["--top-p", "1.5"],
    "--temperature: expected a number at least 0, got -1.0": ["--temperature", "-1"],
    "--min-p: expected a number from 0 to 1, got nan": ["--min-p", "nan"],
    "--max-new-tokens: expected a number at least 1, got 0": ["--max-new-tokens", "0"],
    "--stream: expected one prompt and no --json": ["--stream", "--json"],
    "beta: expected nothing beside scale": ["--beta", "1", "--scale", "1"],
    "dtype: expected one of torch's": ["--dtype", "float3"],
    "--chat-template all: the tokenizer has none": ["--chat-template", "all"],
    "large: no such folder: ./nowhere": ["--large", "./nowhere"],
    "--prompt -: expected text on stdin": ["--prompt", "-"],
    "No such option: --topp": ["--topp", "1"],
    "Invalid value for '--seed'": ["--seed", "x"],
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_input_is_one_line(eft, folders, message):
    code, out, err = eft("generate", "--prompt", "the cat", *folders, *WRONG[message])
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("eft: ")
    assert message in last
    assert err.count("\n") <= 2, "what the weights take, and what is wrong"


def test_missing_models_are_named(eft, folders):
    assert eft("generate", "--prompt", "a", *folders[:2])[::2] == (
        2,
        "eft: --tuned: expected a model beside the others, got none\n",
    )
    assert "base: expected a model" in eft("generate", "--prompt", "a", *folders[:4])[2]


def test_logits_that_cannot_be_sampled(eft, folders, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    tuned = tmp_path / "tuned"
    shutil.copytree(folders[3], tuned)
    weights = load_file(tuned / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, tuned / "model.safetensors", metadata={"format": "pt"})
    code, _, err = eft("generate", "--prompt", "a", *folders[:2], "--tuned", tuned, *folders[4:])
    assert code == 1
    assert err.endswith("\neft: row 0, new token 0: the logits of tuned hold NaN or +inf\n")
