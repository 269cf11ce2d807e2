"""Machine code of the CUDA kernels: no spills, no local memory, inputs loaded 16 bytes at a time, once.

Reads the machine code in eft_ext/libeft.so: of one chip in make test-all, with EFT_ALL_ARCHITECTURES=1 of all that it
was built for. Without a library that has any, the parsers alone are tested.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_kernels
from common import checkout
from gpu import sass

BUILT = gpu_kernels.built_for()
ARCHITECTURES = BUILT if os.environ.get("EFT_ALL_ARCHITECTURES") else BUILT and [90 if 90 in BUILT else BUILT[-1]]
# Registers a thread, from the launch bounds: 65536 over (threads a block * blocks a multiprocessor).
MOST_REGISTERS = {"stream_kernel": 128, "resident_kernel": 128}
MOST_REGISTERS |= dict.fromkeys(("verify_stream_kernel", "verify_decide_kernel", "score_kernel", "compare_kernel"), 128)
MOST_REGISTERS |= {"top_ids_kernel": 128} | dict.fromkeys(("advance_kernel", "again_kernel"), 64)
CONSERVATIVE = "stream_kernel<0, true>"  # one block a multiprocessor: twice the registers
CONSERVATIVE_SLOTS = "verify_stream_kernel<true>"  # the same
MOST_MODELS = {"verify_stream_kernel<false>": 1 + 2 + 3 + 4, CONSERVATIVE_SLOTS: 1}  # a way for each number of them

RESOURCES = """
Fatbin elf code:
================
arch = sm_90

Resource usage:
 Common:
  GLOBAL:0
 Function _ZN3eft41_GLOBAL__N__c55ac0c6_9_stream_cu_1f1d501e13stream_kernelILi3ELb0EEEvNS0_4PlanE:
  REG:128 STACK:96 SHARED:1024 LOCAL:0 CONSTANT[2]:68 CONSTANT[0]:1192 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _ZN3eft44_GLOBAL__N__2b2bb7e4_11_resident_cu_5eb3165515resident_kernelILi0EEEvNS0_4PlanE:
  REG:64 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[2]:68 CONSTANT[0]:1192 TEXTURE:0 SURFACE:0 SAMPLER:0
"""

MACHINE_CODE = """
		Function : _ZN3eft13stream_kernelILi1ELb0EEEvNS0_4PlanE
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                                   /* 0x00000a00ff017b82 */
                                                                                            /* 0x000fe20000000800 */
        /*0010*/              @!P0 BRA 0x60 ;                                               /* 0x0000000000f48947 */
        /*0020*/                   LDG.E.NA.128.CONSTANT R12, desc[UR6][R12.64] ;           /* 0x000000060c0c7981 */
        /*0030*/                   LDG.E R6, desc[UR6][R6.64+0x200] ;                       /* 0x000000060c0c7981 */
        /*0040*/                   HFMA2.MMA.BF16_V2 R3, R12.reuse, R12, RZ ;               /* 0x0000000c0c037235 */
        /*0050*/                   HFMA2.BF16_V2 R2, R13, R13, RZ.H0_H0 ;                   /* 0x0000000808027231 */
        /*0060*/                   HFMA2.BF16_V2 R2, R13, R14, R2 ;                         /* 0x0000000808027231 */
        /*0070*/              @P3  LDG.E.NA.128.CONSTANT R24, desc[UR6][R24.64] ;           /* 0x000000060c0c7981 */
        /*0080*/                   STL.64 [R1+0x8], R4 ;                                    /* 0x0000000401007387 */
        /*0090*/                   EXIT ;                                                   /* 0x000000000000794d */
