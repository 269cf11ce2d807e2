"""Builds libeft.so and the Python module with CMake and Ninja. Everything else is in pyproject.toml.

torch is never imported: the native core has a plain C interface, so one build serves every torch.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
GIB_PER_JOB = 2  # what one nvcc process may take


def num_jobs() -> int:
    """MAX_JOBS, or as many compilers as there are cores and memory holds."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, int(os.environ.get("MAX_JOBS") or min(os.cpu_count() or 1, int(gib / GIB_PER_JOB))))


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        # Not `build_temp`, which goes with each editable install: what has not changed is not compiled again.
        build = ROOT / "build" / "core"
        # The directory may outlive the build environment, whose cmake and ninja the cache names.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        cmake = shutil.which("cmake") or sys.exit("eft_ext: cmake was not found; pip install cmake")
        options = {
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": target,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        if "CMAKE_CUDA_ARCHITECTURES" in os.environ:
            options["CMAKE_CUDA_ARCHITECTURES"] = os.environ["CMAKE_CUDA_ARCHITECTURES"]
        defines = [f"-D{name}={value}" for name, value in options.items()]
        more = shlex.split(os.environ.get("CMAKE_ARGS", ""))
        subprocess.run([cmake, "-G", "Ninja", "-S", ROOT, "-B", build, *defines, *more], check=True)
        subprocess.run([cmake, "--build", build, "-j", str(num_jobs())], check=True)

    def copy_extensions_to_source(self) -> None:
        """Puts libeft beside the module in a build in place; setuptools itself knows of the module alone."""
        for old in (ROOT / "eft_ext").glob("*.so"):
            old.unlink()  # a running process keeps the file it has mapped
        super().copy_extensions_to_source()
        shutil.copy(Path(self.build_lib, "eft_ext", "libeft.so"), ROOT / "eft_ext")


setup(ext_modules=[Extension("eft_ext._native", sources=[])], cmdclass={"build_ext": CMakeBuild})
