"""Our losses against the gradients that TRL's trainers compute."""

from types import SimpleNamespace

import pytest
import torch

from eft_ext.dynamics import DPO, IPO, SFT, SPPO, Pairs, Responses, SLiC, decompose, last_layer, verify
from eft_ext.dynamics.decompose import update_gradient
from eft_ext.dynamics.forward import trainable
from python_tests.dynamics.conftest import build

OPTIONS = dict(report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, per_device_train_batch_size=3)
TEXTS = (("Who?", " Thank you!", " No."), ("Is it so?", " It is.", " I am glad to help."), ("Why?", " Ask.", " Oh!"))


def by_trl(trainer):
    """The gradient of TRL's loss on the one batch of its data, and the batch."""
    (batch,) = trainer.get_train_dataloader()
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, batch).backward()
    return {name: p.grad for name, p in trainer.model.named_parameters()}, batch


def responses_of(batch):
    attention = batch["attention_mask"].bool()
    return Responses(batch["input_ids"], attention, batch["completion_mask"].bool())


def moved(small_base):
    """The model a little away from its reference."""
    model, _ = small_base
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn_like(p)
    return model.eval()


def distance(model, update, loss, expected):
    """Relative, over all parameters."""
    _, got = update_gradient(model, update, loss, trainable(model))
    assert set(got) == set(expected)
    apart = sum(float((got[name] - g).square().sum()) for name, g in expected.items())
    return (apart / sum(float(g.square().sum()) for g in expected.values())) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss_type", "same", "other"),
    [
        ("sigmoid", DPO(0.2), DPO(0.1)),
        ("sppo_hard", SPPO(5.0), SPPO()),
        ("ipo", None, IPO(0.2)),
        ("hinge", None, SLiC()),
    ],
)
def test_preferences(loss_type, same, other, small_base, tmp_path):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    reference, tokenizer = small_base[0], small_base[1]
    reference = type(reference).from_pretrained(reference.config._name_or_path).eval()
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in TEXTS]
    trainer = trl.DPOTrainer(
        moved(small_base),
        reference,
        args=trl.DPOConfig(str(tmp_path), beta=0.2, loss_type=loss_type, **OPTIONS),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    expected, batch = by_trl(trainer)
    both = responses_of(batch)
    halves = (
        Responses(*(x[part] for x in (both.ids, both.attention, both.response))) for part in (slice(3), slice(3, 6))
    )
    pairs = Pairs(*halves).with_reference(reference)
    if same is not None:
        assert distance(trainer.model, pairs, same, expected) < 1e-4
    assert distance(trainer.model, pairs, other, expected) > 0.1


@pytest.mark.slow
def test_sft(small_base, tmp_path):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    rows = [{"prompt": prompt, "completion": chosen} for prompt, chosen, _ in TEXTS]
    trainer = trl.SFTTrainer(
        moved(small_base),
        args=trl.SFTConfig(str(tmp_path), **OPTIONS),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=small_base[1],
    )
    expected, batch = by_trl(trainer)
    labels = batch["labels"]
    update = Responses(batch["input_ids"], batch["attention_mask"].bool(), labels != -100)
    assert distance(trainer.model, update, SFT(), expected) < 1e-4
    assert distance(trainer.model, update, SFT("sum"), expected) > 0.1


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        ("sigmoid", r"got 'sigmoid'; TRL's 'sigmoid' is DPO\(beta\)"),
        ("ipo", "got 'ipo'; TRL's 'ipo' averages log-probs over each response's tokens, IPO sums them"),
        ("hinge", "got 'hinge'; TRL's 'hinge' is max.* SLiC has neither β nor reference"),
        ("sppo_hard", r"got 'sppo_hard'; TRL's 'sppo_hard' is SPPO\(eta=1 / beta\)"),
        ("dpo", "got 'dpo'$"),
        (None, "got NoneType$"),
        (DPO, "got <class .*DPO.>$"),
        (SimpleNamespace(loss_type=["sigmoid", "ipo"]), "got SimpleNamespace; TRL's 'sigmoid' .*; TRL's 'ipo' "),
        (SimpleNamespace(loss_type="nll"), r"got SimpleNamespace; TRL's 'nll' is SFT\(\)"),
    ],
    ids=str,
)
def test_what_is_no_loss(loss, got, responses):
    model, update = build("llama"), responses(1, 1)
    for entry in (decompose, verify, last_layer):
        with pytest.raises(TypeError, match=r"^loss: expected one of eft_ext.dynamics, such as DPO\(0.1\), .*" + got):
            entry(model, update, update, loss)
