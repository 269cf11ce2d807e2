"""Ordinary models in an installation with our entry points: they start, and their requests are their own."""

import pytest
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

from eft_ext.demo import checkpoint_path, model_path
from python_tests.helpers.embedded_trio import answer, ids_of, text_of

pytestmark = pytest.mark.slow
OWN = {"temperature": 0, "max_tokens": 16}


def test_an_ordinary_model_after_a_checkpoint_of_several(start):
    """In one process: parameters of the first engine's requests are none of the second's."""
    several = start(checkpoint_path())
    (found,) = several.generate(["A"], SamplingParams(**OWN, extra_args={"beta": 0.5}), use_tqdm=False)
    assert found.outputs[0].text == text_of(answer(ids_of("A"), 0.5))
    with pytest.raises(VLLMValidationError, match="other: not a parameter of UpScale, which has beta"):
        several.generate(["A"], SamplingParams(**OWN, extra_args={"other": "x"}), use_tqdm=False)
    one = start(model_path("large-base"))  # several lives on, and checks none of these
    prompts = ["A", "The quick", "where"]
    for extra in (None, {"beta": "x"}, {"other": [1]}):
        found = one.generate(prompts, SamplingParams(**OWN, extra_args=extra), use_tqdm=False)
        # The mixture at beta 0 is the large model.
        assert [each.outputs[0].text for each in found] == [text_of(answer(ids_of(each), 0.0)) for each in prompts]
