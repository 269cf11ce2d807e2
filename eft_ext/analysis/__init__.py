"""Records of a text's tokens under all models, and the page that shows them."""

from eft_ext.analysis.record import Candidate, Change, Record, Token

__all__ = ["Candidate", "Change", "Record", "Token"]
