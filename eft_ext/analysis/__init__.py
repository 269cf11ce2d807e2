"""Looking at what the models say of a text: records of its tokens, and the page that shows them."""

from eft_ext.analysis.record import Candidate, Change, Record, Token

__all__ = ["Candidate", "Change", "Record", "Token"]
