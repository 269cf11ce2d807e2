"""Learning dynamics: what fine-tuning on one response does to all the others."""

from eft_ext.dynamics.decompose import Decomposition, Verification, decompose, verify
from eft_ext.dynamics.kernel import KernelNorms, kernel_norms, last_layer
from eft_ext.dynamics.losses import DPO, IPO, LOSSES, SFT, SPPO, SLiC
from eft_ext.dynamics.responses import Pairs, Responses

__all__ = [
    "DPO",
    "IPO",
    "LOSSES",
    "SFT",
    "SPPO",
    "Decomposition",
    "KernelNorms",
    "Pairs",
    "Responses",
    "SLiC",
    "Verification",
    "decompose",
    "kernel_norms",
    "last_layer",
    "verify",
]
