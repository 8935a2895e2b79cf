"""`python -m nodes`: the same as the command `anabranch`."""

from nodes.app import main

main()
