"""A quantised model beside others: each has its own quantisation, found by its layers' own names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eft_ext.methods import UpScale
from python_tests.helpers import tiny_models
from python_tests.helpers.naive import logits, up_scaled

pytestmark = pytest.mark.slow
PROMPTS = ([7, 8, 9], list(range(20, 66)), [3])
INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
# Of compressed-tensors: int8 weights with a scale for each row, int8 activations with one for each token.
W8A8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**INT8, "strategy": "channel", "dynamic": False},
            "input_activations": {**INT8, "strategy": "token", "dynamic": True},
        }
    },
}


def quantize(folder: str) -> None:
    """Makes a saved model's linear layers int8."""
    weights = load_file(f"{folder}/model.safetensors")
    for name in [name for name in weights if name.endswith("proj.weight")]:
        scale = weights[name].abs().amax(dim=1, keepdim=True) / 127
        weights[name], weights[f"{name}_scale"] = (weights[name] / scale).round().to(torch.int8), scale
    save_file(weights, f"{folder}/model.safetensors", {"format": "pt"})
    config = Path(folder) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": W8A8}))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three models; tuned is int8."""
    where = tmp_path_factory.mktemp("models")
    families = {"large": "llama", "tuned": "qwen3", "base": "qwen3"}
    found = {name: tiny_models.save(where / name, family, 3) for name, family in families.items()}
    quantize(found["tuned"])
    return found


def kinds(engine: Any) -> dict[str, set[str]]:
    """Each model's kinds of linear layers, and of its head."""

    def of(model: nn.Module) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, layer in model.named_modules():
            if (method := getattr(layer, "quant_method", None)) is not None and name.endswith(("proj", "lm_head")):
                part = f"{name.split('.')[0]}.lm_head" if name.endswith("lm_head") else name.split(".")[0]
                found.setdefault(part, set()).add(type(method).__name__)
        return found

    (found,) = engine.apply_model(of)
    return found


def first(engine: Any, own: dict[str, float] | None = None) -> list[Tensor]:
    """The log-probabilities of all tokens after each prompt."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=1, logprobs=-1, extra_args=own)
    found = engine.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)
    each = [output.outputs[0].logprobs[0] for output in found]
    return [torch.tensor([given[token].logprob for token in range(tiny_models.WORDS)]).double() for given in each]


def test_one_quantised_model(sources: dict[str, str], start: Any, tmp_path: Path) -> None:
    """The model computes what vLLM makes of it alone, and the others what they do in transformers."""
    from transformers import AutoModelForCausalLM

    tuned = first(start(sources["tuned"], max_logprobs=-1, skip_tokenizer_init=True))
    engine = start(tiny_models.packed(tmp_path / "packed", UpScale(1.0), sources), max_logprobs=-1)
    assert kinds(engine) == {
        **{name: {"UnquantizedLinearMethod"} for name in ("large", "base")},
        "tuned": {"CompressedTensorsLinearMethod"},
        **{f"{name}.lm_head": {"UnquantizedEmbeddingMethod"} for name in ("large", "tuned", "base")},
    }
    models = [AutoModelForCausalLM.from_pretrained(sources[name]).eval() for name in ("large", "base")]
    for beta in (1.0, 0.5):
        for ids, quantised, found in zip(PROMPTS, tuned, first(engine, {"beta": beta}), strict=True):
            large, base = (model[-1] for model in logits(models, ids))
            expected = up_scaled(beta)(large, quantised, base).log_softmax(-1)
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
