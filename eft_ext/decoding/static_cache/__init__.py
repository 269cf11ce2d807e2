"""Static key-value caches: any model of transformers that takes one, row by row."""
