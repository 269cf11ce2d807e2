"""Verification, read top down from `launch.py`."""