"""


def test_the_report_is_understood() -> None:
    found = gpu_kernels.parse_resources(RESOURCES)
    stream, resident = found
    assert gpu_kernels.readable(stream) == "stream_kernel<3, false>"
    assert gpu_kernels.readable(resident) == "resident_kernel<0>"
    plain = "_ZN3eft12_GLOBAL__N__120verify_decide_kernelENS0_10VerifyPlanE"
    assert gpu_kernels.readable(plain) == "verify_decide_kernel"
    assert gpu_kernels.readable("_ZN3eft12_GLOBAL__N__112score_kernelENS0_9ScorePlanE") == "score_kernel"
    assert found == {stream: (128, 96), resident: (64, 0)}
    registers, stack = found[resident]
    kernel = gpu_kernels.Kernel(
        gpu_kernels.readable(resident), 90, 320, registers, stack, local_accesses=1, fences=(2, 3, 4), input_loads=9,
        tile_loads=5, other_loads=6, in_flight=(7, 8),
    )  # fmt: skip
    last = gpu_kernels.table([kernel], {"resident_kernel": 7}).splitlines()[-1]
    assert last == "| `resident_kernel<0>` | 90 | 320 | 64 | 7 + 4224 a tile | 0, 1 | 2, 3, 4 | 9, 5, 6 | 7, 8 |"


def test_machine_code_is_understood() -> None:
    ((name, code),) = sass.parse(MACHINE_CODE).items()
    assert gpu_kernels.readable(name) == "stream_kernel<1, false>"
    assert [i.address for i in code] == list(range(0, 0xA0, 0x10))
    assert [[i.address for i in block] for block in sass.blocks(code)] == [
        [0x00, 0x10],
        [0x20, 0x30, 0x40, 0x50],
        [0x60, 0x70, 0x80, 0x90],
    ]
    loaded = frozenset({"R12", "R13", "R14", "R15"})
    assert sass.tile_reads(code) == [sass.TileRead(1, 1, loaded, ("R12", "R13"))]
    assert sass.local_accesses(code) == 1
    assert sass.global_loads(code) == (2, 1)


def test_fences_and_loads_in_flight_are_counted() -> None:
    def code(*lines: str) -> list[sass.Instruction]:
        text = "".join(f"        /*{16 * i:04x}*/   {line} ;\n" for i, line in enumerate(lines))
        return sass.parse(f"\tFunction : a_kernel\n{text}")["a_kernel"]

    def written(register: int, address: int) -> str:
        return f"LDG.E.128.STRONG.GPU R{register}, desc[UR6][R{address}.64]"

    use = "FMNMX R3, R3, R10, !PT"
    fenced = code("MEMBAR.SC.GPU", "ERRBAR", "CCTL.IVALL", "MEMBAR.ALL.GPU", "CCTL.E.PF2 [R2]", "MEMBAR.ALL.CTA")
    assert sass.fences(fenced) == (1, 2, 1)
    assert sass.in_flight(code(written(8, 2), use, written(8, 2), use)) == (0, 1)
    batch = [written(8, 2), "LDG.E R20, desc[UR6][R2.64]", "@P0 BRA 0x0", "BRA.DIV ~URZ, 0x0"]
    batch += [written(12, 2), written(16, 4), use]
    assert sass.in_flight(code(*batch, written(8, 2))) == (0, 3)
    assert sass.in_flight(code(*batch), counted={0x00, 0x40}) == (0, 2)
    assert sass.in_flight(code(written(8, 2), "EXIT", written(12, 2))) == (0, 1)  # nothing goes on past an EXIT
    assert sass.in_flight(code(written(8, 2), written(12, 8))) == (0, 1)  # the first is the address of the second
    ((_, tile),) = sass.parse(MACHINE_CODE).items()
    assert sass.in_flight(tile) == (1, 0)  # the load after the tile's block


@pytest.fixture
def _of_these_sources() -> None:
    newer = checkout.newer_sources("common", "cuda", "include")
    assert not newer, f"libeft.so is older than {newer[0]}: build it again (make test-all, or make gpu-build with BIN)"


@pytest.mark.slow
@pytest.mark.usefixtures("_of_these_sources")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nothing_spills_and_inputs_are_loaded_by_16_bytes(arch: int) -> None:
    found = gpu_kernels.kernels(arch)
    assert {k.name for k in found if k.name.startswith("stream")} >= {
        *(f"stream_kernel<{count}, false>" for count in range(5)),
        CONSERVATIVE,
    }
    assert {k.name for k in found if k.name.startswith("verify")} == {*MOST_MODELS, "verify_decide_kernel"}
    assert {k.name for k in found} >= {f"{name}_kernel" for name in ("score", "compare", "top_ids", "advance", "again")}
    for k in found:
        most = MOST_REGISTERS[k.name.split("<")[0]]
        assert k.registers <= (2 * most if k.name in (CONSERVATIVE, CONSERVATIVE_SLOTS) else most), k
        assert (k.stack_bytes, k.local_accesses) == (0, 0), k
        count = MOST_MODELS.get(k.name, 0)
        if k.name.startswith(("stream", "resident")):
            count = int(k.name.split("<")[1].split(",")[0].rstrip(">"))
        if k.name == "score_kernel":
            # The fast way has the first model's tile in flight, and the next model's while one is summed.
            assert k.input_loads >= 8, k
        if count:
            # The fast way reads a tile once: 4 loads of 16 bytes a lane and model. There is the general way beside it.
            assert k.input_loads >= 4 * count, k


@pytest.mark.slow
@pytest.mark.usefixtures("_of_these_sources")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_ticket_takes_one_fence_and_a_finish_asks_for_many_words_at_once(arch: int) -> None:
    """Four loads of 16 bytes bring the group maxima; for the candidates several pieces of all models are in flight."""
    seen = 0
    for k in gpu_kernels.kernels(arch):
        if not k.name.startswith(("stream", "verify_stream", "verify_decide", "score_kernel", "compare")):
            continue
        seen += 1
        assert k.fences == (0, 1, 1), f"{k.name}: {k.fences}"
        if k.name.startswith(("stream", "verify_stream")):
            assert k.in_flight[1] >= 4, k
        if k.name.startswith("stream") and (count := int(k.name.split("<")[1].split(",")[0])):
            assert k.in_flight[0] >= count * (4 if count < 3 else 3), k
    assert seen == 11


@pytest.mark.slow
@pytest.mark.usefixtures("_of_these_sources")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_machine_code_reads_a_tile_once(arch: int) -> None:
    """A warp's 1024 tokens of K bf16 models: 4 K loads of 16 bytes a lane before any use, no other load beside them,
    and every word that was loaded goes into the test of the tile exactly once."""
    fast = set()
    for mangled, code in sass.disassembled(checkout.LIBRARY, arch).items():
        name = gpu_kernels.readable(mangled)
        if not name.startswith(("stream", "resident")):
            continue
        count = int(name.split("<")[1].split(",")[0].rstrip(">"))
        if not count or (arch < 90 and name.startswith("resident")):
            continue
        (read,) = sass.tile_reads(code)
        assert (read.loads, read.other_loads) == (4 * count, 0), name
        assert len(read.loaded) == 16 * count, name
        assert sorted(read.tested) == sorted(read.loaded), name
        fast.add(name)
    assert {f"stream_kernel<{count}, false>" for count in range(1, 5)} <= fast
    assert arch < 90 or {f"resident_kernel<{count}>" for count in range(1, 5)} <= fast
