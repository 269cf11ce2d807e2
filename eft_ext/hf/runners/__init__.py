"""The models of one generation: their caches, and the engine that runs them."""
