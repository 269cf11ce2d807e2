"""Texts scored under all models, and records of them."""
