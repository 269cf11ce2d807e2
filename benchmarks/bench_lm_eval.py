"""Does `--model eft` of lm-eval score and generate faster than its `--model hf` over the same checkpoint?

    python benchmarks/bench_lm_eval.py --json benchmarks/results/lm-eval-cpu.json

Three random Llamas with 32,000 tokens are packed into one checkpoint. HFLM runs it by its forward pass and generate,
`EmulatedLM` by `EmulatedModel.score` and the batch that is kept full. Both get the same requests and the same batch
size; medians over rounds in which they take turns, and the largest difference of their scores. CPU time is that of all
threads: unlike wall time it is about the same on a busy machine.

    choices   a context and four continuations of one to six tokens      letters   four continuations of one token
    alone     every continuation has its own context                     rolling   whole texts
    texts     generation of 1 to 48 tokens, until a stop string
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from common.machine import describe
from common.trios import load
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from eft_ext import EmulatedModel, _json
from eft_ext.integrations.lm_eval import EmulatedLM

VOCAB, NEW = 32000, 48
KINDS = {"choices": "loglikelihood", "letters": "loglikelihood", "alone": "loglikelihood"}
KINDS |= {"rolling": "loglikelihood_rolling", "texts": "generate_until"}


def tokenizer() -> PreTrainedTokenizerFast:
    """A word for each token, and BOS in front."""
    words = ["<pad>", "<bos>", "<eos>", *(f"w{i}" for i in range(3, VOCAB))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def pack(folder: str) -> None:
    torch.manual_seed(0)
    model = EmulatedModel(*load("narrow", torch.float32, "cpu"), tokenizer())
    model.causal_lm().save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def requests() -> dict[str, list[Instance]]:
    """Requests of every kind, contexts being 64 to 128 words long. A word in ten ends in a 7, at which a text ends."""
    draw = random.Random(0)

    def words(shortest: int, longest: int) -> str:
        return " ".join(f"w{draw.randrange(3, VOCAB)}" for _ in range(draw.randint(shortest, longest)))

    contexts = [words(64, 128) for _ in range(16)]
    rows: dict[str, list[tuple[Any, ...]]] = {
        "choices": [(context, " " + words(1, 6)) for context in contexts for _ in range(4)],
        "letters": [(context, f" w{letter}") for context in contexts for letter in range(10, 14)],
        "alone": [(words(64, 128), " " + words(1, 6)) for _ in range(32)],
        "rolling": [(words(100, 600),) for _ in range(8)],
        "texts": [(words(64, 128), {"until": ["7 w"], "max_gen_toks": NEW}) for _ in range(32)],
    }
    return {name: [Instance(KINDS[name], {}, row, i) for i, row in enumerate(own)] for name, own in rows.items()}


def measure(name: str, rows: list[Instance], lms: dict[str, Any], rounds: int) -> dict[str, Any]:
    wall: dict[str, list[float]] = {way: [] for way in lms}
    cpu: dict[str, list[float]] = {way: [] for way in lms}
    answers: dict[str, Any] = {}
    for i in range(rounds + 1):
        for way, lm in lms.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            answers[way] = getattr(lm, KINDS[name])(rows, disable_tqdm=True)
            if i:  # the first round warms up
                wall[way].append(time.perf_counter() - start)
                cpu[way].append(time.process_time() - start_cpu)
    found: dict[str, Any] = {"name": name, "requests": len(rows)}
    for kind, times in (("", wall), ("cpu_", cpu)):
        found |= {f"{way}_{kind}s": statistics.median(own) for way, own in times.items()}
    found |= {"faster": found["hf_s"] / found["eft_s"], "less_cpu": found["hf_cpu_s"] / found["eft_cpu_s"]}
    pairs = list(zip(answers["hf"], answers["eft"], strict=True))
    if name == "texts":
        return {**found, "other_texts": sum(one != other for one, other in pairs)}
    scores = [(one, other) if isinstance(one, float) else (one[0], other[0]) for one, other in pairs]
    return {**found, "largest_difference": max(abs(one - other) for one, other in scores)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="calls that each median is over")
    parser.add_argument("--batch-size", type=int, default=8, help="rows at once")
    parser.add_argument("--threads", type=int, default=1, help="for torch; one is least disturbed by other load")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="measure only these")
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    table = Table(
        "", "requests", "--model hf, s", "--model eft, s", "faster", "less CPU", "difference", title="lm-eval"
    )
    results = []
    with tempfile.TemporaryDirectory() as folder:
        pack(folder)
        common: dict[str, Any] = {"batch_size": args.batch_size, "device": "cpu", "max_length": 512}
        lms = {
            "hf": HFLM(folder, trust_remote_code=True, **common),
            "eft": EmulatedLM(folder, quiet=True, **common),
        }
        rows = requests()
        for name in args.only:
            found = measure(name, rows[name], lms, args.rounds)
            results.append(found)
            times = [f"{found[f'{way}_s']:.2f}" for way in lms]
            other = f"{found['largest_difference']:.1e}" if name != "texts" else f"{found['other_texts']} texts"
            table.add_row(
                name, str(found["requests"]), *times, f"{found['faster']:.2f}x", f"{found['less_cpu']:.2f}x", other
            )
    Console(width=100).print(table)
    if args.json:
        _json.write(args.json, {"machine": describe(), "batch_size": args.batch_size, "results": results}, indent=1)


if __name__ == "__main__":
    main()
