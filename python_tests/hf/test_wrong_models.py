"""Models and tokenizers that do not fit together, and what of them is pointed out."""

import copy
import json

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import (
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from eft_ext.hf import EmulatedModel
from eft_ext.hf.inputs.vocabulary import compare_tokenizers

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`")


def test_not_a_model(llamas):
    large, tuned, base = llamas
    with pytest.raises(TypeError, match=r"^tuned: expected a causal language model of transformers, got str"):
        EmulatedModel(large, "tuned", base)
    with pytest.raises(ValueError, match=r"^base: expected a model, got None"):
        EmulatedModel(large, tuned)
    with pytest.raises(TypeError, match=r"^large: .* got LlamaModel"):
        EmulatedModel(large.model, tuned, base)


def test_an_encoder_decoder(llamas):
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    with pytest.raises(TypeError, match=r"^base: expected a decoder-only model, got the encoder-decoder T5For"):
        EmulatedModel(*llamas[:2], T5ForConditionalGeneration(config).eval())


@pytest.mark.slow
def test_a_table_of_positions_is_not_overrun(build):
    short = build("gpt2", 1, 16, 264)
    long = build("gpt_neox", 0, 32, 264)
    with pytest.raises(ValueError, match=r"^tuned: the sequence needs 129 positions, but .* table of 128"):
        EmulatedModel(long, short, short).generate([[5]], max_new_tokens=200, eos_token_id=[999])


def test_a_table_with_an_offset_is_not_overrun(build):
    shape = dict(vocab_size=264, hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2)
    config = OPTConfig(**shape, max_position_embeddings=16, word_embed_proj_dim=16)
    torch.manual_seed(0)
    opt = OPTForCausalLM(config).eval()
    model = EmulatedModel(build("gpt_neox", 0, 32, 264), opt, opt)
    assert model.generate([[5]], max_new_tokens=16, eos_token_id=[999]).shape == (1, 17), "the last one is not read"
    with pytest.raises(ValueError, match=r"^tuned: the sequence needs 17 positions, but .* table of 16"):
        model.generate([[5]], max_new_tokens=17, eos_token_id=[999])


def changed(tokenizer, change):
    other = copy.deepcopy(tokenizer)
    change(other)
    return other


def test_tokenizers_are_compared(tokenizer):
    compare_tokenizers("large", tokenizer, "tuned", copy.deepcopy(tokenizer))
    compare_tokenizers("large", tokenizer, "tuned", changed(tokenizer, lambda t: t.add_tokens([AddedToken("<x>")])))
    words = json.loads(tokenizer.backend_tokenizer.to_str())
    words["model"]["vocab"] |= {"xy": 260, "xyz": 261}
    more = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(words)))
    more.add_tokens([AddedToken("<x>", special=True)])
    said = (
        r"^tuned: expected the tokenizer of large \(260 tokens\), got one of 263 tokens that differs in 2 ordinary "
        r"ones: 'xy' is absent in large, 260 in tuned; 'xyz' is absent in large, 261 in tuned \(check_tokenizers=False"
    )
    with pytest.raises(ValueError, match=said):
        compare_tokenizers("large", tokenizer, "tuned", more)
    lower = changed(tokenizer, lambda t: setattr(t.backend_tokenizer, "normalizer", normalizers.Lowercase()))
    with pytest.raises(ValueError, match=r"^base: expected to cut text as large does, but 'Hello"):
        compare_tokenizers("large", tokenizer, "base", lower)
    ends = changed(tokenizer, lambda t: setattr(t, "eos_token", "<turn>"))
    compare_tokenizers("large", tokenizer, "tuned", ends)  # a chat model may end at another token


def test_fewer_logits_than_ids(llamas, tokenizer, build):
    large, tuned, _base = llamas
    with pytest.raises(ValueError, match=r"^base: expected logits for the tokenizer's 260 ids, got 200 columns"):
        EmulatedModel(large, tuned, build("llama", 2, 16, 200), tokenizer)


def test_softcaps_are_pointed_out(llamas, build):
    with pytest.warns(UserWarning, match=r"final_logit_softcapping: large none, tuned 5.0, base none"):
        EmulatedModel(llamas[0], build("gemma2", 1, 16, 264), llamas[2])


def test_training_mode_is_pointed_out(llamas):
    large, tuned, base = llamas
    with pytest.warns(UserWarning, match=r"^tuned is in training mode"):
        EmulatedModel(large, copy.deepcopy(tuned).train(), base)
