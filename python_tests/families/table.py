"""The table of families in docs/guides/families.md: `python -m python_tests.families.table` rewrites it.

Every row is found out: small models are built, a generation is planned, and some twenty tokens are read.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.capture.traced_forward import AFTER
from eft_ext.hf import EmulatedModel
from python_tests.families.builders import FAMILIES, trio

DOCS = Path(__file__).parents[2] / "docs" / "guides" / "families.md"
BEGIN, END = "<!-- families: python -m python_tests.families.table -->", "<!-- end of families -->"


def row(name: str) -> str:
    """A line of the table."""
    models = trio(name)
    plan = EmulatedModel(*models).plan()
    if plan.tier != "eager":
        kept, how = "static", "traced" if (why := _plain(models[0])) is None else f"by Python: {why}"
    else:
        kept, how = "transformers'", plan.because.split("ForCausalLM ")[-1]
    alone = "; one prompt at a time" * FAMILIES[name].alone
    return f"| {name} | `{FAMILIES[name].kind}` | {plan.tier} | {kept} | {how}{alone} |"


def _plain(model: Any) -> str | None:
    """Why the forward pass is not traced on the CPU, None where it is."""
    feeder = StaticCacheModel(model)
    feeder.prefill(torch.tensor([[5, 6, 7]]))
    for token in range(AFTER + 4):
        feeder.forward(torch.tensor([[token + 8]]))
    return feeder.plain_because


def table() -> str:
    head = ["| family | `model_type` | tier | caches | on the CPU, or why not static |", "|---|---|---|---|---|"]
    return "\n".join(head + [row(name) for name in FAMILIES])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    before, rest = DOCS.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    DOCS.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")
