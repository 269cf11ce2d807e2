"""Device code that more than one operation needs, and the sizes of their launches."""
