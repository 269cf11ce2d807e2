"""Planted faults of a CUDA launch: said to the caller, not left for the next one, found out by the runtime."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from eft_ext import fused_score_mix
from eft_ext.ops import fused_mix, fused_step, fused_verify
from eft_ext.ops.backends import native
from python_tests.helpers import host_launches
from python_tests.helpers.drafts import EFT
from python_tests.helpers.host_cuda import built
from python_tests.helpers.host_launches import A100, HostLaunches
from python_tests.helpers.rows import models

_held: list[Tensor] = []  # what a graph reads


def loading_fails(logits: list[Tensor], what: str) -> tuple[str, Any]:
    """The first call of a process, whose kernels cannot be loaded just then, and the same call again."""
    targets = torch.zeros(2, dtype=torch.long)
    views = [x[:, None].expand(-1, 2, -1) for x in logits]
    drafted = (targets[:, None], views[1][:, :1], views, EFT)
    _held.extend((*logits, targets))
    calls = {
        "step": lambda: fused_mix(logits, EFT, seed=1, position=1, backend="cuda"),
        "score": lambda: fused_score_mix(logits, EFT, targets, backend="cuda"),
        "verify": lambda: fused_verify(*drafted, seed=1, position=1, backend="cuda"),
    }
    host_launches.runtime.eft_runtime_fail_load(1)
    try:
        calls[what]()
    except RuntimeError as error:
        return str(error), calls[what]()
    return "no error", None


@pytest.mark.slow
@pytest.mark.parametrize("what", ["step", "score", "verify"])
def test_a_failure_to_load_is_not_kept(what: str) -> None:
    """A process of its own, whose first call is in a capture."""
    fresh = HostLaunches(built("launch/libeft.so", "hostlaunch"))
    try:
        (error, found), _ = fresh.replay(loading_fails, models("lm", 3, 2, 1500, torch.bfloat16), what)
    finally:
        fresh.close()
    assert error == "cuda: unspecified launch failure"
    assert found is not None


def failing(logits: list[Tensor], number: int) -> tuple[str, Tensor]:
    """A launch that fails for want of resources, and the next call."""
    host_launches.runtime.eft_runtime_fail_launch(number)
    call: dict[str, Any] = {"seed": 1, "position": 1, "conservative_top_p": 0.9, "backend": "cuda"}
    try:
        fused_step(*logits, **call)
    except RuntimeError as error:
        return str(error), fused_step(*logits, **call)
    return "nothing", logits[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_launch_that_fails_is_said_and_not_left_behind(device: HostLaunches, number: int) -> None:
    logits = models("lm", 3, 2, 1500)
    (said, tokens), _ = device.call(failing, logits, number)
    assert said == "cuda: too many resources requested"
    assert torch.equal(tokens, fused_step(*logits, seed=1, position=1, conservative_top_p=0.9, backend="cpu"))


def _short(wanted: int, where: torch.device, *_: Any) -> Any:
    """A workspace that lacks its last 64 bytes."""
    memory = torch.zeros(wanted - 64, dtype=torch.uint8, device=where)
    return SimpleNamespace(data_ptr=memory.data_ptr, nbytes=wanted)


FAULTS = {
    "memory: beside": (native, {"scratch_for": _short}),
    "stream: another one": (torch.cuda, {"current_stream": lambda: SimpleNamespace(cuda_stream=1)}),
    "device: another one": (torch.cuda, {"device": lambda _: nullcontext()}),
}


def faulty(fault: str, logits: list[Tensor], targets: Tensor, what: str) -> None:
    target, attributes = FAULTS[fault]
    with patch.multiple(target, **attributes):
        if what == "step":
            fused_mix(logits, EFT, seed=torch.arange(2), position=1, backend="cuda")
        elif what == "score":
            fused_score_mix(logits, EFT, targets, num_changed=2, backend="cuda")
        else:
            views = [x[:, None].expand(-1, 2, -1) for x in logits]
            fused_verify(targets[:, None], views[1][:, :1], views, EFT, seed=1, position=1, backend="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("what", ["step", "verify", "score"])
def test_a_fault_in_what_python_hands_down_is_found(device: HostLaunches, fault: str, what: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        device.call(faulty, fault, models("lm", 3, 2, 1024), torch.zeros(2, dtype=torch.long), what, device=A100)
