"""The size of a way through a kernel: machine code by the source lines that it comes from."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_code
import gpu_kernels
from common import checkout
from gpu import sass, source_lines

CSRC = checkout.ROOT / "csrc"
DISASSEMBLED = f"""
//--------------------- .text._ZN3eft8a_kernelEv --------------------------
	.section	.text._ZN3eft8a_kernelEv,"ax",@progbits
	.align	128
        .type           _ZN3eft8a_kernelEv,@function
_ZN3eft8a_kernelEv:
.text._ZN3eft8a_kernelEv:
	//## File "{CSRC}/cuda/step/stream.cuh", line 124
        /*0000*/                   LDC R1, c[0x0][0x28] ;
	//## File "{CSRC}/common/log2.h", line 29 inlined at "{CSRC}/cuda/step/finish.cuh", line 102
	//## File "{CSRC}/cuda/step/finish.cuh", line 102 inlined at "{CSRC}/cuda/step/stream.cuh", line 118
	//## File "{CSRC}/cuda/step/stream.cuh", line 118
        /*0010*/                   MEMBAR.SC.GPU ;
.L_x_1:
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        .type           $_ZN3eft8a_kernelEv$_ZN3eft4rareEv,@function
$_ZN3eft8a_kernelEv$_ZN3eft4rareEv:
        /*0030*/                   NOP ;
	//## File "{CSRC}/cuda/step/details.cuh", line 7
        /*0040*/                   EXIT ;
	.section	.text._ZN3eft8b_kernelEv,"ax",@progbits
_ZN3eft8b_kernelEv:
	//## File "/usr/cuda/include/atomics.hpp", line 9
        /*0000*/                   EXIT ;
"""
COVERAGE = """{"files": [
  {"file": "/a/csrc/cuda/step/stream.cuh", "lines": [{"line_number": 124, "count": 0}, {"line_number": 124, "count": 2},
                                                     {"line_number": 118, "count": 1}]},
  {"file": "/a/csrc/cuda/step/finish.cuh", "lines": [{"line_number": 102, "count": 1}]},
  {"file": "/a/csrc/cuda/step/details.cuh", "lines": [{"line_number": 7, "count": 0}]},
  {"file": "/usr/include/c++/12/tuple", "lines": [{"line_number": 29, "count": 0}]}]}"""


def code_of_a_kernel() -> list[source_lines.Attributed]:
    stacks = source_lines.parse(DISASSEMBLED)["_ZN3eft8a_kernelEv"]
    code = sass.parse("Function : a\n" + DISASSEMBLED)["a"]
    return [source_lines.Attributed(i, stacks[i.address]) for i in code[:5]]


def test_inlined_calls_are_understood() -> None:
    found = source_lines.parse(DISASSEMBLED)
    assert found.keys() == {"_ZN3eft8a_kernelEv", "_ZN3eft8b_kernelEv"}
    inlined = (("common/log2.h", 29), ("cuda/step/finish.cuh", 102), ("cuda/step/stream.cuh", 118))
    assert found["_ZN3eft8a_kernelEv"] == {
        0x00: (("cuda/step/stream.cuh", 124),),
        0x10: inlined,
        0x20: inlined,
        0x30: (),
        0x40: (("cuda/step/details.cuh", 7),),
    }
    assert found["_ZN3eft8b_kernelEv"] == {0: (("/usr/cuda/include/atomics.hpp", 9),)}


def test_code_is_counted_for_files_and_lines() -> None:
    parts = [gpu_code.part(text) for text in ("details.cuh", "finish.cuh:100-102", "finish.cuh:103", "inish.cuh")]
    lines = gpu_code.table("a_kernel", code_of_a_kernel(), parts, source_lines.parse_coverage(COVERAGE)).splitlines()
    assert lines[2:] == [
        "| all | 80 | 100.0 | 48 | 1, 0, 0 | 0, 0 |",
        "| finish.cuh:100-102 | 32 | 40.0 | 32 | 1, 0, 0 | 0, 0 |",
        "| details.cuh | 16 | 20.0 | 0 | 0, 0, 0 | 0, 0 |",
        "| finish.cuh:103 | 0 | 0.0 | 0 | 0, 0, 0 | 0, 0 |",
        "| inish.cuh | 0 | 0.0 | 0 | 0, 0, 0 | 0, 0 |",
        "| none of these | 32 | 40.0 | 16 | 0, 0, 0 | 0, 0 |",
    ]
    (last,) = gpu_code.table("a_kernel", code_of_a_kernel(), [], {}).splitlines()[3:]
    assert last == "| none of these | 80 | 100.0 | - | 1, 0, 0 | 0, 0 |"
    names = [str(part) for part in gpu_code.headers(code_of_a_kernel())]
    assert names == ["cuda/step/details.cuh", "cuda/step/finish.cuh", "cuda/step/stream.cuh"]


def test_a_cubin_is_compiled_for_one_chip_by_the_builds_command() -> None:
    gencode = "-gencode=arch=compute_80,code="
    built = ["nvcc", "-O3", *(gencode + to for to in ("sm_80", "sm_90", "compute_80")), "-c", "a.cu", "-o", "a.o"]
    command = source_lines.cubin_command(built, 90, Path("a.cubin"))
    assert command == ["nvcc", "-O3", f"{gencode}sm_90", "-lineinfo", "-cubin", "a.cu", "-o", "a.cubin"]


@pytest.mark.slow
@pytest.mark.skipif(90 not in gpu_kernels.built_for(), reason="needs a libeft with machine code for sm_90")
@pytest.mark.skipif(not shutil.which("nvcc") or not shutil.which("cmake"), reason="needs nvcc and cmake")
def test_line_numbers_change_no_instruction(tmp_path: Path) -> None:
    newer = checkout.newer_sources("common", "cuda", "include")
    assert not newer, f"libeft.so is older than {newer[0]}: build it again (make test-all)"
    library = {gpu_kernels.readable(name): code for name, code in sass.disassembled(checkout.LIBRARY, 90).items()}
    found = source_lines.attributed(CSRC / "cuda" / "loop" / "while_loop.cu", 90, tmp_path)
    assert {gpu_kernels.readable(name) for name in found} == {"advance_kernel", "again_kernel"}
    for name, code in found.items():
        assert [a.instruction for a in code] == library[gpu_kernels.readable(name)]
