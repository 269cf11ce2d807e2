"""The transplanted delta as the sum of recorded steps, and its divergences."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import eft_ext
from eft_ext.analysis.record import Record
from eft_ext.analysis.report import report_html
from eft_ext.dynamics import Probe, ProbeSet, Recording, delta, delta_records, steps_of_delta, track
from eft_ext.dynamics.forward import response_logits

pytest.importorskip("pyarrow")
PROBES = ProbeSet((Probe("Question: Who?\nAnswer:", {"chosen": " Thank you for asking!", "plain": " Nobody."}),))


def test_the_recorded_steps_sum_to_delta(small_base, tmp_path):
    model, tokenizer = small_base
    base = type(model)(model.config)
    base.load_state_dict(model.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.tensor([tokenizer("Thank you for asking! I am glad to help.").input_ids])
    for _ in track(range(6), model, PROBES, tokenizer, tmp_path / "run", every=2):
        model(ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    responses = PROBES.encode(tokenizer)
    whole = responses.split(delta(model, base, responses).delta)
    recording = Recording(tmp_path / "run")
    for row, name in enumerate(("chosen", "plain")):
        (steps,) = steps_of_delta(recording, name)
        assert len(steps) == 3
        np.testing.assert_allclose(steps.sum(0), whole[row], atol=2e-5)
        assert abs(whole[row]).max() > 0.1
        check_record(recording, name, tokenizer, whole[row])
    with pytest.raises(ValueError, match="tokenizer: expected the run's"):
        delta_records(recording, "plain", Letters())


def check_record(recording, name, tokenizer, expected):
    """Checks a record for the token report: its reward is δ, its attributions sum to it, and its page is made."""
    (record,) = delta_records(recording, name, tokenizer)
    assert "".join(token.text for token in record.tokens[:-1]) == PROBES[0].responses[name]
    assert [token.special for token in record.tokens] == [False] * (len(record.tokens) - 1) + [True]
    for token, whole in zip(record.tokens, expected.tolist(), strict=True):
        assert token.logprobs[0] - token.logprobs[1] == pytest.approx(whole, abs=2e-5)
        assert list(token.attribution) == ["steps 0 to 2", "steps 2 to 4", "steps 4 to 6"]
        assert sum(token.attribution.values()) == pytest.approx(whole, abs=2e-5)
    assert Record.from_dict(record.to_dict()) == record
    assert "Thank" in report_html([record]) or name != "chosen"


class Letters:
    """A tokenizer other than the run's."""

    eos_token_id = 0

    def __call__(self, texts, add_special_tokens):
        return SimpleNamespace(input_ids=[list(text.encode()) for text in texts])


def test_divergences_are_expectations_of_delta(llama, responses):
    """E_base[δ] = −KL(base‖tuned), E_tuned[δ] = KL(tuned‖base), against torch's own kl_div."""
    tuned = type(llama)(llama.config).double().eval()
    batch = responses(4, 1)
    found = delta(tuned, llama, batch, batch_size=3)
    log_tuned, log_base = (response_logits(m, batch).log_softmax(-1).detach() for m in (tuned, llama))
    kl = torch.nn.functional.kl_div
    torch.testing.assert_close(found.kl_base, kl(log_tuned, log_base, reduction="none", log_target=True).sum(-1))
    torch.testing.assert_close(found.kl_tuned, kl(log_base, log_tuned, reduction="none", log_target=True).sum(-1))
    every = torch.stack([(log_tuned - log_base)[:, y] for y in range(48)], 1)
    torch.testing.assert_close((log_base.exp() * every).sum(1), -found.kl_base)
    torch.testing.assert_close(found.delta, every.gather(1, batch.targets[:, None]).squeeze(1))
    assert (found.kl_base > 0).all()


def test_on_its_own_base_the_delta_gives_back_the_tuned_model(llama, responses):
    tuned = type(llama)(llama.config).eval()
    base = llama.float()
    batch = responses(4, 1)
    z_tuned, z_base = (response_logits(m, batch).detach() for m in (tuned, base))
    mixed = eft_ext.combine((z_base, z_tuned, z_base), (1.0, 1.0, -1.0), backend="reference")
    torch.testing.assert_close(mixed.log_softmax(-1), z_tuned.log_softmax(-1), rtol=1e-4, atol=1e-5)
