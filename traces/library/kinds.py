"""The parameters of each kind of link in the library. docs/traces.md says which published figure each goes back to.

Medians and dwell times are set so that the mean, the spread and the time without service of a long synthetic trace
fall within the published ranges; none is fitted to a single recording.
"""

from __future__ import annotations

from traces.library.model import Fading, Kind, Slots, State

_M = 1e6

KINDS: dict[str, Kind] = {
    "3g": Kind(
        about="HSPA on a bus: around 1.5 Mbit/s, tunnels and hand-overs",
        states=(
            State(2.4 * _M, 1.0 * _M, 40.0, 1.0),
            State(0.9 * _M, 0.45 * _M, 25.0, 1.0),
            State(0.25 * _M, 0.12 * _M, 12.0, 0.4),
            State(0.0, 0.0, 4.0, 0.25),
        ),
        slow=Fading(0.35, 12.0),
        fast=Fading(0.25, 0.8),
        cap_bps=7.2 * _M,
        up_cap_bps=2.0 * _M,
    ),
    "lte-walking": Kind(
        about="LTE on foot in a city: around 30 Mbit/s, slow swings",
        states=(
            State(42 * _M, 16 * _M, 60.0, 1.0),
            State(18 * _M, 7 * _M, 40.0, 1.0),
            State(5 * _M, 1.8 * _M, 15.0, 0.4),
        ),
        slow=Fading(0.35, 20.0),
        fast=Fading(0.22, 0.5),
        cap_bps=110 * _M,
        up_cap_bps=45 * _M,
    ),
    "lte-driving": Kind(
        about="LTE in a car: around 20 Mbit/s, cells change every half minute, short outages",
        states=(
            State(38 * _M, 13 * _M, 18.0, 1.0),
            State(15 * _M, 5 * _M, 15.0, 1.0),
            State(3 * _M, 0.9 * _M, 8.0, 0.6),
            State(0.0, 0.0, 1.2, 0.4),
        ),
        slow=Fading(0.45, 5.0),
        fast=Fading(0.35, 0.4),
        cap_bps=110 * _M,
        up_cap_bps=45 * _M,
    ),
    "5g-walking": Kind(
        about="5G on foot, millimetre wave where it reaches: hundreds of Mbit/s, falls to LTE behind a corner",
        states=(
            State(900 * _M, 70 * _M, 25.0, 1.0),
            State(280 * _M, 40 * _M, 20.0, 1.0),
            State(60 * _M, 15 * _M, 12.0, 0.7),
        ),
        slow=Fading(0.40, 8.0),
        fast=Fading(0.25, 0.5),
        cap_bps=2000 * _M,
        up_cap_bps=130 * _M,
    ),
    "5g-driving": Kind(
        about="5G mid-band in a car: around 140 Mbit/s, hand-overs to LTE and back",
        states=(
            State(190 * _M, 30 * _M, 15.0, 1.0),
            State(80 * _M, 14 * _M, 12.0, 1.0),
            State(18 * _M, 5 * _M, 8.0, 0.7),
            State(0.0, 0.0, 1.0, 0.35),
        ),
        slow=Fading(0.45, 4.0),
        fast=Fading(0.30, 0.4),
        cap_bps=600 * _M,
        up_cap_bps=90 * _M,
    ),
    "wifi": Kind(
        about="WiFi with people walking about: around 50 Mbit/s, contention, seconds out of reach",
        states=(
            State(75 * _M, 60 * _M, 30.0, 1.0),
            State(28 * _M, 22 * _M, 15.0, 1.0),
            State(5 * _M, 4 * _M, 6.0, 0.5),
            State(0.0, 0.0, 2.0, 0.3),
        ),
        slow=Fading(0.30, 6.0),
        fast=Fading(0.30, 0.3),
        cap_bps=150 * _M,
        up_cap_bps=130 * _M,
        up_shared=0.9,
    ),
    "starlink": Kind(
        about="Starlink: around 90 Mbit/s down and 12 up, a new level every 15 s, short obstructions",
        states=(
            State(95 * _M, 13 * _M, 90.0, 1.0),
            State(45 * _M, 8 * _M, 25.0, 0.7),
            State(0.0, 0.0, 1.5, 0.5),
        ),
        slow=Fading(0.15, 3.0),
        fast=Fading(0.15, 0.3),
        cap_bps=350 * _M,
        up_cap_bps=40 * _M,
        slots=Slots(period_s=15.0, sigma=0.35, dip_s=0.2, dip_factor=0.3),
    ),
    "broadband": Kind(
        about="a cable contract of 120/14 Mbit/s: steady, with other people's traffic in the evening",
        states=(
            State(118 * _M, 13.6 * _M, 60.0, 1.0),
            State(88 * _M, 11.5 * _M, 12.0, 0.8),
            State(45 * _M, 8.0 * _M, 4.0, 0.3),
        ),
        slow=Fading(0.02, 20.0),
        fast=Fading(0.03, 0.5),
        cap_bps=120 * _M,
        up_cap_bps=14 * _M,
        up_shared=0.3,
    ),
}
