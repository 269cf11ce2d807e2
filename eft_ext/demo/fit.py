"""Batches of text and the training loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import chain, islice

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eft_ext.demo.recipe import Recipe, Size, Stage
from eft_ext.demo.text import documents, polite, talkative, tuning_examples
from eft_ext.demo.world import Fact, World

IGNORE = -100
Batch = tuple[Tensor, Tensor]  # ids [rows, length], labels [rows, length] with IGNORE where nothing is learnt


def new_model(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    return model


def pretraining_batches(world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> Iterator[Batch]:
    """Rows of documents, each row opened by a whole one and cut at its end: no padding, no late starts."""
    text = documents(world, random.Random(f"pretraining {world.seed} {seed}"))
    end = tokenizer.eos_token_id

    def rows() -> Iterator[list[int]]:
        while True:
            row: list[int] = []
            for ids in encode(islice(text, 1000)):
                row += ids
                if len(row) > recipe.length:
                    yield row[: recipe.length]
                    row = []

    def encode(docs: Iterator[str]) -> list[list[int]]:
        return [[*ids, end] for ids in tokenizer(list(docs), add_special_tokens=False).input_ids]

    stream = rows()
    while True:
        ids = torch.tensor([[end, *row[:-1]] for row in islice(stream, recipe.rows)])
        yield ids, ids


def tuning_batches(
    world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int, behaviour: str = "polite"
) -> Iterator[Batch]:
    """The answers to the tuning questions, epoch after epoch, each epoch in another order and wording."""
    end = tokenizer.eos_token_id
    rng = random.Random(f"{behaviour} {world.seed} {seed}")

    def tell(fact: Fact) -> str:
        return polite(fact) if behaviour == "polite" else talkative(fact, world.facts_of[fact.entity.name], rng)

    epochs = (tuning_examples(world.questions("tuning", 1000 * seed + e), tell) for e in range(10_000))
    examples = chain.from_iterable(epochs)
    while True:
        prompts, answers = zip(*islice(examples, recipe.tune_rows), strict=True)
        heads = tokenizer(list(prompts)).input_ids
        tails = tokenizer(list(answers), add_special_tokens=False).input_ids
        pairs = [(h, [*t, end]) for h, t in zip(heads, tails, strict=True)]
        width = max(len(h) + len(t) for h, t in pairs)
        ids = torch.full((len(pairs), width), end)
        labels = torch.full_like(ids, IGNORE)
        for row, (h, t) in enumerate(pairs):
            ids[row, : len(h) + len(t)] = torch.tensor(h + t)
            labels[row, len(h) : len(h) + len(t)] = torch.tensor(t)
        yield ids, labels


def fit(model: LlamaForCausalLM, batches: Iterator[Batch], stage: Stage, tick: Callable[[], None]) -> list[float]:
    """Trains in place and returns the mean loss, in nats per token, of each twentieth of the run."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda i: min((i + 1) / stage.warmup, (stage.steps - i) / max(1, stage.steps - stage.warmup)),
    )
    losses: list[float] = []
    for ids, labels in islice(batches, stage.steps):
        logits = model(ids, use_cache=False).logits  # [rows, length, vocab]
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        tick()
    model.eval()
    part = max(1, stage.steps // 20)
    return [sum(losses[i : i + part]) / len(losses[i : i + part]) for i in range(0, len(losses), part)]
