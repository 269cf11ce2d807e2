"""A method's parameters: numbers, one for each row, or functions of the step; and what weights are made of them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from ctypes import c_float
from typing import Any

import torch
from torch import Tensor

from eft_ext.ops.inputs import BEYOND_FLOAT32, finite
from eft_ext.ops.method import Number

Value = Number | Callable[[int], Any]  # what a parameter may be: also a function of the number of new tokens


def checked(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> Value:
    """`value` as a number rounded to fp32, a float tensor ([] or [B]), or the function of the step that it is.

    Values that are on a GPU are not looked at, since that would wait for it: the kernel marks a bad row.

    Raises:
        ValueError: not finite, or outside [low, high].
        TypeError: neither a number, numbers, nor a function.
    """
    if callable(value) and not isinstance(value, (Tensor, type)):
        return value
    wanted = f"{name}: expected {finite(low, high)} or one per row, got {value!r}"
    if isinstance(value, (bool, str)) or value is None:
        raise TypeError(wanted)
    if isinstance(value, numbers.Real):
        number = float(value)
        if not low <= number <= high or not abs(number) < BEYOND_FLOAT32:
            raise ValueError(f"{name}: expected {finite(low, high, number)} or one per row, got {value!r}")
        return c_float(number).value  # as every floating option is
    try:
        rows = torch.as_tensor(value, dtype=torch.float32, device=value.device if isinstance(value, Tensor) else "cpu")
    except (TypeError, ValueError, RuntimeError) as error:  # what as_tensor raises depends on what it is given
        raise TypeError(wanted) from error
    if rows.ndim > 1:
        raise ValueError(f"{name}: expected {finite(low, high)} or one per row, got shape {list(rows.shape)}")
    if rows.device.type == "cpu" and not bool(((rows >= low) & (rows <= high) & rows.isfinite()).all()):
        raise ValueError(wanted)
    return rows


def evaluated(name: str, value: Value, step: int | None, bounds: tuple[float, float]) -> Number:
    """The parameter after `step` new tokens. Raises ValueError where a function of the step meets none."""
    if isinstance(value, (float, Tensor)):
        return value
    if step is None:
        raise ValueError(f"position: expected an integer, since {name} is a function of it")
    return checked(f"{name} of step {step}", value(step), *bounds)  # type: ignore[return-value]


def linear(constant: float, *terms: tuple[float, Number]) -> Number:
    """constant + sum of coefficient·value over (coefficient, value), formed in double and rounded to fp32 once.

    Values are fp32 already, so that a number and a tensor of it agree.
    """
    total: Any = constant
    for coefficient, value in terms:
        total = total + coefficient * (value.double() if isinstance(value, Tensor) else value)
    return total.float() if isinstance(total, Tensor) else total  # a number is rounded where it is used
