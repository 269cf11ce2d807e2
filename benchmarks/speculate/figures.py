"""Figures of bench_speculate.py: a plot and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console()


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(result), figsize=(11, 4.2), layout="constrained", sharey=True)
    for axes, (name, found) in zip(panels, result.items(), strict=True):
        draw(axes, name, found)
    panels[0].set(ylabel="times as fast as without drafts")
    figure.savefig(path, dpi=150)


def draw(axes: Any, name: str, result: dict[str, Any]) -> None:
    for i, noise in enumerate(dict.fromkeys(r["noise"] for r in result["rows"])):
        rows = [r for r in result["rows"] if r["noise"] == noise and isinstance(r["k"], int)]
        ks = [r["k"] for r in rows]
        share = sum(r["acceptance"] for r in rows) / len(rows)
        axes.plot(ks, [r["speed_up"] for r in rows], "o-", color=f"C{i}", label=f"{share:.0%} of drafts stand")
        axes.plot(ks, [r["predicted"] for r in rows], ":", color=f"C{i}")
    rates = result["tokens_per_second"]
    axes.axhline(rates["large alone, static cache"] / rates["unspeculated"], color="grey", lw=0.8)
    axes.text(16.2, rates["large alone, static cache"] / rates["unspeculated"], "large alone", va="center", fontsize=8)
    axes.axhline(1, color="black", lw=0.8)
    axes.set(xlabel="drafts a round, k", title=f"a large model that costs {name} small ones")
    axes.set(xlim=(0, 20), ylim=(0.4, 5))
    axes.legend(loc="upper left", title="measured (solid), formula (dotted)", fontsize=8, title_fontsize=8)


def show(results: dict[str, Any]) -> None:
    for name, found in results.get("controlled", {}).items():
        table = Table(
            "k",
            "noise",
            "acceptance",
            "tokens/round",
            "tokens/s",
            "speed-up",
            "formula",
            title=f"A large model that costs {name} small ones",
        )
        for r in found["rows"]:
            formula = f"{r['predicted']:.2f}" if "predicted" in r else f"(k = {r['median_k']:g})"
            numbers = (
                f"{r[n]:.{d}f}" for n, d in (("acceptance", 3), ("tokens_per_round", 2), ("tokens_per_second", 1))
            )
            table.add_row(str(r["k"]), str(r["noise"]), *numbers, f"{r['speed_up']:.2f}", formula)
        console.print(table)
        console.print({name: round(x, 1) for name, x in found["tokens_per_second"].items()})
        console.print({n: {k: round(x, 2) for k, x in each.items()} for n, each in found["cost_ms"].items()})
    if "demo" in results:
        table = Table("", "tokens/s", "acceptance", title="Demo trio, greedy")
        for name, r in results["demo"].items():
            share = r.get("acceptance", float("nan"))
            table.add_row(name, f"{r['tokens_per_second']:.0f}", f"{share:.3f}" if share == share else "")
        console.print(table)
