"""Models, adapters and tokenizers by hub id or folder."""
