"""The operations in plain PyTorch, as docs/internals/numerics.md defines them. Tests compare the kernels with these.

`combine` gives the mixture's logits bit for bit. `distribution` is the oracle: float64 once the logits are
mixed and scaled. `step` draws the token that every backend must draw, with integer masses (numerics.md §3).
All three run on any device. They are written to be read next to the formulas, not to be fast.
"""

from eft_ext.ops.params import ConservativeParams
from eft_ext.ops.reference.arithmetic import fma32, log2
from eft_ext.ops.reference.distribution import distribution
from eft_ext.ops.reference.mixture import combine
from eft_ext.ops.reference.philox import philox4x32, random_bits, row_seed
from eft_ext.ops.reference.score import score
from eft_ext.ops.reference.step import step
from eft_ext.ops.reference.verify import Filters, verify

__all__ = [
    "ConservativeParams",
    "Filters",
    "combine",
    "distribution",
    "fma32",
    "log2",
    "philox4x32",
    "random_bits",
    "row_seed",
    "score",
    "step",
    "verify",
]
