"""Recordings: what is in them, and what a crash, a resumption or a second run does to them."""

import numpy as np
import pytest
import torch

from eft_ext.dynamics import Probe, ProbeSet, Recording, Tracker, track
from eft_ext.dynamics.forward import response_logits
from eft_ext.dynamics.measure import measure

pytest.importorskip("pyarrow")
PROBES = ProbeSet(
    (
        Probe("Question: Who?\nAnswer:", {"chosen": " Thank you for asking!", "rejected": " No."}),
        Probe("Question: In which town was it?\nAnswer:", {"chosen": " With pleasure! I am glad to help."}),
    )
)
BATCHES = ("Thank you for asking! I am glad to help.", "Have a nice day.", "Do ask again.", "What a good question!")


def step(model, tokenizer, text, lr=0.05):
    ids = torch.tensor([tokenizer(text).input_ids])
    loss = model(ids, labels=ids).loss
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= lr * p.grad
            p.grad = None


def run(small_base, path, batches=BATCHES, **options):
    model, tokenizer = small_base
    model.train()
    for text in track(batches, model, PROBES, tokenizer, path, every=2, **options):
        step(model, tokenizer, text)
    assert model.training
    return Recording(path)


def test_what_is_recorded(small_base, tmp_path):
    model, tokenizer = small_base
    before = sums(model, tokenizer)
    recording = run(small_base, tmp_path / "run", BATCHES[:3], lr=0.05)
    assert recording.steps.tolist() == [0, 2, 3]
    assert recording.types == ["chosen", "rejected"]
    assert recording.about["vocab_size"] == 1280
    assert recording.about["records"] == 3
    assert recording.curve("chosen").shape == (3, 2)
    assert recording.curve("rejected").shape == (3, 1)
    after = sums(model, tokenizer)
    chosen, rejected = (recording.curve(name)[[0, -1]] for name in recording.types)
    np.testing.assert_allclose(chosen.T, [[before[0], after[0]], [before[2], after[2]]], 1e-5)
    np.testing.assert_allclose(rejected[:, 0], [before[1], after[1]], 1e-5)
    for name in ("log_prob", "argmax_log_prob"):
        tokens = recording.tokens("chosen", name)
        assert [t.shape[0] for t in tokens] == [3, 3]
        total = np.stack([t.sum(1) for t in tokens], 1)
        np.testing.assert_allclose(total, recording.curve("chosen", name), 1e-5)
        mean = total / np.array([t.shape[1] for t in tokens])
        np.testing.assert_allclose(mean, recording.curve("chosen", f"{name}_mean"), 1e-5)
    for name in ("a_norm", "g_norm"):
        squares = np.stack([(t**2).sum(1) for t in recording.tokens("chosen", name)], 1)
        np.testing.assert_allclose(np.sqrt(squares), recording.curve("chosen", name), 1e-5)


def sums(model, tokenizer):
    """log π of each row of the probes, one forward pass each."""
    found = []
    for _, _, prompt, text in PROBES.rows():
        head = tokenizer(prompt).input_ids
        tail = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            log_pi = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        found.append(float(sum(log_pi[len(head) + i - 1, t] for i, t in enumerate(tail))))
    return found


def test_lower_bound_of_k(small_base, tmp_path):
    """One SGD step on one response between two records: LBK stays below the true ‖K‖, and is not nothing."""
    from eft_ext.dynamics import kernel_norms

    model, tokenizer = small_base
    probe = Probe("Question: Who?\nAnswer:", {"chosen": " Thank you for asking!", "other": " Thanks, no."})
    probes = ProbeSet((probe,))
    trained, other = probes.encode(tokenizer).batches(1)
    k = kernel_norms(model, other, trained, samples=16, generator=torch.Generator().manual_seed(0))
    lr = 1e-4
    for _ in track(range(1), model, probes, tokenizer, tmp_path / "run", every=1, lr=lr):
        loss = -response_logits(model, trained).log_softmax(-1).gather(1, trained.targets[:, None]).sum()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= lr * p.grad
    bound = Recording(tmp_path / "run").lbk("other", "chosen")
    assert bound.shape == (1, 1)
    assert 0 < bound[0, 0] < float(k.norm)


