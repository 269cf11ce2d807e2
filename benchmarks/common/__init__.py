"""Modules that several benchmarks share.

Import it before `eft_ext`: from then on Python finds the package of this checkout where none is installed.
"""

import sys

from common.checkout import ROOT

sys.path.append(str(ROOT))
