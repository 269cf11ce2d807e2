"""The tables of load_server.py, and the checks that fail."""

from __future__ import annotations

from typing import Any

import common  # noqa: F401
from rich.table import Table

FAILS = 5.0  # seconds in which requests in flight fail
SHOWN = {
    "first_p50_ms": "first token, p50 ms",
    "first_p99_ms": "first token, p99 ms",
    "further_p50_ms": "each further, p50 ms",
    "further_p99_ms": "each further, p99 ms",
    "last_p50_ms": "whole answer, p50 ms",
    "tokens_s": "tokens/s",
    "engine_cpu_ms": "engine's CPU ms a token",
}


def wrong(found: dict[str, Any]) -> list[str]:
    """The checks that fail, one line each."""
    lines = []
    if mixed := found.get("mixed"):
        lines += [f"mixed: {count} times {fault}" for fault, count in mixed["faults"].items()]
        if not mixed["unread_ran"] or mixed["unread_free_s"] is None:
            lines.append("mixed: the slots of a client that never reads are not free once it has closed")
    for name in ("engine_killed", "server_killed"):
        if own := found.get(name):
            lines += [f"{name}: {line}" for line in _wrong_kill(own)]
    return lines


def _wrong_kill(own: dict[str, Any]) -> list[str]:
    rules = {
        f"{own['hung']} requests hang": not own["hung"],
        f"the last request in flight failed after {own['last_failed_s']:.1f} s": own["last_failed_s"] < FAILS,
        "no request was in flight": own["in_flight_failed"] > 0,
        "the server goes on": own["exit_status"] is not None,
    }
    if "rows" in own:
        rows = own["rows"]
        rules[f"{own['lines']} lines for {rows} rows"] = own["lines"] == rows
        rules[f"{own['equal']} of {rows} rows equal the undisturbed ones"] = own["equal"] == rows
        rules[f"{own['naive_equal']} of {own['naive']} rows equal the loop's"] = own["naive_equal"] == own["naive"]
    return [line for line, right in rules.items() if not right]


def show(found: dict[str, Any]) -> list[Table]:
    """A table for each part."""
    tables = [_figures(count, own) for count, own in found.get("figures", {}).items()]
    if mixed := found.get("mixed"):
        table = Table("kind", "requests", "wrong", title=f"{found['at_once']} requests at once")
        for kind, count in mixed["requests"].items():
            faults = sum(n for fault, n in mixed["faults"].items() if fault.startswith(f"{kind}:"))
            table.add_row(kind, str(count), str(faults))
        table.add_section()
        table.add_row("seconds beside a client that reads", f"{mixed['seconds_beside_read']:.2f}", "")
        table.add_row("seconds beside one that never does", f"{mixed['seconds_beside_unread']:.2f}", "")
        table.add_row("all slots free, seconds at most", f"{mixed['slots_free_s']:.2f}", "")
        tables.append(table)
    kills = {name: found[f"{name}_killed"] for name in ("engine", "server") if f"{name}_killed" in found}
    if kills:
        table = Table("", *kills, title="kill -9")
        for name in dict.fromkeys(name for own in kills.values() for name in own):
            table.add_row(name.replace("_", " "), *(_cell(own.get(name, "")) for own in kills.values()))
        tables.append(table)
    return tables


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def ratios(own: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The trio's figures over the large model's; and the CPU time of three engines, one for each model, added."""
    if not {"trio", "large", "tuned", "base"} <= set(own):
        return {}
    large = own["large"]
    alone = sum(own[name]["engine_cpu_ms"] for name in ("large", "tuned", "base"))
    return {
        "trio of large": {name: own["trio"][name] / large[name] for name in SHOWN},
        "three alone of large": {"engine_cpu_ms": alone / large["engine_cpu_ms"]},
    }


def _figures(count: str, own: dict[str, dict[str, float]]) -> Table:
    table = Table("", *SHOWN.values(), title=f"{count} streamed requests at once")
    for name, figures in own.items():
        table.add_row(name, *(f"{figures[key]:,.2f}" if key in figures else "" for key in SHOWN))
    for name, figures in ratios(own).items():
        table.add_row(name, *(f"{figures[key]:.2f}x" if key in figures else "" for key in SHOWN))
    return table
