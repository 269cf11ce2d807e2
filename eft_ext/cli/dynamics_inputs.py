"""The model that `eft dynamics` trains, its data and its probes."""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers.utils import logging

from eft_ext._chat import Chat
from eft_ext._files import filling, named
from eft_ext._jsonl import read_lines
from eft_ext.dynamics import LOSSES, SFT, Pairs, ProbeSet, Responses, track
from eft_ext.dynamics.chats import as_prompt, as_response
from eft_ext.dynamics.context import check_texts
from eft_ext.dynamics.forward import response_logits
from eft_ext.dynamics.preferences import preference
from eft_ext.hf import ContextWarning
from eft_ext.hf.loading.hub import load_model, load_tokenizer, source_of

MOST = 2**63 - 1  # a step is an int64
LARGEST_LR = 1e37  # AdamW divides it by 0.1 at first, in fp32


def check_numbers(counts: Mapping[str, int], lrs: Sequence[float]) -> None:
    """Raises ValueError for counts below 1, learning rates that are not positive, and either beyond its bound."""
    for name, number in counts.items():
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")
        if number > MOST:
            raise ValueError(f"{name}: expected at most {MOST}, got {number}")
    for lr in lrs:
        if not 0 < lr < math.inf:
            raise ValueError(f"--lr: expected a positive number, got {lr}")
        if lr > LARGEST_LR:
            raise ValueError(f"--lr: expected at most {LARGEST_LR:g}, got {lr}")


@dataclass(frozen=True, eq=False)
class Example:
    """A prompt, and its completion or a chosen and a rejected response."""

    prompt: str | Chat
    texts: tuple[str, ...]
    where: str  # file and line


