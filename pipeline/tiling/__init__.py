"""Tiles: cut a feature map, compute the parts side by side, merge them without loss."""
