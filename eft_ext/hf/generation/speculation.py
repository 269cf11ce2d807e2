"""Speculative decoding behind `generate(speculate=...)`: how many drafts by which model, and where there are none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import SynthIDTextWatermarkLogitsProcessor, UnbatchedClassifierFreeGuidanceLogitsProcessor
from transformers.generation import GenerateDecoderOnlyOutput

from eft_ext.decoding.module_utils import parameters_of
from eft_ext.decoding.speculative.costs import CHOICES, estimated
from eft_ext.decoding.speculative.draft_length import Adaptive, Fixed
from eft_ext.decoding.speculative.engine import MAX_DRAFT_TOKENS
from eft_ext.decoding.speculative.statistics import Statistics
from eft_ext.hf.generation import kept_costs
from eft_ext.hf.generation.processors import ProcessingPlan
from eft_ext.hf.members import Member
from eft_ext.hf.runners.decode_plan import ASKED, DecodePlan
from eft_ext.hf.runners.distributed import sharded
from eft_ext.hf.runners.engine_pool import Drafts
from eft_ext.methods import MixingMethod

IF_POSSIBLE = "if possible"  # as "auto", and without a word none where there can be none: the command line's default
_ADAPTIVE: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Known]] = WeakKeyDictionary()
# What a pass costs beside reading its weights, in bytes, and the share of a pass that each further token adds.
_OVERHEAD, _GROWTH = {"cpu": 2e6, "cuda": 3e8}, {"cpu": 0.1, "cuda": 0.02}
# They keep something from one call to the next, so that a rejected draft could not be taken back.
_STATEFUL = (SynthIDTextWatermarkLogitsProcessor, UnbatchedClassifierFreeGuidanceLogitsProcessor)
_GRAMMARS = ("outlines", "xgrammar")  # packages whose processors do so too


@dataclass
class Known:
    """Knowledge of "auto" about these models here: the schedule, its key in the file, and what the file says."""

    schedule: Adaptive
    key: str
    kept: dict[str, Any] | None


@dataclass
class SpeculatedOutput(GenerateDecoderOnlyOutput):
    """The output of `generate(speculate=..., return_dict_in_generate=True)`, which also has these.

    Attributes:
        token_sources: how each new token came about, int8 [rows, new]: values of `eft_ext.decoding.TokenSource`, -1
            after a row's end.
        speculation: rounds, acceptance, tokens per round, and how many tokens were drafted in each.
    """

    token_sources: Tensor | None = None
    speculation: Statistics | None = None

    @property
    def marks(self) -> Tensor | None:
        """The old name of `token_sources`, for one version."""
        warnings.warn("marks is now called token_sources", DeprecationWarning, stacklevel=2)
        return self.token_sources


def draft_count(speculate: Any, models: int) -> int | str:
    """0 for none, a number of drafts, or "auto". Raises ValueError for anything else.

    Args:
        models: of the mixture; one by itself gains nothing from its own drafts.
    """
    if speculate is None or speculate is False:
        return 0
    if speculate == IF_POSSIBLE:
        return "auto" if models > 1 else 0
    if speculate == "auto":
        return "auto"
    if isinstance(speculate, bool) or not isinstance(speculate, int) or not 0 <= speculate <= MAX_DRAFT_TOKENS:
        raise ValueError(
            f"speculate: expected 'auto' or a number of drafts from 0 to {MAX_DRAFT_TOKENS}, got {speculate!r}"
        )
    return speculate


def why_not(members: Sequence[Member], processing: ProcessingPlan, plan: DecodePlan, records: bool) -> str:
    """Why a generation cannot be speculated; empty where it can."""
    if plan.tier == "eager":
        return "the eager tier was asked for" if plan.because == ASKED else plan.because
    stateful = next(filter(_keeps_state, processing.processors), None)
    if stateful is not None:
        return f"{type(stateful).__name__} keeps something of each step"
    if records:
        return "scores of every step are recorded"
    return "a model is sharded over processes" if sharded(members) else ""


def _keeps_state(processor: Any) -> bool:
    packages = {kind.__module__.partition(".")[0] for kind in type(processor).__mro__}
    return isinstance(processor, _STATEFUL) or not packages.isdisjoint(_GRAMMARS)


def plan_drafts(
    members: Sequence[Member], method: MixingMethod, plan: DecodePlan, drafts: int | str, why: str
) -> DecodePlan:
    """The plan, with its line on drafts. `why`: of `why_not`."""
    if why:
        return replace(plan, speculation=f"no drafts, since {why}")
    name = members[draft_model_of(members, method)].name
    count = "as many drafts as pay" if drafts == "auto" else f"{drafts} draft{'s' * (drafts != 1)}"
    why = f"the {plan.tier} tier was asked for" if plan.because == ASKED else plan.because
    between = plan.per_step or plan.because == ASKED
    kind = f"with Python between them, since {why}" if between else "each a step of the engine"
    return replace(plan, speculation=f"rounds of {count} by {name}, {kind}")


def draft_model_of(members: Sequence[Member], method: MixingMethod) -> int:
    """Who proposes: the small fine-tuned model, in second place, or the first one where that is smaller, or where the
    second reads no prompt."""
    if len(members) == 1 or members[1].name in method.last_token_only:
        return 0
    sizes = [sum(p.numel() for p in member.model.parameters()) for member in members[:2]]
    return 0 if sizes[0] < sizes[1] else 1


def drafts_of(
    members: Sequence[Member], method: MixingMethod, rows: int, drafts: int | str, *facts: Any
) -> tuple[Drafts, Known | None]:
    """The drafts of a generation of so many rows; "auto" goes on with what earlier ones have measured.

    Args:
        facts: of what a round costs beside models and rows.
    """
    model = draft_model_of(members, method)
    if drafts != "auto":
        return Drafts(Fixed(int(drafts)), model, int(drafts)), None
    own = _ADAPTIVE.setdefault(members[0].model, {})
    place = (rows, model, *facts, *((id(m.model), m.adapter, m.without_adapter) for m in members))
    known = own.get(place)
    if known is None:
        key = kept_costs.fingerprint(members, rows, model, *facts) if kept_costs.place() else ""
        kept = kept_costs.read(key) if key else None
        known = own[place] = Known(Adaptive(_shape(members, model, rows), kept), key, kept)
    known.schedule.begin()
    return Drafts(known.schedule, model, max(CHOICES)), known


def keep(known: Known) -> None:
    """Writes what was learned into the file, after a generation, where that is something new."""
    if known.key and known.schedule.ready:
        entry = known.schedule.to_dict()
        if kept_costs.changed(entry, known.kept):
            kept_costs.write(known.key, entry)
            known.kept = entry


def _shape(members: Sequence[Member], model: int, rows: int) -> dict[int, float]:
    """T(k) as the models' sizes have it: a pass reads all weights."""
    device = "cuda" if members[0].output_device.type == "cuda" else "cpu"
    each = [sum(p.numel() * p.element_size() for p in parameters_of(m.model)) + _OVERHEAD[device] for m in members]
    return estimated(each.pop(model), each, rows, _GROWTH[device])
