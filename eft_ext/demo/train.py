"""Makes the demonstration models from a seed: `python -m eft_ext.demo.train --out DIR --seed N`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from eft_ext.demo.fit import Batch, fit, new_model, pretraining_batches, tuning_batches
from eft_ext.demo.recipe import FULL, QUICK, Recipe, Stage
from eft_ext.demo.tokenizer import CHAT_TEMPLATE, train_tokenizer
from eft_ext.demo.world import World

Report = dict[str, dict[str, object]]


def make(out: Path, seed: int, recipe: Recipe, console: Console) -> Report:
    """Trains everything and saves four folders that stock transformers loads, and `training.json`.

    Args:
        out: made if missing; gets small-base, small-tuned, large-base and large-tuned.
        seed: of the world, the weights and the order of the text. On one machine and thread count the same
            seed gives the same weights; elsewhere sums are taken in another order and the last bits differ.

    Returns:
        What `training.json` says of each model: parameters, steps, losses, seconds.
    """
    start = time.perf_counter()
    world = World(seed, recipe.people, recipe.towns)
    tokenizer = train_tokenizer(world, recipe.vocab_size)
    small = new_model(recipe.small, tokenizer, seed)
    large = new_model(recipe.large, tokenizer, seed)
    plan = (
        ("small", small, recipe.pretrain_small, recipe.tune_small),
        ("large", large, recipe.pretrain_large, recipe.tune_large),
    )
    total = sum(_cost(model) * stage.steps for _, model, *stages in plan for stage in stages)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    report: Report = {}
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        bar = progress.add_task("", total=total)

        def train(name: str, model: LlamaForCausalLM, stage: Stage, batches: Iterator[Batch]) -> None:
            progress.update(bar, description=name)
            cost = _cost(model)
            begin = time.perf_counter()
            losses = fit(model, batches, stage, lambda: progress.advance(bar, cost))
            seconds = time.perf_counter() - begin
            report[name] = {
                "parameters": model.num_parameters(),
                "steps": stage.steps,
                "losses": [round(loss, 4) for loss in losses],
                "seconds": round(seconds, 1),
            }
            console.log(f"{name}: {stage.steps} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}, {seconds:.0f} s")
            _save(model, tokenizer, out / name)

        for size, model, pretrain, tune in plan:
            train(f"{size}-base", model, pretrain, pretraining_batches(world, tokenizer, recipe, seed))
            train(f"{size}-tuned", model, tune, tuning_batches(world, tokenizer, recipe, seed))
    about = {
        "seed": seed,
        "recipe": asdict(recipe),
        "models": report,
        "seconds": round(time.perf_counter() - start, 1),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")}
        | {"python": platform.python_version()},
    }
    (out / "training.json").write_text(json.dumps(about, indent=2) + "\n")
    return report


def _cost(model: LlamaForCausalLM) -> float:
    """Time per step in units of the progress bar: a fixed part and one that grows with the parameters."""
    return 1 + model.num_parameters() / 100_000


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE if folder.name.endswith("tuned") else None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the four models")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default 0)")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds that learns nothing")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()  # the one for writing each file
    make(arguments.out, arguments.seed, QUICK if arguments.quick else FULL, Console())


if __name__ == "__main__":
    main()
