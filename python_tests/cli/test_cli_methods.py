"""Methods on the command line."""

import json

import pytest

from eft_ext.demo import model_path

EMBEDDED_METHODS = {
    "up-scale": ([], "UpScale(beta=1)"),
    "down-scale": (["--beta", 0.5], "DownScale(beta=0.5)"),
    "amplify": (["--scale", 1.2], "Amplify(scale=1.2)"),
    "interpolate": (["--lambda", 0.25], "Interpolate(polite=0.25, talkative=0.75)"),
    "contrast": (["--beta", 0.3, "--plausibility", 0.2], "Contrast(beta=0.3, plausibility=0.2)"),
    "realign": (["--lambda", 0.5], "Realign(share=0.5)"),
    "guidance": (["--scale", 1.3, "--negative-prompt", "Who?"], "Guidance(scale=1.3)"),
    "plain": ([], "Plain()"),
}


@pytest.mark.slow
@pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models have not been trained")
@pytest.mark.parametrize("method", EMBEDDED_METHODS)
def test_methods_of_embedded_models(eft, method):
    options, named = EMBEDDED_METHODS[method]
    asked = ("generate", "--prompt", "With which animal did Fikim Thetrond travel?", "--method", method, *options)
    code, out, err = eft(*asked, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["options"]["method"] == named
    assert found["results"][0]["text"].strip()


@pytest.mark.slow
def test_methods_of_named_models(eft, folders):
    large, tuned, base = folders[1::2]
    options = ("generate", "--prompt", "the cat", "--max-new-tokens", 6)
    given = ("--method", "interpolate", "--large", large, "--base", base)
    one = eft(*options, *folders)[1]
    assert eft(*options, *given, "--model", f"x={tuned}")[1] == one
    assert eft(*options, *given, "--model", f"x={tuned}", "--model", f"y={base}", "--lambda", 1)[1] == one
    two = eft(*options, *given, "--model", f"x={tuned}", "--model", f"y={base}", "--lambda", 0, "--json")
    assert json.loads(two[1])["options"]["method"] == "Interpolate(x=0, y=1)"
    plain = eft(*options, "--method", "plain", "--model", f"model={large}")[1]
    assert eft(*options, *given, "--model", f"x={base}")[1] == plain, "tuned and base are one"
    assert (
        eft(*options, "--method", "realign", "--model", f"reference={base}", "--model", f"aligned={large}")[1] == plain
    )
    weights = ("--conservative-top-p", 0.9, "--conservative-set", "large", "--conservative-outside", "drop")
    found = json.loads(eft(*options, *folders, *weights, "--scale", 1.5, "--json")[1])
    assert found["options"]["method"] == "Conservative(top_p=0.9, scale=1.5, set='large', outside='drop')"
    three = [f"--model={name}={base}" for name in "xyz"]
    assert "expected one or two behaviours beside large and base, got 3" in eft(*options, *given, *three)[2]
    assert "expected one or two behaviours beside large and base, got 0" in eft(*options, *given)[2]
    lone = ("--method", "contrast", "--model", f"amateur={base}")
    assert "--model expert=...: expected a model beside the others, got none" in eft(*options, *lone)[2]
    assert eft("chat", *given, "--model", f"x={tuned}", "--max-new-tokens", 6, stdin="the cat\n")[0] == 0


WRONG_METHODS = {
    "--lambda: not an option of --method up-scale, which takes --beta": ["--lambda", "0.5"],
    "--beta: not an option of --method plain, which takes none of these": ["--method", "plain", "--beta", "1"],
    "--conservative-set: expected --conservative-top-p beside it": ["--conservative-set", "base"],
    "method: expected the form tuned + scale": ["--method", "contrast", "--conservative-top-p", "0.5"],
    "set: expected one of large, tuned, base, got 'x'": ["--conservative-top-p", "0.5", "--conservative-set", "x"],
    "plausibility: expected a finite number in [0, 1]": ["--method", "contrast", "--plausibility", "2"],
    "Invalid value for '--method'": ["--method", "nothing"],
    "--model: expected NAME=MODEL, got 'x'": ["--model", "x"],
    "--model: expected each name once, got 'base' twice": ["--model", "base=x"],
    "--model large=...: not a model of Contrast(beta=0.5": ["--method", "contrast"],
    "--negative-prompt: expected --method guidance beside it": ["--negative-prompt", "x"],
    "--tuned: expected --model NAME=MODEL for each behaviour": ["--method", "interpolate"],
    "--model other=...: not a model of UpScale(beta=1), which has large, tuned, base": ["--model", "other=x"],
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG_METHODS)
def test_wrong_methods_are_one_line(eft, folders, message):
    code, out, err = eft("generate", "--prompt", "the cat", *folders, *WRONG_METHODS[message])
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("eft: ")
    assert message in err.splitlines()[-1]


def test_interpolation_of_a_folder_without_it(eft, tmp_path):
    from eft_ext.demo import TRIO

    for name in TRIO:
        (tmp_path / name).symlink_to(model_path(name))
    (tmp_path / "training.json").symlink_to(model_path("large-base").parent / "training.json")
    code, _, err = eft("demo", "--interpolate", "--models", tmp_path, "--questions", 1)
    assert code == 2
    assert err.endswith(f"eft: --models: expected a folder with small-talkative, found none in {tmp_path}\n")
    assert eft("demo", "--interpolate", "--beta", 2)[::2] == (
        2,
        "eft: --beta: expected nothing beside --interpolate, got 2.0\n",
    )
