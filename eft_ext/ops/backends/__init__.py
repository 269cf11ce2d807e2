"""Backends: which ones exist here (`registry`), which one a call gets, and how it is called."""
