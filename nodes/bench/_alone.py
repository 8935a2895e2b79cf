"""A plan computed alone, in one process, stage by stage, with the codecs of its links: what the live run must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.frames.wire import FrameHeader, Message
from pipeline.model.graph import INPUT
from pipeline.model.layouts import Layout
from pipeline.model.spec import LoadedModel
from pipeline.plan import Plan
from pipeline.stage import StageProgram, prepare


class Alone:
    """Computes frames under any plan without temporal codecs, and remembers what it computed."""

    def __init__(self, model: LoadedModel, layout: Layout) -> None:
        self._model = model
        self._layout = layout
        self._programs: dict[str, list[StageProgram]] = {}
        self._outputs: dict[tuple[str, int], dict[str, Tensor]] = {}

    def agrees(self, plan: Plan, index: int, pictures: Sequence[Tensor], outputs: Mapping[str, Tensor]) -> bool:
        """Whether `outputs` are, bit for bit, what `plan` gives for picture number `index`."""
        expected = self.outputs(plan, index, pictures)
        return expected.keys() == outputs.keys() and all(
            torch.equal(expected[name], outputs[name]) for name in expected
        )

    def outputs(self, plan: Plan, index: int, pictures: Sequence[Tensor]) -> dict[str, Tensor]:
        """What `plan` gives for picture number `index`."""
        key = repr((plan.stages, plan.links))
        if (key, index) not in self._outputs:
            if key not in self._programs:
                captured = self._model.captured
                self._programs[key] = [
                    prepare(captured, plan, hop, layout=self._layout) for hop in range(len(plan.stages))
                ]
            self._outputs[key, index] = _through(self._programs[key], pictures[index])
        return self._outputs[key, index]


def _through(programs: Sequence[StageProgram], picture: Tensor) -> dict[str, Tensor]:
    tensors = {INPUT: picture}
    for program, onward in zip(programs, [*programs[1:], None], strict=True):
        tensors = program.compute(tensors)
        if onward is not None:
            headers, buffers = program.pack(tensors, 0)
            plan = program.plan
            header = FrameHeader(plan.stream, plan.model, plan.epoch, 0, 0, onward.hop, 0, headers, (), False)
            tensors = onward.unpack(Message(header, [bytearray(buffer) for buffer in buffers]))
    return tensors
