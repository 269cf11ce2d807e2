"""The figure of each stage of gpu_all.py, one line read from its results; empty where there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu.results import best_peer, time_of
from gpu.tests import CUDA, GOLDEN, TRITON, Counts, counts_of, reasons_of


def _read(path: Path) -> dict[str, Any]:
    """Returns {} where the file cannot be read: a command that was killed may have left half of it."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _results(path: Path) -> list[dict[str, Any]]:
    found = _read(path).get("results", [])
    return found if isinstance(found, list) else []


def device(out: Path, printed: str) -> str:
    m = _read(out / "device.json")
    if not m:
        return ""
    copy = f"copy {m['copy_bytes_per_us'] / 1e6:.2f} TB/s"
    memory = f"L2 {m['l2_bytes'] / 2**20:.0f} MiB, {copy}"
    newer = m["newer_than_libeft"]
    stale = f"; CAUTION: libeft.so is older than {newer[0]}" if newer else ""
    return f"{m['gpu']}, driver {m['driver_version']}, {m['multiprocessors']} multiprocessors, {memory}{stale}"


def _counted(counts: dict[str, Counts], names: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{name}: {counts[file]}" for name, file in names if file in counts)


def _first_reason(printed: str) -> str:
    return next((f"; first: {reason[:150]}" for reason in reasons_of(printed)), "")


def smallest(out: Path, printed: str) -> str:
    return _counted(counts_of(printed), [(key, t.file) for key, t in CUDA.items()]) + _first_reason(printed)


def tests(out: Path, printed: str) -> str:
    files = [(t.name, t.file) for t in (*CUDA.values(), GOLDEN)]
    return _counted(counts_of(printed), files) + _first_reason(printed)


def _at(result: dict[str, Any]) -> str:
    return f"B={result['batch']} {result['options']}"


def _cold(result: dict[str, Any], name: str) -> str:
    times = result["times"].get(name, {})
    cold = time_of(times, "graph_cold_us")
    return times.get("error", "no time") if cold is None else f"{cold:.1f} us (floor {result['floor_us']:.1f})"


def step(out: Path, printed: str) -> str:
    times = [f"{_at(r)}: {_cold(r, 'cuda')}" for r in _results(out / "step.json")]
    return "; ".join(times + _missing(out / "step.json"))


def _missing(path: Path) -> list[str]:
    """Returns a note on points that were not reached in the time given."""
    left = _read(path).get("wanted", 0) - len(_results(path))
    return [f"{left} points not reached"] if left > 0 else []


def peers(out: Path, printed: str) -> str:
    lines = []
    for result in _results(out / "peers.json"):
        times, ours = result["times"], time_of(result["times"].get("cuda", {}), "graph_cold_us")
        chain = time_of(times.get("chain", {}), "graph_cold_us", "eager_cold_us")
        best = best_peer(result)
        if ours and chain and best:
            lines.append(
                f"{_at(result)}: {ours:.1f} us, chain {chain / ours:.0f}x, best {best[0]} {best[1] / ours:.1f}x"
            )
        without = times.get("flashinfer", {}).get("error")
        if without and len(lines) == 1:
            lines.append(f"without FlashInfer ({without})")
    return "; ".join(lines + _missing(out / "peers.json"))


NCU = {
    "duration_us": "{:.1f} us",
    "memory_percent": "memory {:.0f} %",
    "issue_percent": "issue {:.0f} %",
    "no_instruction": "no_instruction {:.2f}",
}


def ncu(out: Path, printed: str) -> str:
    results = _results(out / "ncu.json")
    shown = [", ".join(text.format(r[key]) for key, text in NCU.items() if key in r) for r in results]
    return "; ".join(f"B={r['batch']} {text}" for r, text in zip(results, shown, strict=True))


def decode(out: Path, printed: str) -> str:
    lines = []
    for r in _results(out / "decode.json"):
        names = ("eager", "ours", "loop", "drafts", "large_alone", "floor")
        shown = ", ".join(f"{name} {r[f'{name}_us'] / 1e3:.2f}" for name in names if f"{name}_us" in r)
        said = "".join(f"; {line[:120]}" for line in r.get("said", []))
        lines.append(f"{r['trio']} B={r['rows']}, ms a step: {shown}{said}")
    return "; ".join(lines)


def price(out: Path, printed: str) -> str:
    return "; ".join(re.findall(r"^price: (.*)$", printed, re.MULTILINE))


def triton(out: Path, printed: str) -> str:
    times = "; ".join(f"{_at(r)}: {_cold(r, 'triton')}" for r in _results(out / "triton.json"))
    tested = _counted(counts_of(printed), [(t.name, t.file) for t in TRITON])
    return "; ".join(part for part in (times, tested) if part) + _first_reason(printed)


def pair(out: Path, printed: str) -> str:
    return "; ".join(re.findall(r"^pair: (.*)$", printed, re.MULTILINE))


def sanitized(out: Path, printed: str) -> str:
    return "; ".join(re.findall(r"^(?:(?:mem|race|init|sync)check|gpu_sanitize): .*$", printed, re.MULTILINE))
