"""Sizing without vLLM: published numbers and plain arithmetic, on checkpoints without weights."""

import json
import os
import re

import pytest
from transformers import MixtralConfig

from eft_ext.methods import Weighted
from eft_ext.serving.sizing import Gpus, lines, parse_gpus, size
from python_tests.helpers.published_configs import checkpoint, llama_8b, llama_70b, qwen_1_5b, qwen_32b

GIB = 2**30
LLAMA_70B, LLAMA_8B = 70_553_706_496, 8_030_261_248
QWEN_32B, QWEN_1_5B = 32_763_876_352, 1_543_714_304
H100 = Gpus(8, 79 * GIB)
REQUEST = 131072


@pytest.fixture(scope="module")
def llamas(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("llamas") / "trio", llama_70b(), llama_8b(), llama_8b())


@pytest.fixture(scope="module")
def qwens(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("qwens") / "trio", qwen_32b(), qwen_1_5b(), qwen_1_5b())


def test_llamas_on_eight_h100(llamas):
    found = size(llamas, H100)
    assert [row.parameters for row in found.rows] == [LLAMA_70B, LLAMA_8B, LLAMA_8B]
    assert [row.weight_bytes for row in found.rows] == [2 * LLAMA_70B, 2 * LLAMA_8B, 2 * LLAMA_8B]
    # layers, keys and values, key-value heads, their width, bytes
    own = [80 * 2 * 8 * 128 * 2, 32 * 2 * 8 * 128 * 2, 32 * 2 * 8 * 128 * 2]
    assert [row.kv_bytes for row in found.rows] == own == [327680, 131072, 131072]
    assert {(row.kind, row.dtype) for row in found.rows} == {("llama", "bfloat16")}
    assert found.max_model_len == REQUEST
    assert found.budget == int(0.92 * 79 * GIB)
    assert found.flags == ["--tensor-parallel-size", "4", "--data-parallel-size", "2"]
    # norms are whole on each of the four: two a layer and one at the end
    norms = 2 * (8192 * 161 + 2 * 4096 * 65)
    whole = 2 * (LLAMA_70B + 2 * LLAMA_8B)
    assert found.weights == pytest.approx(norms + (whole - norms) / 4, abs=3)
    # 8192 tokens of: the stream thrice and the inner width thrice, and three hidden states
    activations = 8192 * 2 * (3 * 8192 + 3 * 28672 // 4 + 8192 + 4096 + 4096)
    logits = 1024 * 128256 * (3 * 2 + 8)
    graphs = (80 + 32 + 32) * 51 * 640 * 1024
    assert found.reserve == activations + logits + graphs
    assert found.kv == found.budget - found.weights - found.reserve
    blocks = found.kv // (16 * sum(own) // 4) - 1
    assert found.tokens == blocks * 16
    assert found.requests == blocks * 16 / REQUEST > 1.1
    assert found.total_tokens == 2 * found.tokens
    assert found.why == "4 GPUs are the fewest that hold all models and a request of 131,072 tokens."
    two = size(llamas, H100, tensor_parallel=2, max_model_len=16)
    assert not two.tp  # which is why: the weights alone are more than a GPU has
    assert norms + (whole - norms) / 2 > found.budget


def test_qwens_on_one_h100(qwens):
    found = size(qwens, parse_gpus("1xH100"), max_model_len=8192, max_num_seqs=64, max_num_batched_tokens=2048)
    assert [row.parameters for row in found.rows] == [QWEN_32B, QWEN_1_5B, QWEN_1_5B]  # tied embeddings count once
    assert found.weights == 2 * (QWEN_32B + 2 * QWEN_1_5B)
    own = 64 * 2 * 8 * 128 * 2 + 2 * 28 * 2 * 2 * 128 * 2
    assert found.kv_bytes == own == 319488
    activations = 2048 * 2 * (3 * 5120 + 3 * 27648 + 5120 + 2 * 1536)
    sizes = [1, 2, 4, *range(8, 129, 8)]
    reserve = activations + 64 * 152064 * (3 * 2 + 8) + (64 + 28 + 28) * len(sizes) * 640 * 1024
    assert found.reserve == reserve
    assert found.tokens == ((int(0.92 * 79 * GIB) - found.weights - reserve) // (16 * own) - 1) * 16
    assert (found.tp, found.dp, found.flags) == (1, 1, [])


def test_a_small_model_has_a_replica_on_each_gpu(qwens, tmp_path):
    small = checkpoint(tmp_path / "small", qwen_1_5b(), qwen_1_5b(), qwen_1_5b())
    found = size(small, H100)
    assert (found.tp, found.dp, found.flags) == (1, 8, ["--data-parallel-size", "8"])
    assert found.why == "One GPU holds all models and a request of 32,768 tokens."


def test_what_fits_instead(qwens):
    """Each line's options, given back, fit."""
    gpu = parse_gpus("H100")
    found = size(qwens, gpu)
    assert (found.tp, found.dp, found.tokens, found.flags) == (0, 0, 0, [])
    assert "\n" not in found.why
    assert found.why.startswith(
        "Nothing fits: of 72.7 GiB a GPU, weights take 66.8 GiB, the reserve 7.4 GiB, a request"
    )
    names = {"--max-model-len": "max_model_len", "--max-num-seqs": "max_num_seqs", "--kv-cache-dtype": "kv_cache_dtype"}
    names["--max-num-batched-tokens"] = "max_num_batched_tokens"
    *ways, last = found.notes
    assert len(ways) == 2
    assert last == "More GPUs or quantised weights help."
    for note in ways:
        words = note.removeprefix("fits: ").split()
        given = {names[a]: int(b) if b.isdigit() else b for a, b in zip(words[::2], words[1::2], strict=True)}
        again = size(qwens, gpu, **given)
        assert again.tp == 1
        assert 1.1 <= again.requests < 1.2
    assert lines(found)[-4:] == [found.why, *found.notes]


def test_nothing_fits_at_all(llamas):
    found = size(llamas, Gpus(1, 79 * GIB))
    assert found.tp == 0
    assert found.notes == ("More GPUs or quantised weights help.",)
    assert "weights take 161 GiB" in found.why


def test_fp8_halves_the_cache(llamas):
    found, half = size(llamas, H100), size(llamas, H100, kv_cache_dtype="fp8")
    assert half.kv_bytes * 2 == found.kv_bytes
    assert half.kv == found.kv
    assert abs(half.tokens - 2 * found.tokens) <= 32
    assert half.kv_cache_dtype == "fp8"


def test_drafts_load_the_tuned_model_twice(llamas):
    plain, found = size(llamas, None), size(llamas, None, speculate=3)
    assert [row.name for row in found.rows] == ["large", "tuned", "base", "tuned (drafts)"]
    assert found.weight_bytes - plain.weight_bytes == 2 * LLAMA_8B
    assert found.kv_bytes - plain.kv_bytes == 131072
    four, more = (size(llamas, H100, tensor_parallel=8, speculate=k) for k in (0, 3))
    # each request has four rows of logits; the fourth model is not mixed, but has graphs
    assert more.reserve - four.reserve == 3 * 1024 * 128256 * (3 * 2 + 8) + 32 * 51 * 640 * 1024


def test_who_drafts(tmp_path):
    """The second model, which `eft serve --speculate` names."""
    two = checkpoint(tmp_path / "two", qwen_1_5b(), qwen_32b(), method=Weighted({"a": 1.0, "b": 1.0}))
    assert [row.name for row in size(two, None, speculate=1).rows][-1] == "b (drafts)"
    one = checkpoint(tmp_path / "one", qwen_1_5b(), method=Weighted({"only": 1.0}))
    with pytest.raises(
        ValueError, match="^--speculate: expected several models, of which the second drafts, got only alone$"
    ):
        size(one, None, speculate=1)


def test_tensor_parallelism_by_heads(qwens, tmp_path):
    message = "tensor_parallel_size: expected a divisor of tuned's 12 heads, got 8"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        size(qwens, H100, tensor_parallel=8)
    # 14 and 2 heads: neither 4 nor 8 GPUs can share them
    odd = checkpoint(tmp_path / "odd", qwen_32b(), qwen_1_5b(hidden_size=1792, num_attention_heads=14), qwen_1_5b())
    sizes = {gib: [size(trio, Gpus(8, gib * GIB), max_num_seqs=64) for trio in (odd, qwens)] for gib in (60, 40)}
    assert [(found.tp, found.dp) for found in sizes[60]] == [(2, 4), (2, 4)]
    assert [(found.tp, found.dp) for found in sizes[40]] == [(0, 0), (4, 2)]
    with pytest.raises(ValueError, match="^--tensor-parallel-size: expected at most 2, got 4$"):
        size(qwens, Gpus(2, 79 * GIB), tensor_parallel=4)


def test_a_request_longer_than_the_models_take(llamas, monkeypatch):
    with pytest.raises(
        ValueError, match=r"^--max-model-len: expected at most 131072, which the models have, got 131073$"
    ):
        size(llamas, H100, max_model_len=131073)
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    assert size(llamas, H100, max_model_len=131073).max_model_len == 131073


def test_absurdly_many_gpus_take_no_time(llamas):
    found = size(llamas, Gpus(10**15, 79 * GIB))
    assert (found.tp, found.dp) == (4, 10**15 // 4)


def test_gpus_that_are_left(llamas):
    found = size(llamas, Gpus(6, 139 * GIB))
    assert (found.tp, found.dp) == (2, 3)
    found = size(llamas, Gpus(5, 139 * GIB))
    assert (found.tp, found.dp, found.notes) == (2, 2, ("1 of 5 GPUs is not used.",))


def test_no_room_to_spare(llamas, monkeypatch):
    """Between one request and a tenth more a replica still starts, and says so."""
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    plain = size(llamas, H100)
    length = int(plain.tokens / 1.05)
    found = size(llamas, Gpus(4, 79 * GIB), max_model_len=length)
    assert found.tp == 4
    assert (
        found.why
        == f"4 GPUs are the fewest that hold all models and a request of {length:,} tokens, with nothing to spare."
    )


def test_experts_are_one_replica(tmp_path):
    """vLLM shares experts out between replicas, which the plug-in refuses."""
    shape = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 8}
    config = MixtralConfig(architectures=["MixtralForCausalLM"], num_local_experts=4, **shape, vocab_size=1000)
    found = size(checkpoint(tmp_path / "c", config, config, config), parse_gpus("4xH100"), max_model_len=4096)
    assert (found.tp, found.dp, found.flags) == (1, 1, [])
    assert found.notes == ("Models with experts run without data parallelism: start 4 servers.",)
    router, expert = 1024 * 4, 4 * 3 * 1024 * 2048
    attention = 2 * 1024 * 1024 + 2 * 1024 * 8 * 128
    assert found.rows[0].parameters == 2 * (router + expert + attention + 2 * 1024) + 2 * 1000 * 1024 + 1024


def test_no_network(llamas, monkeypatch):
    """Weights on the hub are sized by the packed configurations."""
    import socket

    def refuse(*_, **__):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert size(llamas, H100).tp == 4
    assert all(not os.path.isdir(place.source) for place in llamas.places.values())


OPTIONS = {
    "--gpu-memory-utilization: expected more than 0, at most 1, got 1.5": {"utilization": 1.5},
    "--dtype: expected auto or one of bfloat16, float16, float32, half, float, got 'int8'": {"dtype": "int8"},
    "--kv-cache-dtype: expected auto or one of bfloat16, float16, fp8, fp8_e4m3, fp8_e5m2, got 'fp4'": {
        "kv_cache_dtype": "fp4"
    },
}


@pytest.mark.parametrize("message", OPTIONS, ids=lambda message: message.split(":")[0])
def test_options_out_of_range(message, qwens):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        size(qwens, None, **OPTIONS[message])


def test_lines_and_json(llamas):
    found = size(llamas, H100)
    printed = lines(found)
    assert all(len(line) <= 100 for line in printed)
    assert printed[-1] == "options: --tensor-parallel-size 4 --data-parallel-size 2"
    assert lines(size(llamas, None))[-1] == "--gpus 8xH100, for example, adds what fits there."
    back = json.loads(json.dumps(found.to_dict()))
    assert back["flags"] == found.flags
    assert back["rows"][0]["parameters"] == LLAMA_70B
    assert back["gpus"] == {"count": 8, "bytes": 79 * GIB}
