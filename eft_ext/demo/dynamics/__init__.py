"""The learning dynamics of the demonstration's small model: recorded, compared with the paper, carried over by EFT."""
