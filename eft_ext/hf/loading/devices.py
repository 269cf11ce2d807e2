"""`device_map`, checked before anything is loaded."""

from __future__ import annotations

from typing import Any

import torch

_PLANS = ("auto", "balanced", "balanced_low_0", "sequential")


def check_devices(name: str, device_map: Any) -> None:
    """Checks where a model's weights are to be.

    Args:
        name: the model, for messages.
        device_map: as for transformers' from_pretrained.

    Raises:
        ValueError: no plan and no device, a device that is not here, or one that holds no weights.
    """
    places = device_map.values() if isinstance(device_map, dict) else (device_map,)
    for place in places:
        if place is None or place == "disk" or (isinstance(place, str) and place in _PLANS):
            continue
        try:
            device = torch.device(place)
        except (RuntimeError, TypeError):
            raise ValueError(
                f"device_map: expected {', '.join(_PLANS)} or a device, got {place!r}, for {name}"
            ) from None
        if device.type == "meta":
            raise ValueError(f"device_map: expected devices that hold weights, got {place!r}, for {name}")
        try:
            torch.empty(0, device=device)
        except Exception as error:  # an AssertionError, among others, by the kind of device
            said = str(error).partition("\n")[0]
            raise ValueError(
                f"device_map: expected a device that is here, got {place!r}, for {name}: {said}"
            ) from error
