"""Measured block times."""

from __future__ import annotations

from pipeline.tiling.crew import Crew
from pipeline.tiling.measure import measure_blocks
from pipeline.tiling.search import choose_stacks
from tests.pipeline.tiling.mixed import mixed


def test_every_block_is_timed_and_no_tile_is_free() -> None:
    graph = mixed().graph
    times = measure_blocks(mixed(), graph.cuts[0], graph.cuts[-1], runs=2)
    assert set(times.block_s) == {block.name for block in graph.blocks}
    assert all(seconds > 0 for seconds in times.block_s.values())
    assert all(0 <= times.fixed_s[name] <= times.block_s[name] * (1 + 1e-9) for name in times.fixed_s)
    assert {"stem.0", "narrow", "last"} <= set(times.fixed_s)
    assert "gate.global_pool" not in times.fixed_s
    crew = Crew((1.0, 1.0), times.block_s, fixed_s=times.fixed_s)
    ours = choose_stacks(mixed(), graph.cuts[0], graph.cuts[-1], crew)
    assert ours.seconds <= sum(times.block_s.values()) * (1 + 1e-9)


def test_a_step_is_timed_once_for_all_stages_that_it_is_in() -> None:
    """To the last bit: no two measurements agree so well."""
    graph = mixed().graph
    whole = measure_blocks(mixed(), graph.cuts[0], graph.cuts[-1])
    [waist] = [cut for cut in graph.cuts if cut.name == "narrow"]
    for part in (measure_blocks(mixed(), graph.cuts[0], waist), measure_blocks(mixed(), waist, graph.cuts[-1])):
        assert part.block_s.items() <= whole.block_s.items()
        assert part.fixed_s.items() <= whole.fixed_s.items()
