"""The decode engine: static key-value caches for stock models, and one loop that runs several models as one."""

from eft_ext.decoding.requests import TokenSource
from eft_ext.decoding.speculative.statistics import Statistics
from eft_ext.decoding.static_cache.model import StaticCacheModel
from eft_ext.decoding.static_cache.support import unsupported

__all__ = ["StaticCacheModel", "Statistics", "TokenSource", "unsupported"]
