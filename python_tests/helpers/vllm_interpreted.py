"""vLLM's V2 model runner without a GPU: its Triton kernels in the interpreter."""

import os
import types
from typing import Any

V2 = os.environ.get("EFT_VLLM_V2") == "1"  # the runner of the tests in this process


def interpret() -> None:
    """Gives Triton a driver that says it is there, and leaves to vLLM's own torch what the interpreter cannot run.

    It is called before vllm is imported.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
    import triton.backends

    driver: Any = types.SimpleNamespace(is_active=lambda: True)
    triton.backends.backends["cpu"] = types.SimpleNamespace(driver=driver, compiler=None)
    import vllm.v1.sample.ops.topk_topp_sampler as topk_topp

    topk_topp.HAS_TRITON = False  # its kernel fails interpreted; the other way keeps ties, as transformers does
    _cast_store_masks()


def _cast_store_masks() -> None:
    """Has masks of stores be booleans: the interpreter makes integers of those in vLLM's grammar kernel."""
    from triton.runtime.interpreter import InterpreterBuilder

    store = InterpreterBuilder.create_masked_store

    def cast(self: Any, ptr: Any, value: Any, mask: Any, *options: Any) -> Any:
        mask.data = mask.data.astype(bool)
        return store(self, ptr, value, mask, *options)

    InterpreterBuilder.create_masked_store = cast
