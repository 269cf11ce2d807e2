"""`generate`, from a settled call to tokens."""
