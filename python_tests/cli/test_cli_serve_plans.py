"""`eft serve --dry-run`: the call that would start, and the memory of three models; no engine is needed."""

import json
import shlex
import sys
from types import ModuleType

import pytest

from eft_ext.cli import main
from eft_ext.demo import model_path
from eft_ext.hf.checkpoint.read import read
from eft_ext.methods import Weighted
from eft_ext.serving.vllm import server
from python_tests.helpers.published_configs import llama_8b, llama_70b, qwen_1_5b, write

pytestmark = pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models are missing")


@pytest.fixture(scope="module")
def llamas(tmp_path_factory):
    """Configurations of Llama-3.1-70B and two of 8B, whose weights are references to the hub."""
    return str(write(tmp_path_factory.mktemp("llamas") / "trio", llama_70b(), llama_8b(), llama_8b()))


def planned(capsys, *words):
    """The call that `--dry-run` prints, and the lines below it."""
    capsys.readouterr()
    assert main(["serve", "--dry-run", *words]) == 0
    call, *rest = capsys.readouterr().out.splitlines()
    return shlex.split(call), rest


def test_flags_are_handed_on_as_they_are(trio, capsys):
    given = ["--max-model-len", "64", "-O3", "--override-generation-config", '{"temperature": 0.5}']
    call, _ = planned(capsys, trio, "--engine", "vllm", "--port", "80", "--", *given)
    assert call == ["vllm", "serve", trio, "--port", "80", *given]
    assert planned(capsys, trio, "--engine", "transformers", "--port", "80") == (
        ["transformers", "serve", trio, "--port", "80"],
        [],
    )


def drafts(capsys, *words):
    call, _ = planned(capsys, "--engine", "vllm", "--speculate", "3", *words)
    return json.loads(call[call.index("--speculative-config") + 1])


def test_drafts_are_tuned_s(trio, llamas, capsys):
    how = {"method": "draft_model", "num_speculative_tokens": 3, "draft_sample_method": "probabilistic"}
    assert drafts(capsys, trio) == {**how, "model": f"{trio}/tuned"}
    assert drafts(capsys, llamas) == {**how, "model": "nobody/tuned", "revision": "0" * 40}


def test_a_draft_model_in_a_folder_of_the_hub(trio, monkeypatch):
    """vLLM takes whole repositories, so that the folder is downloaded, at the checkpoint's revision."""
    asked = {}

    def download(repository, **options):
        asked.update(options, repository=repository)
        return "/cache/snapshot"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = read("user/trio", {"revision": "v2"}, config=read(trio, {}).config)
    call = server.command(found, ["--port", "80"], 2)
    assert call[:5] == ["vllm", "serve", "user/trio", "--revision", "v2"]
    assert call[7:] == ["--port", "80"]
    config = json.loads(call[6])
    assert config["model"] == "/cache/snapshot/tuned"
    assert "revision" not in config
    assert asked == {"repository": "user/trio", "allow_patterns": "tuned/*", "revision": "v2"}


