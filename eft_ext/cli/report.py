"""`eft report`: an HTML page of what all models thought of each token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eft_ext._files import write_text
from eft_ext._json import dumps
from eft_ext._text import printable
from eft_ext.cli import loading, long_texts
from eft_ext.cli import methods as m
from eft_ext.cli import options as o
from eft_ext.cli.outputs import writable
from eft_ext.cli.settings import settle

if TYPE_CHECKING:
    from eft_ext.analysis.record import Record

NAME = "report"


def run(
    prompt: Annotated[list[str] | None, typer.Option(help="May be given several times; each is answered.")] = None,
    records: Annotated[
        Path | None,
        typer.Option(help="Instead of prompts: what eft score --tokens --out wrote, or records by themselves."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("eft-report.html"),
    title: Annotated[str, typer.Option(help="The page's heading.")] = "Token report",
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as one JSON object as well.")] = False,
) -> None:
    """Write one self-contained HTML page: text shaded by how far the mixture is from the small tuned model
    (where a method has none, from its first).

    Pointing at a token shows the candidates of all models, what the mixture made more and less likely, and entropies.
    The page loads nothing from elsewhere.

    Examples:

        eft report --prompt "With which animal did Fikim Thetrond travel?"

        eft report --prompt "Where was Fikim Thetrond born?" --speculate 4

        eft score answers.jsonl --tokens --out scores.jsonl

        eft report --records scores.jsonl --out answers.html
    """
    from eft_ext.analysis.report import report_html

    if (prompt is None) == (records is None):
        raise ValueError("--prompt: expected prompts, or --records instead")
    folders = {} if records is not None else m.folders(model, large, tuned, base)
    writable("--out", out, others={"--records": records, **folders})
    asked = o.sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed
    )
    drafting = o.speculation(speculate, seed)
    settings = {}
    if records is not None:
        for option, given in {"large": large, "tuned": tuned, "base": base, "model": model, "method": method}.items():
            if given is not None:
                raise ValueError(f"--{option}: expected nothing beside --records, which has been answered already")
        found = _read(records)
    else:
        nucleus = (conservative_top_p, conservative_set, conservative_outside)
        weights = m.parameters(weight, beta, scale, share, plausibility, *nucleus)
        long_texts.heed(context)
        about: dict[str, Any] = {"dtype": dtype, "device_map": device_map, "trust_remote_code": trust_remote_code}
        about["special_tokens"] = o.special_tokens(special_token)
        loaded, _ = loading.load(
            large, tuned, base, weights, method=method, models=model, any_tokenizers=any_tokenizers, **about
        )
        from eft_ext.hf.generated import generated_records

        texts = list(prompt or [])
        long_texts.announce(texts)
        turns = [[{"role": "user", "content": text}] for text in texts]
        asking = zip(turns, texts, strict=True)
        each = [o.prompts(loaded, turn, text, chat_template, negative_prompt) for turn, text in asking]
        read = {name: [one[name] for one in each] for name in each[0]}
        settings = settle(loaded, asked, quiet=as_json)
        found = generated_records(loaded, read, texts, **o.form(chat_template), **drafting, **asked)
    write_text(out, report_html(found, title))
    if as_json:
        typer.echo(dumps({"out": str(out), "records": found, **settings}))
    else:
        typer.echo(printable(out))


def _read(path: Path) -> list[Record]:
    """Records of a JSONL file, one in each line, by itself or under the key `record`."""
    from eft_ext._jsonl import read_lines
    from eft_ext.analysis.record import Record

    found = []
    for line in read_lines(path):
        if "digest" in line.object and "record" not in line.object:
            raise ValueError(f"{line.where}: expected the key 'record'; score with --tokens")
        try:
            record = Record.from_dict(line.object.get("record", line.object))
        except ValueError as error:
            raise ValueError(f"{line.where}: {error}") from error
        if not record.tokens:
            raise ValueError(f"{line.where}: record.tokens: expected at least one, got none")
        found.append(record)
    return found
