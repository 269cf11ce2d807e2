"""Makes the demonstration models from a seed: `python -m eft_ext.demo.train --out DIR --seed N`."""

from __future__ import annotations

import copy
import os
import platform
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from eft_ext import _json, _seed
from eft_ext._errors import Parser, command, one_line
from eft_ext._extras import needs
from eft_ext._files import check_folder, filling

with command(__name__), needs("eft_ext.demo.train", "cli"):
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    from eft_ext.demo import MODELS, TALKATIVE, checkpoint
    from eft_ext.demo.fit import Batch, fit, new_model, pretraining_batches, tuning_batches
    from eft_ext.demo.notes import MADE, NAME, read_models, read_world
    from eft_ext.demo.recipe import FULL, QUICK, Recipe, Stage
    from eft_ext.demo.tokenizer import CHAT_TEMPLATE, train_tokenizer
    from eft_ext.demo.widen import resize_heads
    from eft_ext.demo.world import World
    from eft_ext.hf.checkpoint.read import is_checkpoint
    from eft_ext.hf.loading.hub import load_model, load_tokenizer

Report = dict[str, dict[str, object]]
MOST_THREADS = 1024  # the system ends a process that asks for millions


def make(out: Path, seed: int, recipe: Recipe, console: Console) -> Report:
    """Trains everything and saves five folders that stock transformers loads, and `training.json`.

    The folder of all is a checkpoint of the trio.

    Args:
        out: made if missing; gets small-base, small-tuned, small-talkative, large-base and large-tuned.
        seed: of the world, the weights and the order of the text. On one machine and thread count the same
            seed gives the same weights; elsewhere sums are taken in another order and the last bits differ.

    Returns:
        The entries of `training.json` for each model: parameters, steps, losses, seconds.

    Raises:
        ValueError: `out` cannot be written, or has files of these names that this script did not make.
        OSError: a file cannot be written; then nothing in `out` has changed.
    """
    _check_ours(out, MODELS)
    if os.path.lexists(out / "config.json") and not is_checkpoint(out, {}):
        raise ValueError(f"--out: expected a new folder or {MADE}, got {out} with another config.json")
    start = time.perf_counter()
    world = World(seed, recipe.people, recipe.towns)
    tokenizer = train_tokenizer(world, recipe.vocab_size)
    small = new_model(recipe.small, tokenizer, seed)
    large = new_model(recipe.large, tokenizer, seed)
    stages = [(small, stage) for stage in (recipe.pretrain_small, recipe.tune_small, recipe.tune_talkative)]
    stages += [(large, stage) for stage in (recipe.pretrain_large, recipe.tune_large)]
    report: Report = {}
    with filling(out) as new, _progress(console) as progress:
        bar = progress.add_task("", total=sum(_cost(model) * stage.steps for model, stage in stages))
        train = partial(_train, tokenizer=tokenizer, recipe=recipe, out=new, report=report, progress=progress, bar=bar)
        text = partial(pretraining_batches, world, tokenizer, recipe, seed)
        tuning = partial(tuning_batches, world, tokenizer, recipe, seed)
        train("small-base", small, recipe.pretrain_small, text())
        other = copy.deepcopy(small)
        train("small-tuned", small, recipe.tune_small, tuning())
        train(TALKATIVE, other, recipe.tune_talkative, tuning("talkative"))
        train("large-base", large, recipe.pretrain_large, text())
        train("large-tuned", large, recipe.tune_large, tuning())
        checkpoint.write(new)
        _note(new, seed, recipe, report, time.perf_counter() - start)
    return report


