"""Sizes of single models: weights and caches of several kinds, against plain arithmetic."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import DeepseekV3Config, FalconConfig, GPT2Config

from eft_ext.demo import checkpoint_path, model_path
from eft_ext.hf.checkpoint.read import read
from eft_ext.methods import Contrast, Weighted
from eft_ext.serving.sizing import Gpus, parse_gpus, size
from python_tests.helpers.published_configs import checkpoint, llama, llama_8b, qwen_1_5b

GIB = 2**30
LLAMA_8B, QWEN_1_5B = 8_030_261_248, 1_543_714_304


@pytest.mark.parametrize("count", range(1, 5))
def test_one_to_four_models(count, tmp_path):
    method = Weighted({f"m{i}": 1.0 for i in range(count)})
    found = size(checkpoint(tmp_path / "c", *[qwen_1_5b()] * count, method=method), parse_gpus("H100"))
    assert found.weight_bytes == count * 2 * QWEN_1_5B
    assert found.kv_bytes == count * 28672
    logits, stream = 1024 * 151936 * (count * 2 + 8), 8192 * 2 * (3 * 1536 + 3 * 8960 + count * 1536)
    assert found.reserve == logits + stream + count * 28 * 51 * 640 * 1024


def test_a_given_step_is_not_cut_to_the_requests(tmp_path):
    """vLLM cuts its default only, to all requests at full length: here 4 x 512 tokens."""
    one = checkpoint(tmp_path / "c", qwen_1_5b(), method=Weighted({"m": 1.0}))
    default, given = (
        size(one, parse_gpus("H100"), max_model_len=512, max_num_seqs=4, max_num_batched_tokens=tokens).reserve
        for tokens in (None, 8192)
    )
    assert given - default == (8192 - 4 * 512) * 2 * (3 * 1536 + 3 * 8960 + 1536)


def test_key_value_heads_are_copied(tmp_path):
    """Two heads on four GPUs: each holds one, and the projections of both stand twice."""
    trio = checkpoint(tmp_path / "trio", qwen_1_5b(), qwen_1_5b(), qwen_1_5b())
    two, four = (size(trio, Gpus(4, 79 * GIB), tensor_parallel=ranks) for ranks in (2, 4))
    assert abs(two.tokens / two.kv - four.tokens / four.kv) < 1e-9  # no fewer bytes of a token
    vectors = 2 * 3 * (1536 * 57 + 28 * (1536 + 256 + 256))  # norms, and biases of queries, keys and values
    copied = 2 * 3 * 28 * 2 * 128 * 1536 * (4 - 2) / 4
    assert four.weights == pytest.approx(vectors + (found_bytes(trio) - vectors) / 4 + copied, abs=6)


def found_bytes(trio):
    return size(trio, None).weight_bytes


def test_latent_attention(tmp_path):
    """One latent and one rotary key for all heads, whole on each GPU."""
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 8}
    latent = {"kv_lora_rank": 128, "q_lora_rank": 96, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64}
    experts = {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "n_group": 2,
        "topk_group": 1,
    }
    config = DeepseekV3Config(
        architectures=["DeepseekV3ForCausalLM"], vocab_size=1000, num_key_value_heads=8, **shape, **latent, **experts
    )
    trio = checkpoint(tmp_path / "c", config, config, config)
    one, two = (size(trio, parse_gpus("2xH100"), tensor_parallel=ranks, max_model_len=4096) for ranks in (1, 2))
    assert one.rows[0].kv_bytes == 3 * (128 + 32) * 2
    assert one.tokens / one.kv == pytest.approx(two.tokens / two.kv, rel=1e-4)
    vectors = 512 + 3 * (512 + 512 + 96 + 128)  # norms
    whole = 3 * 2 * (vectors + 3 * 512 * (96 + 128 + 32))
    assert two.weights == pytest.approx(whole + (one.weights - whole) / 2, abs=6)


def test_windows(tmp_path):
    """Layers with a window keep it; groups of layers are padded to one size, as vLLM's allocator has it."""
    full, short = llama(1024, 2048, 4, 8), qwen_1_5b(use_sliding_window=True, sliding_window=1024, max_window_layers=0)
    assert set(short.layer_types) == {"sliding_attention"}
    found = size(
        checkpoint(tmp_path / "c", full, short, short),
        parse_gpus("H100"),
        max_model_len=32768,
        max_num_batched_tokens=512,
    )
    # Full layers: 8 heads, 4 KiB a token; the 56 with a window: 2 heads, 1 KiB, hence four times the tokens in a block.
    # Groups of four layers: one of the full ones, fourteen of the others.
    block = 16 * 4096 * 4
    blocks = 32768 // 16 + 14 * ((1024 - 1 + 2 * 512 + 63) // 64 + 1)
    assert found.requests == (found.kv // block - 1) / blocks
    alone = size(checkpoint(tmp_path / "d", short, short, short), parse_gpus("H100"), max_num_batched_tokens=512)
    blocks = (1024 - 1 + 2 * 512 + 15) // 16 + 1
    assert alone.requests == (alone.kv // (16 * 3 * 28 * 1024) - 1) / blocks


QUANTISED = {
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
    "fp8": ({"quant_method": "fp8"}, 8),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
    "mxfp4": ({"quant_method": "mxfp4"}, 4 + 20 / 32),
    "int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}}},
        8,
    ),
    "unknown": ({"quant_method": "newest"}, 16),
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_by_configuration(kind, tmp_path):
    given, bits = QUANTISED[kind]
    found = size(checkpoint(tmp_path / "c", llama_8b(quantization_config=given), llama_8b(), llama_8b()), None)
    words, norms = 2 * 128256 * 4096, 65 * 4096
    assert found.rows[0].weight_bytes == pytest.approx(
        2 * (words + norms) + (LLAMA_8B - words - norms) * bits / 8, abs=1
    )
    assert found.rows[0].dtype == given["quant_method"]
    assert found.rows[0].parameters == LLAMA_8B
    assert found.rows[1].dtype == "bfloat16"


def test_quantised_files(tmp_path):
    """Stored bytes of quantised weights and their scales; the rest in the dtype that vLLM runs."""
    given = {"quant_method": "compressed-tensors", "config_groups": {}}
    trio = checkpoint(tmp_path / "c", llama_8b(quantization_config=given), llama_8b(), llama_8b())
    inside = tmp_path / "c" / "large"
    inside.mkdir()
    tensors = {
        "model.layers.0.q_proj.weight": torch.zeros(64, 32, dtype=torch.int8),
        "model.layers.0.q_proj.weight_scale": torch.zeros(64, 1, dtype=torch.float32),
        "model.norm.weight": torch.zeros(32, dtype=torch.float32),
    }
    save_file(tensors, inside / "model.safetensors")
    (inside / "config.json").write_text(json.dumps(trio.config.large.to_dict(), default=str))
    trio.config.weights["large"] = {"folder": "large"}
    found = size(read(tmp_path / "c", {}, config=trio.config), None)
    assert found.rows[0].weight_bytes == 64 * 32 + 64 * 4 + 32 * 2
    assert found.rows[0].dtype == "compressed-tensors"


def test_the_shipped_checkpoint():
    """Files' headers: the safetensors library counts the same."""
    from safetensors import safe_open

    found = size(read(checkpoint_path(), {}), None)
    for row, folder in zip(found.rows, ("large-base", "small-tuned", "small-base"), strict=True):
        with safe_open(model_path(folder) / "model.safetensors", "pt") as file:
            count = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
        assert (row.parameters, row.weight_bytes, row.dtype) == (count, 2 * count, "bfloat16")
    assert size(read(checkpoint_path(), {}), None, dtype="float32").weight_bytes == 2 * found.weight_bytes


DTYPES = {"bfloat16": "bfloat16", "float16": "float16", "float32": "bfloat16", None: "bfloat16"}


@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_dtype_of_a_checkpoint(stored, tmp_path):
    """vLLM runs fp32 checkpoints in bfloat16, unless told."""
    found = size(checkpoint(tmp_path / "c", *[qwen_1_5b()] * 3, dtype=stored), None)
    assert found.dtype == found.kv_cache_dtype == DTYPES[stored]


def test_other_methods_are_sized_too(tmp_path):
    found = size(checkpoint(tmp_path / "c", qwen_1_5b(), qwen_1_5b(), method=Contrast()), None)
    assert [row.name for row in found.rows] == list(Contrast().models)


def test_names_of_other_families(tmp_path):
    """GPT-2 has other names for its sizes; Falcon-7B has 71 heads that share one key and one value."""
    gpt2 = GPT2Config(architectures=["GPT2LMHeadModel"])
    found = size(checkpoint(tmp_path / "gpt2", gpt2, gpt2, gpt2), parse_gpus("L4"))
    assert (found.rows[0].parameters, found.rows[0].kv_bytes) == (124_439_808, 2 * 12 * 768 * 2)
    assert found.max_model_len == 1024
    falcon = FalconConfig(architectures=["FalconForCausalLM"])
    found = size(checkpoint(tmp_path / "falcon", falcon, falcon, falcon), None)
    assert found.rows[0].kv_bytes == 2 * 32 * 64 * 2


def test_files_that_the_index_leaves_out(tmp_path):
    """Some publishers put a second copy of all weights beside the first."""
    trio = checkpoint(tmp_path / "c", *[llama_8b()] * 3)
    inside = tmp_path / "c" / "large"
    inside.mkdir()
    save_file({"model.norm.weight": torch.zeros(32)}, inside / "model-00001-of-00001.safetensors")
    save_file({"norm.weight": torch.zeros(32)}, inside / "consolidated.safetensors")
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    (inside / "model.safetensors.index.json").write_text(json.dumps(index))
    (inside / "config.json").write_text("{}")
    trio.config.weights["large"] = {"folder": "large"}
    assert size(read(tmp_path / "c", {}, config=trio.config), None).rows[0].parameters == 32
