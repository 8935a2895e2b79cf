"""The edge node's side of tiling: who computes which tile, when it is late, and what is done then."""
