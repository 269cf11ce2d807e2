"""A folder that holds several models as one: its configuration, what is read from it and written into it."""
