"""The byte-level BPE of the trio, trained on its own pre-training text.

One token, `END`, both opens and ends a document, so a prompt (which the tokenizer opens with it) looks like
the start of a document, and a model that has finished its answer emits it.
"""

from __future__ import annotations

import random
from itertools import islice

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from eft_ext.demo.text import documents
from eft_ext.demo.world import World

END, PAD = "<|end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\nAnswer:"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def train_tokenizer(world: World, vocab_size: int, documents_seen: int = 20_000) -> PreTrainedTokenizerFast:
    """Names come out as several tokens each, the words of the wordings mostly as one."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = islice(documents(world, random.Random(f"tokenizer {world.seed}")), documents_seen)
    bpe.train_from_iterator(text, trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, bpe.token_to_id(END))])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
