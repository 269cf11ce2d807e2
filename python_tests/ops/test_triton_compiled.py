"""The Triton step compiled without a GPU: it does not spill, reads its inputs once, flushes and fuses nothing."""

import importlib.metadata
import importlib.util
import os
import re
import shutil

import pytest
import torch

from python_tests.helpers.compiled_kernels import CASES, REGISTERS, SHARED, compiled

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="kernels are interpreted in this process"),
]
NAMED = {case.name: case for case in CASES}


def target(arch):
    from triton.backends.compiler import GPUTarget

    return GPUTarget("hip", arch, 64) if isinstance(arch, str) else GPUTarget("cuda", arch, 32)


def within_limits(kernel, spilled=0):
    assert kernel.compiled.asm["cubin"]
    assert ".ftz" not in kernel.ptx, "subnormals are flushed"
    assert not re.search(r"\bmad\.f|\bfma\.rn\.f64", kernel.ptx), "something was fused that is not written so"
    assert kernel.compiled.metadata.shared <= SHARED
    from triton import knobs

    if shutil.which(knobs.nvidia.cuobjdump.path):
        use = kernel.usage()
        assert use["STACK"] <= spilled, f"{kernel.name} spills {use['STACK']} bytes a thread"
        assert use["REG"] * kernel.threads <= REGISTERS


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("top-p .9", 80),
        ("top-p .9", 90),
        ("top-p .9", 100),
        ("greedy", 90),
        ("all filters", 80),
        ("conservative, all, details", 90),
    ],
)
def test_compiles_within_the_limits(name, arch):
    kernels = compiled(NAMED[name], target(arch))
    assert [kernel.name for kernel in kernels] == ["slices", "rows"], "two launches"
    for kernel in kernels:
        within_limits(kernel)


@pytest.mark.parametrize(
    ("name", "arch"), [("verify, T .7", 100), ("verify, all filters", 80), ("verify, conservative, all", 90)]
)
def test_a_verification_compiles_within_the_limits(name, arch):
    kernels = compiled(NAMED[name], target(arch))
    assert [kernel.name for kernel in kernels] == ["verify_slices", "masses", "residual", "verdict"]
    # Triton before 3.9 keeps too much here, which nothing of ours changes (docs/internals/triton-step.md).
    version = tuple(map(int, importlib.metadata.version("triton").split(".")[:2]))
    old = version < (3, 9) and (name, arch) == ("verify, conservative, all", 90)
    for kernel in kernels:
        within_limits(kernel, spilled=56 if old and kernel.name == "masses" else 0)


@pytest.mark.parametrize(
    ("name", "arch"), [("score", 80), ("score", 90), ("score", 100), ("score, 4 models, fp32", 90)]
)
def test_scoring_compiles_within_the_limits(name, arch):
    kernels = compiled(NAMED[name], target(arch))
    assert [kernel.name for kernel in kernels] == ["score_read", "score_rows", "score_compare", "score_changes"]
    for kernel in kernels:
        within_limits(kernel)


def test_conservative_scoring_compiles_within_the_limits():
    kernels = compiled(NAMED["score, conservative"], target(80))
    assert [kernel.name for kernel in kernels][:3] == ["score_masses", "score_nuclei", "score_read"]
    for kernel in kernels:
        within_limits(kernel)


@pytest.mark.parametrize(("name", "arch"), [("special, top-p .9", 90), ("special, conservative, all, details", 80)])
def test_a_step_with_special_tokens_compiles_within_the_limits(name, arch):
    kernels = compiled(NAMED[name], target(arch))
    assert [kernel.name for kernel in kernels] == ["slices", "rows"], "two launches"
    for kernel in kernels:
        within_limits(kernel)
    ordinary = kernels[0].wide_bytes() * kernels[0].threads
    assert ordinary == 1024 * NAMED[name].models * NAMED[name].dtype.itemsize, "the slices read every logit once"


def test_scoring_with_special_tokens_compiles_within_the_limits():
    kernels = compiled(NAMED["special, score"], target(90))
    assert [kernel.name for kernel in kernels][:3] == ["score_maxima", "score_deltas", "score_read"]
    for kernel in kernels:
        within_limits(kernel)


@pytest.mark.parametrize("name", ["score", "score, 4 models, fp32"])
def test_both_reads_of_scoring_take_every_logit_once(name):
    case = NAMED[name]
    kernels = {kernel.name: kernel for kernel in compiled(case, target(90))}
    for kernel in (kernels["score_read"], kernels["score_compare"]):
        assert kernel.wide_bytes() * kernel.threads == 1024 * case.models * case.dtype.itemsize
        tensors = re.findall(r"tt\.load [^\n]*tensor<", kernel.compiled.asm["ttgir"])
        assert len(tensors) == case.models, "all else is a number of the row"
    if case.dtype == torch.bfloat16:
        # Triton 3.6 has one, before the tile's words go out together.
        assert kernels["score_read"].ptx.count("bar.sync") <= 1, "no sum waits for another warp's"


@pytest.mark.parametrize(
    "name", ["top-p .9", "top-p .9, 4 models, fp32", "conservative, all, details", "verify, T .7", "verify, shared"]
)
def test_the_slices_read_every_logit_once(name):
    case = NAMED[name]
    slices = compiled(case, target(90))[0]
    of_input = slices.loaded_bytes() * slices.threads  # a program reads a tile of 1024 tokens
    inputs = case.models + (case.num_drafts > 0 and not case.shared)
    assert of_input == 1024 * inputs * case.dtype.itemsize
    width = re.findall(r"ld\.global\S*", slices.ptx)
    assert all("v4" in instruction for instruction in width), "16 bytes at a time"
    assert len(re.findall(r"tt\.load ", slices.compiled.asm["ttgir"])) == inputs


@pytest.mark.parametrize("name", ["top-p .9", "verify, top-p .9", "score"])
def test_compiles_for_amd(name):
    kernels = compiled(NAMED[name], target("gfx942"))
    assert all(kernel.compiled.asm["hsaco"] for kernel in kernels)


@pytest.mark.parametrize("name", ["greedy", "verify, T .7", "score"])
def test_another_position_and_seed_do_not_compile_again(name):
    first = compiled(NAMED[name], target(90), position=1)
    for position in (2, 16, 2**40):
        again = compiled(NAMED[name], target(90), position=position)
        assert all(x.compiled is y.compiled for x, y in zip(first, again, strict=True))


def test_the_stand_in_driver_is_taken_back():
    from triton.runtime import driver

    before = driver._active
    compiled(NAMED["greedy"], target(90))
    assert driver._active is before
