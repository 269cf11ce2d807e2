"""Recordings hold what happened: signs and sums of small steps, whatever precision the trainer computes in."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eft_ext.demo import model_path
from eft_ext.dynamics import (
    DynamicsCallback,
    Pairs,
    Probe,
    ProbeSet,
    Recording,
    Responses,
    decompose,
    delta,
    track,
    verify,
)
from eft_ext.dynamics.evaluation import evaluating

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(not model_path("small-base").is_dir(), reason="the embedded models are missing")
ROOT = Path(__file__).parent.parent.parent


def log_probs(weights, probes, model=None):
    """log π of each row of the probes, [rows]: one forward pass each, of a fresh model with these weights in fp64, or
    of one that has them."""
    tokenizer = AutoTokenizer.from_pretrained(model_path("small-base"))
    if model is None:
        model = AutoModelForCausalLM.from_pretrained(model_path("small-base")).double()
        model.load_state_dict(weights, strict=False)
    found = []
    for _, _, prompt, text in probes.rows():
        head = tokenizer(prompt).input_ids
        tail = [*tokenizer(prompt + text).input_ids[len(head) :], tokenizer.eos_token_id]
        with torch.no_grad():
            log_pi = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        found.append(float(sum(log_pi[len(head) + i - 1, t] for i, t in enumerate(tail))))
    return np.array(found)


def check(run, kept, probes):
    """The recording's levels, the sign of each change that fp32 can tell, and the steps' sum, which is the whole."""
    recording = Recording(run)
    assert recording.steps.tolist() == sorted(kept)
    rows = recording._column("log_prob")  # [steps, rows]
    true = np.stack([log_probs(kept[step], probes) for step in sorted(kept)])
    np.testing.assert_allclose(rows, true, atol=2e-4)
    change, wanted = np.diff(rows, axis=0), np.diff(true, axis=0)
    told = abs(wanted) > 1e-4
    assert told.sum() > 0.8 * told.size
    assert (np.sign(change) == np.sign(wanted))[told].all()
    np.testing.assert_allclose(change.sum(0), true[-1] - true[0], atol=4e-4)
    return recording


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_checkpointing": True}, {"bf16": False}, {"gradient_accumulation_steps": 2}],
    ids=["defaults", "checkpointing", "fp32", "accumulation"],
)
def test_dpo_of_trl(options, tmp_path):
    """TRL trains under bf16 by default, which rounds log π by more than a step changes it."""
    pytest.importorskip("trl")
    from python_tests.dynamics.trained import PROBES, train

    trainer, kept = train(tmp_path, **options)
    assert trainer.accelerator.mixed_precision == ("no" if options.get("bf16") is False else "bf16")
    recording = check(tmp_path / "run", kept, PROBES)
    assert recording.about["dtype"] == "float32"
    if not options:  # under autocast a step would drown
        rounded = abs(log_probs(kept[4], PROBES, trainer.model) - recording._column("log_prob")[-1])
        assert rounded.mean() > 10 * abs(np.diff(recording._column("log_prob"), axis=0)).mean()
    # The trainer is left as it is: the same weights without a recording.
    _, alone = train(tmp_path / "alone", record=False, **options)
    for name, tensor in kept[4].items():
        assert torch.equal(tensor, alone[4][name]), name


@pytest.mark.slow
def test_two_processes(tmp_path):
    pytest.importorskip("trl")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "python_tests.dynamics.trained", str(tmp_path), json.dumps({"gradient_checkpointing": True})]
    threads = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | threads, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    from python_tests.dynamics.trained import PROBES

    saved = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert saved["processes"] == 2
    check(tmp_path / "run", saved["kept"], PROBES)


QUESTIONS = ProbeSet(
    tuple(
        Probe(f"Question: {q}\nAnswer:", {"chosen": " Thank you for asking!", "rejected": f" {q} No."})
        for q in ("Who was it?", "In which town was it?")
    )
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_loop_under_autocast(dtype, small_base, tmp_path):
    """fp16 with a scaler of gradients, or bf16; autocast is around the whole loop, `track` in it."""
    model, tokenizer = small_base
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=2.0**10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    texts = ("Thank you for asking! I am glad to help.", "Have a nice day.", "Do ask again.")
    kept = {}
    with torch.autocast("cpu", dtype=dtype):
        for step, text in enumerate(track(texts, model, QUESTIONS, tokenizer, tmp_path / "run", every=1, lr=1e-3)):
            kept[step] = {name: p.detach().clone() for name, p in model.named_parameters()}
            ids = torch.tensor([tokenizer(text).input_ids])
            scaler.scale(model(ids, labels=ids).loss).backward()
            assert torch.is_autocast_enabled("cpu")
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    kept[step + 1] = {name: p.detach().clone() for name, p in model.named_parameters()}
    check(tmp_path / "run", kept, QUESTIONS)


@pytest.fixture
def prepared(small_base):
    """The small model as accelerate prepares it for bf16."""
    accelerate = pytest.importorskip("accelerate")
    model, tokenizer = small_base
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    yield accelerator.prepare_model(model), tokenizer
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_every_function_reads_a_prepared_model_as_it_is(prepared, small_base, tmp_path):
    """Under autocast inside and around it, `decompose`, `verify`, `delta` and references equal a bare model's."""
    model, tokenizer = prepared
    bare = AutoModelForCausalLM.from_pretrained(model_path("small-base"))
    rows = [(p, t) for _, _, p, t in QUESTIONS.rows()]
    observed = Responses.from_text(tokenizer, rows)
    patched = model.forward

    def everything(model):
        pairs = Pairs(observed, observed).with_reference(model)
        parts = decompose(model, observed, observed)
        checked = verify(model, observed, observed, lr=1e-2)
        return [*pairs.reference, parts.change, parts.log_probs, checked.actual, *delta(model, bare, observed)]

    expected = everything(bare)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = everything(model)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert model.forward == patched
    assert torch.equal(model(observed.ids).logits, model(observed.ids).logits)
    assert not torch.equal(model(observed.ids).logits, bare(observed.ids).logits)  # still under autocast of its own


