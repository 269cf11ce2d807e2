"""The native part of the decoding loop: the advance of a step, and a captured step in a WHILE node."""

from __future__ import annotations

from typing import Any

import torch

from eft_ext.ops.backends import native


def prepare_advance(
    device: torch.device, addresses: list[int], ring: tuple[int, ...], num_eos: int, lengths: list[int]
) -> Any:
    """Returns the binding's advance of a step (csrc/include/eft_loop.h), or None where there is none.

    It holds addresses, so the tensors must outlive it.
    """
    on_cuda, binding = device.type == "cuda", native._native
    if binding is None or not (device.type == "cpu" or (on_cuda and binding.cuda_built())):
        return None
    return binding.Advance(on_cuda, addresses, *ring, num_eos, lengths)


def run_advance(prepared: Any, device: torch.device, rows: int, fed: bool) -> None:
    """Advances the first `rows` rows; `fed` where a token was fed before (CUDA: on the current stream)."""
    if device.type != "cuda":
        prepared.run(rows, fed, 0)
        return
    with torch.cuda.device(device):
        prepared.run(rows, fed, torch.cuda.current_stream().cuda_stream)


def while_supported() -> bool:
    """True where build, driver and device can loop on the device."""
    return native._native is not None and bool(native._native.while_supported())


class WhileLoop:
    """A captured step in a WHILE node, launched on the current stream.

    Args:
        advance, rows: the prepared advance of the step, and its rows.
        graph: address of the cudaGraph_t; whoever captured it keeps it alive.

    Raises:
        NotImplementedError, RuntimeError: there are no WHILE nodes here, or the step cannot be put into one.
    """

    def __init__(self, advance: Any, rows: int, graph: int) -> None:
        self._loop = native._native.WhileLoop(advance, rows, graph)

    def launch(self, max_steps: int) -> None:
        """Starts up to `max_steps` steps; they end sooner when no row is active."""
        self._loop.launch(max_steps, torch.cuda.current_stream().cuda_stream)

    def poll(self) -> bool:
        """True while a launch is under way; does not wait."""
        return bool(self._loop.poll())

    def close(self) -> None:
        """Waits for the last launch and frees the loop."""
        self._loop.close()
