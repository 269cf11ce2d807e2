"""Trios of different families in vLLM, on texts longer than their sliding windows, against a naive loop."""

from contextlib import nullcontext as nothing
from pathlib import Path
from typing import Any

import pytest
import torch

from eft_ext.methods import UpScale
from python_tests.helpers import tiny_models
from python_tests.helpers.naive import greedy, up_scaled

PROMPTS = ([7, 8, 9], list(range(20, 66)), [150 + i % 40 for i in range(90)], [3])
BETAS = (None, 0.0, 2.0)
TOKENS = 12


@pytest.mark.slow
@pytest.mark.parametrize("trio", tiny_models.TRIOS)
def test_outputs_are_the_naive_loops(trio: str, start: Any, saved_trio: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from vllm import SamplingParams

    sources = saved_trio(trio)
    with pytest.warns(UserWarning, match="soft") if trio == "gemmas" else nothing():
        checkpoint = tiny_models.packed(tmp_path / "packed", UpScale(1.0), sources)
    models = [
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
        for source in sources.values()
    ]
    asked = [(prompt, beta) for beta in BETAS for prompt in PROMPTS]
    # First, since vLLM changes transformers' classes of the models that it has no code of its own for.
    expected = [greedy(models, up_scaled(1.0 if beta is None else beta), prompt, TOKENS) for prompt, beta in asked]
    params = [
        SamplingParams(temperature=0, max_tokens=TOKENS, extra_args=None if beta is None else {"beta": beta})
        for _, beta in asked
    ]
    prompts = [{"prompt_token_ids": prompt} for prompt, _ in asked]
    found = start(checkpoint).generate(prompts, params, use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in found] == expected
