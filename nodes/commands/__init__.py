"""The commands of `anabranch`, one module each; thin, they parse and print."""
