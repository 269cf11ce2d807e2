"""Draws the figures of gpu_step.py: a table in Markdown and a roofline plot.

    python benchmarks/gpu_report.py benchmarks/results/step-gpu.json --table table.md --plot roofline.png

It measures nothing. The baselines are in the file; the floor is the line of one read at copy bandwidth.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gpu.results import GRAPH, Result, best_peer, time_of


def _us(value: float | None) -> str:
    return "—" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _ratio(value: float | None, to: float | None, unit: str = "x") -> str:
    return (
        "—" if value is None or not to else f"{value / to:.2g}{unit}" if value / to < 10 else f"{value / to:.0f}{unit}"
    )


HEAD = ["K", "V", "B", "options", "floor", "cold", "hot", "of copy bandwidth", "eager", "host", "triton", "chain",
        "chain, eager / eager", "best peer", "", "faster"]  # fmt: skip


def row(result: Result) -> list[str]:
    """Returns one line of the table, in microseconds."""
    ours, floor = result["times"]["cuda"], result["floor_us"]
    cold = time_of(ours, "graph_cold_us")
    chain = time_of(result["times"].get("chain", {}), "eager_cold_us")
    peer = best_peer(result)
    share = "—" if cold is None else f"{100 * floor / cold:.0f} %"
    return [
        str(result["models"]), str(result["vocab"]), str(result["batch"]), result["options"], _us(floor), _us(cold),
        _us(time_of(ours, "graph_hot_us")), share, _us(time_of(ours, "eager_cold_us")), _us(time_of(ours, "host_us")),
        _us(time_of(result["times"].get("triton", {}), "graph_cold_us")), _us(chain),
        _ratio(chain, time_of(ours, "eager_cold_us")), _us(peer[1] if peer else None), peer[0] if peer else "—",
        _ratio(peer[1] if peer else None, cold),
    ]  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Returns Markdown: the machine, then a line for each point, ordered by K, V, B."""
    m = found["machine"]
    where = (
        f"{m['gpu']}, driver {m['driver_version']}, CUDA {m['cuda']}, torch {m['torch']}, eft_ext {m['eft_ext']} at "
        f"{m['commit']}; copy {found['copy_bytes_per_us'] / 1e6:.2f} TB/s. Microseconds; cold and hot: a call inside a "
        "replayed graph; eager: one call after another; host: until the call returns."
    )
    ordered = sorted(found["results"], key=lambda r: (-r["models"], r["vocab"], r["batch"]))
    lines = [HEAD, ["---"] * len(HEAD), *(row(r) for r in ordered)]
    left = found["wanted"] - len(found["results"])
    note = [f"\n{left} points of the grid were not reached in the time given."] if left else []
    return "\n".join([where, "", *("| " + " | ".join(line) + " |" for line in lines), *note]) + "\n"


def roofline(found: dict[str, Any], path: Path) -> None:
    """Plots time over bytes read for all points; the copy bandwidth bounds the cold ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    results = found["results"]
    sizes = sorted(r["bytes"] for r in results)
    axes.plot(
        sizes, [b / found["copy_bytes_per_us"] for b in sizes], color="black", lw=1, label="one read at copy bandwidth"
    )
    series = {
        "CUDA step, cold": (lambda r: time_of(r["times"]["cuda"], "graph_cold_us"), "o", "tab:red"),
        "CUDA step, hot": (lambda r: time_of(r["times"]["cuda"], "graph_hot_us"), ".", "tab:orange"),
        "Triton step, cold": (lambda r: time_of(r["times"].get("triton", {}), "graph_cold_us"), "^", "tab:purple"),
        "best FlashInfer path": (lambda r: (best_peer(r, "flashinfer") or (0, None))[1], "s", "tab:green"),
        "chain": (lambda r: time_of(r["times"].get("chain", {}), *GRAPH), "x", "tab:blue"),
        "compiled chain": (lambda r: time_of(r["times"].get("compiled chain", {}), *GRAPH), "+", "tab:cyan"),
    }
    for name, (value, marker, colour) in series.items():
        pairs = [(r["bytes"], us) for r in results if (us := value(r)) is not None]
        if pairs:
            axes.scatter(*zip(*pairs, strict=True), marker=marker, color=colour, s=22, label=name, alpha=0.7)
    axes.set(xscale="log", yscale="log", xlabel="bytes of the inputs", ylabel="microseconds a step",
             title=f"One step on {found['machine']['gpu']}, bf16")  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("--table", type=Path, help="write the table, in Markdown, here (default: standard output)")
    parser.add_argument("--plot", type=Path, help="write the roofline plot, PNG or SVG, here")
    args = parser.parse_args()
    if not args.json.exists():
        print(f"gpu_report: {args.json} is not there; make gpu-bench-step writes it", file=sys.stderr)
        return 2
    found = json.loads(args.json.read_text())
    if args.table:
        args.table.write_text(table(found))
    else:
        print(table(found))
    if args.plot:
        roofline(found, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
