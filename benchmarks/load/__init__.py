"""Parts of load_server.py, which asks a server for many answers at once."""
