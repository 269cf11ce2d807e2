"""Importing this first makes `import eft_ext` find the package of this checkout where none is installed."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "eft_ext" / "libeft.so"
sys.path.append(str(ROOT))


def newer_sources(*parts: str) -> list[str]:
    """Names the sources that have changed since libeft was built, by the files' times: figures would not be theirs."""
    if not LIBRARY.exists():
        return []
    parts = parts or ("common", "cpu", "cuda", "include")
    sources = [path for part in parts for path in (ROOT / "csrc" / part).glob("*.*")]
    return [str(path.relative_to(ROOT)) for path in sources if path.stat().st_mtime > LIBRARY.stat().st_mtime]
