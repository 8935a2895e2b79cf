"""A whole deployment on this machine: its processes, keys and links."""