def add_talkative(out: Path, recipe: Recipe, console: Console) -> Report:
    """Trains the second behaviour alone, from the small base that `out` has, as `make` does.

    The saved queries were rounded once when their heads were widened, so the last bits differ from `make`'s unless
    the heads are widened by 4.

    Raises:
        ValueError: there is no small-base with its training.json in `out`, or they are of another world than the
            recipe's; and as `make`.
        OSError: as `make`.
    """
    if not (out / NAME).is_file() or not (out / "small-base").is_dir():
        raise ValueError(f"--out: expected a folder with small-base and training.json, got {out}")
    _check_ours(out, [TALKATIVE])
    seed, *size = read_world("--out", out)
    if size != [recipe.people, recipe.towns]:
        raise ValueError(
            f"{out / NAME}, key 'recipe': expected a world of {recipe.people} people and {recipe.towns} towns, as this "
            f"run's, got {size[0]} and {size[1]}; --quick makes the small one"
        )
    report, seconds = read_models("--out", out)
    world = World(seed, recipe.people, recipe.towns)
    source = str(out / "small-base")
    tokenizer = load_tokenizer("--out", source, {})
    if tokenizer is None:
        raise ValueError(f"--out: expected a folder with a tokenizer, found none in {source}")
    for key in ("is_local", "local_files_only"):  # where it was loaded from, which is no part of it
        tokenizer.init_kwargs.pop(key, None)
    model = resize_heads(load_model("--out", source, {}), recipe.small.hidden // recipe.small.heads)
    start = time.perf_counter()
    with filling(out) as new, _progress(console) as progress:
        bar = progress.add_task("", total=_cost(model) * recipe.tune_talkative.steps)
        batches = tuning_batches(world, tokenizer, recipe, seed, "talkative")
        _train(TALKATIVE, model, recipe.tune_talkative, batches, tokenizer, recipe, new, report, progress, bar)
        _note(new, seed, recipe, report, seconds + time.perf_counter() - start)
    return report


def _check_ours(out: Path, names: Iterable[str]) -> None:
    """Raises ValueError where a model, or training.json, could not be written or would replace somebody else's."""
    check_folder("--out", out)
    made: Collection[str] = ()
    if os.path.lexists(out / NAME):
        read_world("--out", out)
        made, _ = read_models("--out", out)
    for name in names:
        check_folder("--out", out / name)
        if os.path.lexists(out / name) and name not in made:
            raise ValueError(f"--out: expected a new folder or {MADE}, got {out} with another {name}")


def _train(
    name: str,
    model: LlamaForCausalLM,
    stage: Stage,
    batches: Iterator[Batch],
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    out: Path,
    report: Report,
    progress: Progress,
    bar: TaskID,
) -> None:
    progress.update(bar, description=name)
    cost = _cost(model)
    begin = time.perf_counter()
    losses = fit(model, batches, stage, lambda: progress.advance(bar, cost))
    seconds = time.perf_counter() - begin
    saved = resize_heads(model, recipe.head_dim)
    report[name] = {
        "parameters": saved.num_parameters(),
        "steps": stage.steps,
        "losses": [round(loss, 4) for loss in losses],
        "seconds": round(seconds, 1),
    }
    progress.console.log(f"{name}: {stage.steps} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}, {seconds:.0f} s")
    _save(saved, tokenizer, out / name)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, speed_estimate_period=120)


def _note(out: Path, seed: int, recipe: Recipe, report: Report, seconds: float) -> None:
    about = {
        "seed": seed,
        "recipe": asdict(recipe),
        "models": report,
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")}
        | {"python": platform.python_version()},
    }
    _json.write(out / NAME, about, indent=2)


def _cost(model: LlamaForCausalLM) -> float:
    """Time per step in units of the progress bar: a fixed part and one that grows with the parameters."""
    return 1 + model.num_parameters() / 100_000


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    tokenizer.chat_template = None if folder.name.endswith("base") else CHAT_TEMPLATE
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@one_line()
def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the five models")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default 0)")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds that learns nothing")
    parser.add_argument("--talkative", action="store_true", help="only small-talkative, from the small-base in --out")
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, MOST_THREADS), help="for torch")
    arguments = parser.parse_args()
    _seed.checked(arguments.seed)
    if not 1 <= arguments.threads <= MOST_THREADS:
        raise ValueError(f"--threads: expected a number from 1 to {MOST_THREADS}, got {arguments.threads}")
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()  # the one for writing each file
    recipe = QUICK if arguments.quick else FULL
    if arguments.talkative:
        add_talkative(arguments.out, recipe, Console())
    else:
        make(arguments.out, arguments.seed, recipe, Console())


if __name__ == "__main__":
    main()
