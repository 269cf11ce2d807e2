"""Scoring, read top down from `launch.py`."""
