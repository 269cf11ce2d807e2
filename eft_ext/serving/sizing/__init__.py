"""The memory of a checkpoint in vLLM 0.32, calculated without an engine or weights (docs/guides/sizing.md)."""

from eft_ext.serving.sizing.gpus import Gpus, here, parse_gpus
from eft_ext.serving.sizing.options import options_of
from eft_ext.serving.sizing.result import Row, Sizing
from eft_ext.serving.sizing.size import size
from eft_ext.serving.sizing.table import lines

__all__ = ["Gpus", "Row", "Sizing", "here", "lines", "options_of", "parse_gpus", "size"]
