"""`eft chat`: a conversation, one line at a time."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from eft_ext._chat import STOPS, transcript
from eft_ext._json import dumps
from eft_ext._text import checked, fault, printable
from eft_ext.cli import loading, long_texts, stdin
from eft_ext.cli import methods as m
from eft_ext.cli import options as o
from eft_ext.cli.settings import settle

NAME = "chat"
_HELP = "/reset forgets the conversation, /exit ends it (as does the end of input)"


def run(
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
    max_new_tokens: o.MaxNewTokens = 256,
    temperature: o.Temperature = None,
    top_p: o.TopP = None,
    top_k: o.TopK = None,
    min_p: o.MinP = None,
    seed: o.Seed = None,
    speculate: o.Speculate = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each answer.")] = False,
) -> None:
    """Talk to several models as one; words appear as they come.

    Reads lines from the terminal or a pipe. One that cannot be answered is skipped: the conversation goes on without
    it, and the exit code is 2 in the end. /reset forgets the conversation, /exit ends it (as does the end of input).
    Models without a chat template read a plain transcript. The embedded trio was taught single questions, so it
    remembers nothing of the conversation.

    Examples:

        eft chat

        Q=Qwen/Qwen2.5

        eft chat --large $Q-7B --tuned $Q-0.5B-Instruct --base $Q-0.5B --top-p 0.9
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
    nucleus = (conservative_top_p, conservative_set, conservative_outside)
    weights = m.parameters(weight, beta, scale, share, plausibility, *nucleus)
    long_texts.heed(context)
    about: dict[str, Any] = {"dtype": dtype, "device_map": device_map, "trust_remote_code": trust_remote_code}
    about["special_tokens"] = o.special_tokens(special_token)
    loaded, embedded = loading.load(
        large, tuned, base, weights, method=method, models=model, any_tokenizers=any_tokenizers, **about
    )
    settings = settle(loaded, asked, quiet=as_json)
    if sys.stdin.isatty():
        typer.secho(_HELP, dim=True, err=True)
    turns: list[dict[str, str]] = []
    lines = skipped = 0
    for number, typed in stdin.lines():
        line = typed.strip()
        if line.startswith("/"):
            if line in ("/exit", "/quit"):
                break
            if line == "/reset":
                turns.clear()
            typer.secho("forgotten" if line == "/reset" else _HELP, dim=True, err=True)
        elif line:
            lines += 1
            said = [*([] if embedded else turns), {"role": "user", "content": line}]
            plain = transcript(said)
            read = o.prompts(loaded, said, plain, chat_template, negative_prompt)
            try:
                checked("inputs", [typed])
                long_texts.announce([plain])
                answer = _answer(loaded, read, {**asked, **drafting, **o.form(chat_template)}, quiet=as_json)
            except ValueError as error:
                skipped += 1
                why = " ".join(printable(error).removeprefix("inputs: ").split())
                forget = "; /reset forgets the conversation" if len(said) > 1 and not fault(typed) else ""
                typer.secho(f"line {number} is skipped: {why}{forget}", dim=True, err=True)
                continue
            if as_json:
                typer.echo(dumps({"prompt": line, "text": answer, **settings}))
            turns += [{"role": "user", "content": line}, {"role": "assistant", "content": answer}]
    if skipped:
        raise ValueError(f"{skipped} of {lines} lines had no answer")


def _answer(model: Any, read: dict[str, Any], asked: dict[str, Any], *, quiet: bool) -> str:
    """Generates, and unless `quiet` prints, the answer to the conversation that the models `read`."""
    from eft_ext.cli.printer import EndsAt, Printer

    # A model reading a transcript goes on with the user's part; one that reads its template ends by itself.
    lead, first = next(iter(read.items()))
    transcribes = isinstance(first, str) or model.chat_templates(asked.get("chat", "template")).transcribes(lead)
    stops = STOPS if transcribes else ()
    printer = Printer(model.tokenizer, stops, quiet=quiet)
    criteria = [EndsAt(printer)] if stops else None
    model.generate(prompts=read, streamer=printer, stopping_criteria=criteria, **asked)
    return printer.text.strip()
