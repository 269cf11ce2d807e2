"""Static caches give the logits that a pass over the whole sequence gives, wherever each row stands."""

import pytest
import torch

from eft_ext.decoding import StaticCacheModel, unsupported

CLOSE = dict(rtol=2e-5, atol=2e-5)


def random_tokens(n, seed=0):
    return torch.randint(3, 260, (4, n), generator=torch.Generator().manual_seed(seed))


def feed(feeder, truth, n, seed=0):
    tokens = random_tokens(n, seed)
    logits = feeder.forward(tokens)
    truth.append(tokens)
    torch.testing.assert_close(logits, truth.last(n), **CLOSE)


def test_any_number_of_tokens_at_per_row_positions(family, model_of, ragged, truth):
    feeder, expected = StaticCacheModel(model_of(family)), truth(model_of(family))
    torch.testing.assert_close(feeder.prefill(*ragged), expected.last()[:, 0], **CLOSE)
    for step, n in enumerate((1, 1, 3, 1, 8, 1)):
        feed(feeder, expected, n, step)
    assert feeder.lengths.tolist() == [len(row) for row in expected.rows]


def test_room_ends_with_a_table(model_of):
    model = model_of("gpt2")
    feeder = StaticCacheModel(model)
    feeder.prefill(torch.full((1, model.config.n_positions - 20), 5))
    assert feeder.room == 20
    feeder.limit -= 15  # of a table that is no multiple of a bucket
    assert feeder.room == 5


def test_rollback(family, model_of, ragged, truth):
    feeder, expected = StaticCacheModel(model_of(family)), truth(model_of(family))
    feeder.prefill(*ragged)
    for step in range(4):
        feed(feeder, expected, 5, step)
        cut = torch.tensor([5, 1, 0, 3]).roll(step)
        feeder.crop(feeder.lengths - cut)
        expected.rows = [row[: len(row) - int(n)] for row, n in zip(expected.rows, cut, strict=True)]
        feed(feeder, expected, 1, step)


def test_growth_and_wrapping_rings(family, model_of, ragged, truth):
    """Past the first bucket, past a second one, and past the ring of a sliding window."""
    feeder, expected = StaticCacheModel(model_of(family)), truth(model_of(family))
    feeder.prefill(*ragged)
    for step in range(4):
        feed(feeder, expected, 40, step)
        feed(feeder, expected, 1, step)
        feeder.crop(feeder.lengths - 30)
        expected.rows = [row[:-30] for row in expected.rows]
        feed(feeder, expected, 30, step)
    assert feeder.longest == max(map(len, expected.rows)) == 7 + 4 * 41


def test_a_prompt_longer_than_the_window_and_its_ring(family, model_of, truth):
    expected = truth(model_of(family))
    expected.rows = [row.tolist()[: 130 - 17 * i] for i, row in enumerate(random_tokens(130))]
    longest = max(map(len, expected.rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in expected.rows])
    feeder = StaticCacheModel(model_of(family), capacity=200)
    feeder.prefill(ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in expected.rows]))
    for step in range(3):
        feed(feeder, expected, 2, step)


def test_rows_leave(family, model_of, ragged, truth):
    feeder, expected = StaticCacheModel(model_of(family)), truth(model_of(family))
    feeder.prefill(*ragged)
    feed(feeder, expected, 2)
    feeder.select_rows([3, 1])
    expected.rows = [expected.rows[3], expected.rows[1]]
    tokens = random_tokens(2)[:2]
    expected.append(tokens)
    torch.testing.assert_close(feeder.forward(tokens), expected.last(2), **CLOSE)


def test_rows_are_admitted(family, model_of, ragged, truth):
    feeder, expected = StaticCacheModel(model_of(family)), truth(model_of(family))
    feeder.prefill(*ragged)
    feed(feeder, expected, 3)
    new = random_tokens(90, 5)[:2].tolist()  # longer than what there is room for
    new[1] = new[1][:4]
    ids = torch.tensor([new[0], [0] * 86 + new[1]])
    logits = feeder.admit(torch.tensor([2, 0]), ids, (ids > 0).long())
    expected.rows[2], expected.rows[0] = list(new[0]), list(new[1])
    torch.testing.assert_close(logits, expected.last()[[2, 0], 0], **CLOSE)
    feed(feeder, expected, 3, 1)


def test_what_cannot_be_static_says_why(build, model_of):
    import transformers as hf

    assert all(unsupported(model_of(family)) is None for family in ("llama", "gemma2", "gpt2"))
    small = dict(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    dynamic = hf.LlamaForCausalLM(hf.LlamaConfig(**small, intermediate_size=16, rope_parameters=rope))
    assert "RoPE of type 'dynamic'" in unsupported(dynamic)
    assert "ALiBi" in unsupported(hf.FalconForCausalLM(hf.FalconConfig(**small, alibi=True)))
    assert "without past_key_values" in unsupported(
        hf.MambaForCausalLM(hf.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1))
    )
    llama = build("llama")
    llama.config._attn_implementation = "flex_attention"
    assert "attn_implementation='sdpa'" in unsupported(llama)
    with pytest.raises(ValueError, match=r"^tuned: LlamaForCausalLM uses attention 'flex_attention'"):
        StaticCacheModel(llama, name="tuned")


def test_a_sliding_window_takes_few_tokens_at_a_time(model_of, ragged):
    feeder = StaticCacheModel(model_of("mistral"))
    feeder.prefill(*ragged)
    with pytest.raises(ValueError, match=r"^tokens: expected at most 64 at a time"):
        feeder.forward(random_tokens(65))


def test_families_that_no_test_knows_are_tried(build):
    import transformers as hf

    torch.manual_seed(0)
    shape = dict(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    fine = [
        hf.PhiForCausalLM(hf.PhiConfig(**shape, intermediate_size=16)),
        hf.OlmoForCausalLM(hf.OlmoConfig(**shape, intermediate_size=16)),
        hf.OPTForCausalLM(hf.OPTConfig(**shape, ffn_dim=16, word_embed_proj_dim=16, max_position_embeddings=64)),
    ]
    for model in fine:
        assert unsupported(model.eval()) is None, type(model)
    odd = build("llama", 9)
    odd.config.model_type = "odd"
    inner = odd.model.layers[0].self_attn.forward
    odd.model.layers[0].self_attn.forward = lambda *a, **k: inner(*a, **{**k, "attention_mask": None})
    assert unsupported(odd) == "gives other logits from static caches"
    broken = build("llama", 9)
    broken.config.model_type = "broken"
    broken.model.layers[0].self_attn.forward = lambda *a, past_key_values, **k: past_key_values.no_such_thing
    assert unsupported(broken) == "cannot use static caches (AttributeError)"
