"""When which stream is planned, and what becomes of the planner's answer. Part of the pure core."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from pipeline.errors import AnabranchError
from pipeline.plan import Plan, device_only, same, signature
from scheduler.events import DecisionRecord
from scheduler.outbox import Outbox
from scheduler.outlook import QUIET_S, Outlook, alike
from scheduler.policy import NEAR, Gain, Offer, gain, gain_doubt, mean_cost
from scheduler.problem import LinkEstimate
from scheduler.streams import MAX_DRAINING, StreamState
from scheduler.world import Advice, Advisor, World

ANY_DEVICE = "*"
"""A fixed plan whose device has this name is every stream's, each on its own device."""

MAX_FIGURE = 1e12
"""Figures in the log are cut off here: JSON has no infinity."""


@dataclass(frozen=True)
class PlanningConfig:
    """When streams are planned."""

    replan_s: float = 1.0
    """Every stream is planned again at this interval, and at once when something steps."""
    settle_s: float = 2.0
    """A new stream is first planned after this: nodes register and links are probed meanwhile."""
    missing_s: float = 10.0
    """A node that a fixed plan names and nobody has heard of is reported after this."""
    plans_per_sweep: int = 3
    """Bounds the time that one event takes; streams take turns, the urgent ones first."""
    routine_per_sweep: int = 2
    """Of them, those of streams that nothing has happened to: they are most of the work with hundreds of streams."""


