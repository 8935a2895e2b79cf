"""What a plan costs on every node that it names: service times and bytes, by the planners' own cost model."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

from pipeline.frames.envelope import Envelope, of_frame
from pipeline.plan import Plan, Tier
from scheduler.cost import evaluate
from scheduler.pieces import PIECES, pieces_for
from scheduler.problem import LinkEstimate, Problem
from scheduler.simulate.scenario import Scenario


@dataclass(frozen=True)
class HopWork:
    """One stage of a plan."""

    node: str
    unpack_s: float
    compute_s: float
    pack_s: float
    sent_bytes: int
    """Payload that goes to the next stage, of a frame like most; of the last one, the result's."""
    envelope: Envelope
    """What it takes beside that."""
    spread: float = 0.0
    """See `scheduler.simulate.scenes.Spread`."""

    def bytes_of(self, busyness: float) -> int:
        """Payload of a frame that is as busy."""
        if not self.spread:
            return self.sent_bytes
        return max(0, round(self.sent_bytes * (1.0 + self.spread * busyness)))


@dataclass(frozen=True)
class Route:
    """A plan, ready to be carried out."""

    plan: Plan
    hops: tuple[HopWork, ...]
    drop: float | None
    """Accuracy drop of its codecs."""

    bytes: int
    """Of all links together, of a frame like most."""

    def bytes_of(self, busyness: float) -> int:
        """Of all links together, of a frame that is as busy."""
        return sum(hop.bytes_of(busyness) for hop in self.hops[:-1]) if busyness else self.bytes


class Routes:
    """Routes by plan; equal plans of other streams or epochs share their figures."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._result_bytes = scenario.graph.result_bytes
        self._known: dict[object, tuple[tuple[HopWork, ...], float | None]] = {}
        self._latest: dict[str, Route] = {}
        """By stream: frame after frame goes by the same plan."""

    def of(self, plan: Plan) -> Route:
        """The route of a plan.

        Raises:
            AnabranchError: the plan does not fit the network or the packing table.
        """
        latest = self._latest.get(plan.stream)
        if latest is not None and latest.plan is plan:
            return latest
        key = tuple((stage.tier, stage.node, stage.until) for stage in plan.stages), plan.links, plan.tiles
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._work(plan)
        hops, drop = found
        made = self._latest[plan.stream] = Route(plan, hops, drop, sum(hop.sent_bytes for hop in hops[:-1]))
        return made

    def compute_s(self, plan: Plan, node: str) -> float:
        """Compute time of one node's stage; 0 where it has none."""
        return sum(hop.compute_s for hop in self.of(plan).hops if hop.node == node)

    @functools.cached_property
    def pieces_s(self) -> tuple[float, ...]:
        """Compute times of the pieces in which a device takes a frame while its plan has other nodes."""
        times = self._scenario.times[Tier.DEVICE]
        found = self._pieces_s(PIECES)
        if (count := pieces_for(times.whole_s, sum(found))) < PIECES:
            found = self._pieces_s(count)
        return found[0] + self._scenario.overhead_s, *found[1:]

    def _pieces_s(self, most: int) -> list[float]:
        cuts, times = self._scenario.graph.pieces(most), self._scenario.times[Tier.DEVICE]
        return [times.seconds(start.index, end.index) for start, end in itertools.pairwise(cuts)]

    def _work(self, plan: Plan) -> tuple[tuple[HopWork, ...], float | None]:
        scenario = self._scenario
        nodes = {stage.tier: stage.node for stage in plan.stages}
        tiers = [stage.tier for stage in plan.stages]
        problem = Problem(
            graph=scenario.graph,
            stream=plan.stream,
            nodes=nodes,
            times={name: scenario.times[tier] for tier, name in nodes.items()},
            packing=scenario.packing,
            links=dict.fromkeys(itertools.pairwise(tiers), LinkEstimate(1e9)),
        )
        cost = evaluate(problem, plan)
        sent = [*(round(link.bytes) for link in cost.links), self._result_bytes]
        codecs = zip(plan.stages[:-1], plan.links, strict=True)
        spreads = [scenario.spread.get((stage.until, link.codec), 0.0) for stage, link in codecs]
        more = scenario.overhead_s
        hops = tuple(
            HopWork(
                stage.node,
                stage.decode_s + (more if stage.tier is not Tier.DEVICE else 0.0),
                stage.compute_s + more,
                stage.encode_s + more,
                nbytes,
                of_frame(scenario.graph, plan, hop, nbytes),
                spread,
            )
            for hop, (stage, nbytes, spread) in enumerate(zip(cost.stages, sent, [*spreads, 0.0], strict=True))
        )
        return hops, cost.accuracy_drop
