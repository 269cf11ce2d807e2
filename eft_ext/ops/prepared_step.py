"""The fused step of a loop on the CPU: seeds, positions and options stay where they are, only the logits differ.

Checking a call costs 25 µs with tensors among its options, a tenth of a small model's forward pass. A loop whose
tensors keep their addresses pays that once for each shape of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from eft_ext.ops.backends import native
from eft_ext.ops.backends.registry import choose_backend
from eft_ext.ops.check_params import step_params
from eft_ext.ops.inputs import in_memory
from eft_ext.ops.method import Method
from eft_ext.ops.step import fused_mix
from eft_ext.ops.tracing import is_tracing


class PreparedStep:
    """`fused_mix` with the same weights, options, seeds [B], positions [B] and `out` at every call.

    Args:
        method: the weights; one that takes the logits as they are.
        options: of `fused_mix`, tensors among them for the first rows of their storage; kept alive here.
    """

    def __init__(self, method: Method, **options: Any) -> None:
        self._method, self._options = method, options
        self._key: Any = None
        self._native: Any = None
        self._tensors: Any = None  # the tensors behind the addresses, some of which the checks have converted
        self._out = 0

    def __call__(self, logits: Sequence[Tensor]) -> None:
        """Writes the tokens of K logits [B, V_k] into `out`."""
        key = [(x.shape, x.stride(), x.dtype, x.is_neg()) for x in logits]
        if key == self._key and not is_tracing():
            self._native.run_logits(native.isa(), self._out, *[x.data_ptr() for x in logits])
            return
        fused_mix(logits, self._method, **self._options)
        out = self._options["out"]
        given = [*logits, *(x for x in self._options.values() if isinstance(x, Tensor))]
        if not out.is_cpu or is_tracing() or any(in_memory("options", x) is not x for x in given):
            return
        rest = {name: value for name, value in self._options.items() if name != "out"}
        mix, sampling = step_params(logits, self._method, **rest)
        if choose_backend("auto", mix) is native:
            self._native, self._tensors, self._key, self._out = (
                native.prepare(mix, sampling),
                (mix, sampling),
                key,
                out.data_ptr(),
            )
