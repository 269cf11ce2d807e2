"""GPUs by their number and memory, as a command line names them or as they are here."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

GIB = 1 << 30
# GiB that torch reports of each, rounded down: less than the name says, since the driver and ECC keep some.
_NAMES = {
    **{"L4": 22, "A10G": 22, "RTX4090": 23, "A100-40": 39, "L40S": 44, "A100": 79, "A100-80": 79, "H100": 79},
    **{"H200": 139, "B200": 178},
}


@dataclass(frozen=True)
class Gpus:
    """GPUs of one kind.

    Args:
        count: how many.
        bytes: memory of each.
    """

    count: int
    bytes: int


def parse_gpus(text: str) -> Gpus:
    """Reads "8xH100", "8x80GiB" or "8x80", which are GiB; "H100" and "80GiB" are one.

    Raises:
        ValueError: neither a number of GiB nor a known name.
    """
    found = re.fullmatch(r"(?:(\d+) *[xX] *)?(?:(\d+(?:\.\d+)?)(gib)?|([a-z]\S*))", text.strip(), re.IGNORECASE)
    count, amount, unit, name = found.groups() if found else (None, None, None, None)
    gib = float(amount) if amount and (count or unit) else _NAMES.get((name or "").upper(), 0)
    number = int(count or 1)
    if not number or not gib:
        raise ValueError(f"--gpus: expected such as 8x80GiB or 8xH100 (known: {', '.join(_NAMES)}), got {text!r}")
    return Gpus(number, int(gib * GIB))


def here() -> Gpus | None:
    """The GPUs of this machine, each taken to have what the smallest has; None without a GPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(count)]
    return Gpus(count, min(sizes)) if sizes else None
