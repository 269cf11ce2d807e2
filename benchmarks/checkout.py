"""Importing this first makes `import eft_ext` find the package of this checkout where none is installed."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))
