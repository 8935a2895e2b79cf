"""What cannot be tiled is found, and said in words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import PlanError
from pipeline.model.capture import CapturedModel, capture
from pipeline.tiling.analysis import analysis_of, require_stack, why_untileable
from tests.pipeline.tiling.mixed import Attention, mixed


def reasons(captured: CapturedModel) -> dict[str, str]:
    found = {block.name: why_untileable(captured, block) for block in captured.graph.blocks}
    return {name: why for name, why in found.items() if why is not None}


def test_squeeze_excite_and_the_head_are_barriers_and_nothing_else() -> None:
    found = reasons(mixed())
    assert set(found) == {"gate.global_pool", "gate.reduce", "gate.widen", "global_pool", "head"}
    assert "global pooling" in found["gate.global_pool"]
    assert "no rows or columns" in found["head"]


def test_attention_is_a_barrier_but_the_map_made_of_it_is_none() -> None:
    found = reasons(capture(Attention(), torch.zeros(1, 3, 32, 32), "attention"))
    assert any("flatten" in why for why in found.values())
    assert "after" not in found


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
        x = torch.cumsum(x, 2)
        return torch.cat([x, x * 2], 2)


def test_unknown_operators_and_sums_along_rows_are_barriers() -> None:
    found = " ".join(reasons(capture(Odd(), torch.zeros(1, 3, 8, 8), "odd")).values())
    assert "reflect" in found or "cumsum" in found or "cat" in found


def test_a_stack_over_a_barrier_is_refused_with_the_reason() -> None:
    cuts = mixed().graph.cuts
    with pytest.raises(PlanError, match="global pooling"):
        require_stack(mixed(), cuts[0], cuts[-1])


def test_a_stack_with_maps_of_two_sizes_at_its_end_is_refused() -> None:
    graph, analysis = mixed().graph, analysis_of(mixed())
    end = next(cut for cut in graph.cuts if set(cut.tensors) == {"gate_mul", "stride"})
    assert "sizes" in str(analysis.why_no_stack(graph.cut("gate.widen"), end))


def test_spans() -> None:
    blocks = mixed().graph.blocks
    spans = [[blocks[first].name, blocks[last].name] for first, last in analysis_of(mixed()).tileable_spans()]
    assert spans == [["stem.0", "mix.concat"], ["gate.mul", "last"]]
