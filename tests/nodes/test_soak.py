"""The soak's judgement: what grows is seen, what only moves is not."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from nodes.bench.soak import FAULT_S, SAMPLE_S, Sample, rows_of

MINUTES = 20.0
END_S = 60.0 * MINUTES
MIB = 1 << 20


def life(pid: int, rss_mib: Callable[[float], float], begin_s: float = 0.0, end_s: float = END_S) -> list[Sample]:
    """A process that is sampled from `begin_s` to `end_s`."""
    times = [begin_s + SAMPLE_S * number for number in range(int((end_s - begin_s) / SAMPLE_S))]
    return [Sample("edge-1", pid, at_s, int(rss_mib(at_s) * MIB), 20, 5, 3, 0.0) for at_s in times]


@given(leak_mib=st.floats(0.0, 20.0), sway_mib=st.floats(0.0, 5.0), seed=st.integers(0, 9))
def test_growth_is_what_the_second_half_gains_and_noise_what_it_sways(
    leak_mib: float, sway_mib: float, seed: int
) -> None:
    rng = random.Random(seed)
    [row] = rows_of(
        life(1, lambda at_s: 400 + leak_mib * at_s / (END_S / 2) + rng.uniform(-sway_mib, sway_mib)), MINUTES
    )
    growth, noise = float(row["growth MiB"] or 0), float(row["noise MiB"] or 0)
    left_out_mib = leak_mib * SAMPLE_S / (END_S / 2)  # behind the last sample
    assert abs(growth + left_out_mib - leak_mib) <= 0.02 + sway_mib / 2
    assert noise <= 0.02 + 1.5 * sway_mib


@given(begin_s=st.floats(0.0, END_S - FAULT_S), end_s=st.floats(FAULT_S, END_S))
def test_only_who_lived_through_the_second_half_is_judged(begin_s: float, end_s: float) -> None:
    rows = rows_of(life(1, lambda _: 400.0, begin_s, max(end_s, begin_s + FAULT_S)), MINUTES)
    last_s = max(end_s, begin_s + FAULT_S) - SAMPLE_S
    if begin_s < END_S / 2 and last_s > END_S - FAULT_S + SAMPLE_S:
        assert rows[0]["growth MiB"] == 0.0
    elif begin_s >= END_S / 2 or last_s < END_S - FAULT_S - SAMPLE_S:
        assert rows[0]["growth MiB"] is None


@given(away=st.integers(1, 10), leaked=st.integers(0, 10))
def test_peers_that_go_and_come_back_leak_no_handle(away: int, leaked: int) -> None:
    samples = life(1, lambda _: 400.0)
    for number, each in enumerate(samples):
        dip = away if number % 40 < 10 else 0
        late = leaked if number > len(samples) // 2 else 0
        samples[number] = Sample(each.name, 1, each.at_s, each.rss, 20 - dip + late * (number // 40), 5, 3, 0.0)
    [row] = rows_of(samples, MINUTES)
    assert (int(row["handles grown"] or 0) > 0) == (leaked > 0)
