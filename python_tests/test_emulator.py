"""csrc/emulator/README.md shows the example that runs as a C++ test."""

import re
from pathlib import Path

EMULATOR = Path(__file__).parents[1] / "csrc" / "emulator"


def test_the_readme_quotes_the_example():
    quoted = re.search(r"^```cpp\n(.*?)^```", (EMULATOR / "README.md").read_text(), re.S | re.M)
    assert quoted is not None
    assert quoted[1] in (EMULATOR / "example.cpp").read_text()
