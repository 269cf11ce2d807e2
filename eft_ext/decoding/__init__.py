"""The decode engine: static key-value caches for stock models, and loops that run several models as one."""

from eft_ext.decoding.speculative.token_source import Statistics, TokenSource
from eft_ext.decoding.static_cache.model import StaticCacheModel
from eft_ext.decoding.static_cache.support import unsupported

__all__ = ["StaticCacheModel", "Statistics", "TokenSource", "unsupported"]
