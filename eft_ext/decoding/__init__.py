"""The decode engine: static key-value caches for stock models, and loops that run several models as one."""

from eft_ext.decoding.feeder import Feeder
from eft_ext.decoding.marks import Mark, Statistics
from eft_ext.decoding.support import unsupported

__all__ = ["Feeder", "Mark", "Statistics", "unsupported"]
