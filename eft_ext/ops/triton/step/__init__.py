"""The step and `combine`, read top down from `launch.py`."""
