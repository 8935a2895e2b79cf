"""All simulated nodes and links, joined: frames go from node to node, results come home."""

from __future__ import annotations

import random
from collections.abc import Callable

from pipeline.errors import PlanError
from pipeline.frames.envelope import of_probe
from pipeline.plan import Tier, device_only
from scheduler.reports import Report
from scheduler.simulate.agenda import Agenda
from scheduler.simulate.agent import Epochs, SimulatedAgent
from scheduler.simulate.device import SimulatedDevice, SourceSettings
from scheduler.simulate.links import Pipe, SimulatedLink, Watch
from scheduler.simulate.node import Job, SimulatedNode
from scheduler.simulate.routes import Routes
from scheduler.simulate.scenario import Scenario
from scheduler.simulate.scenes import Scenes

LinkName = tuple[str, str]

PHASE_S = 0.1
"""With a seed, the traces begin up to so much before the first frame: live, it is chance how frames and bursts meet."""


class Cluster:
    """What is simulated, ready to run.

    Args:
        scenario: what to build.
        agenda: its time.
        send: takes the nodes' reports.
    """

    def __init__(self, scenario: Scenario, agenda: Agenda, send: Callable[[Report], None]) -> None:
        self.scenario = scenario
        self.agenda = agenda
        self.routes = Routes(scenario)
        self._links: dict[LinkName, SimulatedLink] = {}
        self._unjoined: set[LinkName] = set()
        """Pairs of nodes that no channel joins."""
        self._ways: dict[LinkName, tuple[SimulatedLink, ...]] = {}
        self.agents: dict[str, SimulatedAgent] = {}
        self.devices: list[SimulatedDevice] = []
        self.check_epochs = True
        """False for the oracle, whose plans need no building."""
        self._pipes: dict[object, Pipe] = {}
        phase_s = random.Random(scenario.seed).uniform(0.0, PHASE_S) if scenario.seed else 0.0
        self._traces_s = scenario.lead_s - phase_s
        """When traces begin."""
        for tier in Tier:
            for name in scenario.names(tier):
                self._add_node(name, tier, send)
        self._numbers = {name: number for number, name in enumerate(scenario.names(Tier.DEVICE))}
        self._edges = scenario.names(Tier.EDGE)
        for name, number in self._numbers.items():
            self._add_device(name, number)
        for number, agent in enumerate(self.agents.values()):
            agent.start(0.01 + 0.9 * number / len(self.agents))

    # --- building

    def _add_node(self, name: str, tier: Tier, send: Callable[[Report], None]) -> None:
        scenario = self.scenario
        seed = (scenario.seed << 16) + len(self.agents)
        node = SimulatedNode(name, tier, self.agenda, self._forward, (scenario.noise, seed))
        epochs = Epochs(name, self.agenda, self.routes, scenario.build_s)
        agent = self.agents[name] = SimulatedAgent(node, epochs, scenario.graph.fingerprint, send)
        agent.probe = self._probe

    def link(self, source: str, target: str) -> SimulatedLink | None:
        """The link between two nodes, made when it is first used; None where no channel joins their tiers."""
        found = self._links.get((source, target))
        if found is None and (source, target) not in self._unjoined:
            found = self._join(source, target)
        return found

    def _join(self, source: str, target: str) -> SimulatedLink | None:
        tiers = self.agents[source].node.tier, self.agents[target].node.tier
        upstream = tiers[0].rank < tiers[1].rank
        hop = tiers if upstream else (tiers[1], tiers[0])
        channel = self.scenario.channels.get(hop)
        if channel is None:
            self._unjoined.add((source, target))
            return None
        trace = channel.trace if upstream else channel.back or channel.trace
        first = source if upstream else target
        # One access link per device and kind; between other tiers, each pair of nodes has its own.
        alone = hop[0] is Tier.DEVICE
        key = (first, channel.shared or hop, upstream) if alone else (source, target)
        late_s = self.scenario.trace_spread_s * self._numbers[first] if alone else 0.0
        pipe = self._pipes.get(key)
        if pipe is None:
            pipe = self._pipes[key] = Pipe(trace, self._traces_s - late_s)
        made = self._links[source, target] = SimulatedLink(source, target, pipe, channel.delay_s, Watch(source))
        if upstream:
            made.back = self.link(target, source)
        return made

    @property
    def links(self) -> dict[LinkName, SimulatedLink]:
        """The links that have been used so far."""
        return self._links

    def _add_device(self, name: str, number: int) -> None:
        scenario, stream = self.scenario, f"stream-{number + 1}"
        agent = self.agents[name]
        fallback = device_only(stream, name, scenario.graph.fingerprint, 0)
        source = SourceSettings(
            stream,
            scenario.fps,
            scenario.admit == "latest",
            scenario.lead_s,
            scenario.lead_s + scenario.seconds,
            scenario.frames,
            Scenes(scenario.seed + number) if scenario.spread else None,
        )
        device = SimulatedDevice(source, agent.node, self.routes, fallback)
        device.hooks.is_ready, device.hooks.hurry = agent.epochs.is_ready, agent.hurry
        device.hooks.finished = self._finished
        agent.device = device
        agent.epochs.add(stream, 0)
        self.devices.append(device)

    def _finished(self) -> None:
        """A device has its last result: with the last device's, nothing is left to simulate."""
        if all(device.is_finished for device in self.devices):
            self.agenda.stop()

    # --- frames

    def _forward(self, node: SimulatedNode, job: Job) -> None:
        """A frame leaves a node: for the next stage, or home."""
        hops, now = job.route.hops, self.agenda.now
        home = job.device.node.name
        if job.hop + 1 < len(hops):
            target = hops[job.hop + 1].node
            link = self.link(node.name, target)
            if link is None:
                raise PlanError(job.route.plan.label, f"no link leads from {node.name} to {target}")
            nbytes, envelope = job.sent_bytes, hops[job.hop].envelope
            job.hop += 1
            self.agents[target].peers.expect(link)
            self.agenda.at(link.send(nbytes, envelope, now), self._arrive, link, job, nbytes)
        elif node.name == home:
            job.device.complete(job)
        else:
            self._send_home(self.way_home(node.name, home), job)

    def _arrive(self, link: SimulatedLink, job: Job, nbytes: int) -> None:
        agent = self.agents[link.target]
        link.watch.finished(nbytes, self.agenda.now, probe=False)
        agent.crossed(link)
        if self.check_epochs and not agent.epochs.is_ready(job.route.plan):
            self.agenda.after(link.delay_s, job.device.lose, job.frame, job.attempt, "unknown-epoch")
            return
        agent.node.arrive(job)

    def way_home(self, node: str, device: str) -> tuple[SimulatedLink, ...]:
        """The links that a result takes: straight, or through an edge.

        Raises:
            PlanError: there is no way.
        """
        found = self._ways.get((node, device))
        if found is None:
            found = self._ways[node, device] = self._find_way_home(node, device)
        return found

    def _find_way_home(self, node: str, device: str) -> tuple[SimulatedLink, ...]:
        direct = self.link(node, device)
        if direct is not None:
            return (direct,)
        for edge in self._edges:
            ways = self.link(node, edge), self.link(edge, device)
            if ways[0] is not None and ways[1] is not None:
                return ways[0], ways[1]
        raise PlanError(f"result of {node}", f"no link leads home to {device}")

    def _send_home(self, way: tuple[SimulatedLink, ...], job: Job) -> None:
        if not way:
            job.device.complete(job)
            return
        last = job.route.hops[-1]
        there_s = way[0].bring_home(last.sent_bytes, last.envelope, self.agenda.now)
        self.agenda.at(there_s, self._send_home, way[1:], job)

    # --- probes

    def _probe(self, source: str, target: str, nbytes: int) -> None:
        link = self.link(source, target)
        if link is not None:
            self.agents[target].peers.expect(link)
            self.agenda.at(link.send(nbytes, of_probe(source, nbytes), self.agenda.now), self._probed, link, nbytes)

    def _probed(self, link: SimulatedLink, nbytes: int) -> None:
        link.watch.finished(nbytes, self.agenda.now, probe=True)
        self.agents[link.target].crossed(link)