@dataclass
class Tuning:
    """A model, its data and its probes, ready to train."""

    model: Any
    tokenizer: Any
    probes: ProbeSet
    rows: list[Example]
    loss: Any
    batch_size: int
    seed: int

    @classmethod
    def load(
        cls,
        model: str | None,
        probes: Path | None,
        data: Path | None,
        method: str,
        extend: bool,
        batch_size: int,
        seed: int,
        trust_remote_code: bool,
        sample: int | None = None,
    ) -> Tuning:
        """Reads everything.

        Raises:
            ValueError: a line that is wrong, too few rows; the message names file, line and key.
            OSError: no such model or file.
        """
        if model is not None:
            model = source_of("--model", model)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if data is None or probes is None:
            from eft_ext.demo.dynamics.data import preferences as embedded
            from eft_ext.demo.dynamics.data import probes as watched
            from eft_ext.demo.trio import load_trio

            made = embedded(load_trio().world, "format", seed)
        if data is None:
            where = (f"embedded preferences, row {i}" for i in count(1))
            read = [Example(p.prompt, (p.chosen, p.rejected), place) for p, place in zip(made, where, strict=False)]
        else:
            read = list(_read(data))
        found = ProbeSet.from_jsonl(probes) if probes else watched(load_trio().world, made, 16, "format", seed)
        if sample is not None:
            found = found.sample(sample, seed)
        for row in read:
            if len(row.texts) == 1 and (extend or method != "sft"):
                needs = "with --extend" if extend else f"for {method}"
                raise ValueError(f"{row.where}: expected the keys 'chosen' and 'rejected' {needs}")
        texts = 1 if method == "sft" and not extend else 2
        rows = [replace(row, texts=row.texts[:texts]) for row in read]
        if extend:  # as `extend_for_sft`
            rows = [replace(row, texts=(text,)) for row in rows for text in row.texts]
        if len(rows) < batch_size:
            raise ValueError(f"--batch-size: expected at most {len(rows)}, the rows of the data, got {batch_size}")
        from eft_ext.demo import model_path

        folder = model or str(model_path("small-base"))
        if model is None:
            torch.set_num_threads(1)  # layers this small take longer to share than to compute
        about = {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
        tokenizer = tokenizer_of(folder, about)
        loaded = load_model("--model", folder, about)
        if not any(p.requires_grad for p in loaded.parameters()):  # transformers loads adapters so
            got = f"{folder} without any; merge an adapter into its base first"
            raise ValueError(f"--model: expected a model with parameters to train, got {got}")
        return cls(loaded, tokenizer, found, rows, LOSSES[method](), batch_size, seed)

    def check_texts(self, steps: int) -> None:
        """Warns once of probes, and rows of the first `steps` steps, beyond the model's positions; then never again.

        Raises:
            ValueError: one does not fit into the model's table, or warnings are errors; the message has file and line.
        """
        from eft_ext.demo.dynamics.data import batches

        epoch = len(self.rows) // self.batch_size + 1  # steps that bring every row
        drawn = chain.from_iterable(islice(batches(self.rows, self.batch_size, self.seed), min(steps, epoch)))
        probes = self.probes.encode(self.tokenizer)
        check_texts({"model": self.model}, {"probes": probes, "data": self._responses(dict.fromkeys(drawn))})
        warnings.simplefilter("ignore", ContextWarning)

    def _responses(self, rows: Iterable[Example], text: int | None = None) -> Responses:
        """All texts of the rows, or those with this number."""
        some = slice(None) if text is None else slice(text, text + 1)
        each = [(row.where, (row.prompt, text)) for row in rows for text in row.texts[some]]
        return Responses.from_text(self.tokenizer, [pair for _, pair in each], where=[where for where, _ in each])

    def updates(self) -> Iterator[Responses | Pairs]:
        """Batches without end; pairs carry the log-probs of the model as it is when first asked."""
        from eft_ext.demo.dynamics.data import batches

        reference = self.model
        for rows in batches(self.rows, self.batch_size, self.seed):
            if isinstance(self.loss, SFT):
                yield self._responses(rows)
            else:
                pairs = Pairs(self._responses(rows, 0), self._responses(rows, 1))
                yield pairs.with_reference(reference) if self.loss.needs_reference else pairs

    def train(self, steps: int, lr: float, out: Path, every: int, overwrite: bool, quiet: bool) -> dict[str, float]:
        """Trains the model, recording; returns the seconds of training and of recording."""
        import copy

        tuned = copy.deepcopy(self.model)  # the model itself stays the reference
        optimiser = torch.optim.AdamW(tuned.parameters(), lr=lr, weight_decay=0.0)
        about = {"loss": repr(self.loss), "lr": lr, "batch_size": self.batch_size, "seed": self.seed}
        start = time.perf_counter()
        silent = True if quiet or not sys.stderr.isatty() else None
        updates = tqdm(islice(self.updates(), steps), "training", steps, disable=silent)
        options: dict[str, Any] = {"every": every, "overwrite": overwrite, "lr": lr, "about": about}
        for update in track(updates, tuned, self.probes, self.tokenizer, out, **options):
            self.loss(response_logits(tuned, update.responses), update).backward()
            optimiser.step()
            optimiser.zero_grad()
        self.model = tuned
        whole = time.perf_counter() - start
        recording = float(json.loads((out / "run.json").read_text())["seconds"])
        return {"training": round(whole - recording, 2), "recording": round(recording, 2)}

    def save(self, folder: Path) -> None:
        """Model and tokenizer, both or neither. Raises OSError with the folder's name."""
        try:
            with named(folder), filling(folder) as partial:
                self.model.save_pretrained(partial)
                self.tokenizer.save_pretrained(partial)
        except SafetensorError as error:  # a full disk
            raise OSError(f"{folder}: {error}") from error


def tokenizer_of(source: str, options: dict[str, Any]) -> Any:
    """The tokenizer of `--model`. Raises ValueError where there is none."""
    tokenizer = load_tokenizer("--model", source, options)
    if tokenizer is None:
        raise ValueError(f"--model: expected a model with a tokenizer, found none in {source!r}")
    return tokenizer


def _read(path: Path) -> Iterator[Example]:
    for line in read_lines(path):
        row, where = line.object, line.where
        if "completion" in row:
            for key in ("prompt", "completion"):
                if not row.get(key):
                    raise ValueError(f"{where}, key '{key}': expected a text or messages, got {row.get(key)!r}")
            prompt, given = row["prompt"], {"completion": row["completion"]}
        else:
            prompt, chosen, rejected = preference(row, where)
            given = {"chosen": chosen, "rejected": rejected}
        texts = {key: as_response(text, where, key) for key, text in given.items()}
        for key, text in texts.items():
            if not text:
                raise ValueError(f"{where}, key '{key}': expected a text, got an empty text")
        yield Example(as_prompt(prompt, where, "prompt"), tuple(texts.values()), where)