class PlanDesk:
    """Plans the streams that are due."""

    def __init__(self, advisor: Advisor, config: PlanningConfig, outbox: Outbox) -> None:
        self._advisor = advisor
        self._config = config
        self._outbox = outbox

    def plan_due(self, streams: Iterable[StreamState], outlook: Outlook) -> None:
        """Plan those whose turn it is, the urgent ones first, then those that wait longest."""
        due = [state for state in streams if self._due(state, outlook)]
        due.sort(key=lambda state: (not state.urgent, state.planned_s, state.stream))
        urgent = sum(state.urgent for state in due)
        for state in due[: min(self._config.plans_per_sweep, urgent + self._config.routine_per_sweep)]:
            state.planned_s, state.urgent = outlook.now, False
            if state.settings.planner == "fixed":
                self._plan_fixed(state, outlook)
            else:
                self._plan(state, outlook)

    def _due(self, state: StreamState, outlook: Outlook) -> bool:
        if state.prepared is not None or not outlook.registry.usable(state.device):
            return False
        if state.settings.planner != "fixed" and outlook.now - state.first_seen_s < self._config.settle_s:
            return False
        return state.urgent or outlook.now - state.planned_s >= self._config.replan_s

    def _plan(self, state: StreamState, outlook: Outlook) -> None:
        world = outlook.world(state)
        advice = self._advice(state, world, outlook.now)
        if advice is None:
            return
        self._complain(state, f"no plan keeps {advice.broken}" if advice.broken else "", outlook.now)
        if state.bans.bars(advice.plan, outlook.silent, outlook.now):
            state.policy.kept()
            return
        if same(advice.plan, state.current):
            state.policy.kept()
            if not state.current.epoch:
                self._prepare(state, advice.plan, "nothing is better than the device alone", {}, outlook.now)
            return
        self._offer(state, advice, world, outlook)

    def _advice(self, state: StreamState, world: World, now: float) -> Advice | None:
        """The planner's answer; the one before, where its world is the same still."""
        if state.advice is not None and state.advised_for is not None and alike(state.advised_for, world):
            return state.advice
        try:
            state.advice, state.advised_for = self._advisor.advise(world), world
        except AnabranchError as error:
            state.advice, state.advised_for = None, None
            self._complain(state, str(error), now)
        return state.advice

    def _offer(self, state: StreamState, advice: Advice, world: World, outlook: Outlook) -> None:
        """Let the policy decide on another plan than the running one."""
        now, figures = outlook.now, _figures(advice, world.links)
        if advice.current_cost is None:
            state.policy.switched(now, forced=True)
            self._prepare(state, advice.plan, "the running plan cannot go on", figures, now)
            self._expect(state, advice, world, outlook)
            return
        if state.current.epoch and not advice.current_broken and self._in_doubt(state, advice.plan, outlook):
            return
        forced = bool(advice.current_broken) and not advice.broken
        found = gain(state.settings.objective, advice.current_cost, advice.cost, world.fps)
        doubt = outlook.doubt(state.current, advice.plan)
        doubt = gain_doubt(found.goal, advice.current_cost, advice.cost, world.fps, doubt)
        verdict = state.policy.judge(Offer(found, advice.current_broken, advice.broken, doubt), now)
        if verdict.switch and not forced and (passing := self._passing(state, advice, world, outlook)):
            verdict = replace(verdict, switch=False, reason=passing)
        figures |= {"gain": min(found.ratio, MAX_FIGURE), "threshold": verdict.threshold}
        if state.is_idle:  # nothing runs yet that a switch could cost, and the device waits for a word
            # What is not known is in doubt: of links that were hardly seen, none is hoped for.
            here, there = (replace(cost, hedge_s=math.inf) for cost in (advice.current_cost, advice.cost))
            found = gain(state.settings.objective, here, there, world.fps)
            if found.ratio > 1.0 and not (advice.broken and not advice.current_broken):
                reason = f"the first plan; {found.goal} gain {found.ratio:.2f}"
                self._prepare(state, advice.plan, reason, figures, now, found)
                self._expect(state, advice, world, outlook)
            else:
                own = device_only(state.stream, state.device, state.model, 0)
                self._prepare(state, own, "nothing is better than the device alone", figures, now)
            return
        if state.is_unused and found.ratio >= 1.0 + NEAR and not (advice.broken and not advice.current_broken):
            verdict = replace(
                verdict, switch=True, reason=f"{found.goal} gain {found.ratio:.2f} before the first frame"
            )
        if verdict.switch and (forced or len(state.draining) < MAX_DRAINING):
            state.policy.switched(now, found.ratio, forced=forced)
            self._prepare(state, advice.plan, verdict.reason, figures, now, found)
            self._expect(state, advice, world, outlook)
        elif signature(advice.plan) != state.kept:
            state.kept = signature(advice.plan)
            self._outbox.note(
                DecisionRecord(now, "keep", verdict.reason, state.stream, plan=advice.plan, figures=figures)
            )

    def _in_doubt(self, state: StreamState, plan: Plan, outlook: Outlook) -> bool:
        """Whether to let an outage pass before another plan is weighed.

        One more sample is under way where a link has just come back. In the outage itself the device computes alone
        what it can, and nothing tells how fast the link will be. Nor is the link left for the device as long as it
        recovers.
        """
        if outlook.freed(state.current, plan):
            return True
        if not state.may_detour:
            return False
        if outlook.held_up(state.current) or outlook.silent(state.current, QUIET_S):
            return True
        return plan.is_device_only and outlook.recovers(state.current)

    def _passing(self, state: StreamState, advice: Advice, world: World, outlook: Outlook) -> str:
        """Why a gain is likely to be over too soon to leave a plan over links for it, or an empty string.

        Links that were something else a moment ago, time and again, will be so again: a plan is left only for one
        that is better in the mean of what they are and what they were, too.
        """
        if not state.may_detour or state.current.is_device_only or advice.current_cost is None:
            return ""
        here = mean_cost(advice.current_cost, outlook.swings(state.current))
        there = mean_cost(advice.cost, outlook.swings(advice.plan))
        found = gain(state.settings.objective, here, there, world.fps)
        return "" if found.ratio >= 1.0 + NEAR else f"{found.goal} gain is {found.ratio:.2f} as the links come and go"

    def regret(self, state: StreamState, outlook: Outlook) -> str:
        """Why the prepared plan is no longer worth its switch, or an empty string.

        Nodes take a second or more to build a plan; what it was made for, an outage as a rule, may be over by then.
        A plan that is not there for its gain (the running one cannot go on, or breaks a bound) is not asked.
        """
        prepared = state.prepared
        if prepared is None or prepared.gain is None or state.settings.planner == "fixed":
            return ""
        world = outlook.world(state)
        try:
            here = self._advisor.advise(world)
            there = self._advisor.advise(replace(world, current=prepared.plan))
        except AnabranchError:
            return ""
        if here.current_cost is None or there.current_cost is None or here.current_broken:
            return ""
        found = gain(state.settings.objective, here.current_cost, there.current_cost, world.fps)
        return f"{found.goal} gain is {found.ratio:.2f} by now" if found.ratio < 1.0 else ""

    def _prepare(
        self,
        state: StreamState,
        plan: Plan,
        reason: str,
        figures: dict[str, float],
        now: float,
        found: Gain | None = None,
    ) -> None:
        numbered = state.prepare(plan, reason, now, found)
        state.kept = None
        self._outbox.note(
            DecisionRecord(now, "prepare", reason, state.stream, epoch=numbered.epoch, plan=numbered, figures=figures)
        )
        if plan.is_device_only:  # the device can always run it: nobody has to be ready
            state.commit()
            self._outbox.note_plan(state, "commit", f"on the device alone; {reason}", now, numbered)

    def _expect(self, state: StreamState, advice: Advice, world: World, outlook: Outlook) -> None:
        """Let the streams that are planned next know what this one is about to use."""
        cost = advice.cost
        fps = min(world.fps or math.inf, cost.pipeline_fps)
        state.expected = {
            stage.node: min(1.0, fps * (stage.decode_s + stage.compute_s + stage.encode_s)) for stage in cost.stages
        }
        outlook.decided(state)

    def _plan_fixed(self, state: StreamState, outlook: Outlook) -> None:
        """Publish the given plan as soon as its nodes are there; name those that do not come.

        Tile workers are waited for a while only: the plan works without them.
        """
        plan, now = _own(state.settings.plan, state), outlook.now
        problem = _misfit(plan, state)
        if plan is None or problem:
            self._complain(state, problem, now)
            return
        runs = same(plan, state.current)
        # Epoch 0 is the device's own; a device that waits for the scheduler's word must get one, were it the same plan.
        if state.bans.bars(plan, outlook.silent, now) or (runs and state.current.epoch):
            return
        missing = [name for name in plan.participants if not outlook.registry.usable(name)]
        if missing:
            since = state.missing_since_s = now if state.missing_since_s is None else state.missing_since_s
            needed = [name for name in missing if name in plan.nodes]
            if now - since < self._config.missing_s:
                return
            if needed:
                names = ", ".join(needed)
                self._complain(state, f"the fixed plan names {names}: not there; start it or change the plan", now)
                return
        state.missing_since_s = None
        self._complain(state, "", now)
        self._prepare(state, plan, "the fixed plan", {}, now)

    def _complain(self, state: StreamState, problem: str, now: float) -> None:
        if problem and problem != state.problem:
            self._outbox.note(DecisionRecord(now, "problem", problem, state.stream, state.device))
        state.problem = problem


