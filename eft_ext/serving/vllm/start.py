"""The start of an engine: vLLM calls it with its configuration, before any process or weight is there."""

from __future__ import annotations

import copy
import weakref
from importlib.metadata import entry_points
from typing import Any

from eft_ext.config import EmulatedConfig
from eft_ext.serving.vllm import checks, names
from eft_ext.serving.vllm.parameters import Served, ended, serve


class StartChecks(names.VerifyAndUpdateConfig):
    """vLLM's hook for one architecture, in each process that takes requests."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Has `loader.py` read the weights, and makes known which parameters requests may have.

        Raises:
            RuntimeError: an option or a model that is not supported, named in one line; a ValueError would come out
                as three of pydantic's.
            ImportError: a vLLM that lacks an interface that is needed.
        """
        names.check(v2=vllm_config.use_v2_model_runner)
        try:
            _start(vllm_config)
        except ValueError as error:
            raise RuntimeError(str(error)) from None


def _start(vllm_config: Any) -> None:
    model, load = vllm_config.model_config, vllm_config.load_config
    config = model.hf_config
    if not isinstance(config, EmulatedConfig):
        raise ValueError(f"{model.model}: expected a checkpoint of eft pack, got {type(config).__name__}")
    if model.get_vocab_size() != config.vocab_size:
        raise ValueError(f"vocab_size: expected {config.vocab_size}, got {model.get_vocab_size()} from an override")
    checks.check_front_end()
    checks.check_options(vllm_config)
    checks.check_models(config, checks.places(model), vllm_config.parallel_config.tensor_parallel_size)
    _check_names(config)
    _check_kinds(model, vllm_config.parallel_config.data_parallel_size)
    if load.load_format in checks.READS:
        load.load_format = checks.LOAD_FORMAT + load.load_format
    others = [each for each in entry_points(group="vllm.logits_processors") if each.name != "eft_ext"]
    v2, speculates = vllm_config.use_v2_model_runner, vllm_config.speculative_config is not None
    served = Served(
        config.mixing_method,
        v2=v2,
        speculates=speculates,
        shared=bool(others or model.logits_processors),
        # There vLLM 0.32 gives drafts temperatures from unwritten memory: the kernel that spreads them fills a copy.
        only_greedy=speculates and not v2 and vllm_config.device_config.device_type == "cpu",
    )
    serve(vllm_config.instance_id, served)
    weakref.finalize(model, ended, vllm_config.instance_id)


def _check_names(config: EmulatedConfig) -> None:
    """Raises ValueError for a model with a name of the class's own, or a parameter beside the method in an override."""
    from eft_ext.serving.vllm.model import EmulatedForCausalLM

    for name in config.mixing_method.models:
        if name.startswith("_") or hasattr(EmulatedForCausalLM, name):
            raise ValueError(f"method: expected another name of a model than {name!r}")
    for name in config.mixing_method.parameters:
        if isinstance(vars(config).get(name), (int, float)):
            raise ValueError(f'hf_overrides: expected {name} inside {{"method": ...}}, got it beside')


def _check_kinds(model: Any, data_parallel_size: int) -> None:
    """Raises ValueError for a model that vLLM runs, but not as a plain decoder.

    It notes what vLLM asks of the whole and must be that of all: their experts, and the largest head.
    """
    kinds = {
        "one that reads images too": model.registry.is_multimodal_model,
        "one with layers of state": model.registry.is_hybrid_model,
        "one without attention": model.registry.is_attention_free_model,
    }
    experts, head_size = 0, 0
    for name in model.hf_config.mixing_method.models:
        alone = copy.copy(model)
        alone.hf_config = alone.hf_text_config = getattr(model.hf_config, name)
        own = alone.hf_config.architectures
        try:
            model.registry.inspect_model_cls(own, alone)
        except ValueError as error:  # which lists all that it knows
            raise ValueError(f"{name}: expected an architecture that vLLM knows, got {', '.join(own)}") from error
        for kind, is_kind in kinds.items():
            if is_kind(own, alone):
                raise ValueError(f"{name}: expected a decoder with attention in every layer, got {own[0]}, {kind}")
        sizes = alone.get_model_arch_config()
        experts, head_size = max(experts, sizes.num_experts), max(head_size, sizes.head_size)
    if experts and data_parallel_size > 1:
        raise ValueError(f"data_parallel_size: expected 1 for models with experts, got {data_parallel_size}")
    model.model_arch_config.num_experts = experts  # by which vLLM forms the group of ranks that share experts
    model.model_arch_config.head_size = head_size  # by which its Triton attention sizes its scratch
