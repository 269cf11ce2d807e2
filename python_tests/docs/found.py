"""The results of a page's snippets, in the names that they have there."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import eft_ext
from eft_ext.decoding import TokenSource
from eft_ext.dynamics import Recording

Names = dict[str, Any]


def readme(there: Names, printed: str) -> None:
    assert there["token"].shape == (8,)
    assert printed.count("I am glad to help.") == len(there["chats"])
    assert there["lm"].config.model_type == "emulated"


def dynamics(there: Names, printed: str) -> None:
    assert there["parts"].change.shape == there["observed"].targets.shape
    assert there["run"].steps.tolist() == [0, 20, 40]
    assert np.isfinite(there["run"].curve("cross_prompt")).all()
    assert there["whole"].delta.abs().sum() > 0
    if importlib.util.find_spec("trl"):
        assert Recording("run-trl").steps.tolist() == [0, 20, 40]


def checkpoint(there: Names, printed: str) -> None:
    three = eft_ext.EmulatedModel.from_pretrained(there["LARGE"], there["POLITE"], there["BASE"], quiet=True)
    assert torch.equal(there["answer"], three.generate(**there["asked"], do_sample=False, max_new_tokens=30))
    assert there["beams"].shape[0] == 1
    assert there["logits"].shape[-1] == 1280


def report(there: Names, printed: str) -> None:
    assert all("<title>" in Path(name).read_text() for name in ("report.html", "own.html"))
    assert there["page"].count("Lerand") > 1


def score(there: Names, printed: str) -> None:
    own = [x.log_softmax(-1).gather(-1, there["ids"][:, 1:, None]) for x in there["logits"]]
    torch.testing.assert_close(there["found"].logprobs[..., :3], torch.cat(own, -1), atol=1e-5, rtol=1e-5)
    assert there["scores"].logprobs.shape == (2, 4)


def speculation(there: Names, printed: str) -> None:
    assert there["output"].speculation.accepted == (there["output"].token_sources == TokenSource.accepted).sum() > 0


def structured_output(there: Names, printed: str) -> None:
    assert set(json.loads(there["texts"][0])) == {"born", "town"}
    assert {there["texts"][1], there["town"]} <= {" Lerand", " Tonin"}
    assert there["model"].tokenizer.decode(there["answer"], skip_special_tokens=True)[-1] == "}"
    assert torch.equal(there["out"], there["same"])
    assert len(there["rows"]) == 2


def streaming(there: Names, printed: str) -> None:
    assert "." in there["seen"]
    assert not there["thread"].is_alive()
    assert [len(row) for row in there["columns"].columns[1:]] == [2] * 8
    assert printed.count("The birthplace is Lerand.") == 4


def lora(there: Names, printed: str) -> None:
    assert there["model"].members[1].model is there["model"].members[2].model


def precision(there: Names, printed: str) -> None:
    dtypes = [[member.model.dtype for member in there[name].members] for name in ("exact", "all_bf16", "large_bf16")]
    half, full = torch.bfloat16, torch.float32
    assert dtypes == [[full] * 3, [half] * 3, [half, full, full]]
    assert isinstance(there["int8"].lm_head, torch.ao.nn.quantized.dynamic.Linear)
    assert isinstance(there["exact"].large.lm_head, torch.nn.Linear)
    assert len(there["answers"]) == 4
    assert len(set(there["answers"])) == 1


def many_gpus(there: Names, printed: str) -> None:
    assert len(there["rows"]) == 3


def methods(there: Names, printed: str) -> None:
    assert len(there["texts"]) == 1
    assert there["ids"].shape[0] == 1


def special_tokens(there: Names, printed: str) -> None:
    assert printed.strip() == "SpecialTokens(own=(1281,), never=(1280,), owner='tuned')"
    assert there["model"].tokenizer is there["thinking"]


_GUIDES = (
    checkpoint,
    dynamics,
    lora,
    many_gpus,
    methods,
    precision,
    report,
    score,
    special_tokens,
    speculation,
    streaming,
    structured_output,
)
CHECKS: dict[str, Callable[[Names, str], None]] = {"README.md": readme} | {
    f"docs/guides/{check.__name__.replace('_', '-')}.md": check for check in _GUIDES
}
