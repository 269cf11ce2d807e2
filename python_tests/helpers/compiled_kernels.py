"""The Triton step and verification compiled for GPUs that are not here: what would be launched, on meta tensors.

python -m python_tests.helpers.compiled_kernels [--check]

writes the table in docs/internals/triton-step.md (or says whether it still holds). It takes about ten minutes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

DOCUMENT = Path(__file__).parents[2] / "docs" / "internals" / "triton-step.md"
NVIDIA = (80, 90, 100)
READING = ("slices", "score_masses", "score_maxima", "score_read", "score_compare")  # kernels that read tiles once
REGISTERS, SHARED = 65536, 48 * 1024  # of a block: the register file; what needs no opting in


class Case(NamedTuple):
    """One call of the step: the name it has in the table, and what it is asked for."""

    name: str
    vocab: int = 128256
    batch: int = 1
    models: int = 3
    dtype: torch.dtype = torch.bfloat16
    options: dict[str, float] = {}  # noqa: RUF012
    details: bool = False
    conservative: bool = False
    num_drafts: int = 0  # above 0: a verification
    shared: bool = False  # the draft model's logits are the mixture's own, model 1's
    score: bool = False  # statistics of targets
    special: bool = False  # tokens that model 1 alone knows, and some that no model may use


ALL = {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.05}
TOP_P = {"temperature": 0.7, "top_p": 0.9}
CASES = [
    Case("greedy", options={"temperature": 0.0}),
    Case("T .7", options={"temperature": 0.7}),
    Case("top-p .9, V 32000", vocab=32000, options=TOP_P),
    Case("top-p .9", options=TOP_P),
    Case("top-p .9, V 256000", vocab=256000, options=TOP_P),
    Case("top-p .9, 4 models, fp32", models=4, dtype=torch.float32, options=TOP_P),
    Case("all filters", options=ALL),
    Case("all filters, details", options=ALL, details=True),
    Case("conservative, all, details", options=ALL, details=True, conservative=True),
    Case("verify, greedy", options={"temperature": 0.0}, num_drafts=4),
    Case("verify, T .7", options={"temperature": 0.7}, num_drafts=4),
    Case("verify, top-p .9", options=TOP_P, num_drafts=4),
    Case("verify, all filters", options=ALL, num_drafts=4),
    Case("verify, shared", options={"temperature": 0.7}, num_drafts=4, shared=True),
    Case("verify, conservative, all", options=ALL, conservative=True, num_drafts=4),
    Case("score", score=True),
    Case("score, V 256000", vocab=256000, score=True),
    Case("score, 1 model", models=1, score=True),
    Case("score, 4 models, fp32", models=4, dtype=torch.float32, score=True),
    Case("score, conservative", conservative=True, score=True),
    Case("special, T .7", options={"temperature": 0.7}, special=True),
    Case("special, top-p .9", options=TOP_P, special=True),
    Case("special, conservative, all, details", options=ALL, details=True, conservative=True, special=True),
    Case("special, verify, all filters", options=ALL, num_drafts=4, special=True),
    Case("special, verify, conservative, all", options=ALL, conservative=True, num_drafts=4, special=True),
    Case("special, score", score=True, special=True),
]


class Kernel(NamedTuple):
    """The compiled kernel of one launch."""

    name: str
    compiled: Any  # triton's CompiledKernel

    @property
    def ptx(self) -> str:
        return self.compiled.asm["ptx"]

    @property
    def threads(self) -> int:
        return 32 * self.compiled.metadata.num_warps

    def loaded_bytes(self) -> int:
        """Bytes that a thread's global loads ask for, each instruction counted once."""
        found = re.findall(r"ld\.global\S*?(?:\.v(\d))?\.[busf](\d+)", self.ptx)
        return sum(int(count or 1) * int(bits) // 8 for count, bits in found)

    def wide_bytes(self) -> int:
        """The same of loads of 16 bytes: a kernel that reads tiles has no other ones of the inputs."""
        return 16 * len(re.findall(r"ld\.global\S*?\.v4\.[busf]32", self.ptx))

    def usage(self) -> dict[str, int]:
        """REG (registers a thread), STACK (bytes a thread has spilled), SHARED (bytes a block), as the cubin says."""
        from triton import knobs

        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.compiled.asm["cubin"])
            file.flush()
            tool = knobs.nvidia.cuobjdump.path
            text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        return {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED):(\d+)", text)}


