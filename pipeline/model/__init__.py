"""Models: captured once with torch.export, seen as a graph of blocks, cut and run as segments."""
