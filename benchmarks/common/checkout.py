"""The checkout that the benchmarks belong to, and the library built in it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "eft_ext" / "libeft.so"


def newer_sources(*parts: str) -> list[str]:
    """Returns the sources that have changed since libeft was built, by the files' times: its figures are not theirs."""
    if not LIBRARY.exists():
        return []
    parts = parts or ("common", "cpu", "cuda", "include")
    sources = [path for part in parts for path in (ROOT / "csrc" / part).rglob("*.*")]
    return [str(path.relative_to(ROOT)) for path in sources if path.stat().st_mtime > LIBRARY.stat().st_mtime]
