"""The codecs of a link: activations and pictures in as few bytes as the accuracy bound allows."""
