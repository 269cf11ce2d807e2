"""`eft score`: perplexities and rewards of a data set."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eft_ext._interrupt import Interrupted
from eft_ext._json import dumps
from eft_ext.analysis.summary import finite, summary
from eft_ext.cli import loading, long_texts
from eft_ext.cli import methods as m
from eft_ext.cli import options as o
from eft_ext.cli.outputs import writable

if TYPE_CHECKING:
    from eft_ext.analysis.dataset import Item, ResultsFile
    from eft_ext.hf import EmulatedModel

NAME = "score"


def run(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSONL: in each line `text`, or `prompt` and `response`, or a chat as `messages`. Only the response, "
            "or the assistant's last message, is then scored. A prompt may be a chat, too."
        ),
    ],
    large: o.Large = None,
    tuned: o.Tuned = None,
    base: o.Base = None,
    model: m.Models = None,
    dtype: o.Dtype = None,
    device_map: o.DeviceMap = None,
    trust_remote_code: o.TrustRemoteCode = False,
    any_tokenizers: o.AnyTokenizers = False,
    special_token: o.SpecialToken = None,
    chat_template: o.ChatTemplate = None,
    context: long_texts.Context = long_texts.Beyond.warn,
    method: m.Method = None,
    weight: m.Weight = None,
    beta: m.Beta = None,
    scale: m.Scale = None,
    share: m.Share = None,
    plausibility: m.Plausibility = None,
    conservative_top_p: m.ConservativeTopP = None,
    conservative_set: m.ConservativeSet = None,
    conservative_outside: m.ConservativeOutside = None,
    negative_prompt: m.NegativePrompt = None,
    batch_size: Annotated[int, typer.Option(help="Lines read at a time.")] = 8,
    out: Annotated[
        Path | None, typer.Option(help="Append a result for each line there; what it already holds is not done again.")
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Keep every token's statistics in --out, for eft report.")
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Perplexity of texts under all models and their mixture, and the implicit reward log tuned - log base.

    With --out a run that was interrupted goes on where it stopped. Prompts go through the chat template as in
    eft generate; texts do not. Write the end-of-text token into a response if it is to be scored.

    Examples:

        eft score answers.jsonl

        eft score answers.jsonl --method interpolate --lambda 0.3

        L=Qwen/Qwen2.5-7B T=Qwen/Qwen2.5-0.5B-Instruct B=Qwen/Qwen2.5-0.5B

        eft score answers.jsonl --large $L --tuned $T --base $B --out scores.jsonl
    """
    from eft_ext.analysis.dataset import read_items, settings_digest

    if batch_size < 1:
        raise ValueError(f"--batch-size: expected a number at least 1, got {batch_size}")
    if tokens and out is None:
        raise ValueError("--tokens: expected --out beside it, where the statistics are kept")
    writable("--out", out, others={"FILE": file, **m.folders(model, large, tuned, base)})
    items = read_items(file)
    nucleus = (conservative_top_p, conservative_set, conservative_outside)
    weights = m.parameters(weight, beta, scale, share, plausibility, *nucleus)
    named = {"large": large, "tuned": tuned, "base": base, "model": model}
    used = {**named, "dtype": dtype, "template": chat_template, "tokens": tokens, "method": method}
    used |= {"negative_prompt": negative_prompt, **weights}
    if special_token or any_tokenizers:  # left out otherwise: results of before they counted go on
        used |= {"special_token": sorted(special_token or ()), "any_tokenizers": any_tokenizers}
    with _kept(out, items, settings_digest(used)) as results:
        found = [] if results is None else list(results.done)
        todo = items[len(found) :]
        if todo:
            long_texts.heed(context)
            about: dict[str, Any] = {"dtype": dtype, "device_map": device_map, "trust_remote_code": trust_remote_code}
            about["special_tokens"] = o.special_tokens(special_token)
            loaded, _ = loading.load(
                large, tuned, base, weights, method=method, models=model, any_tokenizers=any_tokenizers, **about
            )

            if negative_prompt is not None and not loaded.method.last_token_only:
                raise ValueError("--negative-prompt: expected --method guidance beside it")
            if items[0].text is not None and loaded.method.last_token_only:
                wanted = f"{file}: expected the keys 'prompt' and 'response' for --method guidance"
                raise ValueError(f"{wanted}, whose models read different prompts, got 'text'")

            def read(text: str, turns: list[dict[str, str]]) -> dict[str, Any]:
                return o.prompts(loaded, turns, text, chat_template, negative_prompt)

            form = o.form(chat_template)
            for item, result in _scored(loaded, file, todo, read, form, batch_size, tokens, len(found), len(items)):
                found.append(result if results is None else results.append(item, result))
    options = {name: value for name, value in {"method": method, **weights}.items() if value is not None}
    report = {"file": str(file), **summary(found), "options": options}
    if as_json:
        keep = ("tokens", "logprobs", "perplexity", "reward", "tv", "kl")
        lines = [{"line": item.line, **{key: r[key] for key in keep}} for item, r in zip(items, found, strict=True)]
        typer.echo(dumps({**report, "results": lines}, indent=2))
    else:
        _show(report)


