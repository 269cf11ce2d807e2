"""An engine of vLLM in this process, for `make test-serving`; without vLLM these tests are not collected.

EFT_VLLM_V2=1 takes the V2 model runner, whose Triton kernels are then interpreted. A process has one runner.
"""

import gc
import os
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from python_tests.helpers.vllm_interpreted import V2, interpret

if (found := find_spec("vllm")) is None or found.origin is None:  # a mere folder of that name has no origin
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other runner's tests have the other core
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    if V2:
        # Starts, families and servers know nothing of the runner; V1's tests have them on the other core.
        alone = "checkpoints faults families guide others quantized refusals serve server server_starts sizing"
        collect_ignore_glob = [f"test_vllm_{name}.py" for name in alone.split()]
        interpret()

# Small enough that 80 requests are preempted and share prefixes.
SMALL = {"dtype": "float32", "max_model_len": 256, "block_size": 32, "max_num_seqs": 16, "max_num_batched_tokens": 256}


@pytest.fixture(scope="session")
def saved_trio(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Saves the models of a trio of `tiny_models.TRIOS`, once.

    vLLM changes transformers' class of a model that it has no code of its own for, which then makes no model outside
    an engine.
    """
    from eft_ext.methods import UpScale
    from python_tests.helpers import tiny_models

    @cache
    def save(trio: str) -> dict[str, str]:
        models = dict(zip(UpScale.roles, tiny_models.TRIOS[trio], strict=True))
        return tiny_models.save_all(tmp_path_factory.mktemp(trio), models)

    return save


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Any]]:
    """Starts engines, one at a time; the last one ends with the module."""
    running: list[Any] = []

    def stop() -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        while running:
            running.pop().llm_engine.engine_core.shutdown()
        gc.collect()
        cleanup_dist_env_and_memory()

    def start(folder: str | Path, **options: Any) -> Any:
        from vllm import LLM

        stop()
        running.append(LLM(model=str(folder), **{"enforce_eager": True, **SMALL, **options}))
        return running[0]

    yield start
    stop()
