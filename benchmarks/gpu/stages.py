"""The stages of gpu_all.py, the most urgent first, and the figure that each is read for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gpu import figures
from gpu.tests import CUDA, GOLDEN, TRITON, Counts, pytest

STEP = ["benchmarks/gpu_step.py", "--models", "3"]
EXIT_SECONDS = 6  # for a sanitizer to end its program before it is killed itself


@dataclass
class Run:
    """The settings of one run, passed to all stages.

    Attributes:
        python: the interpreter of all commands.
        out: folder of the results.
        rehearse: small shapes and few tests, for a stand-in.
        seconds: time limit of the stage.
        usable: keys of `gpu.tests.CUDA` whose smallest tests have passed.
        failed: smallest tests that failed.
    """

    python: str
    out: Path
    rehearse: bool = False
    seconds: float = 0.0
    usable: list[str] = field(default_factory=lambda: list(CUDA))
    failed: list[str] = field(default_factory=list)

    def script(self, *words: object) -> list[str]:
        return [self.python, *map(str, words)]

    def step(self, options: list[str], batches: list[int], measure: list[str], share: float, result: str) -> list[str]:
        """Returns a command of gpu_step.py that begins nothing after `share` of the stage's time."""
        vocab, batches = (500, [min(batches)]) if self.rehearse else (128256, batches)
        which = ["--vocab", vocab, "--batch", *batches, "--options", *options, "--measure", *measure]
        seconds = f"{share * self.seconds:.0f}"
        return self.script(*STEP, *which, "--seconds", seconds, "--json", self.out / result)

    def tests(self, files: list[str], workers: int, timeout: int, *more: str) -> list[str]:
        workers = 1 if self.rehearse else workers  # each begins by importing torch
        timeout = 10 * timeout if self.rehearse else timeout
        return pytest(self.python, files, workers, "--timeout", str(timeout), *more)


@dataclass(frozen=True)
class Stage:
    """One question to a GPU.

    Attributes:
        seconds: its time limit.
        about: one line.
        commands: run in order, also after one that has failed.
        figure: makes the line that matters, from the results and the output.
        result: the file that it must write.
        needs: keys of `gpu.tests.CUDA` without which it is left out.
    """

    name: str
    seconds: float
    about: str
    commands: Callable[[Run], list[list[str]]]
    figure: Callable[[Path, str], str]
    result: str = ""
    needs: tuple[str, ...] = ()


def _device(run: Run) -> list[list[str]]:
    build = ["make", "gpu-build", f"BIN={Path(run.python).parent}"]
    return [build, run.script("benchmarks/gpu_device.py", "--json", run.out / "device.json")]


def _smallest(run: Run) -> list[list[str]]:
    which = " or ".join(f"({t.smallest})" for t in CUDA.values())
    if run.rehearse:
        which = "first_call or small_conservative or (special and small and bitmask) or (llama and greedy)"
    files = [t.file for t in CUDA.values()]
    return [run.tests(files, len(files), 30, "--dist", "loadfile", "-k", which)]


def _tests(run: Run) -> list[list[str]]:
    files = [t.file for key, t in CUDA.items() if key in run.usable]
    files += [GOLDEN.file] * ("step" in run.usable)
    which = "not triton"
    if run.rehearse:
        which = "invalid_rows or too_small or certain or buffers or one_graph or (golden and 7 and cuda)"
    return [run.tests(files, 12, 60, "--dist", "worksteal", "--maxfail", "40", "-k", which)] if files else []


def _decode(run: Run) -> list[list[str]]:
    size = ["--trios", "1B", "--batch", 1, 8, "--rounds", 2, "--tokens", 64]
    if run.rehearse:
        size = ["--trios", "tiny", "--dtype", "float32", "--batch", 1, "--rounds", 1, "--tokens", 16]
    more = ["--device", "cuda", "--ways", "--seconds", f"{0.4 * run.seconds:.0f}", "--json", run.out / "decode.json"]
    return [run.script("benchmarks/bench_decode.py", *size, *more)]


def _price(run: Run) -> list[list[str]]:
    size = ["--trios", "1B", "--batch", 1, 8, "--prompt", 32, "--tokens", 32, "--rounds", 2]
    if run.rehearse:
        size = ["--trios", "tiny", "--dtype", "float32", "--batch", 1, "--prompt", 8, "--tokens", 8, "--rounds", 1]
    which = ["--contenders", "large alone", "eft_ext", "eft_ext, auto drafts", "proxy-tuning", "--skip-first"]
    more = ["--device", "cuda", *which, "--seconds", f"{0.4 * run.seconds:.0f}"]
    return [run.script("benchmarks/bench_peers.py", *size, *more)]  # it prints its lines: files are few


