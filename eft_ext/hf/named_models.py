"""Models of a mixture by name, and what wrappers of causal models ask of the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from eft_ext.hf.members import Member
from eft_ext.methods import MixingMethod

if TYPE_CHECKING:
    from typing_extensions import Self


class NamedModels:
    """The models of a method.

    Attributes:
        members: the models in the method's order, as generation sees them.
        method: decoded unless a call says else.
    """

    members: tuple[Member, ...]
    method: MixingMethod

    @property
    def models(self) -> dict[str, Any]:
        """The models by name, in the method's order. If a model shares its weights with an adapter, calling it also
        runs the adapter."""
        return {m.name: m.model.get_base_model() if m.without_adapter else m.model for m in self.members}

    @property
    def large(self) -> Any:
        return self._named("large")

    @property
    def tuned(self) -> Any:
        return self._named("tuned")

    @property
    def base(self) -> Any:
        """The small pre-trained model. If it shares its weights with an adapter, calling it also runs the adapter."""
        return self._named("base")

    def _named(self, name: str) -> Any:
        found = self.models
        if name not in found:
            raise AttributeError(f"{name}: not a model of {self.method!r}, which has {', '.join(found)}")
        return found[name]

    @property
    def device(self) -> torch.device:
        """The device on which prompts are read and results returned."""
        return self.members[0].device or torch.device("cpu")

    # What wrappers of causal models ask for, of the model that reads the prompt.
    @property
    def config(self) -> Any:
        return self.members[0].model.config

    @property
    def generation_config(self) -> Any:
        return self.members[0].model.generation_config

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.members[0].model.dtype
        return dtype

    @property
    def main_input_name(self) -> str:
        return str(self.members[0].model.main_input_name)

    @property
    def name_or_path(self) -> str:
        return str(self.members[0].model.name_or_path)

    def eval(self) -> Self:
        for member in self.members:
            member.model.eval()
        return self
