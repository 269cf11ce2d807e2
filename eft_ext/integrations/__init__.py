"""Other people's tools, to which several models are given as one."""
