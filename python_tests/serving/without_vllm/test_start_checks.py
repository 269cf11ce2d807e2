"""Refusals at an engine's start, on stand-ins for vLLM's configuration."""

import copy
import re
from types import SimpleNamespace

import pytest
from transformers import LlamaConfig

from eft_ext.config import EmulatedConfig
from eft_ext.demo import checkpoint_path
from eft_ext.hf.checkpoint.read import Place
from eft_ext.methods import Guidance, UpScale
from eft_ext.serving.vllm.checks import check_models, check_options, places


def options():
    """A configuration that is taken."""
    ones = ("pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size")
    return SimpleNamespace(
        parallel_config=SimpleNamespace(**dict.fromkeys(ones, 1), use_ubatching=False),
        model_config=SimpleNamespace(
            runner_type="generate", convert_type="none", enable_prompt_embeds=False, disable_sliding_window=False
        ),
        lora_config=None,
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
        speculative_config=None,
        load_config=SimpleNamespace(load_format="auto"),
    )


def draft(method, **more):
    return SimpleNamespace(method=method, **{"enable_adaptive_verification": False, **more})


REFUSED = {
    "parallel_config.pipeline_parallel_size": (
        2,
        "pipeline_parallel_size: expected 1 for several models as one, got 2",
    ),
    "parallel_config.decode_context_parallel_size": (4, "decode_context_parallel_size: expected 1 for several"),
    "parallel_config.prefill_context_parallel_size": (2, "prefill_context_parallel_size: expected 1 for several"),
    "parallel_config.use_ubatching": (True, "enable_dbo: expected none for several models as one"),
    "lora_config": (object(), "enable_lora: expected none for several models as one; merge adapters, then eft pack"),
    "model_config.runner_type": ("pooling", "runner: expected 'generate' for several models as one, got 'pooling'"),
    "model_config.convert_type": ("embed", "convert: expected 'none' for several models as one, got 'embed'"),
    "model_config.enable_prompt_embeds": (True, "enable_prompt_embeds: expected none"),
    "model_config.disable_sliding_window": (True, "disable_sliding_window: expected none for several models as one"),
    "cache_config.kv_sharing_fast_prefill": (True, "kv_sharing_fast_prefill: expected none for several models as one"),
    "speculative_config": (
        draft("eagle3"),
        "speculative_config: expected one of draft_model, ngram, ngram_gpu, suffix as method, got 'eagle3'",
    ),
    "load_config.load_format": ("tensorizer", "load_format: expected one of auto, hf, safetensors or dummy, got 'tens"),
}


def changed(place, value):
    found = options()
    *sections, name = place.split(".")
    setattr(getattr(found, sections[0]) if sections else found, name, value)
    return found


@pytest.mark.parametrize("place", REFUSED)
def test_an_option_is_refused_in_one_line(place):
    value, message = REFUSED[place]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        check_options(changed(place, value))


def test_adaptive_verification_is_refused():
    given = changed("speculative_config", draft("draft_model", enable_adaptive_verification=True))
    with pytest.raises(ValueError, match="^enable_adaptive_verification: expected none for several models as one$"):
        check_options(given)


def test_options_that_are_taken():
    check_options(options())
    for method in ("draft_model", "ngram", "ngram_gpu", "suffix"):
        check_options(changed("speculative_config", draft(method)))
    for given in ("hf", "safetensors", "dummy", "emulated-hf"):
        check_options(changed("load_config.load_format", given))


def trio(**others):
    """A configuration of three small models, and where their weights are."""
    llama = LlamaConfig(num_attention_heads=4, hidden_size=32, architectures=["LlamaForCausalLM"])
    own = {name: copy.deepcopy(llama) for name in ("large", "tuned", "base")}
    return EmulatedConfig(method=UpScale(), **own), {name: Place(name, {}) for name in own} | others


def test_models_that_are_taken():
    for size in (1, 2, 4):
        check_models(*trio(), size)
    config = EmulatedConfig.from_pretrained(checkpoint_path())
    model = SimpleNamespace(model=str(checkpoint_path()), revision=None, hf_config=config)
    assert [*places(model)] == ["large", "tuned", "base"]
    check_models(config, places(model), 1)


def test_an_adapter_is_refused():
    message = r"^tuned: expected whole weights, got an adapter; merge_and_unload\(\), then eft pack$"
    with pytest.raises(ValueError, match=message):
        check_models(*trio(tuned=Place("tuned", {}, adapter=True)), 1)


def test_heads_have_to_divide():
    config, where = trio()
    config.base.num_attention_heads = 2
    with pytest.raises(ValueError, match="^tensor_parallel_size: expected a divisor of base's 2 heads, got 4$"):
        check_models(config, where, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config: setattr(config.tuned, "architectures", None),
            "tuned: expected a causal language model of text",
        ),
        (lambda config: setattr(config, "base", object()), "base: expected a model that transformers knows, got one"),
        (
            lambda config: setattr(config.large, "get_text_config", lambda: LlamaConfig()),
            "large: expected a causal language model of text, got 'llama'",
        ),
    ],
    ids=["no architecture", "code of its own", "images"],
)
def test_a_model_is_refused_by_its_name(change, message):
    config, where = trio()
    change(config)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        check_models(config, where, 1)


def test_a_method_that_reads_the_last_token_alone_is_refused():
    llama = LlamaConfig(architectures=["LlamaForCausalLM"])
    method = Guidance()
    config = EmulatedConfig(method=method, **{name: copy.deepcopy(llama) for name in method.models})
    with pytest.raises(ValueError, match="^method: expected one whose models read one prompt, got Guidance$"):
        check_models(config, {}, 1)
