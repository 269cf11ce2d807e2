"""The command line as a user meets it: output, exit codes, one line on wrong input."""

import io
import json
import os
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import eft_ext
from eft_ext.cli import main
from eft_ext.demo import model_path

WORDS = ["<pad>", "<eos>", *"the cat sat on a mat and then it ran off to see what was there User : Assistant".split()]  # noqa: SIM905


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Options naming three tiny models that share a tokenizer of words."""
    root = tmp_path_factory.mktemp("cli")
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")
    options = []
    for seed, name in enumerate(("large", "tuned", "base"), start=5):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            initializer_range=0.5,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
        LlamaForCausalLM(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        options += [f"--{name}", str(root / name)]
    return options


@pytest.fixture
def eft(capsys, monkeypatch):
    """eft(*arguments, stdin="") -> exit code, stdout, stderr"""

    threads = torch.get_num_threads()

    def run(*arguments, stdin=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main(list(map(str, arguments)))
        out = capsys.readouterr()
        return code, out.out, out.err

    yield run
    torch.set_num_threads(threads)


def test_version_and_help(eft):
    assert eft("--version")[:2] == (0, f"eft_ext {eft_ext.__version__}\n")
    code, out, err = eft()
    assert "generate" in out
    assert err == ""
    for command in ("demo", "generate", "chat", "score", "report", "bench", "env"):
        code, out, _ = eft(command, "--help")
        assert code == 0
        assert f"eft {command}" in out, "an example"


def test_as_a_module():
    run = subprocess.run([sys.executable, "-m", "eft_ext", "nope"], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", "eft: No such command 'nope'.\n")


def test_bench(eft):
    asked = ("bench", "--vocab", 500, "--seconds", 0.001)
    code, out, err = eft(*asked, "--rows", 1, "--rows", 3, "--dtype", "float32", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [r["rows"] for r in found["results"]] == [1, 1, 1, 3, 3, 3]
    assert all(r[name] > 0 for r in found["results"] for name in ("fused_us", "chain_us", "read_us"))
    code, out, _ = eft(*asked)
    assert code == 0
    assert "top-p .9" in out
    for wrong, message in (
        (("--rows", 0), "--rows: expected a number at least 1, got 0"),
        (("--vocab", -3), "--vocab: expected a number at least 1, got -3"),
        (("--seconds", 0), "--seconds: expected a positive number, got 0.0"),
        (("--device", "tpu"), "--device: expected cpu or cuda, got tpu"),
        (("--backend", "x"), "backend: expected 'auto' or one of"),
    ):
        code, out, err = eft(*asked, *wrong)
        assert (code, out) == (2, "")
        assert err.startswith(f"eft: {message}")


def test_env(eft):
    code, out, _ = eft("env", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found["backends"]) == set(eft_ext.backends())
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    code, out, _ = eft("env")
    assert code == 0
    for name, backend in found["backends"].items():
        assert name in out
        assert backend["available"] or backend["reason"]


def test_generate(eft, folders):
    options = ("--prompt", "the cat", "--max-new-tokens", 5, *folders)
    code, answer, err = eft("generate", *options)
    assert code == 0
    assert err.startswith("loading weights: large ")
    assert err.count("\n") == 1
    assert 1 <= len(answer.split()) <= 5
    assert eft("generate", *options, "--stream")[1] == answer
    assert eft("generate", *options, "--temperature", 0)[1] == answer
    assert eft("generate", "--prompt", "-", *options[2:], stdin="the cat\n")[1] == answer
    code, out, _ = eft("generate", *options, "--prompt", "it ran", "--json")
    results = json.loads(out)["results"]
    assert [r["prompt"] for r in results] == ["the cat", "it ran"]
    assert results[0]["text"].strip() == answer.strip()
    assert eft("generate", *options, "--prompt", "it ran")[1].startswith(f"> the cat\n{answer}\n> it ran\n")


def test_speculation(eft, folders):
    options = ("--prompt", "the cat", "--max-new-tokens", 9, *folders)
    plain = eft("generate", *options)[1]
    for drafts in (3, "auto", 0):
        code, answer, err = eft("generate", *options, "--speculate", drafts)
        assert (code, answer) == (0, plain)
        assert ("drafts stand" in err) == (drafts != 0)
    told = json.loads(eft("generate", *options, "--speculate", 3, "--json")[1])
    assert told["options"]["speculate"] == 3
    assert set(told["speculation"]) == {"accepted", "drafted", "tokens_per_round"}
    for wrong in ("x", 64, -1):
        code, _, err = eft("generate", *options, f"--speculate={wrong}")
        assert code == 2
        assert "--speculate: expected auto or a number from 0 to 63" in err


def test_sampling_options(eft, folders):
    options = ("--prompt", "the cat", "--max-new-tokens", 8, *folders, "--temperature", 1.5, "--top-p", 0.99)
    first = eft("generate", *options, "--seed", 1)[1]
    assert first == eft("generate", *options, "--seed", 1)[1]
    assert len({eft("generate", *options, "--seed", seed)[1] for seed in range(5)}) > 1
    _, out, _ = eft("generate", *options, "--json", "--min-p", 0.01, "--scale", 1.2)
    used = {"do_sample": True, "temperature": 1.5, "top_p": 0.99, "min_p": 0.01, "top_k": 0, "scale": 1.2}
    assert used.items() <= json.loads(out)["options"].items()


@pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models have not been trained")
def test_embedded_models(eft):
    code, answer, err = eft("generate", "--prompt", "With which animal did Fikim Thetrond travel?")
    assert (code, err) == (0, "")
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


def test_chat(eft, folders):
    options = (*folders, "--max-new-tokens", 6)
    code, out, err = eft("chat", *options, stdin="the cat\n/what\n/reset\nthe cat\n\n/exit\nit ran\n")
    first, second = out.splitlines()
    assert code == 0
    assert first == second, "forgotten in between"
    assert err.splitlines()[-1] == "forgotten"
    assert "/reset" in err
    _, out, _ = eft("chat", *options, "--json", stdin="the cat\nit ran\n")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["prompt"] for line in lines] == ["the cat", "it ran"]
    assert lines[0]["text"] == first.strip()


def test_chat_reads_the_template(eft, folders, tmp_path):
    import shutil

    large = tmp_path / "large"
    shutil.copytree(folders[1], large)
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    (large / "chat_template.jinja").write_text(template)
    plain = eft("generate", "--prompt", "the cat", *folders, "--max-new-tokens", 6)[1]
    options = ("--large", large, *folders[2:], "--max-new-tokens", 6)
    assert eft("generate", "--prompt", "the cat", *options)[1] == plain, "this template adds nothing"
    assert eft("generate", "--prompt", "the cat", *options, "--chat-template", "tuned")[1] == plain
    assert eft("chat", *options, stdin="the cat\n")[1] == plain


def test_stop_strings_are_not_printed(capsys, folders):
    from transformers import AutoTokenizer

    from eft_ext.cli.printer import Printer

    printer = Printer(AutoTokenizer.from_pretrained(folders[1]), stops=["\nUser:", "##"])
    for piece in (" well", "\nUs", "ual#", "x\nUse", "r: hi", " more"):
        printer.on_finalized_text(piece)
    printer.on_finalized_text("", stream_end=True)
    assert printer.text == "well\nUsual#x"
    assert capsys.readouterr().out == "well\nUsual#x\n"


def test_demo_of_a_folder_without_models(eft, tmp_path):
    said = (
        f"eft: --models: expected a folder made by python -m eft_ext.demo.train, found no training.json in {tmp_path}\n"
    )
    assert eft("demo", "--models", tmp_path)[::2] == (2, said)


@pytest.mark.parametrize("arguments", [["env"], ["env", "--json"], ["--help"]], ids=" ".join)
def test_a_reader_that_leaves_is_no_error(arguments):
    """As `head` does: the pipe is closed before anything is printed."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "eft_ext", *arguments]
    try:
        run = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(writing)
    assert (run.returncode, run.stderr) == (0, "")


def test_demo_of_a_folder_that_is_not_there(eft):
    assert eft("demo", "--models", "./nowhere")[::2] == (2, "eft: --models: no such folder: nowhere\n")


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
