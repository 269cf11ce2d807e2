"""Children of test_extras.py: the line that each entry prints where packages are not installed, as JSON.

python -m python_tests.helpers.without_extras NAME
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import sys
from collections.abc import Callable, Collection, Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder, packages_distributions, requires
from types import ModuleType
from typing import Any


class Without(MetaPathFinder):
    """A finder of modules and distributions that does not find some."""

    def __init__(self, finder: Any, hidden: Collection[str]) -> None:
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return None if name.partition(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

    def find_distributions(self, context: DistributionFinder.Context) -> Iterator[Distribution]:
        find = getattr(self.finder, "find_distributions", None)
        return iter(()) if find is None or context.name in self.hidden else find(context)


@contextlib.contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Packages that are not installed for a while."""
    kept = sys.meta_path[:]
    sys.meta_path[:] = [Without(finder, packages) for finder in kept]
    try:
        yield
    finally:
        sys.meta_path[:] = kept


def beyond_torch() -> set[str]:
    """The packages here that neither torch nor what torch requires brings."""
    found, left = set(), ["torch"]
    while left:
        name = _plain(left.pop())
        if name not in found:
            found.add(name)
            with contextlib.suppress(ModuleNotFoundError):
                needed = [line for line in requires(name) or [] if "extra ==" not in line]
                left += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed]
    found.add("eft-ext")
    return {name for name, by in packages_distributions().items() if found.isdisjoint(map(_plain, by))}


def _plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def added(before: Collection[str]) -> list[str]:
    """The packages imported since then, Python's own left out."""
    return sorted({name.partition(".")[0] for name in set(sys.modules) - set(before)} - sys.stdlib_module_names)


def said(entry: Callable[[], object]) -> str:
    """An entry's words on stderr, and how it ends."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            result = entry()
        except ImportError as error:
            return f"{type(error).__name__}: {error}"
        except SystemExit as error:
            result = error.code
    return f"{errors.getvalue().rstrip()} -> {result}"


def draw() -> None:
    """Every operation and a method, against the reference or plain torch."""
    import torch

    import eft_ext

    make = torch.Generator().manual_seed(0)
    large, tuned, base = (torch.randn(2, 300, generator=make) for _ in range(3))
    three, at = (large, tuned, base), {"seed": 1, "position": 0, "temperature": 0.7, "top_p": 0.9}
    token = eft_ext.reference.step(three, [1.0, 1.0, -1.0], **at).tokens
    z = large + (tuned - base)
    assert eft_ext.fused_step(*three, **at).tolist() == token.tolist()
    assert eft_ext.fused_step(*three, temperature=0.0).tolist() == z.argmax(-1).tolist()
    assert eft_ext.fused_mix(three, [1.0, 1.0, -1.0], **at).tolist() == token.tolist()
    assert eft_ext.fused_mix(three, eft_ext.methods.UpScale(), **at).tolist() == token.tolist()
    torch.testing.assert_close(eft_ext.combine(three, [1.0, 1.0, -1.0]), z)
    logprob = z.double().log_softmax(-1).gather(1, token[:, None])[:, 0].float()
    for score in (eft_ext.fused_score(*three, token), eft_ext.fused_score_mix(three, [1.0, 1.0, -1.0], token)):
        torch.testing.assert_close(score.logprobs[:, -1], logprob)
    drafts, twice = large.argmax(-1, keepdim=True), [x[:, None].repeat(1, 2, 1) for x in three]
    verified = [
        eft_ext.fused_verify(drafts, None, twice, [1.0, 1.0, -1.0], draft_temperature=0.0, backend=backend, **at)
        for backend in ("auto", "reference")
    ]
    assert all(torch.equal(one, other) for one, other in zip(*verified, strict=True))


def torch_alone() -> dict[str, Any]:
    with hidden(*beyond_torch(), "triton"):  # a CUDA build of torch requires Triton
        import eft_ext

        draw()
        found: dict[str, Any] = {"triton": eft_ext.backends()["triton"].remedy}
        for name in ("EmulatedModel", "custom_generate", "EFTLogitsProcessor"):
            found[name] = said(lambda name=name: getattr(eft_ext, name))
        for module in ("eft_ext.hf", "eft_ext.dynamics"):
            found[module] = said(lambda module=module: __import__(module))
        for module in ("eft_ext", "eft_ext.demo.train", "eft_ext.demo.dynamics", "eft_ext.demo.dynamics.figures"):
            found[f"-m {module}"] = said(lambda module=module: runpy.run_module(module, run_name="__main__"))
    return found


def parts(folder: str) -> dict[str, Any]:
    """Modules that `import eft_ext` adds where all is there, then the entries that need one more package each."""
    import torch  # noqa: F401

    before = set(sys.modules)
    import eft_ext

    found: dict[str, Any] = {"added": added(before)}
    draw()
    found["added by a call"] = sorted(set(added(before)) & {"numpy", "transformers", "triton", "tqdm", "rich"})

    from eft_ext.cli import main

    run = lambda *arguments: said(lambda: main(list(arguments)))  # noqa: E731
    with hidden("transformers", "pyarrow", "matplotlib", "jinja2"):
        found["generate"] = run("generate", "--prompt", "x")
        found["report"] = run("report", "--prompt", "x")
        found["demo"] = run("demo", "--plot-path", f"{folder}/a.png")
        found["diagnose"] = run("dynamics", "diagnose", folder)
        found["plot"] = run("dynamics", "plot", folder, "--out", f"{folder}/a.png")
        found["callback"] = said(lambda: eft_ext.dynamics.DynamicsCallback)
    with hidden("rich"):
        found["rich"] = run("demo")
    return found


if __name__ == "__main__":
    print(json.dumps({"torch_alone": torch_alone, "parts": parts}[sys.argv[1]](*sys.argv[2:])))
