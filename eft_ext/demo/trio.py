"""The shipped models, loaded, and how each of them is asked."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from eft_ext.demo import TALKATIVE, TRIO, model_paths
from eft_ext.demo.notes import read_world
from eft_ext.demo.world import Question, World
from eft_ext.hf import EmulatedModel
from eft_ext.hf.loading.generation_defaults import listed, set_aside
from eft_ext.hf.loading.hub import load_model, load_tokenizer

Answerer = Callable[[list[str]], list[str]]
LARGE, TUNED, EFT, ORACLE = "large", "small tuned", "EFT", "oracle"
LONGEST = 40  # tokens; the longest polite answer of the world has under 30


@dataclass(frozen=True)
class Mode:
    """A way to choose tokens: `options` go to `generate`."""

    name: str
    options: dict[str, Any]


GREEDY = Mode("greedy", {"do_sample": False})
SAMPLED = Mode(
    "sampled at temperature 0.7, top-p 0.9",
    {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0},
)
UNFILTERED = Mode(
    "sampled at temperature 1",
    {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
)


@dataclass(frozen=True)
class Trio:
    """The three models of emulated fine-tuning, and the large model really fine-tuned to compare with."""

    large: PreTrainedModel
    tuned: PreTrainedModel
    base: PreTrainedModel
    oracle: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    world: World

    def held_out(self, count: int, shown: int | None, seed: int) -> tuple[list[Question], list[Question]]:
        """Questions that no model was trained on, and those of them that are answered side by side, 4 if None.

        Raises:
            ValueError: a count out of range.
        """
        pool = self.world.questions("heldout", seed)
        if not 1 <= count <= len(pool):
            raise ValueError(f"questions: expected 1 to {len(pool)}, got {count}")
        shown = min(4, count) if shown is None else shown
        if not 0 <= shown <= count:
            raise ValueError(f"shown: expected 0 to {count}, got {shown}")
        return pool[:count], pool[:shown]

    def answerers(self, mode: Mode, beta: float = 1.0) -> dict[str, Answerer]:
        """The functions that answer a batch of prompts, by name, in the order of the table."""
        return {name: partial(self.generate, name, mode=mode, beta=beta) for name in self._speakers}

    @torch.inference_mode()
    def generate(
        self,
        name: str,
        prompts: list[str],
        mode: Mode,
        beta: float = 1.0,
        streamer: BaseStreamer | None = None,
    ) -> list[str]:
        """The answers, without prompt and end token. A streamer takes one prompt at a time."""
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True)
        options = {**mode.options, "max_new_tokens": LONGEST, "streamer": streamer}
        if name == EFT:
            options["beta"] = beta
        ids = self._speakers[name].generate(**inputs, **options)
        return self.tokenizer.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)

    @cached_property
    def _speakers(self) -> dict[str, Any]:
        emulated = EmulatedModel(self.large, self.tuned, self.base, self.tokenizer)
        return {LARGE: self.large, TUNED: self.tuned, EFT: emulated, ORACLE: self.oracle}


def load_trio(folder: Path | None = None) -> Trio:
    """The shipped models, or those that `python -m eft_ext.demo.train --out folder` made.

    Raises:
        ValueError: a model, its tokenizer or training.json is missing or broken.

    Warns:
        UserWarning: generation settings of a model that are not used.
    """
    paths = model_paths(folder, TRIO)
    world = World(*read_world("--models", paths["large-base"].parent))
    tokenizer = load_tokenizer("--models", str(paths["small-tuned"]), {})
    if tokenizer is None:
        raise ValueError(f"--models: expected a folder with a tokenizer, found none in {paths['small-tuned']}")
    large, tuned, base, oracle = map(_load, paths.values())
    return Trio(large, tuned, base, oracle, tokenizer, world)


def load_talkative(folder: Path | None = None) -> PreTrainedModel:
    """The small model of the second behaviour, from the same place. Raises and warns as `load_trio`."""
    return _load(model_paths(folder, [TALKATIVE])[TALKATIVE])


def _load(path: Path) -> PreTrainedModel:
    """A model that is asked as a `Mode` says: of its generation_config only the special tokens count."""
    quiet = not logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a bar of a blink for each
    model: PreTrainedModel = load_model("--models", str(path), {})
    if not quiet:
        logging.enable_progress_bar()
    if unused := set_aside(model.generation_config):
        warnings.warn(f"--models: not used: {listed(unused)} of {path}'s configuration", stacklevel=3)
    return model
