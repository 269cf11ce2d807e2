"""Calls of the Triton step in Triton's interpreter, in a process of their own.

Whether kernels are interpreted is decided when `triton` is imported, and other tests compile them. So a child process
with TRITON_INTERPRET set makes the calls; arguments and results travel as bytes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch

from python_tests.helpers.tensor_bytes import from_bytes, to_bytes


class Interpreter:
    """`call(function, *args)` runs a module's function in the child; one child, started at the first call."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            before = os.environ.get("TRITON_INTERPRET")
            os.environ["TRITON_INTERPRET"] = "1"  # the child is spawned by the first submission
            try:
                self._pool.submit(_prepare).result()
            finally:
                del os.environ["TRITON_INTERPRET"]
                if before is not None:
                    os.environ["TRITON_INTERPRET"] = before
        return from_bytes(self._pool.submit(_run, function, to_bytes(args)).result())

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def _run(function: Callable[..., Any], args: bytes) -> bytes:
    with np.errstate(all="ignore"):
        return to_bytes(function(*from_bytes(args)))


def _prepare() -> None:
    """In the child: one thread, a true fma where the interpreter has none, device calls that cost less."""
    torch.set_num_threads(1)
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    kind = interpreter.tl.float32
    one = interpreter.TensorHandle(np.full(1, 1 + 2.0**-23, np.float32), kind)
    minus = interpreter.TensorHandle(np.full(1, -1 - 2.0**-22, np.float32), kind)
    if builder.create_fma(one, one, minus).data[0] != np.float32(2.0**-46):
        # Triton 3.6 multiplies and adds, two roundings.
        type(builder).create_fma = _exact_fma(interpreter.TensorHandle)
    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: Any, *scope: Any) -> None:
        patch_tensor(tensor, *scope)
        # Triton 3.6 asks for int() of an array of one, which NumPy 2.4 refuses.
        tensor.__index__ = lambda self: int(self.handle.data.squeeze())

    interpreter._patch_lang_tensor = patched
    interpreter.InterpretedFunction.__call__ = _patching_once(interpreter._patch_lang)
    _remember_types(interpreter)


def _patching_once(patch: Callable[..., Any]) -> Callable[..., Any]:
    """Calls of device functions; every one patches the language again, which is two thirds of the time. What the kernel
    itself has patched need not be; what Triton's own functions patch is never restored, so once is enough."""
    patched = set()

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = self.fn.__module__
        if module.startswith("triton.") and module not in patched:
            patched.add(module)
            patch(self.fn)
        return self.rewrite()(*args, **kwargs)

    return __call__


def _remember_types(interpreter: Any) -> None:
    """Every operation makes the types of its results again, most of the time that is left: one is made once for all."""
    core, semantic = interpreter.tl.core, type(interpreter.interpreter_semantic)
    make_block, make_tensor = core.block_type.__init__, core.tensor.__init__
    broadcast, promote = semantic.broadcast_impl_value, semantic.computation_type_impl
    blocks: dict[Any, dict[str, Any]] = {}
    shapes: dict[Any, Any] = {}
    arrays: dict[str, Any] = {}
    kinds: dict[Any, Any] = {}

    def block(self: Any, element_ty: Any, shape: Any) -> None:
        size = tuple(getattr(length, "value", length) for length in shape)
        if (found := blocks.get((id(element_ty), size))) is None:
            make_block(self, element_ty, shape)
            self.shape = shapes.setdefault(size, self.shape)
            found = blocks[id(element_ty), size] = {**vars(self), "of_tensors": {}}  # the element lives on in it
        vars(self).update(found)

    def tensor(self: Any, handle: Any, type: Any) -> None:
        if not (found := vars(type).setdefault("of_tensors", {})):
            make_tensor(self, handle, type)
            found.update(vars(self))
        vars(self).update(found, handle=handle, type=type)

    def meet(self: Any, lhs: Any, rhs: Any) -> Any:
        one, other = (x.type.shape if x.type.is_block() else None for x in (lhs, rhs))
        return (lhs, rhs) if one is other else broadcast(self, lhs, rhs)

    def array_type(kind: Any, made: Callable[[Any], Any] = interpreter._get_np_dtype) -> Any:
        if kind.name not in arrays:
            arrays[kind.name] = made(kind)
        return arrays[kind.name]

    def promoted(self: Any, a: Any, a_alone: bool, b: Any, b_alone: bool, div_or_mod: bool) -> Any:
        key = (a.name, a_alone, b.name, b_alone, div_or_mod)
        if key not in kinds:
            kinds[key] = promote(self, a, a_alone, b, b_alone, div_or_mod)
        return kinds[key]

    equal = core.dtype.__eq__
    core.dtype.__eq__ = lambda self, other: self is other or equal(self, other)
    core.block_type.__init__, core.tensor.__init__ = block, tensor
    semantic.broadcast_impl_value, interpreter._get_np_dtype = meet, array_type
    semantic.computation_type_impl = promoted


