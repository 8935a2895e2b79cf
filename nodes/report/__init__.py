"""What is left of a run, read back and shown: its record, pictures, pages and tables."""