def _own(plan: Plan | None, state: StreamState) -> Plan | None:
    """The fixed plan under the stream's own name, and on its own device where the plan is for any."""
    if plan is None:
        return None
    first, *others = plan.stages
    if first.node == ANY_DEVICE:
        first = msgspec.structs.replace(first, node=state.device)
    return msgspec.structs.replace(plan, stream=state.stream, stages=(first, *others))


def _misfit(plan: Plan | None, state: StreamState) -> str:
    """Why the stream cannot run this fixed plan, whatever nodes are there."""
    if plan is None:
        return "the fixed planner has no plan; give one"
    if plan.stages[0].node != state.device:
        return f"the fixed plan is for device {plan.stages[0].node}, not {state.device}"
    if plan.model != state.model:
        return f"the fixed plan is for model {plan.model[:12]}, not {state.model[:12]}"
    return ""


def _figures(advice: Advice, links: Mapping[tuple[str, str], LinkEstimate]) -> dict[str, float]:
    figures: dict[str, float] = {f"{a}>{b} bps": each.goodput_bps for (a, b), each in links.items()}
    figures |= {"new period s": advice.cost.period_s, "new latency s": advice.cost.latency_s}
    if advice.current_cost is not None:
        figures |= {"old period s": advice.current_cost.period_s, "old latency s": advice.current_cost.latency_s}
    return {name: min(value, MAX_FIGURE) for name, value in figures.items()}
