"""On the CPU: a forward pass traced once, and run again without Python.

Small models spend two thirds of a decoding step in Python: modules, decorators, dispatch (internals/engine.md has the
figures). `torch.jit.trace` keeps the operators that `Forward` runs, the very same ones, so the logits are equal bit
for bit. Weights are inputs of a trace: it sees them change, and models of one architecture share it. A trace serves
any number of rows, new tokens and slots. What it may not contain is looked for before (values read on the host, hooks),
and every shape is compared with the model itself when it is first met. Where anything is amiss the model goes on as it
is.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn
from transformers.utils import logging

from eft_ext.decoding.capture.host_reads import HostReads
from eft_ext.decoding.module_utils import buffers_of, hooks_of, modules_of, parameters_of

AFTER = 64  # passes of a model before it is traced; a trace takes as long as some 30 of them
_LABELS = ("_name_or_path", "_commit_hash", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id")


class Traces(dict[bool, Any]):
    """The traces of one architecture: True for one token of one row, whose products are other operators."""


class ModelState:
    """A model's traces, what it has run without them, and why it cannot be traced.

    Attributes:
        layout: types and shapes of the weights.
        passes: those without a trace, by the same.
        compared: shapes at which a trace has given the model's own logits.
    """

    def __init__(self, layout: Hashable) -> None:
        self.layout = layout
        self.traces = Traces()
        self.passes: Counter[bool] = Counter()
        self.compared: set[tuple[int, ...]] = set()
        self.reason: str | None = None


_STATES: WeakKeyDictionary[nn.Module, ModelState] = WeakKeyDictionary()
_TRACES: WeakValueDictionary[Hashable, Traces] = WeakValueDictionary()  # by architecture
_LOCK = Lock()  # of both, and of tracing, which changes warning filters


class TracedForward:
    """Calls `forward`, as a trace once there is one.

    Args:
        forward: a pass of `model` over static caches.

    Attributes:
        reason: why the model is not traced, if it cannot be.
    """

    def __init__(self, forward: nn.Module, model: nn.Module) -> None:
        self._forward = forward
        tensors = (*parameters_of(model), *buffers_of(model))
        self._weights = tuple({id(t): t for t in tensors}.values())
        place = {id(t): i for i, t in enumerate(self._weights)}  # the same for weights that are tied
        layout = tuple((t.dtype, t.shape, place[id(t)]) for t in tensors)
        with _LOCK:
            known = _STATES.get(model)
            if known is None or known.layout != layout:
                known = _STATES[model] = ModelState(layout)
        self._known = known
        self._compared = False
        self.reason = known.reason or unfit(model)

    def __call__(self, *inputs: Any) -> Tensor:
        # A trace holds the casts of autocast, or their absence, of when it was made.
        trace = None if self.reason or torch.is_autocast_enabled("cpu") else self._trace_of(inputs)
        if trace is None:
            return self._run(inputs)
        shape = (*inputs[0].shape, *(len(x) for x in inputs[3]))
        if self._compared and shape in self._known.compared:
            return self._replay(trace, inputs)
        try:
            logits = self._replay(trace, inputs)
        except Exception:  # the trace holds a size that is another one here
            logits = None
        expected = self._run(inputs)
        if logits is None or not _same(logits, expected):
            self._give_up("gives other logits when traced")
            return expected
        self._compared = True  # once for every generation, in case the model has been changed in between
        self._known.compared.add(shape)
        return logits

    def _replay(self, trace: Any, inputs: tuple[Any, ...]) -> Tensor:
        """The logits by the trace. Contexts are entered by hand: they would take a tenth of a small model's pass."""
        if not torch.is_inference_mode_enabled():
            with torch.inference_mode():
                return self._replay(trace, inputs)
        before = torch._C._get_graph_executor_optimize()
        torch._C._set_graph_executor_optimize(False)  # in this thread; _simplified has done it already
        try:
            logits: Tensor = trace(*inputs, *self._weights)
        finally:
            torch._C._set_graph_executor_optimize(before)
        return logits

    def _run(self, inputs: tuple[Any, ...]) -> Tensor:
        logits: Tensor = self._forward(*inputs)
        return logits

    def _trace_of(self, inputs: tuple[Any, ...]) -> Any:
        """Returns the trace for such inputs, None before there is one. Makes it after `AFTER` passes."""
        known, kind = self._known, inputs[0].numel() == 1
        if kind in known.traces:
            return known.traces[kind]
        if known.passes[kind] < AFTER:
            known.passes[kind] += 1
            return None
        with _LOCK:
            known.traces = _TRACES.setdefault((known.layout, _architecture(self._forward)), known.traces)
            if kind not in known.traces and (trace := self._trace(inputs)) is not None:
                known.traces[kind] = trace
            return known.traces.get(kind)

    def _trace(self, inputs: tuple[Any, ...]) -> Any:
        with HostReads() as reads:
            self._run(inputs)
        if reads.found:
            return self._give_up(f"reads values on the host ({reads.found[0]})")
        count = len(inputs)
        try:
            with _quiet(), torch.no_grad():
                if _packed(self._forward):
                    module = _simplified(torch.jit.trace(self._forward, inputs, check_trace=False, strict=False))
                    return lambda *given: module(*given[:count])
                given = (*inputs, *self._weights)
                trace = torch.jit.trace(lambda *x: self._forward(*x[:count]), given, check_trace=False, strict=False)
                del trace._torchdynamo_inline  # the function, which keeps the model alive
                return _simplified(trace)
        except Exception as error:  # whatever a model does that a trace cannot hold
            return self._give_up(f"cannot be traced ({type(error).__name__})")

    def _give_up(self, reason: str) -> None:
        self.reason = self._known.reason = reason
        self._known.traces = Traces()  # other models may go on with theirs


