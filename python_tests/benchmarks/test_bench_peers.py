"""The loops beside which a trio's speed is measured, and the command that measures it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from python_tests.helpers.naive import greedy, up_scaled

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny():
    from common.trios import load

    torch.manual_seed(0)
    return load("tiny", torch.float32, "cpu")


def test_every_contender_but_the_large_model_gives_the_mixture_s_tokens(tiny):
    from peers.contenders import ALONE_TOO, NAMES, contenders

    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    wanted = [row.tolist() + greedy(tiny, up_scaled(1.0), row.tolist(), 6, ends=()) for row in ids]
    alone = [row.tolist() + greedy(tiny, lambda large, tuned, base: large, row.tolist(), 6, ends=()) for row in ids]
    assert wanted != alone
    for name, run in contenders(tiny, ids, NAMES, sample=False).items():
        assert run(6).tolist() == (alone if name in ALONE_TOO else wanted), name


@pytest.mark.slow
def test_every_contender_samples(tiny):
    from peers.contenders import NAMES, contenders

    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    for name, run in contenders(tiny, ids, NAMES, sample=True).items():
        found = run(5)
        assert found.shape == (2, 9), name
        assert found[:, :4].equal(ids), name


def test_rows_of_several_lengths_are_padded_anew(tiny):
    from peers.loops import CachedRows

    cached = CachedRows(tiny[0])
    texts = [[5, 6, 7], [8, 9, 10, 11, 12]]
    for _ in range(3):
        found = cached.forward(texts, torch.device("cpu"))
        for row, text in zip(found, texts, strict=True):
            torch.testing.assert_close(row, tiny[0](torch.tensor([text])).logits[0, -1], atol=1e-5, rtol=0)
        texts = [[*texts[0], 20], [*texts[1], 21]]


def test_tokens_that_differ_are_an_error_but_at_a_tie(tiny):
    from peers.cells import DifferentTokens, differing

    ours = torch.tensor([[5, 6, 7, 8]])
    assert differing(tiny, "other", ours.clone(), ours, prompt=2) == 0
    with pytest.raises(DifferentTokens, match="other: row 0, new token 1: 9, and 8 by eft_ext; their logits are"):
        differing(tiny, "other", torch.tensor([[5, 6, 7, 9]]), ours, prompt=2)
    same = [type(m)(m.config).eval() for m in tiny]
    for model in same:
        model.lm_head.weight.data[9] = model.lm_head.weight.data[8]
    assert differing(same, "other", torch.tensor([[5, 6, 7, 9]]), ours, prompt=2) == 1


def test_an_embedding_table_is_no_floor_unless_it_is_the_head():
    from peers.floor import bytes_a_token
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 100, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes = []
    for tied in (False, True):
        config = LlamaConfig(**shape, num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied)
        sizes.append(bytes_a_token([LlamaForCausalLM(config)] * 2))
    layer = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16
    assert sizes == [2 * 4 * (layer + 16 + 100 * 16)] * 2


@pytest.mark.slow
def test_the_command(tmp_path):
    """Tiny models, one cell of each trio: the fields are all there, the image and the tables too."""
    path, image = tmp_path / "peers.json", tmp_path / "price.png"
    command = [sys.executable, "benchmarks/bench_peers.py", "--quick", "--json", path, "--image", image]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "these figures say nothing about speed" in done.stdout
    assert done.stdout.count("greedy tokens of 7 contenders are equal in all rows") == 3
    assert image.read_bytes().startswith(b"\x89PNG")
    found = json.loads(path.read_text())
    assert (found["quick"], found["sampled"], found["clock"], found["left_out"]) == (True, False, "cpu", [])
    assert found["bandwidth_bytes_per_s"] > 1e8
    assert [r["trio"] for r in found["results"]] == ["controlled 3", "controlled 9", "realistic"]
    for i, result in enumerate(found["results"]):
        assert (result["rows"], result["prompt"], result["new_tokens"], result["rounds"]) == (1, 32, 16, 1)
        assert len(result["contenders"]) == 9
        for name, r in result["contenders"].items():
            times = [r[key] for key in ("first_token_s", "call_s", "call_wall_s", "tokens_per_second", "of_floor")]
            times += [r[key] for key in ("first_call_s", "first_call_wall_s") if i == 0]
            assert all(time > 0 for time in times), (name, r)
            assert ("accepted" in r) == ("drafts" in name)
            assert name.startswith("large alone") or (r["equal_rows"], r["ties"]) == (1, 0)

    found["results"][1]["rounds"] = 7
    path.write_text(json.dumps(found))
    command += ["--replace", "--trios", "controlled 9", "--skip-first"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    again = json.loads(path.read_text())["results"]
    assert [r["trio"] for r in again] == ["controlled 3", "controlled 9", "realistic"]
    assert (again[0], again[2]) == (found["results"][0], found["results"][2])
    assert again[1]["rounds"] == 1
    done = subprocess.run([*command, "--threads", "2"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "was measured under other --threads, --sample or --quick" in done.stderr
    path.unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--replace: expected results at --json, got" in done.stderr
