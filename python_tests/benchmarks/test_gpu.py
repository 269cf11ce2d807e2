"""The parts of the GPU benchmarks that need no GPU, on made-up figures: none of the numbers here was ever measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def synthetic() -> dict[str, Any]:
    """Invented: a device that copies a million bytes a microsecond and a step of twice the floor."""
    machine = {
        "gpu": "SYNTHETIC",
        "driver_version": "0.0",
        "cuda": "0.0",
        "torch": "0",
        "eft_ext": "0",
        "commit": "none",
    }

    def point(vocab: int, batch: int, models: int, **peers: dict[str, Any]) -> dict[str, Any]:
        size = 2 * vocab * batch * models
        floor = size / 1e6
        ours = {"graph_cold_us": 2 * floor, "graph_hot_us": 1.5 * floor, "eager_cold_us": 3 * floor, "host_us": 5.0}
        base = {"vocab": vocab, "batch": batch, "options": "top-p .9", "models": models, "bytes": size}
        return {**base, "floor_us": floor, "times": {"cuda": ours, **peers}}

    first = point(
        128000,
        64,
        3,
        chain={"eager_cold_us": 9000.0, "graph_error": "RuntimeError: not captured"},
        **{
            "flashinfer slow": {"eager_cold_us": 500.0, "graph_cold_us": 400.0, "graph_hot_us": 390.0},
            "flashinfer fast": {"eager_cold_us": 310.0, "graph_cold_us": 245.76, "graph_hot_us": 200.0},
            "flashinfer broken": {"error": "ValueError: no"},
        },
    )
    second = point(32000, 1, 1, flashinfer={"error": "ModuleNotFoundError"})
    failed = {**point(32000, 8, 1), "times": {"cuda": {"error": "RuntimeError: launch failed"}}}
    return {"machine": machine, "copy_bytes_per_us": 1e6, "wanted": 5, "results": [first, second, failed]}


def test_the_grid_has_the_shapes_asked_for_and_stays_small() -> None:
    from gpu.grid import OPTIONS, points

    default, full = points(), points(full=True)
    assert len(default) == len(set(default)) == 160 <= 200
    assert len(full) == 360
    assert set(default) <= set(full)
    for grid in (default, full):
        assert {p.vocab for p in grid} == {32000, 128256, 151936, 256000}
        assert {p.models for p in grid} == {1, 3}
        assert {p.options for p in grid} == set(OPTIONS)
        assert {1, 64, 256} <= {p.batch for p in grid}
        headline = [p for p in grid if p.headline]
        assert grid[: len(headline)] == headline
        assert len(headline) == 6
    assert default[0].bytes == 3 * 128256 * 2


@pytest.mark.parametrize("set_bytes", [1, 769_536, 50_000_000, 400_000_000])
def test_cold_sets_overflow_the_cache(set_bytes: int) -> None:
    from gpu.timing import sets_beyond_l2

    count = sets_beyond_l2(set_bytes, l2_bytes=50_000_000)
    assert count * set_bytes >= 150_000_000
    assert count >= 2
    assert count == 2 or (count - 1) * set_bytes < 150_000_000


def test_a_call_that_waits_for_the_device_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import timing

    modes = ["default"]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    seen: list[str] = []
    timing.check_no_sync(lambda: seen.append(modes[-1]))
    assert seen == ["error"]

    def waits() -> None:
        raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        timing.check_no_sync(waits)
    assert modes == ["default", *2 * ["error", "default"]]


def test_the_table_holds_every_point_with_its_ratios() -> None:
    from gpu_report import best_peer, table

    found = synthetic()
    text = table(found)
    assert text.startswith("SYNTHETIC, driver 0.0")
    assert "copy 1.00 TB/s" in text
    assert "2 points of the grid were not reached" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    top = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert top[:9] == ["3", "128000", "64", "top-p .9", "49.2", "98.3", "73.7", "50 %", "147"]
    assert top[11:] == ["9,000", "61x", "246", "flashinfer fast", "2.5x"]
    failed = [cell.strip() for cell in lines[4].split("|")[1:-1]]
    assert failed[5:9] == ["—", "—", "—", "—"]
    assert best_peer(found["results"][1]) is None
    assert best_peer(found["results"][0], "chain") == ("chain", 9000.0)


@pytest.mark.slow
def test_the_roofline_is_drawn(tmp_path: Path) -> None:
    """Runs the command, as it is used."""
    source, plot, table = (tmp_path / name for name in ("made-up.json", "roofline.png", "table.md"))
    source.write_text(json.dumps(synthetic()))
    command = [sys.executable, BENCHMARKS / "gpu_report.py", source, "--plot", plot, "--table", table]
    subprocess.run(command, check=True)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "SYNTHETIC" in table.read_text()


@pytest.mark.slow
def test_without_figures_or_a_device_one_line_says_so() -> None:
    for script, words in (("gpu_report.py", "is not there"), ("gpu_step.py", "not run, it needs a CUDA device")):
        if script == "gpu_step.py" and torch.cuda.is_available():
            continue
        argument = ["no-such-file.json"] if script == "gpu_report.py" else []
        done = subprocess.run(
            [sys.executable, BENCHMARKS / script, *argument], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_peers_compute_the_same_distribution() -> None:
    """FlashInfer's paths over a stand-in for its module: each filter is called with the point's options."""
    from types import SimpleNamespace

    from common.optional import import_optional
    from gpu.grid import OPTIONS
    from gpu.peers import combine, flashinfer_paths

    called: list[tuple[str, tuple[Any, ...]]] = []

    def recorded(name: str, returns: int) -> Any:
        def function(x: torch.Tensor, *options: Any, **more: Any) -> torch.Tensor:
            called.append((name, (*options, *more.values())))
            return x if returns == 2 else x.argmax(-1)

        return function

    keep = {name: recorded(name, 2) for name in ("softmax", "top_k_renorm_probs", "top_p_renorm_probs")}
    draw = ("sampling_from_probs", "sampling_from_logits", "top_p_sampling_from_probs", "top_k_sampling_from_probs")
    draw += ("top_k_top_p_sampling_from_probs", "top_k_top_p_sampling_from_logits", "min_p_sampling_from_probs")
    module = SimpleNamespace(**keep, **{name: recorded(name, 1) for name in draw})
    logits = [torch.randn(2, 9).bfloat16() for _ in range(3)]
    assert torch.equal(combine(logits[0]), logits[0].float())
    want = combine(*logits).argmax(-1)
    for name, options in OPTIONS.items():
        paths = flashinfer_paths(module, options)
        assert bool(paths) == (name != "greedy")
        for path in paths.values():
            called.clear()
            assert torch.equal(path(*logits), want)
            given = [value for _, values in called for value in values]
            for key in ("top_k", "top_p", "min_p"):
                assert key not in options or options[key] in given
    assert import_optional("no_such_module")[0] is None
    assert "ModuleNotFoundError" in import_optional("no_such_module")[1]


def test_a_run_end_to_end_on_stand_ins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The CPU stands in for the device and the clock always says one microsecond: the rest is the script."""
    import gpu_report
    import gpu_step

    real_calls, real_sets = gpu_step.step_calls, gpu_step.make_sets

    def once(calls: Any, *_: Any, **__: Any) -> float:
        for call in calls:
            assert call().shape == (calls[0]().shape[0],)
        return 1.0

    for name in ("graph_us", "eager_us", "host_us"):
        monkeypatch.setattr(gpu_step.timing, name, once)
    monkeypatch.setattr(gpu_step.timing, "copy_bytes_per_us", lambda: 1e6)
    monkeypatch.setattr(gpu_step.timing, "l2_bytes", lambda: 1)
    monkeypatch.setattr(gpu_step, "missing_requirement", lambda: "")
    monkeypatch.setattr(gpu_step, "describe_gpu", lambda: synthetic()["machine"])
    monkeypatch.setattr(gpu_step, "make_sets", lambda point, count: real_sets(point, count, "cpu"))
    monkeypatch.setattr(gpu_step, "step_calls", lambda sets, options, _, *rest: real_calls(sets, options, "cpu", *rest))
    monkeypatch.setattr(gpu_step.peers, "compiled_chain", lambda chain: chain)
    path = tmp_path / "made-up.json"
    arguments = ["--vocab", "32000", "--batch", "1", "--options", "top-p .9", "greedy", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["gpu_step.py", *arguments])
    assert gpu_step.main() == 0
    assert "4 points" in capsys.readouterr().out
    found = json.loads(path.read_text())
    for result in found["results"]:
        assert result["times"]["cuda"]["same_tokens_as_cpu"] is True
        assert result["times"]["cuda"]["graph_cold_us"] == 1.0
        assert result["times"]["chain"]["eager_cold_us"] == 1.0
        assert "flashinfer" not in result["times"] or "Error" in result["times"]["flashinfer"]["error"]
    assert gpu_report.table(found).count("\n| ") == 2 + 4


def test_the_commit_is_known_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from common import machine

    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.commit() is None
    monkeypatch.setenv("EFT_COMMIT", "made-up")
    assert machine.describe()["commit"] == "made-up"
