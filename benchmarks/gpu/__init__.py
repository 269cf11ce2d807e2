"""Modules that the gpu_*.py commands share."""