def _exact_fma(handle: Any) -> Callable[..., Any]:
    from eft_ext.ops.reference.arithmetic import fma32

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        parts = [torch.from_numpy(np.ascontiguousarray(part.data)) for part in (x, y, z)]
        return handle(fma32(*parts).numpy(), z.dtype.scalar)

    return create_fma


# ---- what the child is asked for -----------------------------------------------------------------


def made_up(problem: Any, sizes: tuple[int, ...] | None = None) -> Any:
    """A problem's details on the Triton step; `sizes` overrides how the work is cut."""
    from eft_ext.ops.triton.common.launch_sizes import LaunchSizes
    from eft_ext.ops.triton.step import launch as step_launch

    table = step_launch.sizes_for
    if sizes is not None:
        step_launch.sizes_for = lambda vocab_size, batch: LaunchSizes(*sizes)
    try:
        return problem.run("triton")
    finally:
        step_launch.sizes_for = table


def verified(call: dict[str, Any], sizes: tuple[int, ...] | None = None) -> Any:
    """`fused_verify` on Triton; `sizes` overrides how the work is cut."""
    from eft_ext.ops import fused_verify
    from eft_ext.ops.triton.common.launch_sizes import LaunchSizes
    from eft_ext.ops.triton.verify import launch as verify_launch

    table = verify_launch.sizes_for
    if sizes is not None:
        verify_launch.sizes_for = lambda vocab_size, batch: LaunchSizes(*sizes)
    try:
        return fused_verify(**call, backend="triton")
    finally:
        verify_launch.sizes_for = table


def accepted(numbers: torch.Tensor) -> torch.Tensor:
    from python_tests.helpers import device_functions

    return device_functions.accepted(numbers)


def golden(problems: list[dict[str, Any]]) -> list[Any]:
    """The details of golden problems."""
    from python_tests.golden.make import call

    return [call(problem, backend="triton") for problem in problems]


def mixed(logits: Any, weights: Any, options: dict[str, Any]) -> torch.Tensor:
    """`combine` on the Triton step."""
    from eft_ext.ops import combine

    return combine(logits, weights, backend="triton", **options)


def refused(problem: Any) -> str:
    """The error that the call raises, as text."""
    try:
        problem.run("triton")
    except (RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def checked_operator() -> str:
    """`torch.library.opcheck` of the operators with backend="triton"."""
    from eft_ext.ops.backends.flat_params import flatten
    from eft_ext.ops.check_params import given_weights, logits_names, mix_params, sampling_params
    from python_tests.helpers.rows import models as rows

    logits = rows("lm", 3, 2, 300)
    names = logits_names(logits)
    mix = mix_params(names, logits, given_weights([1.0, torch.ones(2), -1.0], logits), None, None, None, None)
    draw = sampling_params(mix, 0.7, 20, torch.full((2,), 0.9), 0.01, 3, 2, None)
    torch.library.opcheck(torch.ops.eft_ext.step.default, (*flatten(mix, draw), "triton"))
    torch.library.opcheck(torch.ops.eft_ext.step_details.default, (*flatten(mix, draw), "triton", 3))
    torch.library.opcheck(torch.ops.eft_ext.combine.default, (*flatten(mix), "triton"))
    return "passed"


def checked_verification() -> str:
    """`torch.library.opcheck` of the verification with backend="triton"."""
    from eft_ext.ops.backends.flat_params import flatten, flatten_draft
    from python_tests.helpers.drafts import arguments

    mix, draw, drafted = arguments()
    torch.library.opcheck(torch.ops.eft_ext.verify.default, (*flatten_draft(drafted), *flatten(mix, draw), "triton"))
    return "passed"


def compiled_step() -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """The operators in the graph of a step under torch.compile(fullgraph=True), its tokens, and the CPU's."""
    from eft_ext.ops import fused_step
    from python_tests.helpers.rows import models

    seen: list[str] = []

    def look(graph: Any, inputs: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    def step(large: Any, tuned: Any, base: Any, at: Any, backend: str) -> Any:
        return fused_step(large, tuned, base, seed=at, position=at, top_p=0.9, backend=backend)

    logits, at = models("lm", 3, 2, 400), torch.arange(2)
    got = torch.compile(step, fullgraph=True, backend=look)(*logits, at, "triton")
    return [name for name in seen if "eft_ext" in name], got, step(*logits, at, "cpu")
