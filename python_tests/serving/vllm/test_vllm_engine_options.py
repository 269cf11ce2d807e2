"""Ways to run the engine: two ranks, compiled models, drafts, bfloat16, and other defaults of the method."""

from pathlib import Path
from typing import Any

import pytest
import torch

from eft_ext.methods import UpScale
from python_tests.helpers import tiny_models
from python_tests.helpers.naive import greedy, logits, up_scaled
from python_tests.helpers.vllm_interpreted import V2

pytestmark = pytest.mark.slow
PROMPTS = ([7, 8, 9], list(range(20, 60)), [150, 3, 20, 21])
BETAS = (None, 0.0, 2.0)
TOKENS = 12


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tuned and base are of one shape: whatever is kept by shape must keep them apart."""
    where = tmp_path_factory.mktemp("models")
    large = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    return {
        name: tiny_models.save(where / name, "llama", seed, **(large if name == "large" else {}))
        for seed, name in enumerate(UpScale.roles)
    }


@pytest.fixture(scope="module")
def trio(sources: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.packed(tmp_path_factory.mktemp("trio") / "trio", UpScale(1.0), sources)


@pytest.fixture(scope="module")
def models(sources: dict[str, str]) -> list[Any]:
    from transformers import AutoModelForCausalLM

    return [AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval() for source in sources.values()]


def check(engine: Any, models: list[Any], betas: Any = BETAS, default: float = 1.0) -> None:
    """Greedy tokens are the naive loop's."""
    from vllm import SamplingParams

    asked = [(prompt, beta) for beta in betas for prompt in PROMPTS]
    params = [
        SamplingParams(temperature=0, max_tokens=TOKENS, extra_args=None if beta is None else {"beta": beta})
        for _, beta in asked
    ]
    found = engine.generate([{"prompt_token_ids": prompt} for prompt, _ in asked], params, use_tqdm=False)
    for (prompt, beta), output in zip(asked, found, strict=True):
        expected = greedy(models, up_scaled(default if beta is None else beta), prompt, TOKENS)
        assert list(output.outputs[0].token_ids) == expected, (prompt, beta)


@pytest.mark.skipif(V2, reason="the interpreted Triton compiles nothing")
def test_compiled(trio: Path, models: list[Any], start: Any) -> None:
    """The second start takes what the first one has compiled, which lies by the hash of each model's configuration."""
    for _ in range(2):
        engine = start(trio, enforce_eager=False)
        check(engine, models)
    whole = engine.llm_engine.vllm_config
    (inner,) = engine.apply_model(lambda model: [getattr(model, name).config for name in UpScale.roles])
    assert len({whole.with_hf_config(config).compute_hash() for config in inner}) == 3


@pytest.mark.skipif(V2, reason="child processes have no interpreted Triton")
def test_drafts_of_ngrams(trio: Path, models: list[Any], start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a process of its own: it imports llvmlite, after which vLLM cannot start another engine beside it.
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    speculation = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
    drafts(start(trio, speculative_config=speculation), models)


def test_drafts_of_tuned(trio: Path, models: list[Any], start: Any) -> None:
    speculation = {"method": "draft_model", "model": str(trio / "tuned"), "num_speculative_tokens": 3}
    drafts(start(trio, speculative_config=speculation, max_model_len=128), models)


def drafts(engine: Any, models: list[Any]) -> None:
    """Under V2 requests have their own beta; V1 refuses it in one line, and goes on."""
    from vllm.exceptions import VLLMValidationError

    if V2:
        check(engine, models)
        return
    with pytest.raises(VLLMValidationError, match="beta: expected none beside speculation under vLLM's V1 model"):
        check(engine, models, betas=[0.5])
    check(engine, models, betas=[None])


def test_bfloat16(trio: Path, models: list[Any], start: Any) -> None:
    """Log-probabilities at the tokens that it takes are fp32's within the rounding of bf16 models."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=4, logprobs=1, extra_args={"beta": 0.5})
    engine = start(trio, dtype="bfloat16")
    for output in engine.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False):
        prompt, completion = output.prompt_token_ids, output.outputs[0]
        each = logits(models, [*prompt, *completion.token_ids])
        for place, (token, given) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
            mixed = up_scaled(0.5)(*(model[len(prompt) - 1 + place] for model in each)).log_softmax(-1)
            assert given[token].logprob == pytest.approx(float(mixed[token]), abs=0.3)


def test_another_default(trio: Path, models: list[Any], start: Any) -> None:
    method = {"name": "UpScale", "beta": 2.5}
    check(start(trio, hf_overrides={"method": method}), models, betas=[None, 0.5], default=2.5)


@pytest.mark.skipif(V2, reason="child processes have no interpreted Triton")
def test_two_ranks(trio: Path, models: list[Any], start: Any) -> None:
    check(start(trio, tensor_parallel_size=2, distributed_executor_backend="mp"), models)
