"""csrc/emulator/README.md shows the example that runs as a C++ test."""

import re
from pathlib import Path

EMULATOR = Path(__file__).parents[1] / "csrc" / "emulator"


def test_the_readme_quotes_the_example():
    quoted = re.search(r"^```cpp\n(.*?)^```", (EMULATOR / "README.md").read_text(), re.S | re.M)
    assert quoted is not None
    assert quoted[1] in (EMULATOR / "example.cpp").read_text()


def test_the_readme_names_files_that_are_there():
    named = re.findall(r"`((?:runtime/|tests/|kernels/)?[a-z_]+\.(?:h|cpp))`", (EMULATOR / "README.md").read_text())
    places = (EMULATOR, EMULATOR / "runtime", EMULATOR / "tests")
    missing = [name for name in named if not any((place / name).is_file() for place in places)]
    assert not missing
