"""The codecs of a link: activations and pictures in as few bytes as the accuracy bound allows.

`codec.get(name)` gives a codec, `sessions.open_encoder(name)` and `open_decoder(name)` the two ends of a link,
`catalogue.offered(spec)` the names that suit a tensor.
"""

from pipeline.packing import catalogue as catalogue
