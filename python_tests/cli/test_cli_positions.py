"""`eft dynamics` on rows beyond the positions that a model has or was made for: file and line in one line."""

import shutil

import pytest
from transformers import AutoConfig, AutoTokenizer, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from eft_ext.demo import model_path
from python_tests.cli.test_cli_dynamics import lines, run

pytest.importorskip("pyarrow")


@pytest.fixture(params=[(GPT2Config, GPT2LMHeadModel), (OPTConfig, OPTForCausalLM)], ids=["gpt2", "opt"])
def table_of_24(request, tmp_path):
    """A model with a table of 24 positions, and the embedded model's tokenizer."""
    kind, model = request.param
    tokenizer = AutoTokenizer.from_pretrained(model_path("small-base"))
    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=24)
    ids = dict(bos_token_id=None, eos_token_id=None)
    more = dict(ffn_dim=16, word_embed_proj_dim=16) if kind is OPTConfig else {}
    model(kind(vocab_size=len(tokenizer), **small, **ids, **more)).save_pretrained(tmp_path / "table")
    tokenizer.save_pretrained(tmp_path / "table")
    return tmp_path / "table"


def inputs(tmp_path, long):
    """Probes and data of one short row and, in one of the two, a long one on line 2."""
    row = {"prompt": "Question: Who?\nAnswer:", "chosen": " Yes.", "rejected": " No."}
    far = row | {"rejected": " No." * 30}
    files = {name: lines(tmp_path / f"{name}.jsonl", row, far if name == long else row) for name in ("probes", "data")}
    return [x for name, file in files.items() for x in (f"--{name}", file)], files[long]


@pytest.mark.parametrize("long", ["probes", "data"])
@pytest.mark.parametrize("command", ["track", "decompose"])
def test_a_row_beyond_the_table(command, long, table_of_24, tmp_path, capsys):
    given, file = inputs(tmp_path, long)
    out = ("--out", tmp_path / "run", "--steps", 1) if command == "track" else ()
    capsys.readouterr()
    assert run(command, "--model", table_of_24, *given, "--method", "dpo", "--batch-size", 2, *out) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"eft: {file}, line 2: the text needs ")
    assert err.endswith(" positions, but model has a table of 24\n")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("long", ["probes", "data"])
@pytest.mark.parametrize("command", ["track", "decompose"])
def test_a_row_beyond_the_context(command, long, tmp_path, capsys):
    shutil.copytree(model_path("small-base"), tmp_path / "model")
    config = AutoConfig.from_pretrained(tmp_path / "model")
    config.max_position_embeddings = 24
    config.save_pretrained(tmp_path / "model")
    given, file = inputs(tmp_path, long)
    out = ("--out", tmp_path / "run", "--steps", 1) if command == "track" else ("--lr", 1e-3)
    asked = (command, "--model", tmp_path / "model", *given, "--method", "dpo", "--batch-size", 2, *out)
    capsys.readouterr()
    assert run(*asked, "--context", "refuse") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"eft: {file}, line 2: ")
    assert err.endswith(" tokens for model, made for 24 positions\n")
    assert not (tmp_path / "run").exists()
    assert run(*asked) == 0
    watched = "2 prompts, 4 responses of 2 types\n"
    assert capsys.readouterr().err == err.replace("eft: ", "eft: warning: ") + watched
