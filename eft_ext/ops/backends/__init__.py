"""Backends: which ones exist here, which one a call gets, and how it is called.

`eft_ext.ops.backends` as an attribute is the public function; modules of this package are imported by their full name.
"""
