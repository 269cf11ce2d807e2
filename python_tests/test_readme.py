"""Every Python block of README.md runs as it stands, the embedded models in the place of those from the hub."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import eft_ext
from eft_ext.demo import model_path

PAGE = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
HERE = {
    '"Qwen/Qwen2.5-7B"': "LARGE",
    '"Qwen/Qwen2.5-0.5B-Instruct"': "POLITE",
    '"Qwen/Qwen2.5-0.5B"': "BASE",
    "large=...": "large=LARGE",
    '"polite": ...': '"polite": POLITE',
    '"talkative": ...': '"talkative": TALKATIVE',
    "base=...": "base=BASE",
}

pytestmark = pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models are missing")


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_python(capsys):
    """In order, in one namespace. `large`, `tuned`, `base` are logits, or models where generate is called on them."""
    folders = {"LARGE": "large-base", "POLITE": "small-tuned", "TALKATIVE": "small-talkative", "BASE": "small-base"}
    there = {name: str(model_path(folder)) for name, folder in folders.items()}
    there |= {name: getattr(transformers, name) for name in dir(transformers) if name.startswith("Logits")}
    there |= {
        f"{n}LogitsWarper": getattr(transformers, f"{n}LogitsWarper") for n in ("Temperature", "TopK", "TopP", "MinP")
    }
    there |= {"eft_ext": eft_ext, "torch": torch, "beta": 1.0, "EFTLogitsProcessor": eft_ext.EFTLogitsProcessor}
    there |= {"log_softmax": lambda x: torch.log_softmax(x, dim=-1), "prompts": ["Who are you?"] * 3}
    tokenizer = AutoTokenizer.from_pretrained(there["POLITE"])
    there["ids"] = tokenizer("Question: Where was Fikim Thetrond born?\nAnswer:", return_tensors="pt").input_ids
    make = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(2, 500, generator=make) for name in ("large", "tuned", "base")}
    places = {"large": "LARGE", "tuned": "POLITE", "base": "BASE"}
    models = {name: AutoModelForCausalLM.from_pretrained(there[at]).eval() for name, at in places.items()}
    assert len(BLOCKS) >= 8
    for block in BLOCKS:
        for name, local in HERE.items():
            block = block.replace(name, local)
        there |= models if "large.generate" in block else logits
        exec(compile(block, "README.md", "exec"), there)
    assert there["token"].shape == (2,)
    assert len(there["answers"]) == 3
    assert "I am glad to help." in capsys.readouterr().out
