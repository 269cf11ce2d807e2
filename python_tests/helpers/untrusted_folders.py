"""Folders of a stranger: whatever of theirs runs writes a file."""

import json
import pickle
import shutil
from pathlib import Path

_MODEL = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM
class Config(LlamaConfig):
    model_type = "own"
class Model(LlamaForCausalLM):
    config_class = Config
"""
_TOKENIZER = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import PreTrainedTokenizerFast
class Own(PreTrainedTokenizerFast):
    pass
"""
_GENERATE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
def generate(model, **kwargs):
    pass
"""


class Payload:
    """Writes the file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.write_text, (Path(self.mark), "ran")


def with_config_code(folder, mark):
    """A model type that only its own code knows."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(_MODEL.format(mark=str(mark)))


def with_tokenizer_code(folder, mark):
    """A tokenizer of a class that only its own code knows."""
    file = folder / "tokenizer_config.json"
    about = json.loads(file.read_text()) | {
        "tokenizer_class": "Own",
        "auto_map": {"AutoTokenizer": [None, "own.Own"]},
    }
    file.write_text(json.dumps(about))
    (folder / "own.py").write_text(_TOKENIZER.format(mark=str(mark)))


def with_generate_code(folder, mark):
    """A decoding loop beside the weights, which transformers loads with them."""
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(_GENERATE.format(mark=str(mark)))


def with_pickled_weights(folder, mark):
    """Weights as a pickle that does something else."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(str(mark))))


MODELS = {
    "configuration": with_config_code,
    "tokenizer": with_tokenizer_code,
    "generate": with_generate_code,
    "pickle": with_pickled_weights,
}
CODE = tuple(name for name in MODELS if name != "pickle")  # that trust lets run; a pickle never does


def stranger(folder, source, kind, mark):
    """A copy of the model in `source` that brings something of this kind."""
    shutil.copytree(source, folder)
    MODELS[kind](folder, mark)
    return folder