def test_batches_of_any_size_measure_the_same(small_base):
    model, tokenizer = small_base
    responses = PROBES.encode(tokenizer)
    (one, vocab), (three, _) = (measure(model, responses, n) for n in (1, 3))
    assert vocab == 1280
    for a, b in zip(one, three, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_crash_keeps_what_was_recorded_and_the_rest_is_continued(small_base, tmp_path):
    model, tokenizer = small_base
    whole = run((clone(model), tokenizer), tmp_path / "whole").curve("chosen")

    class Crash(Exception):
        pass

    path = tmp_path / "run"
    saved = []

    def crashes():
        for i, text in enumerate(track(BATCHES, model, PROBES, tokenizer, path, every=2)):
            if i == 2:
                saved.append(clone(model))
            if i == 3:
                raise Crash
            step(model, tokenizer, text)

    with pytest.raises(Crash):
        crashes()
    assert Recording(path).steps.tolist() == [0, 2]
    (path / "step-00000004.parquet.tmp").write_bytes(b"half a file")
    recording = run((saved[0], tokenizer), path, BATCHES[2:], first_step=2)
    assert recording.steps.tolist() == [0, 2, 4]
    assert not list(path.glob("*.tmp"))
    np.testing.assert_array_equal(recording.curve("chosen"), whole)


def test_a_loop_resumed_between_records_knows_its_rates(small_base, tmp_path):
    """The stretch from the last record to where it goes on has its own sum."""
    model, tokenizer = small_base
    for i, text in enumerate(track(BATCHES, model, PROBES, tokenizer, tmp_path / "run", every=2, lr=0.05)):
        if i == 3:
            break
        step(model, tokenizer, text)
    recording = run(small_base, tmp_path / "run", BATCHES[3:], first_step=3, lr=0.05)
    assert recording.steps.tolist() == [0, 2, 3, 4]
    np.testing.assert_allclose(recording._column("lr")[1:, 0], [0.1, 0.05, 0.05])


def test_batches_that_do_not_know_their_length(small_base, tmp_path):
    class Endless(list):
        def __len__(self):
            raise NotImplementedError

    run(small_base, tmp_path / "run", Endless(BATCHES))
    assert Recording(tmp_path / "run").steps.tolist() == [0, 2, 4]


def clone(model):
    other = type(model)(model.config)
    other.load_state_dict(model.state_dict())
    return other


def test_steps_beyond_the_checkpoint_are_dropped(small_base, tmp_path):
    path = tmp_path / "run"
    run(small_base, path)
    Tracker(PROBES, small_base[1], path, continues_at=3)
    assert Recording(path).steps.tolist() == [0, 2]


def test_a_recording_is_not_overwritten_by_accident(small_base, tmp_path):
    path = tmp_path / "run"
    run(small_base, path)
    with pytest.raises(ValueError, match=r"has a recording already \(steps 0 to 4\); pass overwrite=True"):
        run(small_base, path)
    with pytest.raises(ValueError, match="records other probes"):
        Tracker(ProbeSet(PROBES[:1]), small_base[1], path, continues_at=2)
    assert run(small_base, path, BATCHES[:1], overwrite=True).steps.tolist() == [0, 1]


def test_wrong_input(small_base, tmp_path):
    for every in (0, [], [-1], "often"):
        with pytest.raises(ValueError, match="every: expected"):
            track([], small_base[0], PROBES, small_base[1], tmp_path / "run", every=every)
    with pytest.raises(ValueError, match="expected a folder with a recording"):
        Recording(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected a folder with a recording, got .*file"):
        Recording(tmp_path / "file")
    with pytest.raises(ValueError, match="lr: expected a number or None, got '1e-3'"):
        track([], small_base[0], PROBES, small_base[1], tmp_path / "run", lr="1e-3")
    recording = run(small_base, tmp_path / "run", BATCHES[:1], per_token=False)
    with pytest.raises(ValueError, match="response: expected one of chosen, rejected, got 'x'"):
        recording.curve("x")
    with pytest.raises(ValueError, match="statistic: expected one of .*log_prob_mean.* got 'x'"):
        recording.curve("chosen", "x")
    with pytest.raises(ValueError, match="recording: expected one made with per_token=True"):
        recording.tokens("chosen")
    with pytest.raises(ValueError, match="both 'chosen' and 'x'"):
        recording.lbk("chosen", "x")


def test_without_pyarrow(monkeypatch, tmp_path):
    """Everything but recordings works, and they say what to install."""
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"a recording needs pyarrow: pip install 'eft_ext\[dynamics\]'"):
        Recording(tmp_path)