class _Driver:
    """The part of a driver that compiling asks for."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> Any:
        return self.target  # kernels are cached by device: these must not meet a real one's

    def get_current_stream(self, device: Any) -> int:
        return 0


@contextmanager
def _recording(target: Any, kernels: list[Kernel]) -> Iterator[None]:
    from triton.runtime import driver

    from eft_ext.ops.triton.score import launch as score_launch
    from eft_ext.ops.triton.step import launch as step_launch
    from eft_ext.ops.triton.verify import launch as verify_launch

    class Recorder:
        def __init__(self, name: str, kernel: Any) -> None:
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid: Any) -> Any:
            return lambda *args, **options: kernels.append(
                Kernel(self.name, self.kernel.warmup(*args, grid=grid, **options))
            )

    def placed(layout: Any, device: torch.device, given: None) -> Any:
        return layout.place(torch.empty(layout.size(), dtype=torch.uint8, device="meta"))

    before, replaced = driver._active, []
    driver.set_active(_Driver(target))
    for module in (step_launch, score_launch, verify_launch):
        for name, value in list(vars(module).items()):
            stand_in: Any = {"workspace": placed}.get(name)
            if name.endswith("_kernel"):
                stand_in = Recorder(name.removesuffix("_kernel"), value)
            elif name == "compile_options" and target.backend == "hip":
                stand_in = lambda: {"enable_fp_fusion": False}  # noqa: E731
            if stand_in is not None:
                replaced.append((module, name, value))
                setattr(module, name, stand_in)
    try:
        yield
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)
        driver.set_active(before)


def compiled(case: Case, target: Any, position: int = 3) -> list[Kernel]:
    """The kernels of one step. target: triton's GPUTarget."""
    from eft_ext.ops.backends.allocate import new_details, new_tokens, new_verified
    from eft_ext.ops.check_params import given_weights, logits_names, mix_params, sampling_params
    from eft_ext.ops.params import ConservativeParams
    from eft_ext.ops.results import new_score
    from eft_ext.ops.special_tokens import SpecialTokens
    from eft_ext.ops.triton.score import launch as score_launch
    from eft_ext.ops.triton.step import launch as step_launch
    from eft_ext.ops.triton.verify import launch as verify_launch

    logits = [torch.empty(case.batch, case.vocab, dtype=case.dtype, device="meta") for _ in range(case.models)]
    weights = given_weights([1.0] * case.models, logits)
    conservative = ConservativeParams(0.9) if case.conservative else None
    special = SpecialTokens(own=(case.vocab - 9,), never=(case.vocab - 1,)) if case.special else None
    mix = mix_params(logits_names(logits), logits, weights, None, conservative, None, None, special)
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **case.options}
    draw = sampling_params(mix, **options, seed=position, position=position, generator=None)  # type: ignore[arg-type]
    kernels: list[Kernel] = []
    if case.score:
        targets = torch.empty(case.batch, dtype=torch.int64, device="meta")
        with _recording(target, kernels):
            out = new_score((case.batch,), case.models, 2, 2, targets.device)
            score_launch.score(mix, targets, (-100, case.models - 1, 2, 2), out)
        return kernels
    if case.num_drafts:
        positions = [x.unsqueeze(1).expand(-1, case.num_drafts + 1, -1).contiguous() for x in logits]
        drafted = _drafted(case, draw, positions[1][:, : case.num_drafts])
        mix = mix._replace(logits=tuple(positions))
        with _recording(target, kernels):
            verify_launch.verify(mix, draw, drafted, new_verified(drafted))
        return kernels
    tokens = new_tokens(mix)
    with _recording(target, kernels):
        step_launch.step(mix, draw, tokens, new_details(mix, 2, tokens) if case.details else None)
    return kernels


def _drafted(case: Case, draw: Any, of_model: torch.Tensor) -> Any:
    """Drafts of a model whose logits are `of_model`, or memory of their own."""
    from eft_ext.ops.params import DraftParams, Integer

    drafts = torch.empty(case.batch, case.num_drafts, dtype=torch.int64, device="meta")
    own = of_model if case.shared else torch.empty_like(of_model.contiguous())
    return DraftParams(drafts, own, Integer(case.num_drafts), *draw[:4])


def table() -> str:
    """Markdown: one line for each case and kernel."""
    from triton.backends.compiler import GPUTarget

    head = ["call", "kernel", "threads", *(f"sm_{a}" for a in NVIDIA), "input bytes a token", "gfx942"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for case in CASES:
        found = [compiled(case, GPUTarget("cuda", arch, 32)) for arch in NVIDIA]
        amd = compiled(case, GPUTarget("hip", "gfx942", 64))
        for i, kernel in enumerate(found[0]):
            cells = []
            for kernels in found:
                use = kernels[i].usage()
                cells.append(f"{use['REG']} / {use['STACK']} / {kernels[i].compiled.metadata.shared}")
            read = f"{kernel.wide_bytes() * kernel.threads / 1024:g}" if kernel.name.endswith(READING) else ""
            built = "yes" if amd[i].compiled.asm.get("hsaco") else "no"
            first = [case.name if i == 0 else "", kernel.name, str(kernel.threads)]
            lines.append("| " + " | ".join([*first, *cells, read, built]) + " |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    import triton

    made = f"\nTriton {triton.__version__}; registers a thread / bytes spilled a thread / shared memory in bytes.\n\n"
    made += table() + "\n"
    start, end = "<!-- compiled -->\n", "<!-- end -->\n"
    head, rest = DOCUMENT.read_text().split(start)
    written, tail = rest.split(end)
    if "--check" in sys.argv:
        sys.exit("the table differs" if made != written else 0)
    DOCUMENT.write_text(head + start + made + end + tail)


if __name__ == "__main__":
    main()
