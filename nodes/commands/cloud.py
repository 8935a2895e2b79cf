"""`anabranch cloud`."""

from __future__ import annotations

from nodes.cloud import CloudNode
from nodes.commands.serving import stage_command

cloud = stage_command("cloud", CloudNode)
cloud.__doc__ = """Start a cloud node: it runs the end of the network.

Example: anabranch cloud --name cloud-1 --model builtin --scheduler tcp://10.0.0.1:5700,tcp://10.0.0.1:5701
"""