def _pair(run: Run) -> list[list[str]]:
    size = ["--trios", "tiny", "--dtype", "float32", "--batch", 1, "--rounds", 1] if run.rehearse else []
    size = size or ["--trios", "0.5B", "1B", "--batch", 1, 8, "--rounds", 30]
    return [run.script("benchmarks/bench_pair.py", "--device", "cuda", *size, "--seconds", f"{0.5 * run.seconds:.0f}")]


def _triton(run: Run) -> list[list[str]]:
    which = "every_vocabulary and 31" if run.rehearse else "not made_up"
    options = ["greedy" if run.rehearse else "top-p .9"]  # a second of the interpreter's for each call otherwise
    times = run.step(options, [1, 64, 256], ["triton"], 0.25, "triton.json")
    tests = run.tests([t.file for t in TRITON], 16, 70, "--dist", "worksteal", "--maxfail", "20", "-k", which)
    return [times, tests]


def _sanitize(run: Run) -> list[list[str]]:
    tests = ["--tests", "small_conservative"] if run.rehearse else []
    return [run.script("benchmarks/gpu_sanitize.py", "--tools", "memcheck", "racecheck", *tests,
                       "--seconds", f"{run.seconds - EXIT_SECONDS:.0f}")]  # fmt: skip


def _memcheck(run: Run) -> list[list[str]]:
    return [run.script("benchmarks/gpu_sanitize.py", "--tools", "memcheck",
                       "--seconds", f"{run.seconds - EXIT_SECONDS:.0f}", "--only", *run.failed[:3])]  # fmt: skip


def _step(run: Run) -> list[list[str]]:
    return [run.step(["top-p .9", "greedy", "T"], [1, 64, 256, 8], ["cuda"], 0.65, "step.json")]


def _peers(run: Run) -> list[list[str]]:
    return [run.step(["top-p .9"], [64, 1, 256], ["cuda", "chain", "compiled", "flashinfer"], 0.6, "peers.json")]


def _ncu(run: Run) -> list[list[str]]:
    size = ["--vocab", 3000, "--batch", 1] if run.rehearse else []
    return [run.script("benchmarks/gpu_ncu.py", *size, "--json", run.out / "ncu.json")]


STAGES = [
    Stage(
        "device", 45, "the module for this Python, the device, its copy bandwidth",
        _device, figures.device, "device.json",
    ),
    Stage(
        "smallest", 40, "the smallest tests of each CUDA kernel, and of graphs and loop",
        _smallest, figures.smallest,
    ),
    Stage(
        "step", 40, "the CUDA step's times at V = 128256, K = 3, cold and hot, beside the floor",
        _step, figures.step, "step.json", ("step",),
    ),
    Stage(
        "tests", 70, "CUDA step, verification, scoring and engine against the CPU",
        _tests, figures.tests,
    ),
    Stage(
        "peers", 45, "transformers' chain, its compiled form, FlashInfer",
        _peers, figures.peers, "peers.json", ("step",),
    ),
    Stage(
        "ncu", 30, "one launch at B = 1 and B = 256 by the hardware's counters",
        _ncu, figures.ncu, "ncu.json", ("step",),
    ),
    Stage(
        "decode", 60, "a 1B trio: eager, graphs, WHILE loop, drafts, beside the large model alone",
        _decode, figures.decode, "decode.json", ("step", "loop"),
    ),
    Stage(
        "price", 25, "a 1B trio beside the large model alone and proxy-tuning's loop",
        _price, figures.price, "", ("step", "loop"),
    ),
    Stage(
        "pair", 25, "tuned and base in one graph: one after another, on two streams, with stacked weights",
        _pair, figures.pair,
    ),
    Stage(
        "triton", 65, "Triton's times at the headline points, then its tests",
        _triton, figures.triton, "triton.json",
    ),
    Stage(
        "sanitize", 35, "memcheck, then racecheck, for all the time that is left",
        _sanitize, figures.sanitized,
    ),
]  # fmt: skip
# Comes next where a smallest test has failed: that test alone, with every access checked.
MEMCHECK = Stage("memcheck", 60, "memcheck of the smallest tests that failed", _memcheck, figures.sanitized)


def counts_by_kernel(counts: dict[str, Counts]) -> dict[str, Counts]:
    """Returns the counts by kernel instead of file."""
    names = {t.file: t.name for t in (*CUDA.values(), GOLDEN, *TRITON)}
    return {names.get(file, file): found for file, found in counts.items()}
