"""`anabranch link`: a TCP relay that behaves like a link of a given trace."""

from __future__ import annotations

import sys
import threading
import time
from typing import Annotated

import typer

from nodes.commands import options as opt
from nodes.commands.traces import trace_errors
from nodes.launch import stop_on_signals, stop_with_parent
from traces.errors import TraceError
from traces.link import Address, LinkSettings, Shaper, ShaperConfig
from traces.link.control import serve_commands
from traces.load import load_both_ways, load_trace
from traces.units import format_rate, parse_bytes, parse_share, parse_time_s

REPORT_S = 1.0


def link(
    trace: Annotated[str, typer.Option(help="Both directions: a file, a library name (has both), or a rate: 20Mbit.")],
    to: Annotated[str, typer.Option(help="Where connections go on to: HOST:PORT.")],
    listen: Annotated[str, typer.Option(help="Where connections are taken: HOST:PORT.")] = "127.0.0.1:0",
    trace_up: Annotated[str | None, typer.Option(help="The direction from the client to the target.")] = None,
    delay: Annotated[str, typer.Option(help="Propagation, one way.")] = "0ms",
    jitter: Annotated[str, typer.Option(help="Scale of a random further delay; order is kept.")] = "0ms",
    loss_pause: Annotated[
        str, typer.Option(help="SHARE[:TIME]: so many packets are lost, each holds all behind it for TIME (200ms).")
    ] = "0%",
    queue: Annotated[str | None, typer.Option(help="Bytes that may wait; 100 ms at the mean rate by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of jitter and losses.")] = 1,
    control: Annotated[bool, typer.Option("--control", help="Commands on standard input, answers in JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No line a second.")] = False,
    child: opt.Child = False,
) -> None:
    """Relay TCP connections through a link that has the bandwidth of a trace, in both directions.

    Point any program's client at the listening address; it needs no privileges. With --control, write `pause`,
    `resume`, `cut 2s`, `rate up 5Mbit`, `trace down FILE`, `delay 50ms`, `stats` or `stop` on standard input.

    Examples:

        anabranch link --trace lte-driving --delay 20ms --listen 127.0.0.1:7001 --to 127.0.0.1:7000

        anabranch link --trace day.down --trace-up day.up --loss-pause 0.1%:250ms --queue 256KiB --to :7000
    """
    with trace_errors():
        config = _config(trace, trace_up, to, listen, _settings(delay, jitter, loss_pause, queue, seed))
        shaper = Shaper(config).start()
    ended = threading.Event()
    if not control:  # before it says that it is there: from then on it may be told to end
        stop_on_signals(ended.set)
    typer.echo(f"link {shaper.address} -> {config.to}: up {config.up.name}, down {config.down.name}", err=control)
    try:
        if control:
            serve_commands(shaper, sys.stdin, sys.stdout)
        else:
            if child:
                stop_with_parent(ended.set)
            _report(shaper, quiet, ended)
    except KeyboardInterrupt:
        pass  # how a person ends it
    finally:
        shaper.stop()


def _settings(delay: str, jitter: str, loss_pause: str, queue: str | None, seed: int) -> dict[str, float]:
    share, _, pause = loss_pause.partition(":")
    given: dict[str, float] = {
        "delay_s": parse_time_s(delay),
        "jitter_s": parse_time_s(jitter),
        "loss": parse_share(share),
        "seed": seed,
    }
    if pause:
        given["loss_pause_s"] = parse_time_s(pause)
    if queue is not None:
        given["queue_bytes"] = parse_bytes(queue)
    return given


def _config(trace: str, trace_up: str | None, to: str, listen: str, given: dict[str, float]) -> ShaperConfig:
    down, up = load_both_ways(trace)
    up = load_trace(trace_up) if trace_up else up
    settings = LinkSettings(**given)  # type: ignore[arg-type]
    return ShaperConfig(up, down, Address.parse(to), Address.parse(listen), settings)


def _report(shaper: Shaper, quiet: bool, ended: threading.Event) -> None:
    """One line a second, until the process is asked to end."""
    last_s, last = time.monotonic(), (0, 0)
    while not ended.wait(REPORT_S):
        try:
            stats = shaper.stats()
        except TraceError:
            return
        now_s, moved = time.monotonic(), (stats.up.delivered_bytes, stats.down.delivered_bytes)
        rates = [(new - old) * 8 / (now_s - last_s) for new, old in zip(moved, last, strict=True)]
        last_s, last = now_s, moved
        if quiet or not (stats.connections or any(rates)):
            continue
        parts = [
            f"{way} {format_rate(rate)} of {format_rate(side.rate_bps)}, {side.queued_bytes / 1024:.0f} KiB wait"
            for way, rate, side in (("up", rates[0], stats.up), ("down", rates[1], stats.down))
        ]
        typer.echo(f"{stats.link_time_s:7.1f} s  {stats.connections} connections  {'; '.join(parts)}")
