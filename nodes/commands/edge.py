"""`anabranch edge`."""

from __future__ import annotations

from nodes.commands.serving import stage_command
from nodes.edge import EdgeNode

edge = stage_command("edge", EdgeNode)
edge.__doc__ = """Start an edge node: it runs the middle of the network.

Example: anabranch edge --name edge-1 --model builtin --scheduler tcp://10.0.0.1:5700,tcp://10.0.0.1:5701
"""
