"""Learning dynamics: what fine-tuning on one response does to all the others."""

from typing import TYPE_CHECKING, Any

from eft_ext._extras import needs

with needs("eft_ext.dynamics", "dynamics"):
    from eft_ext.dynamics.builders import cross_prompt, own_responses, permuted_words, random_responses
    from eft_ext.dynamics.decompose import Decomposition, Verification, decompose, verify
    from eft_ext.dynamics.delta import Delta, delta, steps_of_delta
    from eft_ext.dynamics.diagnose import Squeezing, diagnose
    from eft_ext.dynamics.intervals import Interval, bootstrap
    from eft_ext.dynamics.kernel import KernelNorms, kernel_norms, last_layer
    from eft_ext.dynamics.losses import DPO, IPO, LOSSES, SFT, SPPO, SLiC
    from eft_ext.dynamics.maps import delta_records
    from eft_ext.dynamics.pairs import Pairs
    from eft_ext.dynamics.preferences import extend_for_sft
    from eft_ext.dynamics.probes import Probe, ProbeSet
    from eft_ext.dynamics.recording import Recording
    from eft_ext.dynamics.responses import Responses
    from eft_ext.dynamics.squeeze import squeeze_step
    from eft_ext.dynamics.track import Tracker, track

if TYPE_CHECKING:
    from eft_ext.dynamics.callback import DynamicsCallback

__all__ = [
    "DPO",
    "IPO",
    "LOSSES",
    "SFT",
    "SPPO",
    "Decomposition",
    "Delta",
    "DynamicsCallback",
    "Interval",
    "KernelNorms",
    "Pairs",
    "Probe",
    "ProbeSet",
    "Recording",
    "Responses",
    "SLiC",
    "Squeezing",
    "Tracker",
    "Verification",
    "bootstrap",
    "cross_prompt",
    "decompose",
    "delta",
    "delta_records",
    "diagnose",
    "extend_for_sft",
    "kernel_norms",
    "last_layer",
    "own_responses",
    "permuted_words",
    "random_responses",
    "squeeze_step",
    "steps_of_delta",
    "track",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "DynamicsCallback":  # the only part that needs transformers
        with needs("eft_ext.dynamics.DynamicsCallback", "dynamics"):
            from eft_ext.dynamics.callback import DynamicsCallback

        return DynamicsCallback
    raise AttributeError(f"module 'eft_ext.dynamics' has no attribute {name!r}")
