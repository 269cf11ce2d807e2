"""Memory that 10,000 steps leave behind, as JSON: of models whose window bounds it, in a process of its own."""

import gc
import json
import resource

import torch
import transformers as hf

from eft_ext.hf import EmulatedModel


def tensors() -> int:
    gc.collect()
    return sum(type(x) is torch.Tensor for x in gc.get_objects())


def peak() -> int:
    """KiB"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    torch.set_num_threads(1)
    shape = dict(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    config = hf.MistralConfig(**shape, num_key_value_heads=1, sliding_window=6, pad_token_id=0)
    model = EmulatedModel(*(hf.MistralForCausalLM(config).eval() for _ in range(3)))
    options = dict(eos_token_id=[999], do_sample=True, seed=1)
    model.generate([[5]], max_new_tokens=200, **options)
    before = tensors(), peak()
    shape_after = model.generate([[5]], max_new_tokens=10_000, **options).shape
    print(json.dumps({"shape": shape_after, "before": before, "after": (tensors(), peak())}))
