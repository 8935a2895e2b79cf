"""What happens to one frame: capture, cut, run, tile, pack. No socket and no process in here."""
