"""A stream's latest switches, and what came of them against what was predicted."""

from __future__ import annotations

from collections import deque

import msgspec

from scheduler.commands import SwitchRecord
from scheduler.objective import Goal
from scheduler.policy import Gain
from scheduler.reports import StreamReport

MAX_SWITCHES = 20
"""Remembered for the viewers."""


class Switches:
    """The switches of one stream, the newest last."""

    def __init__(self) -> None:
        self.records: deque[SwitchRecord] = deque(maxlen=MAX_SWITCHES)
        self._before: StreamReport | None = None
        """The device's figures just before the latest one, until its gain is measured."""
        self._goal: Goal | None = None
        """What it was to gain."""

    def begin(self, before: StreamReport | None) -> None:
        """A switch is on its way; None where there is nothing to hold its outcome against."""
        self._before = before

    def add(self, record: SwitchRecord, gain: Gain | None) -> None:
        """It has come about."""
        self._goal = None if gain is None else gain.goal
        self.records.append(record)

    def measure(self, after: StreamReport, began_before_s: float) -> SwitchRecord | None:
        """The latest switch with its gain, once, where it is that old and both sides of it have figures."""
        before = self._before
        if before is None or not self.records or self.records[-1].at_s > began_before_s:
            return None
        if self._goal is Goal.LATENCY:
            base, gained = after.latency_s.window, before.latency_s.window
        else:
            base, gained = before.fps.window, after.fps.window
        self._before = None
        # Headroom shows when the link is faster, and not before; without results on either side there is no ratio.
        if self._goal is Goal.HEADROOM or base <= 0.0:
            return None
        self.records[-1] = msgspec.structs.replace(self.records[-1], measured=gained / base)
        return self.records[-1]
