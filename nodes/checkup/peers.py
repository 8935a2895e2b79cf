"""Checks of one node's inboxes, from where this node stands: keys, echoes, clocks, and the link's rate."""

from __future__ import annotations

from collections.abc import Iterator

import zmq

from nodes.checkup.echo import Prober
from nodes.checkup.findings import Finding, Status
from nodes.keys import Purpose
from pipeline.errors import AnabranchError
from scheduler.reports import Endpoints

CLOCK_S = 1.0
"""Wall clocks that differ by more make logs hard to lay side by side; frames do not depend on them."""


def examine(prober: Prober, node: str, endpoints: Endpoints, is_tile: bool) -> Iterator[Finding]:
    """Every inbox that this node's role opens; of the others, whether anything listens there."""
    tiles = Purpose.TILES if is_tile else Purpose.ANSWERS
    inboxes = {Purpose.FRAMES: endpoints.frames, Purpose.RESULTS: endpoints.results, tiles: endpoints.tiles}
    for purpose, endpoint in inboxes.items():
        if not endpoint:
            continue
        try:
            if not prober.may_enter(purpose, node):
                yield Finding(node, purpose, Status.OK, f"at {endpoint}; this node's role has no business there")
                continue
            with prober.connect(node, endpoint) as socket:
                yield Finding(node, purpose, Status.OK, f"takes this node at {endpoint}")
                if purpose is not Purpose.ANSWERS:
                    yield from _echoed(prober, node, socket, purpose in (Purpose.FRAMES, Purpose.TILES))
        except AnabranchError as error:
            yield Finding(node, purpose, Status.WRONG, f"{error.thing}: {error.condition}", error.mend)


def _echoed(prober: Prober, node: str, socket: zmq.Socket[bytes], probes: bool) -> Iterator[Finding]:
    try:
        echoes = prober.echoes(socket)
        bps = prober.goodput_bps(socket) if echoes and probes else None
    except zmq.Again:
        yield Finding(node, "echo", Status.WRONG, "its inbox is full, or the link stands still", "look into its log")
        return
    if not echoes:
        mend = "that is well where this machine cannot be reached; else open its ports, and check `listen`"
        yield Finding(node, "echo", Status.NOTE, "its answers do not come back here", mend)
        return
    best = min(echoes, key=lambda echo: echo.trip.rtt_s)
    rtt_s, offset_s = best.trip.rtt_s, best.wall_offset_s
    yield Finding(node, "echo", Status.OK, f"round trip {rtt_s * 1e3:.2f} ms", figures={"rtt_s": rtt_s})
    text, figures = f"{offset_s * 1e3:+.1f} ms (+-{rtt_s * 500:.1f})", {"clock_offset_s": offset_s}
    if abs(offset_s) <= CLOCK_S:
        yield Finding(node, "clock", Status.OK, text, figures=figures)
    else:
        mend = "keep the clocks with NTP; frames do not mind, but logs do not line up"
        yield Finding(node, "clock", Status.NOTE, text, mend, figures)
    if not probes:
        return  # a device takes results alone
    if bps is None:
        yield Finding(node, "link", Status.NOTE, "its answers were lost while the link was measured", "try again")
    else:
        yield Finding(node, "link", Status.OK, f"{bps / 1e6:.1f} Mbit/s towards it", figures={"goodput_bps": bps})
