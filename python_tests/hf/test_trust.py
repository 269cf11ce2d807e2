"""Nothing that comes with a model runs unless it is trusted, whatever standard input says."""

import ast
import io
import json
import pickle
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import eft_ext
from eft_ext._chat import rendered
from eft_ext.demo import model_path
from eft_ext.hf import EmulatedModel
from eft_ext.hf.checkpoint.pack import pack
from eft_ext.hf.loading.memory import footprint
from eft_ext.methods import UpScale
from python_tests.helpers.untrusted_folders import CODE, MODELS, Payload, stranger

SMALL = model_path("small-base")


@pytest.fixture(autouse=True)
def _yes(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", list(sys.path))


def load(where, folder, **options):
    named = {"large": SMALL, "tuned": SMALL, "base": SMALL, "tokenizer": None} | {where: folder}
    return EmulatedModel.from_pretrained(**named, quiet=True, **options)


PLACES = [(kind, where) for kind in MODELS for where in ("large", "tuned", "base")] + [("tokenizer", "tokenizer")]


@pytest.mark.parametrize(("kind", "where"), PLACES)
def test_nothing_runs_unasked(kind, where, tmp_path):
    mark = tmp_path / "mark"
    folder = stranger(tmp_path / "own", SMALL, kind, mark)
    if kind == "generate":  # which is not needed to run the model
        load(where, folder)
    else:
        with pytest.raises(ValueError, match=f"^{where}: cannot (load|read) ") as found:
            load(where, folder)
        flags = "trust_remote_code=True (on the command line --trust-remote-code)"
        assert kind == "pickle" or flags in str(found.value)
    assert not mark.exists()


@pytest.mark.parametrize("trust", [None, False, {"tuned": True}, 1, "yes"])
def test_only_true_is_trust(trust, tmp_path):
    mark = tmp_path / "mark"
    with pytest.raises(ValueError, match="^large: cannot read .*trust_remote_code=True"):
        load("large", stranger(tmp_path / "own", SMALL, "configuration", mark), trust_remote_code=trust)
    assert not mark.exists()


@pytest.mark.parametrize("kind", CODE)
def test_what_is_trusted_runs(kind, tmp_path):
    """The other tests could not fail otherwise."""
    mark = tmp_path / "mark"
    load("large", stranger(tmp_path / "own", SMALL, kind, mark), trust_remote_code={"large": True})
    assert mark.exists()


def test_a_pickle_does_not_run_even_trusted(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Payload(str(mark))))  # as it would
    assert mark.exists()
    mark.unlink()
    with pytest.raises(ValueError, match="^large: cannot load .*: its weights are a pickle of more than tensors"):
        load("large", stranger(tmp_path / "own", SMALL, "pickle", mark), trust_remote_code=True)
    assert not mark.exists()


def test_the_size_is_told_without_running_anything(tmp_path):
    mark = tmp_path / "mark"
    folder = stranger(tmp_path / "own", SMALL, "configuration", mark)
    (folder / "model.safetensors").unlink()  # or the headers alone are read
    with pytest.raises(ValueError, match="trust_remote_code"):
        footprint("large", str(folder))
    assert not mark.exists()


@pytest.fixture
def adapter(tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(SMALL), peft.LoraConfig(r=2, task_type="CAUSAL_LM")
    )
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_pickled_adapter_does_not_run(adapter, tmp_path):
    mark = tmp_path / "mark"
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Payload(str(mark))))
    with pytest.raises(ValueError, match="^tuned: cannot put the adapter "):
        load("tuned", adapter)
    with pytest.raises(ValueError, match="^large: cannot load "):
        load("large", adapter)
    assert not mark.exists()


ASKING = {
    "megatron_config": {"megatron_core": "megatron.core", "megatron_config": {"num_layers": 1}},
    "adapters": {"peft_type": "XLORA", "adapters": {"0": "elsewhere"}, "hidden_size": 40},
    "tokenizer_kwargs": {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}},
}


@pytest.mark.parametrize("where", ["tuned", "large"])
@pytest.mark.parametrize("key", ASKING)
def test_an_adapter_that_asks_for_more_than_its_weights(adapter, key, where, tmp_path, monkeypatch):
    """PEFT imports what an adapter calls Megatron's core, and loads the adapters that X-LoRA names."""
    mark = tmp_path / "mark"
    (tmp_path / "megatron").mkdir()
    for name in ("__init__", "core"):
        code = f"from pathlib import Path\nPath({str(mark)!r}).write_text('ran')\n"
        (tmp_path / "megatron" / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | ASKING[key]))
    with pytest.raises(ValueError, match=rf"adapter_config.json, key '{key}': .*; pass trust_remote_code=True"):
        load(where, adapter)
    assert not mark.exists()


def test_an_adapter_of_a_strangers_base(adapter, tmp_path):
    mark = tmp_path / "mark"
    stranger(tmp_path / "own", SMALL, "configuration", mark)
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(tmp_path / "own")}))
    for names in ({"large": SMALL, "tuned": adapter}, {"large": adapter, "tuned": SMALL, "base": SMALL}):
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            EmulatedModel.from_pretrained(**names, quiet=True)
    assert not mark.exists()


UNSAFE = {
    "__class__": "{{ ''.__class__.__mro__ }}",
    "__init__": "{{ cycler.__init__.__globals__.os.getcwd() }}",
    "append": "{{ messages.append(1) }}",
}


@pytest.mark.parametrize("attribute", UNSAFE)
def test_a_chat_template_stays_in_its_sandbox(attribute):
    """It renders messages, and neither changes them nor reaches Python's own objects."""
    tokenizer = AutoTokenizer.from_pretrained(model_path("small-tuned"))
    tokenizer.chat_template = UNSAFE[attribute]
    with pytest.raises(
        ValueError, match=f"^prompt: the chat template does not take this chat: .*'{attribute}'.* unsafe"
    ):
        rendered("prompt", tokenizer, [{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("kind", [AutoModelForCausalLM, EmulatedModel])
def test_the_file_of_a_checkpoint_does_not_run_where_the_package_is_imported(kind, tmp_path):
    """Not even trusted: its two classes are registered with transformers already."""
    mark, trio = tmp_path / "mark", tmp_path / "trio"
    pack(trio, {"large": SMALL, "tuned": SMALL, "base": SMALL}, UpScale())
    file = trio / "modeling_emulated.py"
    file.write_text(f"from pathlib import Path\nPath({str(mark)!r}).write_text('ran')\n{file.read_text()}")
    kind.from_pretrained(trio, trust_remote_code=True)
    assert not mark.exists()


def test_models_are_loaded_in_one_place():
    """Each load elsewhere would have to say for itself what is trusted."""
    found = set()
    for file in Path(eft_ext.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr == "from_pretrained":
                found.add((file.name, ast.unparse(called.value)))
    assert {(name, of) for name, of in found if of not in ("EmulatedModel", "PeftModel", "_Placed")} == {
        ("composite.py", "Models"),
        ("hub.py", "AutoConfig"),
        ("hub.py", "GenerationConfig"),  # the ends of texts, before a model is loaded
        ("hub.py", "AutoTokenizer"),
        ("hub.py", "kind"),
        ("memory.py", "AutoConfig"),
        ("pack.py", "GenerationConfig"),  # numbers alone, as the next two
        ("read.py", "EmulatedConfig"),
        ("read.py", "GenerationConfig"),
    }
