"""Several models as one model of transformers: its forward pass, its cache, and its class."""
