"""Figures of bench_peers.py: a table for each cell and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from peers.contenders import ALONE, ALONE_TOO, NAMES, OURS

BATCHES = (1, 8)
ABOUT = {
    "controlled 3": "large costs 3 small ones",
    "controlled 9": "large costs 9 small ones",
    "realistic": "realistic, no draft stands",
}
FAR = 4  # times the longest bar: a floor beyond is written, for it would make all bars short


def show(found: dict[str, Any]) -> None:
    console = Console(width=160)
    if found["quick"]:
        console.print("QUICK: tiny models and one round; these figures say nothing about speed")
    console.print(
        f"Seconds are {found['clock']} time; memory is read at {found['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s"
    )
    for result in found["results"]:
        console.print(cell_table(result))
        console.print(verdict(result, found["sampled"]))


def in_short(result: dict[str, Any]) -> str:
    """Returns one line: tokens a second of all, which gpu_all.py looks for by its first word."""
    rates = [f"{name} {r['tokens_per_second']:.1f}" for name, r in result["contenders"].items()]
    floors = [f"floor of {name} {rate:.0f}" for name, rate in result["floor_tokens_per_second"].items()]
    at = f"{result['trio']} B={result['rows']} prompt {result['prompt']}"
    return f"price: {at}, tokens/s: {', '.join(rates + floors)}"


def cell_table(result: dict[str, Any]) -> Table:
    """One line for each contender."""
    floor, size = result["floor_tokens_per_second"], result["bytes_a_token"]
    title = f"{result['trio']}, {result['dtype']}, B = {result['rows']}, prompt {result['prompt']}"
    title += f"; medians of {result['rounds']} rounds"
    caption = ", ".join(f"floor of {n}: {floor[n]:,.1f} tokens/s ({size[n] / 1e6:,.0f} MB)" for n in floor)
    heads = ("first call, s", f"{result['new_tokens']} tokens, s", "wall, s", "first token, ms", "later ones, ms each")
    table = Table(title=title, caption=caption)
    table.add_column(no_wrap=True)
    for head in (*heads, "tokens/s, whole call", "a step, of its floor", "x large alone", "drafts accepted"):
        table.add_column(head, justify="right")
    alone = result["contenders"].get(ALONE, {}).get("tokens_per_second")
    for name, r in result["contenders"].items():
        cells = [f"{r['first_call_s']:.2f}" if r.get("first_call_s") else "", f"{r['call_s']:.2f}"]
        cells += [f"{r['call_wall_s']:.2f}", f"{1e3 * r['first_token_s']:.1f}", f"{1e3 * r['step_s']:.2f}"]
        cells += [f"{r['tokens_per_second']:.1f}", f"{r['of_floor']:.0%}"]
        cells += [f"{r['tokens_per_second'] / alone:.2f}" if alone else ""]
        accepted = r.get("accepted")
        table.add_row(name, *cells, "" if accepted is None or accepted != accepted else f"{accepted:.2f}")
    return table


def verdict(result: dict[str, Any], sampled: bool) -> str:
    """Returns a line on the comparison of tokens."""
    rows, compared = result["rows"], {n: r for n, r in result["contenders"].items() if "equal_rows" in r}
    if OURS not in compared:
        return "tokens were not compared: eft_ext is not among the contenders"
    if sampled:
        return "tokens were not compared: each samples by its own generator"
    ties = sum(r.get("ties", 0) for r in compared.values())
    if all(r["equal_rows"] == rows for r in compared.values()):
        return f"greedy tokens of {len(compared)} contenders are equal in all rows"
    if all("ties" in r for r in compared.values()):
        return f"greedy tokens are equal in all rows but {ties}, which part at a tie within 1e-4"
    equal = ", ".join(f"{n} {r['equal_rows']}/{rows}" for n, r in compared.items())
    return f"rows with our greedy tokens ({result['dtype']}: the last bits may differ): {equal}"


def plot(found: dict[str, Any], path: Path) -> None:
    """Bars of whole calls' tokens a second, a panel for each trio and batch, prompts of the shortest length."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shortest = min(r["prompt"] for r in found["results"])
    results = [r for r in found["results"] if r["prompt"] == shortest and r["rows"] in BATCHES]
    if not results:
        print(f"no figure: B = {' or '.join(map(str, BATCHES))} was not measured")
        return
    trios = list(dict.fromkeys(r["trio"] for r in results))
    batches = sorted({r["rows"] for r in results})
    size = (1.6 + 3.7 * len(trios), 0.8 + 2.6 * len(batches))
    figure, panels = plt.subplots(len(batches), len(trios), figsize=size, layout="constrained", squeeze=False,
                                  sharey=True)  # fmt: skip
    for axes in panels.flat:
        axes.set_visible(False)
    for r in results:
        draw(panels[batches.index(r["rows"])][trios.index(r["trio"])], r)
    handles, labels = next(axes for axes in panels.flat if axes.get_visible()).get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def color(name: str) -> str:
    return "C0" if name.startswith(OURS) else "grey" if name in ALONE_TOO else "C1"


def draw(axes: Any, result: dict[str, Any]) -> None:
    axes.set_visible(True)
    shown = [name for name in NAMES if name in result["contenders"]]
    rates = [result["contenders"][name]["tokens_per_second"] for name in shown]
    bars = axes.barh(range(len(shown)), rates, color=[color(name) for name in shown], height=0.7)
    labels = axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=4, fontsize=8)
    for label in labels:  # readable where a line crosses it
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.3})
    axes.set_yticks(range(len(shown)), shown, fontsize=9)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    right, beyond = max(rates), []
    if ALONE in shown:
        axes.axvline(rates[shown.index(ALONE)], color="black", lw=1, zorder=0.5, label="large alone")
    for (name, floor), style in zip(result["floor_tokens_per_second"].items(), ("--", ":"), strict=True):
        label = "weights read once: the trio" if name == "trio" else "weights read once: large alone"
        inside = floor < FAR * max(rates)
        axes.axvline(floor if inside else float("nan"), color="C3", ls=style, lw=1.2, label=label)
        right = max(right, floor) if inside else right
        beyond += [] if inside else [f"floor of {name}: {floor:,.0f}"]
    axes.set_xlim(0, 1.15 * right)
    axes.set_title(f"{ABOUT.get(result['trio'], result['trio'])}, B = {result['rows']}", fontsize=10)
    axes.set_xlabel("tokens a second" + (f" ({', '.join(beyond)})" if beyond else ""), fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