def test_everything_is_as_it_was(small_base):
    model, _ = small_base
    model.train()
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        compiled = torch.compile(torch.nn.DataParallel(model))
        with torch.autocast("cpu", dtype=torch.bfloat16), evaluating(compiled) as inner:
            assert inner is model
            assert not model.training
            assert not torch.is_autocast_enabled("cpu")
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
            assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
        assert model.training
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        torch.backends.fp32_precision = "tf32"  # which reaches what has no precision of its own
        assert torch.backends.mkldnn.conv.fp32_precision == "tf32"
        with evaluating(model):
            assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
        torch.backends.fp32_precision = "ieee"
        assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.backends.fp32_precision = "none"


def test_a_model_in_bf16_says_so(small_base, tmp_path):
    model, tokenizer = small_base
    list(track([], model.bfloat16(), QUESTIONS, tokenizer, tmp_path / "run"))
    assert Recording(tmp_path / "run").about["dtype"] == "bfloat16"


def test_skipped_steps_have_no_learning_rate():
    """A scaler skips steps whose gradients overflow; the trainer counts them all the same."""
    callback = DynamicsCallback(QUESTIONS, "unused")
    group = {"lr": 0.25, "params": [0]}
    for skipped in (True, False, False):
        optimizer = SimpleNamespace(param_groups=[group, group, {"lr": 3.0, "params": []}], step_was_skipped=skipped)
        callback.on_optimizer_step(None, None, None, optimizer=optimizer)
    assert callback._lr == 0.5
    optimizer = SimpleNamespace(param_groups=[group, {"lr": 0.5, "params": [1]}])
    callback.on_optimizer_step(None, None, None, optimizer=optimizer)
    assert np.isnan(callback._lr)  # of groups with rates of their own there is no sum


def test_sharded_parameters_are_refused(small_base):
    model, _ = small_base
    state = SimpleNamespace(is_world_process_zero=True)
    model.lm_head.weight.ds_id = 3
    with pytest.raises(ValueError, match=r"got model.embed_tokens.weight sharded"):
        DynamicsCallback(QUESTIONS, "unused").on_train_begin(None, state, None, model=model)
