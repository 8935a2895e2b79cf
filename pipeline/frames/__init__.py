"""Frames: where they come from, where their results go, and how they look on the wire."""
