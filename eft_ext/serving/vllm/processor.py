"""The entry point of `vllm.logits_processors`: requests' parameters where they come in, and by row under V1."""

from __future__ import annotations

import sys
from typing import Any
from weakref import WeakValueDictionary

from eft_ext.config import EmulatedConfig
from eft_ext.serving.vllm import names
from eft_ext.serving.vllm.parameters import check_request, defaults, row_of

try:  # a class that is not of the runner's own interface would stop every engine of the installation
    _BASES: tuple[Any, ...] = (names.LogitsProcessorV1, names.LogitsProcessorV2)
except ImportError:
    _BASES = (names.LogitsProcessorV1,)


class RequestParameters(*_BASES):  # type: ignore[misc]
    """One class for both model runners. It changes no logits.

    It refuses bad parameters where requests come in. Under V1 it follows which request has which row, since the model
    asks for their parameters; under V2 these come with the tokens (`state.py`).
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError, which a server answers with HTTP 400."""
        check_request(sampling_params, _asking())

    def __init__(self, vllm_config: Any, *_: Any) -> None:
        config = vllm_config.model_config.hf_config
        self.method = config.mixing_method if isinstance(config, EmulatedConfig) else None
        self.by_row: dict[int, tuple[float, ...]] = {}
        self.fresh = False
        if self.method is not None:
            _followers[id(config)] = self

    def is_argmax_invariant(self) -> bool:
        """True: it changes no logits."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Follows the rows of the batch, before each forward pass of the V1 runner."""
        if (method := self.method) is not None:
            names.process_dict_updates(self.by_row, batch_update, lambda params, *_: row_of(method, params))
            self.fresh = True

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """False: under the V2 runner there is nothing to do."""
        return False

    def apply(self, logits: Any, *_: Any) -> Any:
        """The logits as they are."""
        return logits


def _asking() -> str | None:
    """The engine whose front end is asking: its caller's, by the stack, since vLLM does not say. None without one."""
    frame = sys._getframe(1)
    while frame is not None:
        config = getattr(frame.f_locals.get("self"), "vllm_config", None)
        if config is not None:
            return str(config.instance_id)
        frame = frame.f_back  # type: ignore[assignment]
    return None


_followers: WeakValueDictionary[int, RequestParameters] = WeakValueDictionary()  # by their engine's configuration


def take_rows(config: EmulatedConfig, count: int) -> list[tuple[float, ...]] | None:
    """The parameters of `count` rows, for the first logits after a forward pass of the V1 runner.

    Those are the rows that tokens are sampled from, one for each request. None for later ones, which are of prompts,
    and where no request has parameters of its own.
    """
    found = _followers.get(id(config))
    if found is None or found.method is None or not found.fresh:
        return None
    found.fresh = False
    own = defaults(found.method)
    return [found.by_row.get(row, own) for row in range(count)] if found.by_row else None
