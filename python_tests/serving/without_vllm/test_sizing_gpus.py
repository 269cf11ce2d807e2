"""GPUs as a command line names them, and as they are here."""

import pytest
import torch

from eft_ext.serving.sizing import Gpus, here, parse_gpus

GIB = 2**30
GPUS = {
    "8x80GiB": (8, 80),
    "1x80": (1, 80),
    "2X24gib": (2, 24),
    "4x47.5": (4, 47.5),
    "8xH100": (8, 79),
    "a100-40": (1, 39),
    "2 x L40S": (2, 44),
    "H200": (1, 139),
    "4xB200": (4, 178),
}


@pytest.mark.parametrize("text", GPUS)
def test_gpus(text):
    count, gib = GPUS[text]
    assert parse_gpus(text) == Gpus(count, int(gib * GIB))


@pytest.mark.parametrize("text", ["", "8", "x", "0xH100", "8xH9", "8x0", "-1x80", "8x80TB", "8xH100,2xA100", "8x"])
def test_gpus_that_are_none(text):
    """A number alone may be a count or GiB."""
    with pytest.raises(ValueError, match=r"^--gpus: expected such as 8x80GiB or 8xH100 \(known: [^\n]*\), got [^\n]*$"):
        parse_gpus(text)


def test_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert here() is None
    sizes = [80 * GIB, 40 * GIB]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    class Properties:
        def __init__(self, index):
            self.total_memory = sizes[index]

    monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)
    assert here() == Gpus(2, 40 * GIB)
