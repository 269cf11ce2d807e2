"""The C interface: headers for C as for C++, and a version that the Python module compares when it is loaded."""

import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eft_ext.ops.backends import native

ROOT = Path(__file__).parent.parent
INCLUDE = ROOT / "csrc" / "include"
HEADERS = "\n".join(path.read_text() for path in sorted(INCLUDE.glob("*.h")))
LIBRARY = ROOT / "eft_ext" / "libeft.so"

# The declarations of each version of the interface, without comments and white space.
VERSIONS = {1: "f3c91d303d286072", 2: "bedc724da838ed75", 3: "ff495f212b1b048e"}


def compile_c(*arguments):
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("needs a C compiler")
    strict = ("-std=c99", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}")
    subprocess.run([compiler, *strict, *map(str, arguments)], check=True)


def test_another_interface_has_another_version():
    """Raise EFT_ABI_VERSION and add a line to VERSIONS; before a version is released, its line may be replaced."""
    declarations = re.sub(r"\s+", "", re.sub(r"//.*", "", HEADERS))
    version = int(re.search(r"#define EFT_ABI_VERSION (\d+)", HEADERS)[1])
    assert VERSIONS[version] == hashlib.sha256(declarations.encode()).hexdigest()[:16]
    assert ctypes.CDLL(str(LIBRARY)).eft_abi_version() == native._native.abi_version() == version == max(VERSIONS)


PROGRAM = """
#include <stdio.h>
#include "eft.h"
#include "eft_layers.h"
#include "eft_loop.h"

int main(void) {
  const float logits[3] = {0.5f, 2.0f, 1.0f};
  int64_t token = -1;
  eft_step step = {0};
  if (eft_abi_version() != EFT_ABI_VERSION) return 2;
  step.num_rows = 1;
  step.vocab_size = 3;
  step.num_models = 1;
  step.logits[0].data = logits;
  step.logits[0].row_stride = 3;
  step.logits[0].dtype = EFT_FP32;
  step.weights[0].value = 1;
  step.top_p.value = 1;
  step.tokens = &token;
  if (eft_step_cpu(&step, EFT_ISA_AUTO, 1) != EFT_OK) return puts(eft_last_error()), 1;
  return token != 1;
}
"""


def test_a_c_program_calls_it(tmp_path):
    (tmp_path / "program.c").write_text(PROGRAM)
    compile_c(tmp_path / "program.c", "-o", tmp_path / "program", LIBRARY, f"-Wl,-rpath,{LIBRARY.parent}")
    subprocess.run([tmp_path / "program"], check=True)


# The loader takes a library that is there already for the one of that name beside the module.
CHILD = """
import ctypes, json, sys, warnings
import torch
ctypes.CDLL(sys.argv[1])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import eft_ext
errors = []
for backend in ("cpu", "auto", "cuda"):
    try:
        eft_ext.fused_step(*[torch.zeros(1, 8)] * 3, backend=backend)
    except RuntimeError as error:
        errors.append(str(error))
found = eft_ext.backends()
print(json.dumps({
    "warned": [str(w.message) for w in caught if w.category is RuntimeWarning],
    "errors": errors,
    "reasons": [found[name].reason for name in ("cpu", "cuda")],
    "reference": int(eft_ext.fused_step(*[torch.zeros(1, 8)] * 3, temperature=0.0, backend="reference")),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", [99, None], ids=["another", "none"])
def test_a_library_of_another_version_is_refused(tmp_path, version):
    """In one line, wherever somebody looks, and the reference is not taken in its place."""
    names = set(re.findall(r"EFT_API [^;]*?\b(eft_\w+)\(", HEADERS)) - {"eft_abi_version"}
    functions = [f"int {name}(void) {{ return 0; }}" for name in sorted(names)]
    if version:
        functions.append(f"int eft_abi_version(void) {{ return {version}; }}")
    (tmp_path / "fake.c").write_text("\n".join(functions))
    fake = tmp_path / "libeft.so"
    compile_c("-shared", "-fPIC", "-Wl,-soname,libeft.so", tmp_path / "fake.c", "-o", fake)
    done = subprocess.run([sys.executable, "-c", CHILD, fake], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    module = native._native.__file__
    if version:
        line = f"{module} needs version {max(VERSIONS)} of the C interface, and {fake} has version 99"
    else:
        line = f"{module}: undefined symbol: eft_abi_version, so its libeft.so is another version's"
    line = f"the native module cannot be loaded: {line}"
    assert found["reasons"] == [line, line]
    (warned,) = found["warned"]
    assert warned.startswith(f"eft_ext: {line}; to repair it: install the wheel again")
    assert len(found["errors"]) == 3
    assert all(line in error and "\n" not in error for error in found["errors"])
    assert found["reference"] == 0
