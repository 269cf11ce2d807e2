"""Does this machine have all that the CUDA step needs? Ends with 0, or with 2 and one line that says what is missing.

    python benchmarks/gpu_ready.py

`make gpu-test` and the other targets for a GPU begin with it. It measures nothing: no baseline, no floor.
"""

from __future__ import annotations

import argparse
import sys

from gpu.device import missing_requirement


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if missing := missing_requirement():
        print(f"not run, it needs {missing}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
