"""What was measured of one network: profiles of nodes, packing, tiles. The advisor looks everything up here."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pipeline.errors import ModelMismatch
from pipeline.model.graph import ModelGraph
from scheduler.profile import Profile, Timing
from scheduler.tables import PackingTable, SegmentTimes
from scheduler.tiles import TileTable

ANY_NODE = "*"
"""Name under which the profile of nodes that have none of their own is kept."""


class MeasuredCatalogue:
    """See `scheduler.advising.Catalogue`.

    Args:
        graph: the network.
        profiles: by node name; `ANY_NODE` for the rest.
        packing: what each codec costs at each cut.
        tiles: by edge node; what tiling saves with its workers.

    Raises:
        ModelMismatch: a profile is another network's.
    """

    def __init__(
        self,
        graph: ModelGraph,
        profiles: Mapping[str, Profile],
        packing: PackingTable,
        tiles: Mapping[tuple[str, tuple[str, ...]], TileTable] | None = None,
    ) -> None:
        self._graph = graph
        self._packing = packing
        self._times = {node: profile.bind(graph) for node, profile in profiles.items()}
        self._tiles = dict(tiles or {})

    def graph(self, model: str) -> ModelGraph:
        """The network.

        Raises:
            ModelMismatch: `model` is another one's fingerprint.
        """
        if model != self._graph.fingerprint:
            raise ModelMismatch(
                f"model {model[:12]}", f"this scheduler plans {self._graph.fingerprint[:12]}", "use the same model"
            )
        return self._graph

    def packing(self, model: str) -> PackingTable:
        """What each codec costs at each cut."""
        self.graph(model)
        return self._packing

    def times(self, model: str, node: str, profile: str) -> SegmentTimes | None:
        """Segment times of a node; None where neither it nor `ANY_NODE` has a profile."""
        self.graph(model)
        return self._times.get(node, self._times.get(ANY_NODE))

    def tiles(self, model: str, edge: str, workers: tuple[str, ...]) -> TileTable | None:
        """What tiling saves on this edge node with these workers."""
        return self._tiles.get((edge, workers))


def slowed(profile: Profile, node: str, speed: float) -> Profile:
    """The profile of a node that runs at `speed` (a fraction) of the one that was measured."""
    timing = profile.timing
    return msgspec.structs.replace(
        profile,
        node=node,
        timing=Timing(
            tuple(seconds / speed for seconds in timing.block_s),
            timing.run_s / speed,
            timing.enter_s_per_byte / speed,
            timing.leave_s_per_byte / speed,
        ),
    )