@contextmanager
def _kept(out: Path | None, items: list[Item], settings: str) -> Iterator[ResultsFile | None]:
    """The file of results, if there is one. An interrupted command says how to go on."""
    if out is None:
        yield None
        return
    from eft_ext.analysis.dataset import ResultsFile

    results = ResultsFile(out, items, settings)
    try:
        yield results
    except (Interrupted, KeyboardInterrupt) as error:
        done = f"{len(results.done)} of {len(items)} results are in {out}"
        raise Interrupted(f"{done}, the same command goes on behind them") from error
    finally:
        results.close()


def _scored(
    model: EmulatedModel,
    file: Path,
    todo: Sequence[Item],
    read_of: Callable[[str, list[dict[str, str]]], dict[str, Any]],
    form: dict[str, Any],
    batch_size: int,
    tokens: bool,
    done: int,
    total: int,
) -> Iterator[tuple[Item, dict[str, Any]]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    listing: dict[str, Any] = {"candidates": 5, "num_changed": 5} if tokens else {}
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("scoring", total=total, completed=done)
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            long_texts.announce(item.text or f"{item.shown}{item.response}" for item in batch)
            texts, responses, read = [item.text for item in batch], None, None
            if batch[0].text is None:
                responses = [item.response for item in batch]
                each = [read_of(item.shown, item.chat) for item in batch]
                read = {name: [one[name] for one in each] for name in each[0]}
            try:
                scores = model.score(None if read else texts, responses, prompts=read, **form, **listing)
            except (ValueError, RuntimeError) as error:
                lines = f"line {batch[0].line}" if len(batch) == 1 else f"lines {batch[0].line} to {batch[-1].line}"
                kind = ValueError if isinstance(error, ValueError) else RuntimeError
                raise kind(f"{file}, {lines}: {error}") from error
            yield from zip(batch, _results(scores, batch, model, tokens), strict=True)
            progress.advance(task, len(batch))


def _results(scores: Any, batch: Sequence[Item], model: EmulatedModel, tokens: bool) -> list[dict[str, Any]]:
    counts = scores.counts.tolist()
    sums, perplexity = scores.logprobs.tolist(), scores.perplexity.tolist()
    rewards = scores.reward.tolist() if {"tuned", "base"} <= set(scores.names) else [math.nan] * len(counts)
    tv, kl = (field.double().sum(dim=1).tolist() for field in (scores.tokens.tv, scores.tokens.kl))
    found: list[dict[str, Any]] = [
        {
            "tokens": count,
            "logprobs": {name: finite(x) for name, x in zip(scores.names, sums[b], strict=True)},
            "perplexity": {name: finite(x) for name, x in zip(scores.names, perplexity[b], strict=True)},
            "compared": scores.compared,
            "reward": finite(rewards[b]),
            "tv": finite(tv[b] / count),
            "kl": finite(kl[b] / count),
        }
        for b, count in enumerate(counts)
    ]
    if tokens:
        from eft_ext.hf.scoring.records import records

        for result, record in zip(found, records(scores, model.tokenizer, [item.shown for item in batch]), strict=True):
            result["record"] = record.to_dict()
    return found


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report['texts']:,} texts, {report['tokens']:,} tokens")
    table.add_column("model")
    table.add_column("perplexity", justify="right")
    for name, value in report["perplexity"].items():
        table.add_row(name, _shown(value, ",.4g"), style="bold" if name == "mixture" else None)
    console = Console()
    console.print(table)
    reward = "none" if report["mean_reward"] is None else f"{report['mean_reward']:+.4g} nats a text"
    console.print(f"reward (log tuned - log base): {reward}", highlight=False)
    tv, kl = (_shown(report[key], ".4f") for key in ("tv", "kl"))
    against = f"mixture against {report['compared']}: total variation {tv}, KL {kl} nats a token"
    console.print(against, highlight=False)


def _shown(value: float | None, form: str) -> str:
    return "infinite" if value is None else f"{value:{form}}"
