"""The lines that stages are read for, from made-up files: none of the figures here was ever measured."""

import json
import os

import gpu_ncu
import pytest
from common import checkout
from gpu import figures


@pytest.fixture
def out(tmp_path):
    def write(name, found):
        (tmp_path / name).write_text(found if isinstance(found, str) else json.dumps(found))
        return tmp_path

    return write


def point(batch, **times):
    return {"batch": batch, "options": "top-p .9", "models": 3, "floor_us": 0.25, "times": times}


def test_the_device(out):
    found = {"gpu": "MADE-UP", "driver_version": "1", "multiprocessors": 132, "l2_bytes": 50 * 2**20}
    found |= {"copy_bytes_per_us": 3e6, "newer_than_libeft": []}
    line = figures.device(out("device.json", found), "")
    assert line == "MADE-UP, driver 1, 132 multiprocessors, L2 50 MiB, copy 3.00 TB/s"
    line = figures.device(out("device.json", found | {"newer_than_libeft": ["csrc/cuda/step/step.cu"]}), "")
    assert line.endswith("CAUTION: libeft.so is older than csrc/cuda/step/step.cu")


def test_times_of_the_step(out):
    results = [point(1, cuda={"graph_cold_us": 9.87}), point(64, cuda={"error": "RuntimeError: cuda: no"})]
    there = out("step.json", {"results": results})
    assert figures.step(there, "") == "B=1 top-p .9: 9.9 us (floor 0.2); B=64 top-p .9: RuntimeError: cuda: no"


def test_times_beside_peers(out):
    times = {"cuda": {"graph_cold_us": 10.0}, "chain": {"eager_cold_us": 500.0}}
    without = point(64, **times, flashinfer={"error": "ModuleNotFoundError"})
    there = out("peers.json", {"results": [without, point(1, **times, **{"flashinfer a": {"graph_cold_us": 31.0}})]})
    line = figures.peers(there, "")
    assert line.startswith(
        "B=64 top-p .9: 10.0 us, chain 50x, best chain 50.0x; without FlashInfer (ModuleNotFoundError)"
    )
    assert line.endswith("B=1 top-p .9: 10.0 us, chain 50x, best flashinfer a 3.1x")


def test_times_of_decoding(out):
    result = {"trio": "1B", "rows": 1, "eager_us": 30e3, "ours_us": 3e3, "large_alone_us": 20e3, "floor_us": 1.5e3}
    there = out("decode.json", {"results": [result | {"said": ["loop: NotImplementedError: none"]}]})
    line = figures.decode(there, "")
    assert (
        line
        == "1B B=1, ms a step: eager 30.00, ours 3.00, large_alone 20.00, floor 1.50; loop: NotImplementedError: none"
    )


def test_rates_beside_the_large_model_alone(out):
    from peers.figures import in_short

    rates = {"large alone": {"tokens_per_second": 40.0}, "eft_ext": {"tokens_per_second": 31.26}}
    cell = {"trio": "1B", "rows": 1, "prompt": 32, "contenders": rates, "floor_tokens_per_second": {"trio": 902.4}}
    line = figures.price(out("x.json", {}), f"a table\n{in_short(cell)}\nmore\n")
    assert line == "1B B=1 prompt 32, tokens/s: large alone 40.0, eft_ext 31.3, floor of trio 902"
    assert figures.price(out("x.json", {}), "killed before\n") == ""


@pytest.mark.parametrize("found", ["", "{", "[]", "{}"])
def test_half_a_file_is_no_figure(out, found):
    for stage in ("device", "step", "peers", "ncu", "decode", "triton"):
        assert getattr(figures, stage)(out(f"{stage}.json", found), "") == ""


def test_counters_as_ncu_prints_them():
    """Its raw page in CSV: names, units, a line for each launch, and its own lines among them."""
    names = ["ID", "Kernel Name", "gpu__time_duration.sum"]
    names += ["gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed"]
    names += ["gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed", "smsp__issue_active.avg.per_cycle_active"]
    names += ["smsp__average_warps_issue_stalled_no_instruction_per_issue_active.ratio", "profiler__replayer_passes"]
    units = ["", "", "ns", "%", "%", "inst/cycle", "inst", ""]
    values = ["0", "stream_kernel", "65,536", "91.5", "n/a", "0.4625", "0.125", "9"]
    rows = [",".join(f'"{cell}"' for cell in row) for row in (names, units, values)]
    found = gpu_ncu.parse("\n".join(["==PROF== Connected to process 1", *rows, ""]))
    assert found["kernel"] == "stream_kernel"
    assert {name: found.get(name) for name in gpu_ncu.HEADLINES} == {
        "duration_us": pytest.approx(65.536),
        "memory_percent": 91.5,
        "dram_percent": None,
        "issue_percent": 46.25,
        "no_instruction": 0.125,
    }
    assert gpu_ncu.parse("==ERROR== ERR_NVGPUCTRPERM") == {}


def test_what_the_sanitizer_said():
    printed = "memcheck: exit code 0, ERROR SUMMARY: 0 errors\nx\nracecheck: not begun, 3 seconds were left\n"
    line = figures.sanitized(None, printed)
    assert line == "memcheck: exit code 0, ERROR SUMMARY: 0 errors; racecheck: not begun, 3 seconds were left"


def test_a_library_that_is_older_than_its_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    monkeypatch.setattr(checkout, "LIBRARY", tmp_path / "eft_ext/libeft.so")
    for name in ("csrc/cuda/step/step.cu", "csrc/cpu/step.cpp", "eft_ext/libeft.so"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert checkout.newer_sources() == []
    os.utime(tmp_path / "eft_ext/libeft.so", (1, 1))
    os.utime(tmp_path / "csrc/cuda/step/step.cu", (0, 0))
    assert checkout.newer_sources() == ["csrc/cpu/step.cpp"]
    assert checkout.newer_sources("common", "cuda") == []
