"""Modules of bench_speculate.py."""