def unfit(model: nn.Module) -> str | None:
    """Why `model` is never traced, the end of a sentence; None where it may be."""
    if any(p.device.type != "cpu" for p in parameters_of(model)):
        return "is not on the CPU"  # there graphs do better
    if model.training:
        return "is in training mode"
    if hasattr(model, "peft_config"):
        return "has adapters, whose state a trace would freeze"
    return hooks_of(model)


def _architecture(forward: Any) -> Hashable:
    """All that a trace depends on beside its inputs: modules, their numbers and configurations, never the weights.

    Tensors that are no weights, and a forward pass put in front of the class's, are a model's own.
    """
    modules = modules_of(forward.model)
    configs = {id(m.config): m.config for m in modules if hasattr(m, "config")}.values()
    return (
        forward.windows,
        tuple(repr([(k, v) for k, v in vars(config).items() if k not in _LABELS]) for config in configs),
        tuple((type(m), *((k, _fixed(k, v)) for k, v in vars(m).items())) for m in modules),
    )


def _fixed(name: str, value: Any) -> Any:
    if isinstance(value, (Tensor, torch.ScriptObject)) or name == "forward":
        return id(value)
    return value if isinstance(value, (bool, int, float)) else None


def _packed(forward: nn.Module) -> bool:
    """True if some weights are no tensors (int8 of torch.ao), so that a trace cannot take them as inputs."""
    return any(isinstance(v, torch.ScriptObject) for m in modules_of(forward) for v in vars(m).values())


def _simplified(trace: Any) -> Any:
    """`trace` as fast as after the executor's profiled runs, which take longer than tracing."""
    torch._C._jit_pass_inline(trace.graph)
    torch._C._jit_pass_erase_shape_information(trace.graph)  # or sizes would become constants
    torch._C._jit_pass_cse(trace.graph)
    torch._C._jit_pass_peephole(trace.graph)
    return trace


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return torch.equal(a, b) or bool(torch.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracing is deprecated, keeps shapes as is intended, and looks at every attribute of a module: some warn."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
