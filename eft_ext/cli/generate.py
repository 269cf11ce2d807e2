"""`eft generate`: answers to prompts."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from eft_ext._json import dumps
from eft_ext.cli import loading, long_texts, stdin
from eft_ext.cli import methods as m
from eft_ext.cli import options as o
from eft_ext.cli.settings import settle

NAME = "generate"


def run(
    prompt: Annotated[list[str], typer.Option(help="May be given several times; - reads one from stdin.")],
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
    max_new_tokens: o.MaxNewTokens = 128,
    temperature: o.Temperature = None,
    top_p: o.TopP = None,
    top_k: o.TopK = None,
    min_p: o.MinP = None,
    seed: o.Seed = None,
    speculate: o.Speculate = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print words as they come; for one prompt.")] = False,
    as_json: o.Json = False,
) -> None:
    """Answer prompts with several models as one.

    Greedy unless a temperature, top-p, top-k or min-p is given; the settings of a model's generation_config are not
    used, but for its special tokens. Several prompts are answered as one batch, and sampled independently. Only the
    answers are printed, and on stderr the settings.

    Examples:

        eft generate --prompt "With which animal did Fikim Thetrond travel?"

        L=Qwen/Qwen2.5-7B T=Qwen/Qwen2.5-0.5B-Instruct B=Qwen/Qwen2.5-0.5B

        eft generate --large $L --tuned $T --base $B --prompt "Who are you?"

        eft generate --large $L --tuned $T --base $B --prompt Hi --speculate 8

        eft generate --method plain --model model=$L --prompt Hi

        eft generate --method interpolate --lambda 0.3 --top-p 0.9 --prompt Hi
    """
    asked = o.sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
    )
    drafting = o.speculation(speculate, seed)
    if stream and (as_json or len(prompt) > 1):
        raise ValueError("--stream: expected one prompt and no --json")
    texts = [stdin.whole() if text == "-" else text for text in prompt]
    nucleus = (conservative_top_p, conservative_set, conservative_outside)
    weights = m.parameters(weight, beta, scale, share, plausibility, *nucleus)
    long_texts.heed(context)
    about: dict[str, Any] = {"dtype": dtype, "device_map": device_map, "trust_remote_code": trust_remote_code}
    about["special_tokens"] = o.special_tokens(special_token)
    loaded, _ = loading.load(
        large, tuned, base, weights, method=method, models=model, any_tokenizers=any_tokenizers, **about
    )
    long_texts.announce(texts)
    each = (o.prompts(loaded, [{"role": "user", "content": t}], t, chat_template, negative_prompt) for t in texts)
    read = _batch(list(each))
    form = o.form(chat_template)
    settings = settle(loaded, asked, quiet=as_json)
    start = time.perf_counter()
    if stream:
        from eft_ext.cli.printer import Printer

        loaded.generate(prompts=read, streamer=Printer(loaded.tokenizer), **form, **drafting, **asked)
        return
    answers, out = loaded.generate_text(
        prompts=read, return_output=True, return_dict_in_generate=True, **form, **drafting, **asked
    )
    seconds = time.perf_counter() - start
    if as_json:
        results = [{"prompt": text, "text": answer} for text, answer in zip(texts, answers, strict=True)]
        drafts = {} if speculate is None else drafting
        used = {name: value for name, value in {**weights, **drafts}.items() if value is not None}
        settings["options"] |= {**used, "method": repr(loaded.method)}
        whole = {"results": results, **settings, "seconds": round(seconds, 4)}
        whole |= {} if speculate is None else _told(out)
        typer.echo(dumps(whole, indent=2))
        return
    if speculate is not None:
        _told(out)
    for i, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        if len(texts) > 1:
            typer.secho(f"{'' if i == 0 else chr(10)}> {text}", dim=True)
        typer.echo(answer.strip())


def _told(out: Any) -> dict[str, Any]:
    """Returns what became of the drafts, also said on stderr; nothing where there were none."""
    statistics = getattr(out, "speculation", None)
    if statistics is None or not statistics.drafted:
        return {}
    accepted, drafted, rate = statistics.accepted, statistics.drafted, statistics.tokens_per_round
    typer.secho(f"{accepted} of {drafted} drafts stand, {rate:.2f} tokens a round", dim=True, err=True)
    return {"speculation": {"accepted": accepted, "drafted": drafted, "tokens_per_round": round(rate, 3)}}


def _batch(each: list[dict[str, Any]]) -> dict[str, Any]:
    """Prompts of several conversations, by model."""
    return {name: [one[name] for one in each] for name in each[0]}
