"""`anabranch replay`: every policy, live, behind shaped links; and the parts that only a replay has."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from nodes.local.links import LocalLinks
from nodes.parsing import parse_delays
from nodes.recording import record_folder
from nodes.replayed import LiveLink, TrueRates, read_links, write_links
from nodes.report.record import load_run
from pipeline.errors import ConfigError
from pipeline.plan import Plan, Tier, device_only
from scheduler.events import StreamSettings
from scheduler.joined import Joined
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, LinkEstimate
from scheduler.simulate.scenario import POLICIES
from scheduler.world import Advice, Candidate, World
from tests.nodes.processes import anabranch
from tests.nodes.tiny import NAMES, SPEC, picture_folder
from traces.formats import write_trace
from traces.library import library_trace
from traces.trace import Trace

FRAMES = 40
LINKS = ("--trace", "device-edge=20Mbit", "--trace", "edge-cloud=50Mbit", "--delay", "1ms")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this machine's profile is kept: measured once for all policies."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_runs_live(policy: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    pictures = picture_folder(tmp_path / "pictures", FRAMES)
    done = anabranch(
        "replay", "--source", pictures, "--model", SPEC, "--policy", policy, "--run-dir", tmp_path / "run", *LINKS,
        "--emulate-speed", "device=0.05,edge=0.2", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["totals"]["results"] == FRAMES
    record = load_run(tmp_path / "run")
    assert (record.policy, record.kind) == (policy, "live")
    assert "data:image/png" in (tmp_path / "run" / "report.html").read_text()
    routes = {tuple(stage.tier for stage in use.plan.stages) for use in record.plans}
    assert (Tier.DEVICE, Tier.CLOUD) not in routes, "there is no such link"
    if policy == "cloud-only":
        assert [stage.until for stage in record.plans[-1].plan.stages] == ["input", "input", "output"]
    if policy == "device-only":
        assert routes == {(Tier.DEVICE,)}
    if policy == "fixed":
        assert routes == {tuple(Tier)}


@pytest.mark.slow
def test_a_recorded_replay_has_the_outage_of_its_trace(tmp_path: Path) -> None:
    """Of a camera with a frame every ten seconds: the link goes and comes back while nothing crosses it."""
    link = Trace(np.array([0.0, 12.6, 18.4]), np.array([8e6, 0.0, 8e6]), 100.0, "outage")
    done = anabranch(
        "replay", "--source", "scene:fps=0.1", "--model", "builtin", "--policy", "fixed", "--cut", "input,input",
        "--admit", "latest", "--seconds", "25", "--run-dir", tmp_path / "run", "--trace", "edge-cloud=50Mbit",
        "--trace", f"device-edge={write_trace(link, tmp_path / 'outage.csv')}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    recorded = record_folder(tmp_path / "run", 0.2)["device-1", "edge-1"]
    silent_s = [at_s for at_s in np.arange(2.0, 20.0, 0.2) if recorded.rate_at(at_s + 0.1) < 0.1 * 8e6]
    assert min(silent_s) == pytest.approx(12.6, abs=1.2)
    assert max(silent_s) + 0.2 == pytest.approx(18.4, abs=1.2)
    assert len(silent_s) == round((max(silent_s) - min(silent_s)) / 0.2) + 1, "one outage"


def test_results_of_the_cloud_go_home_through_the_edge_links() -> None:
    links = LocalLinks(NAMES, {DEVICE_EDGE: "20Mbit", EDGE_CLOUD: "50Mbit"})
    listen = links.arguments(Tier.DEVICE)[1].removeprefix("tcp://")
    with socket.create_server(_address(listen)) as inbox, links.running():
        peers = dict(text.split("=") for text in links.arguments(Tier.CLOUD)[3::2])
        assert set(peers) == {"edge-1", "device-1"}
        with socket.create_connection(_address(peers["device-1"].removeprefix("tcp://"))) as cloud:
            cloud.sendall(b"a result")
            inbox.settimeout(20)
            with inbox.accept()[0] as arrived:
                arrived.settimeout(20)
                assert arrived.recv(64) == b"a result"


def test_a_link_has_its_opening_rate_until_its_trace_begins(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    write_trace(Trace(np.array([0.0, 1.0]), np.array([1e6, 8e6]), 100.0), path, "csv")
    links = LocalLinks(NAMES, {DEVICE_EDGE: str(path)})
    with links.running():
        shaper = links.shapers[DEVICE_EDGE]
        assert shaper.stats()["up"]["rate_bps"] == 1e6
        links.begin(tmp_path, time.monotonic() - 2.0)
        assert shaper.stats()["up"]["rate_bps"] == 8e6
    assert read_links(tmp_path / "links.json")["device-1", "edge-1"].start_s is not None


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port)


def test_true_rates_are_those_of_the_time_ahead(tmp_path: Path) -> None:
    path = write_links(tmp_path, [LiveLink("device-1", "edge-1", "wifi", up=True, delay_s=0.01)])
    rates = TrueRates(path, {("device-1", "edge-1"): DEVICE_EDGE})
    trace = library_trace("wifi.up")
    assert rates.ahead(500.0, 2.0)[DEVICE_EDGE].goodput_bps == trace.opening_bps, "not begun yet"
    write_links(tmp_path, [LiveLink("device-1", "edge-1", "wifi", 500.0, up=True, delay_s=0.01)])
    found = rates.ahead(530.0, 2.0)[DEVICE_EDGE]
    assert found.goodput_bps == trace.bits_between(30.0, 32.0) / 2.0
    assert found.rtt_s == 0.02


def test_plans_know_no_other_links_than_those_of_the_replay() -> None:
    seen: list[World] = []

    class Inner:
        def advise(self, world: World) -> Advice:
            seen.append(world)
            raise ConfigError("advisor", "only looks")

        def stage_s(self, plan: Plan, node: str) -> float | None:
            return 1.0

    links = {("a", "b"): LinkEstimate(1e6), ("a", "c"): LinkEstimate(1e9), ("b", "tile"): LinkEstimate(1e9)}
    nodes = (Candidate("a", Tier.DEVICE, ""), Candidate("b", Tier.EDGE, ""), Candidate("tile", None, ""))
    current = device_only("s", "a", "f00d" * 16, 0)
    world = World("s", "f00d" * 16, "a", StreamSettings(), 0.0, nodes, links, {}, current)
    with pytest.raises(ConfigError):
        Joined(Inner(), [("a", "b")]).advise(world)
    assert list(seen[0].links) == [("a", "b"), ("b", "tile")], "tile workers stand beside their edge node"


def test_delays_of_all_links_or_of_one() -> None:
    assert parse_delays(["20ms", "edge-cloud=5ms"], {}) == {
        DEVICE_EDGE: 0.02, EDGE_CLOUD: 0.005, DEVICE_CLOUD: 0.02,
    }  # fmt: skip
    assert parse_delays([], {DEVICE_EDGE: 0.001}) == {DEVICE_EDGE: 0.001}
    with pytest.raises(ConfigError, match="hops are device-edge"):
        parse_delays(["edge-moon=1ms"], {})
