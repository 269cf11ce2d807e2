"""What the compiler makes of the CUDA kernels: no spills, no local memory, inputs loaded 16 bytes at a time.

One architecture in make test; EFT_ALL_ARCHITECTURES=1 takes sm_80, 90 and 100. Without nvcc only the parser is tested.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_kernels

ARCHITECTURES = (80, 90, 100) if os.environ.get("EFT_ALL_ARCHITECTURES") else (90,)
# Registers a thread, from the launch bounds: 65536 over (threads a block * blocks a multiprocessor).
MOST_REGISTERS = dict.fromkeys(("stream_kernel", "resident_kernel", "score_kernel", "compare_kernel"), 128)
CONSERVATIVE = "stream_kernel<0, true>"  # one block a multiprocessor: twice the registers

LOG = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN3eft12_GLOBAL__N__113stream_kernelILi3ELb0EEEvNS0_4PlanE' for 'sm_90'
ptxas info    : Function properties for _ZN3eft12_GLOBAL__N__113stream_kernelILi3ELb0EEEvNS0_4PlanE
    96 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 96 bytes cumulative stack size
ptxas info    : Compiling entry function '_ZN3eft12_GLOBAL__N__115resident_kernelILi0EEEvNS0_4PlanE' for 'sm_90'
ptxas info    : Function properties for _ZN3eft12_GLOBAL__N__115resident_kernelILi0EEEvNS0_4PlanE
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers
"""
PTX = """
.visible .entry _ZN3eft12_GLOBAL__N__115resident_kernelILi0EEEvNS0_4PlanE(
	.param .align 16 .b8 p[64]
)
.maxntid 512
{
	ld.global.nc.L1::no_allocate.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];
	ld.global.nc.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];
	ld.global.b64 %rd3, [%rd2];
	ld.shared.b32 %r5, [%r6];
}
"""


def test_the_report_is_understood() -> None:
    found = gpu_kernels.parse_resources(LOG)
    stream, resident = found
    assert gpu_kernels.readable(stream) == "stream_kernel<3, false>"
    assert gpu_kernels.readable(resident) == "resident_kernel<0>"
    assert gpu_kernels.readable("_ZN3eft12_GLOBAL__N__112score_kernelENS0_9ScorePlanE") == "score_kernel"
    assert found[stream] == {"registers": 128, "stack_bytes": 96, "spill_store_bytes": 4, "spill_load_bytes": 12}
    assert found[resident]["stack_bytes"] == 0
    assert gpu_kernels.parse_loads(PTX) == {resident: {"input_loads": 1, "other_loads": 2}}
    kernel = gpu_kernels.Kernel(gpu_kernels.readable(resident), 90, **found[resident], input_loads=1, other_loads=2)
    assert gpu_kernels.table([kernel]).splitlines()[-1] == "| `resident_kernel<0>` | 90 | 64 | 0 | 0 | 1 | 2 |"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nothing_spills_and_inputs_are_loaded_by_16_bytes(arch: int) -> None:
    found = gpu_kernels.kernels(arch)
    assert {k.name for k in found if k.name.startswith("stream")} >= {
        *(f"stream_kernel<{count}, false>" for count in range(5)),
        CONSERVATIVE,
    }
    assert {k.name for k in found} >= {"score_kernel", "compare_kernel"}
    for k in found:
        most = MOST_REGISTERS[k.name.split("<")[0]]
        assert k.registers <= (2 * most if k.name == CONSERVATIVE else most), k
        assert (k.stack_bytes, k.spill_store_bytes, k.spill_load_bytes) == (0, 0, 0), k
        if k.name == "score_kernel":
            # The fast way has the first model's tile in flight, and the next model's while one is summed.
            assert k.input_loads >= 8, k
        count = int(k.name.split("<")[1].split(",")[0].rstrip(">")) if "<" in k.name else 0
        if count:
            # The fast way reads a tile once: 4 loads of 16 bytes a lane and model. There is the general way beside it.
            assert k.input_loads >= 4 * count, k
