"""The project's pages, and their blocks of code."""

import re
from pathlib import Path

from eft_ext.demo import model_path

ROOT = Path(__file__).parents[2]
_FOLDERS = ("", ".github/", "benchmarks/", "csrc/**/", "docs/**/", "eft_ext/**/", "examples/")
ALL_PAGES = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for folder in _FOLDERS
    for file in sorted(ROOT.glob(f"{folder}*.md"))
}
# Those whose blocks run, and of these the ones that stand on their own.
PAGES = {page: text for page, text in ALL_PAGES.items() if "/" not in page or page.startswith("docs/")}
TUTORIALS = [page for page in PAGES if page.startswith("docs/tutorials/")]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
COMMAND = re.compile(r"^eft ", re.M)
BLOCKS = {page: FENCE.findall(text) for page, text in PAGES.items()}

# The shipped models in the place of those from the hub.
HUB = {
    "Qwen/Qwen2.5-7B": model_path("large-base"),
    "Qwen/Qwen2.5-0.5B-Instruct": model_path("small-tuned"),
    "Qwen/Qwen2.5-0.5B": model_path("small-base"),
}


def with_local_models(code: str) -> str:
    """Python whose hub ids are the shipped models' folders."""
    for name, path in HUB.items():
        code = code.replace(f'"{name}"', repr(str(path)))
    return code
