"""The command line, and three tiny models in folders for it."""

import io
import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eft_ext.cli import main
from eft_ext.demo import model_path
from python_tests.analysis.pages import nasty

WORDS = ["<pad>", "<eos>", *"the cat sat on a mat and then it ran off to see what was there User : Assistant".split()]  # noqa: SIM905


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    """The embedded trio as a checkpoint."""
    folder = tmp_path_factory.mktemp("packed") / "trio"
    assert main(["pack", "-o", str(folder), "--weights", "link"]) == 0
    return str(folder)


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


def tree(folder):
    """The files of a folder and below, by name."""
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder: with records, texts and a recording to read."""
    from eft_ext.dynamics import Probe, ProbeSet, track

    monkeypatch.chdir(tmp_path)
    Path("records.jsonl").write_text(json.dumps(nasty().to_dict()) + "\n")
    Path("texts.jsonl").write_text("".join(json.dumps({"text": f"The pet of {i} is rabbit."}) + "\n" for i in range(9)))
    source = model_path("small-base")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    probes = ProbeSet((Probe("Who?", {"chosen": " Thank you!", "rejected": " No."}),))
    for _ in track([0], model, probes, tokenizer, "run"):
        pass
    return tmp_path
