"""`eft dynamics` on chats, and on probes that lack a type or are sampled."""

import pytest

from eft_ext.dynamics import ProbeSet, Recording
from python_tests.cli.test_cli_dynamics import files as files
from python_tests.cli.test_cli_dynamics import lines, run, told

pytest.importorskip("pyarrow")


@pytest.mark.parametrize("form", ["completion", "pair", "opening"])
def test_chats_of_trl(form, tmp_path, capsys):
    """They train like the texts that the model's template makes of them: Question: ...\nAnswer:"""
    from eft_ext.demo import model_path

    plain, chats = [], []
    for who in ("Who?", "Where?", "When?"):
        answers = {"chosen": f" I do know {who}", "rejected": " No."}
        if form == "completion":
            answers = {"completion": answers["chosen"]}
        plain.append({"prompt": f"Question: {who}\nAnswer:", **answers})
        asked = [{"role": "user", "content": who}]
        said = {key: [{"role": "assistant", "content": text}] for key, text in answers.items()}
        opened = {key: asked + answer for key, answer in said.items()}
        chats.append(opened if form == "opening" else {"prompt": asked, **said})
    probes = [
        {"prompt": plain[0]["prompt"], "chosen": " Yes."},
        {"messages": [{"role": "user", "content": "Who?"}], "chosen": " Yes."},
    ]
    options = ("--model", model_path("small-tuned"), "--method", "sft" if form == "completion" else "dpo")
    found = []
    for number, rows in enumerate((plain, chats)):
        files = [lines(tmp_path / f"{name}{number}", *each) for name, each in (("p", probes), ("d", rows))]
        given = ("--probes", files[0], "--data", files[1], "--batch-size", 2, "--steps", 2, "--lr", 1e-3)
        found.append(told(capsys, "track", "--out", tmp_path / f"run{number}", *given, *options, "--json")["change"])
        curve = Recording(tmp_path / f"run{number}").curve("chosen")
        assert curve[:, 0].tolist() == pytest.approx(curve[:, 1].tolist(), rel=1e-6)
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert abs(found[0]["chosen"]) > 1e-3


def test_what_is_watched_is_said(files, tmp_path, capsys):
    asked = {"prompt": "Question: Who?\nAnswer:", "chosen": " I.", "rejected": ""}
    probes = lines(tmp_path / "gaps.jsonl", *([asked] * 3), {**asked, "rejected": " He."})
    given = ("--probes", probes, "--data", files["sft"], "--batch-size", 1)
    for command in (("track", "--out", tmp_path / "run", "--overwrite", "--steps", 1), ("decompose", "--lr", 1e-3)):
        assert run(*command, *given) == 0
        assert capsys.readouterr().err == "4 prompts, 5 responses of 2 types; without rejected 3\n"
        assert run(*command, *given, "--sample", 1, "--seed", 0) == 0
        said = capsys.readouterr().err
        assert said.startswith("1 prompt, ")
        assert run(*command, *given, "--sample", 1, "--seed", 0, "--json") == 0
        assert capsys.readouterr().err == ""
    drawn = ProbeSet.from_jsonl(probes).sample(1, seed=0)
    assert Recording(tmp_path / "run").probes == drawn
    assert said == f"{drawn}\n"


def test_chats_that_are_malformed_or_find_no_template(files, tmp_path, capsys):
    asked, answer = [{"role": "user", "content": "Who?"}], [{"role": "assistant", "content": "I."}]
    row = {"prompt": asked, "completion": answer}
    for rows, message in (
        ([row], ", line 1: expected text, since the tokenizer has no chat template, got a chat"),
        ([row, {**row, "completion": asked}], ", line 2, key 'completion': expected a text or one message of the as"),
        ([row, {**row, "prompt": asked + answer}], ", line 2, key 'prompt': expected messages that the assistant is"),
        ([row, {**row, "prompt": ""}], ", line 2, key 'prompt': expected a text or messages, got ''"),
    ):
        data = lines(tmp_path / "chats.jsonl", *rows)
        given = ("--probes", files["probes"], "--data", data, "--batch-size", 1)
        assert run("track", "--out", tmp_path / "run", *given) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"eft: {data}{message}")
        assert err.count("\n") == 1


def test_a_tokenizer_without_an_end(files, tmp_path, capsys):
    """Nothing is put behind a response, by track as by tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from eft_ext.demo import model_path

    folder = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(model_path("small-base")).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(model_path("small-base"))
    length = len(tokenizer(" No.", add_special_tokens=False).input_ids)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    given = ("--probes", files["probes"], "--data", files["sft"], "--batch-size", 1, "--steps", 1)
    told(capsys, "track", "--out", tmp_path / "run", "--model", folder, *given, "--json")
    assert Recording(tmp_path / "run").curve("rejected", "tokens").tolist() == [[length] * 2] * 2
    assert run("tokens", tmp_path / "run", "--model", folder, "--only", "rejected", "--out", tmp_path / "t.jsonl") == 0


def test_what_cannot_be_trained_or_is_empty(files, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from eft_ext.demo import model_path

    base = model_path("small-base")
    adapter = tmp_path / "adapter"
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(adapter)
    AutoTokenizer.from_pretrained(base).save_pretrained(adapter)
    given = ("--probes", files["probes"], "--batch-size", 1, "--steps", 1, "--out", tmp_path / "run")
    capsys.readouterr()
    assert run("track", "--model", adapter, "--data", files["sft"], *given) == 2
    got = f"{adapter} without any; merge an adapter into its base first"
    assert capsys.readouterr().err == f"eft: --model: expected a model with parameters to train, got {got}\n"
    data = lines(tmp_path / "data.jsonl", {"prompt": "Who?", "chosen": "", "rejected": " No."})
    assert run("track", "--method", "dpo", "--data", data, *given) == 2
    assert capsys.readouterr().err == f"eft: {data}, line 1, key 'chosen': expected a text, got an empty text\n"
    probes = lines(tmp_path / "empty.jsonl", {"messages": [{"role": "user", "content": "Who?"}], "chosen": " I."})
    silent = tmp_path / "silent"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(silent)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{ '' }}"
    tokenizer.save_pretrained(silent)
    given = ("--model", silent, "--probes", probes, "--data", files["sft"], "--batch-size", 1)
    assert run("track", "--out", tmp_path / "run", *given) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"eft: response: expected at least one prompt token before it, got none in {probes}, line 1"