def test_sizes(trio, llamas, capsys):
    """By the published numbers of parameters, and by plain arithmetic for the cache: 2 bytes each."""
    capsys.readouterr()
    assert main(["serve", llamas, "--engine", "vllm", "--dry-run", "--json", "--gpus", "8xH100"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"] == ["vllm", "serve", llamas]
    sizing = found["sizing"]
    assert sizing["weight_bytes"] == 2 * (70_553_706_496 + 2 * 8_030_261_248)
    assert sizing["kv_bytes"] == 2 * 2 * 8 * 128 * (80 + 2 * 32)
    assert (sizing["tp"], sizing["dp"]) == (4, 2)
    _, lines = planned(capsys, trio, "--engine", "vllm", "--gpus", "1x24GiB", "--", "--dtype", "float32")
    assert [line.split()[:3] for line in lines[1:6]] == [
        ["model", "kind", "parameters"],
        ["large", "llama", "803,712"],
        ["tuned", "llama", "69,792"],
        ["base", "llama", "69,792"],
        ["together", "943,296", "3.6"],
    ]
    assert lines[-1] == "options: none"


@pytest.mark.parametrize(
    ("flags", "length"),
    [
        (["--max-model-len", "4096"], 4096),
        (["--max-model-len=4k"], 4000),
        (["--max_model_len", "4K"], 4096),
        (["--max-model-len", "1.5k"], 1500),
        (["--max-model-len", "0.1m"], 100000),
        (["--max-model-len", "auto"], 131072),
        (["--max-model-len", "-1"], 131072),
        (["--port", "4096"], 131072),
    ],
    ids=["plain", "equals", "binary", "decimals", "millions", "auto", "minus", "another"],
)
def test_flags_that_size(flags, length, llamas, capsys):
    capsys.readouterr()
    assert main(["serve", llamas, "--engine", "vllm", "--dry-run", "--json", "--gpus", "8xH200", "--", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["sizing"]["max_model_len"] == length


def test_the_engine(trio, capsys, monkeypatch):
    """vLLM where it is installed, else transformers' server, else one line; a plan wants none."""
    packages = ("accelerate", "fastapi", "openai", "uvicorn", "vllm")
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    assert planned(capsys, trio)[0] == ["vllm", "serve", trio]
    assert main(["serve", trio]) == 1
    assert capsys.readouterr().err == (
        "eft: eft serve needs an engine: pip install 'eft_ext[vllm]', or for one request at a time pip install "
        "'eft_ext[serve]'\n"
    )
    assert main(["serve", trio, "--engine", "vllm"]) == 1
    assert "eft serve --engine vllm needs vllm: pip install 'eft_ext[vllm]'" in capsys.readouterr().err
    for package in packages:
        there = ModuleType(package)
        there.__spec__ = object()
        monkeypatch.setitem(sys.modules, package, there)
        assert planned(capsys, trio)[0][0] == ("transformers" if package == "uvicorn" else "vllm")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["{trio}", "--speculate", "-1"], "--speculate: expected a number of drafts from 0 up, got -1"),
        (["{trio}", "--gpus", "8xH100"], "--gpus: expected --dry-run beside it"),
        (["{trio}", "--json"], "--json: expected --dry-run beside it"),
        (["{trio}", "--gpus", "8xPS5", "--dry-run"], "--gpus: expected such as 8x80GiB or 8xH100 (known: "),
        (["{small}", "--dry-run"], "checkpoint: expected a folder or hub id of eft pack, got '{small}'"),
        (["{one}", "--dry-run", "--speculate", "2"], "--speculate: expected several models, of which the second "),
        (["{trio}", "--dry-run", "--gpus", "8xH100", "--", "-tp", "3"], "tensor_parallel_size: expected a divisor of"),
    ],
    ids=["negative", "gpus", "json", "kind", "none", "one", "heads"],
)
def test_wrong_input_is_one_line(given, said, trio, tmp_path, capsys):
    one = write(tmp_path / "one", qwen_1_5b(), method=Weighted({"only": 1.0}))
    names = {"trio": trio, "small": str(model_path("small-base")), "one": str(one)}
    capsys.readouterr()
    assert main(["serve", "--engine", "vllm", *(each.format(**names) for each in given)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"eft: {said.format(**names)}")


@pytest.mark.parametrize("flag", ["--speculative-config", "--speculative_config={}", "--spec_method", "-sc"])
def test_speculation_is_given_once(flag, trio, capsys):
    capsys.readouterr()
    assert main(["serve", "--engine", "vllm", trio, "--speculate", "2", "--dry-run", "--", flag, "{}"]) == 2
    said = capsys.readouterr().err
    assert said == "eft: --speculate: expected none beside vLLM's own options of speculation\n"


@pytest.mark.parametrize("flag", ["--max-model-len", "--max-num-seqs", "--max-num-batched-tokens", "-tp"])
@pytest.mark.parametrize("value", ["long", "0", "-5", "1.5K", "inf"])
def test_numbers_that_vllm_refuses(flag, value, trio, capsys):
    capsys.readouterr()
    assert main(["serve", "--engine", "vllm", trio, "--dry-run", "--gpus", "8xH100", "--", flag, value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("eft: argument ")
    assert line.endswith(f"{flag}: expected a whole number from 1 up, got {value!r}")


def test_transformers_has_no_drafts(trio, capsys):
    capsys.readouterr()
    assert main(["serve", trio, "--engine", "transformers", "--speculate", "2"]) == 2
    assert (
        "--speculate: expected none with --engine transformers, whose server has no drafts" in capsys.readouterr().err
    )


def test_transformers_cuts_names_at_an_at(trio, tmp_path, capsys):
    folder = tmp_path / "me@home"
    folder.symlink_to(trio)
    assert planned(capsys, str(folder), "--engine", "vllm")[0] == ["vllm", "serve", str(folder)]
    assert main(["serve", str(folder), "--engine", "transformers", "--dry-run"]) == 2
    assert capsys.readouterr().err == (
        f"eft: checkpoint: expected a path without @, which begins a revision, got '{folder}'\n"
    )
