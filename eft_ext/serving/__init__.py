"""Several models as one in other people's engines."""
