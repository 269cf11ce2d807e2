"""On the CPU: a forward pass recorded once and replayed without Python.

Small models spend two thirds of a decoding step in Python: modules, decorators, dispatch (docs/decoding.md has the
figures). `torch.jit.trace` records `Forward` as the list of operators it runs, the very same ones, so the logits are
equal bit for bit. What a trace may not contain is looked for before (values read on the host, hooks), and every shape
is compared with the model itself when it is first met. Where anything is amiss the model goes on as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.utils import logging

from eft_ext.decoding.capture.host_reads import HostReads
from eft_ext.decoding.module_utils import buffers_of, hooks_of, parameters_of

AFTER = 16  # feeds of a model before it is recorded: recording takes as long as some 50 of them
_RECORDINGS: WeakKeyDictionary[nn.Module, Recordings] = WeakKeyDictionary()
_LOCK = Lock()  # of that dictionary, and of recording, which changes warning filters


class Recordings:
    """The recordings of one model, one for each number of new tokens, and where one was found impossible."""

    def __init__(self, weights: tuple[int, ...]) -> None:
        self.weights = weights
        self.traces: dict[int, Any] = {}
        self.compared: set[tuple[int, ...]] = set()
        self.feeds: dict[int, int] = {}
        self.reason: str | None = None


class TracedForward:
    """Calls `forward`, from a recording once there is one.

    Args:
        forward: a pass of `model` over static caches.

    Attributes:
        reason: why the model is not recorded, if it cannot be.
    """

    def __init__(self, forward: nn.Module, model: nn.Module) -> None:
        self._forward = forward
        weights = tuple(t.data_ptr() for t in (*parameters_of(model), *buffers_of(model)))
        with _LOCK:
            known = _RECORDINGS.get(model)
            if known is None or known.weights != weights:
                known = _RECORDINGS[model] = Recordings(weights)
        self._known = known
        self._compared: set[int] = set()
        self.reason = known.reason or unfit(model)

    def __call__(self, *inputs: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):  # a recording holds the casts, or their absence, of when it was made
            return self._run(inputs)
        tokens: Tensor = inputs[0]
        n = tokens.shape[1]
        trace = self._known.traces.get(n) if self.reason is None else None
        if trace is None:
            if self.reason is None:
                self._known.feeds[n] = self._known.feeds.get(n, 0) + 1
                if self._known.feeds[n] > AFTER:
                    return self._record(inputs)
            return self._run(inputs)
        if torch.is_inference_mode_enabled():
            logits: Tensor = trace(*inputs)
        else:
            with torch.inference_mode():
                logits = trace(*inputs)
        shape = (n, tokens.shape[0], *(len(x) for x in inputs[3]))
        if n in self._compared and shape in self._known.compared:
            return logits
        expected = self._run(inputs)
        if not _same(logits, expected):
            self._give_up("gives other logits when recorded")
            return expected
        self._compared.add(n)  # once for every generation, in case the model has been changed in between
        self._known.compared.add(shape)
        return logits

    def _run(self, inputs: tuple[Any, ...]) -> Tensor:
        logits: Tensor = self._forward(*inputs)
        return logits

    def _record(self, inputs: tuple[Any, ...]) -> Tensor:
        with HostReads() as reads:
            logits = self._run(inputs)
        if reads.found:
            self._give_up(f"reads values on the host ({reads.found[0]})")
            return logits
        try:
            with _LOCK, _quiet(), torch.no_grad():
                trace = torch.jit.trace(self._forward, inputs, check_trace=False, strict=False)
        except Exception as error:  # whatever a model does that a trace cannot hold
            self._give_up(f"cannot be recorded ({type(error).__name__})")
            return logits
        self._known.traces[inputs[0].shape[1]] = trace
        return logits

    def _give_up(self, reason: str) -> None:
        self.reason = self._known.reason = reason
        self._known.traces.clear()


def unfit(model: nn.Module) -> str | None:
    """Why `model` is never recorded, the end of a sentence; None where it may be."""
    if any(p.device.type != "cpu" for p in parameters_of(model)):
        return "is not on the CPU"  # there graphs do better
    if model.training:
        return "is in training mode"
    if hasattr(model, "peft_config"):
        return "has adapters, whose state a recording would freeze"
    return hooks_of(model)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(torch.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracing looks at every attribute of every module, some of which warn; that shapes are recorded is intended."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
