"""What was measured of one network: profiles of nodes, packing, tiles. The advisor looks everything up here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from pipeline.errors import ModelMismatch
from pipeline.model.graph import ModelGraph
from scheduler.profile import Profile, Timing
from scheduler.tables import PackingTable, SegmentTimes
from scheduler.tiles import TileTable
from scheduler.tiling import Tiler, Workers

ANY_NODE = "*"
"""Name under which the profile of nodes that have none of their own is kept."""

MAX_TABLES = 16
"""Tile tables that are kept, of the crews that were asked for last."""


class MeasuredCatalogue:
    """See `scheduler.advising.Catalogue`.

    Args:
        graph: the network.
        profiles: by node name; `ANY_NODE` for the rest.
        packing: what each codec costs at each cut.
        tiler: tells what tiling saves; None where no tiles are planned.

    Raises:
        ModelMismatch: a profile is another network's.
    """

    def __init__(
        self,
        graph: ModelGraph,
        profiles: Mapping[str, Profile],
        packing: PackingTable,
        tiler: Tiler | None = None,
    ) -> None:
        self._graph = graph
        self._packing = packing
        self._times = {node: profile.bind(graph) for node, profile in profiles.items()}
        self._tiler = tiler
        self._tables: OrderedDict[Workers, TileTable] = OrderedDict()

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

    def tiles(self, model: str, workers: Workers) -> TileTable | None:
        """What tiling saves on this edge node with these workers; the same object for nearly the same crew."""
        times = self.times(model, workers.edge, "")
        if self._tiler is None or times is None:
            return None
        crew = workers.rounded()
        if crew not in self._tables:
            self._tables[crew] = self._tiler(crew.crew(self._graph, times), (crew.edge, *crew.names))
        self._tables.move_to_end(crew)
        while len(self._tables) > MAX_TABLES:
            self._tables.popitem(last=False)
        return self._tables[crew]


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
