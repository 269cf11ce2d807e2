"""A request's own parameters: `extra_args={"beta": 0.5}`, over HTTP `"vllm_xargs": {"beta": 0.5}`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from eft_ext.methods import MixingMethod
from eft_ext.ops.inputs import BEYOND_FLOAT32, finite

# What vLLM itself reads of a request's extra_args.
_ENGINES_OWN = {"ec_transfer_params", "kv_cache_report_mode", "kv_transfer_params", "session_id"}
_UNBOUNDED = (float("-inf"), float("inf"))


@dataclass(frozen=True)
class Served:
    """The parameters that requests to one engine may have.

    Attributes:
        method: the checkpoint's; its parameters are the defaults.
        v2: True under vLLM's V2 model runner.
        speculates: True where tokens are drafted.
        shared: True where others read extra_args too, so that an unknown name may be theirs.
        only_greedy: True where the engine speculates and cannot sample.
    """

    method: MixingMethod
    v2: bool
    speculates: bool = False
    shared: bool = False
    only_greedy: bool = False

    def check(self, params: Any) -> None:
        """Raises ValueError for an unknown parameter, one out of bounds, or one that would not reach every result."""
        if self.only_greedy and params.temperature > 0:
            raise ValueError(
                f"temperature: expected 0 beside speculation on a CPU, got {params.temperature}; "
                "vLLM's CPU build accepts drafts by wrong probabilities"
            )
        given = {name: value for name, value in (params.extra_args or {}).items() if name not in _ENGINES_OWN}
        known = self.method.parameters
        for name, value in given.items():
            if name in known:
                _check(name, value, *self.method.bounds.get(name, _UNBOUNDED))
            elif not self.shared:
                has = ", ".join(known) or "none"
                raise ValueError(f"{name}: not a parameter of {type(self.method).__name__}, which has {has}")
        own = next((name for name in given if name in known), None)
        if own is None or self.v2:
            return
        for what, there in (("speculation", self.speculates), ("prompt_logprobs", params.prompt_logprobs is not None)):
            if there:
                raise ValueError(f"{own}: expected none beside {what} under vLLM's V1 model runner; V2 takes both")


def _check(name: str, value: Any, low: float, high: float) -> None:
    number = _number(value)
    if not low <= number <= high or not abs(number) < BEYOND_FLOAT32:
        raise ValueError(f"{name}: expected {finite(low, high)}, got {value!r}")


def _number(value: Any) -> float:
    """The value; NaN for what is none. Python's own numbers alone reach another process as they are."""
    try:
        return float(value) if type(value) in (int, float) else math.nan
    except OverflowError:  # JSON has integers of any length
        return math.inf


def row_of(method: MixingMethod, params: Any) -> tuple[float, ...] | None:
    """The parameters of one request in the method's order; None if all are the method's own.

    One that nobody checked and that is no number is NaN: it spoils its row, where an error would end the engine.
    """
    extra = (params.extra_args if params is not None else None) or {}
    if not any(name in extra for name in method.parameters):
        return None
    return tuple(_number(extra.get(name, own)) for name, own in zip(method.parameters, defaults(method), strict=True))


def defaults(method: MixingMethod) -> tuple[float, ...]:
    """The method's own parameters in order."""
    return tuple(method.number(name) for name in method.parameters)  # type: ignore[misc]  # a file holds numbers


_served: dict[str, Served] = {}  # by engine, in the process that takes their requests: nearly always one


def serve(engine: str, served: Served) -> None:
    """Makes known what an engine serves."""
    _served[engine] = served


def ended(engine: str) -> None:
    """Forgets an engine; others may follow in this process."""
    _served.pop(engine, None)


def check_request(params: Any, engine: str | None) -> None:
    """Raises ValueError for sampling parameters that an engine cannot serve.

    Args:
        engine: the engine; others than ours take anything. With None, all of this process's must serve the request:
            a parameter that one would ignore is worse than one that is refused.
    """
    for name, served in _served.items():
        if engine in (None, name):
            served.check(params)
