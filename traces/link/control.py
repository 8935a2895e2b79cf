"""Control of a running link by lines of text: one command a line in, one JSON object a line out.

    pause | resume | stop | stats
    cut [TIME]                      reset all connections, and new ones for a time
    trace [up|down|both] SPEC       go on with another trace (a file, a library name)
    rate [up|down|both] RATE        go on with a constant rate
    delay TIME | jitter TIME | loss SHARE | queue SIZE
    epoch SECONDS                   time.monotonic() at which the traces are at 0

The answer is `{"ok": true, ...}` or `{"ok": false, "error": "thing: condition; mend"}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TextIO, TypeVar

from traces.errors import TraceError, quoted
from traces.link.shaper import Shaper, Way
from traces.load import load_trace
from traces.units import parse_bytes, parse_rate_bps, parse_share, parse_time_s

Answer = dict[str, object]
Value = TypeVar("Value")


def execute(shaper: Shaper, line: str) -> Answer:
    """Carries out one command; what is wrong with it comes back as an answer, never as an exception."""
    words = line.split()
    if not words:
        return {"ok": False, "error": "command: is empty; write pause, resume, cut, trace, rate, stats or stop"}
    command = _COMMANDS.get(words[0])
    if command is None:
        return {"ok": False, "error": f"command {quoted(words[0])}: is unknown; use one of {', '.join(_COMMANDS)}"}
    try:
        return {"ok": True, **(command(shaper, words[1:]) or {})}
    except TraceError as error:
        return {"ok": False, "error": str(error)}


def serve_commands(shaper: Shaper, lines: TextIO, answers: TextIO) -> None:
    """Carries out commands until `stop` or the end of the input."""
    for line in _lines(lines):
        answer = execute(shaper, line)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if line.split() == ["stop"]:
            return


def _lines(lines: TextIO) -> Iterator[str]:
    # readline, not iteration: an iterator reads ahead, and a command would wait for the next one.
    while line := lines.readline():
        yield line


def _cut(shaper: Shaper, words: list[str]) -> None:
    shaper.cut(_one(words, "cut", parse_time_s, 0.0))


def _trace(shaper: Shaper, words: list[str]) -> Answer:
    way, rest = _way(words)
    trace = load_trace(_one(rest, "trace", str))
    shaper.set_trace(trace, way)
    return {"trace": trace.name, "duration_s": trace.duration_s, "mean_bps": trace.mean_bps}


def _rate(shaper: Shaper, words: list[str]) -> None:
    way, rest = _way(words)
    shaper.set_rate(_one(rest, "rate", parse_rate_bps), way)


def _stats(shaper: Shaper, _: list[str]) -> Answer:
    return shaper.stats().as_dict()


def _epoch(shaper: Shaper, words: list[str]) -> None:
    shaper.set_epoch(_one(words, "epoch", parse_time_s))


def _setting(name: str, parse: Callable[[str], float]) -> Callable[[Shaper, list[str]], Answer | None]:
    def act(shaper: Shaper, words: list[str]) -> None:
        shaper.set_settings("both", **{name: _one(words, name, parse)})

    return act


def _way(words: list[str]) -> tuple[Way, list[str]]:
    for way in ("up", "down", "both"):
        if words and words[0] == way:
            return way, words[1:]
    return "both", words


def _one(words: list[str], command: str, parse: Callable[[str], Value], default: Value | None = None) -> Value:
    if not words and default is not None:
        return default
    if len(words) != 1:
        raise TraceError(f"command {command}", f"takes one value, not {len(words)}")
    return parse(words[0])


_COMMANDS: dict[str, Callable[[Shaper, list[str]], Answer | None]] = {
    "pause": lambda shaper, _: shaper.pause(),
    "resume": lambda shaper, _: shaper.resume(),
    "cut": _cut,
    "trace": _trace,
    "rate": _rate,
    "delay": _setting("delay_s", parse_time_s),
    "jitter": _setting("jitter_s", parse_time_s),
    "loss": _setting("loss", parse_share),
    "queue": _setting("queue_bytes", parse_bytes),
    "epoch": _epoch,
    "stats": _stats,
    "stop": lambda shaper, _: None,
}
