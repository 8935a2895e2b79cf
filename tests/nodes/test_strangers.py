"""Who gets in, who does not, what both sides are told, and what an eavesdropper sees. Real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from nodes.agent import Agent, Identity, SchedulerAddress
from nodes.gate import MAX_REMEMBERED, Once
from nodes.inbox import decode
from nodes.keys import ADMITS, ALLOWED, Keyring, Purpose, Role, allow, new_key, remove
from nodes.outlet import Directory, Outlet, Undeliverable
from nodes.quiet import LINES, WINDOW_S
from nodes.sockets import SocketFactory
from pipeline.errors import KeysError, NodeError, WireError
from pipeline.frames import wire
from pipeline.frames.wire import FrameHeader, Hop, Message, Ping
from pipeline.plan import Tier
from scheduler.events import Event, Instruction, ReportReceived
from scheduler.handmade import plan_of
from scheduler.reports import Endpoints
from scheduler.service import SchedulerService, sender_of
from tests.nodes.processes import eventually
from tests.nodes.tap import Tap
from tests.nodes.tiny import NAMES, Deployment, waiting

LIMIT_S = 20.0
LIMIT_MS = 20_000
ANY = "tcp://127.0.0.1:*"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Keys of one node of each role, by the name of the role, and of the nodes of `tiny`."""
    for role in Role:
        new_key(tmp_path / "keys", role, role)
    for tier, name in NAMES.items():
        new_key(tmp_path / "keys", name, Role(tier))
    return tmp_path / "keys"


@pytest.fixture
def factories() -> Iterator[list[SocketFactory]]:
    """Factories that are put in here have their sockets closed at the end."""
    made: list[SocketFactory] = []
    yield made
    for factory in made:
        factory.context.term()


def ping(name: str) -> list[wire.Buffer]:
    """A ping of a node as bytes."""
    return wire.encode(Message(Ping(name, 1)))


def said(caplog: pytest.LogCaptureFixture, *words: str) -> bool:
    """Whether one line of the log has all these words."""
    return any(all(word in record.getMessage() for word in words) for record in caplog.records)


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_socket_admits_the_roles_it_is_for(
    folder: Path, factories: list[SocketFactory], caplog: pytest.LogCaptureFixture, purpose: Purpose
) -> None:
    server = SocketFactory(zmq.Context(), keyring=Keyring(folder, "device-1", Role.DEVICE))
    factories.append(server)
    inbox, endpoint = server.pull(ANY, purpose)
    with inbox:
        for role in Role:
            client = SocketFactory(zmq.Context(), keyring=Keyring(folder, role, role))
            factories.append(client)
            outbox = client.push(endpoint, "device-1", LIMIT_MS if role in ADMITS[purpose] else 0)
            with outbox:
                if role in ADMITS[purpose]:
                    outbox.send_multipart(ping(role))
                    assert inbox.poll(LIMIT_MS)
                    message = decode(inbox.recv_multipart(copy=False))
                    assert message.header == Ping(role, 1)
                else:
                    eventually(lambda at=client: at.trouble(endpoint) is not None, "the refusal", LIMIT_S)  # type: ignore[misc]
                    with pytest.raises(zmq.Again):
                        outbox.send_multipart(ping(role))
                    assert said(caplog, purpose, f"node {role} from 127.0.0.1 is refused", f"its role is {role}")
                    assert said(caplog, f"node device-1 at {endpoint}: it refuses this node's key or role")
        assert not inbox.poll(0)


def test_a_stranger_gets_nothing_and_is_named_once_on_both_sides(
    folder: Path, tmp_path: Path, factories: list[SocketFactory], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("nodes.outlet.RETRY_S", 0.05)
    stranger = new_key(tmp_path / "own", "edge-1", Role.EDGE)
    allow(tmp_path / "own", "cloud-1", Keyring(folder, "cloud-1", Role.CLOUD).public.decode(), Role.CLOUD)
    server = SocketFactory(zmq.Context(), keyring=Keyring(folder, "cloud-1", Role.CLOUD))
    client = SocketFactory(zmq.Context(), keyring=Keyring(tmp_path / "own", "edge-1", Role.EDGE))
    factories += [server, client]
    inbox, endpoint = server.pull(ANY)
    directory = Directory({"cloud-1": Endpoints(frames=endpoint)})
    with inbox, Outlet("edge-1", client, directory) as outlet:
        outlet.measure("cloud-1", Message(Ping("edge-1", 1)))
        eventually(lambda: client.trouble(endpoint) is not None, "the refusal", LIMIT_S)
        for _ in range(40):  # tries again and again, with new sockets
            outlet.measure("cloud-1", Message(Ping("edge-1", 1)))
            threading.Event().wait(0.01)
        assert not inbox.poll(0)
        refused = [record for record in caplog.records if stranger.key in record.getMessage()]
        assert len([record for record in refused if "from 127.0.0.1 is not allowed" in record.getMessage()]) == 1
        assert len([record for record in refused if "refuses this node's key" in record.getMessage()]) == 1
        # The operator does as the log says: the same two processes go on, without a new start.
        allow(folder, "edge-1", stranger.key, Role.EDGE, replace=True)

        def came() -> bool:
            outlet.measure("cloud-1", Message(Ping("edge-1", 1)))
            return bool(inbox.poll(20))

        eventually(came, "a message once the key is allowed", LIMIT_S)
        eventually(lambda: client.trouble(endpoint) is None, "the end of the trouble", LIMIT_S)


@pytest.mark.parametrize("case", ["no keys", "keys where there are none", "another key of the server"])
def test_what_does_not_fit_is_told_to_both(
    folder: Path, tmp_path: Path, factories: list[SocketFactory], caplog: pytest.LogCaptureFixture, case: str
) -> None:
    keys = {"server": Keyring(folder, "cloud-1", Role.CLOUD), "client": Keyring(folder, "edge-1", Role.EDGE)}
    if case == "another key of the server":
        new_key(tmp_path / "other", "cloud-1", Role.CLOUD)
        keys["server"] = Keyring(tmp_path / "other", "cloud-1", Role.CLOUD)
    server = SocketFactory(zmq.Context(), keyring=None if case.startswith("keys") else keys["server"])
    client = SocketFactory(zmq.Context(), keyring=None if case == "no keys" else keys["client"])
    factories += [server, client]
    inbox, endpoint = server.pull(ANY)
    expected = {
        "no keys": ("it came without keys", "it has keys and this node has none"),
        "keys where there are none": ("it has keys and this node has none", "it runs without keys"),
        "another key of the server": ("it expects another key of this node", "not the one in allowed.toml"),
    }[case]
    with inbox, client.push(endpoint, "cloud-1"):
        eventually(lambda: said(caplog, "turned away", "127.0.0.1", expected[0]), "word on the server", LIMIT_S)
        eventually(lambda: said(caplog, f"at {endpoint}", expected[1]), "word on the client", LIMIT_S)
        assert not inbox.poll(0)


def test_an_undeliverable_frame_says_that_the_key_is_refused(folder: Path, factories: list[SocketFactory]) -> None:
    server = SocketFactory(zmq.Context(), keyring=Keyring(folder, "device-1", Role.DEVICE))
    client = SocketFactory(zmq.Context(), keyring=Keyring(folder, "tile", Role.TILE))
    factories += [server, client]
    inbox, endpoint = server.pull(ANY, Purpose.RESULTS)
    directory = Directory({"device-1": Endpoints(tiles=endpoint), "nobody": Endpoints(tiles=endpoint)})
    with inbox, Outlet("tile", client, directory) as outlet:

        def refused() -> bool:
            with pytest.raises(Undeliverable) as caught:
                outlet.send_tile("device-1", Message(Ping("tile", 1)), wait=False)
            return "refuses this node's key or role" in str(caught.value)

        eventually(refused, "the reason", LIMIT_S)
        with pytest.raises(Undeliverable, match=f"not named in .*{ALLOWED}"):
            outlet.send_tile("nobody", Message(Ping("tile", 1)))


def test_a_node_cannot_speak_for_another_on_a_data_socket(folder: Path, factories: list[SocketFactory]) -> None:
    server = SocketFactory(zmq.Context(), keyring=Keyring(folder, "cloud-1", Role.CLOUD))
    client = SocketFactory(zmq.Context(), keyring=Keyring(folder, "edge-1", Role.EDGE))
    factories += [server, client]
    inbox, endpoint = server.pull(ANY)

    def frame(node: str) -> list[wire.Buffer]:
        hops = (Hop("camera"), Hop(node))
        return wire.encode(Message(FrameHeader("camera", "model", 1, 0, 0, 2, 1, (), hops)))

    with inbox, client.push(endpoint, "cloud-1", LIMIT_MS) as outbox:
        for parts, is_own in (
            (ping("edge-1"), True),
            (ping("edge"), False),
            (frame("edge-1"), True),
            (frame("x"), False),
        ):
            outbox.send_multipart(parts)
            assert inbox.poll(LIMIT_MS)
            received = inbox.recv_multipart(copy=False)
            if is_own:
                decode(received)
            else:
                with pytest.raises(WireError, match="message of node edge-1: says that it is from"):
                    decode(received)


def test_a_device_cannot_put_frames_into_the_stream_of_another(folder: Path, factories: list[SocketFactory]) -> None:
    deployment = Deployment(keys=folder)
    with deployment.scheduler() as address:
        try:
            edge = deployment.node(Tier.EDGE, address)
            deployment.node(Tier.CLOUD, address)
            device = deployment.device(address)
            deployment.run(device, 5)
            forger = SocketFactory(zmq.Context(), keyring=Keyring(folder, "device", Role.DEVICE))
            factories.append(forger)
            endpoint = device.directory.frames("edge-1")
            model = deployment.model.captured.graph.fingerprint
            header = FrameHeader("camera", model, 1, 5, 0, 1, 1, (), (Hop("device"),))
            with forger.push(endpoint, "edge-1", LIMIT_MS) as outbox:
                outbox.send_multipart(wire.encode(Message(header)))
                eventually(lambda: edge.loop.links.refused["not its frame"] == 1, "the refusal", LIMIT_S)
        finally:
            deployment.stop()
    deployment.check(5)


class Heard:
    """A core that keeps what it is given."""

    def __init__(self) -> None:
        self.nodes: list[str] = []

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Note who reported."""
        if isinstance(event, ReportReceived):
            self.nodes.append(event.report.node)
        return []


def test_a_node_cannot_report_for_another_nor_as_another_tier(
    folder: Path, factories: list[SocketFactory], caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = SocketFactory(zmq.Context(), keyring=Keyring(folder, "scheduler", Role.SCHEDULER))
    factories.append(scheduler)
    inbox, reports = scheduler.subscriber(ANY, bind=True)
    outbox, plans = scheduler.publisher(ANY, bind=True)
    heard, stop = Heard(), threading.Event()
    service = threading.Thread(target=SchedulerService(heard, inbox, outbox).run, args=(stop, 0.05))
    service.start()
    address = SchedulerAddress(reports, plans)
    agents = []
    for own, role, name, tier in (
        ("edge-1", Role.EDGE, "edge-1", Tier.EDGE),
        ("edge", Role.EDGE, "cloud-1", Tier.EDGE),
        ("tile", Role.TILE, "tile", Tier.CLOUD),
    ):
        factory = SocketFactory(zmq.Context(), keyring=Keyring(folder, own, role))
        factories.append(factory)
        agent = Agent(Identity(name, tier, "model", Endpoints()), lambda bare: bare, lambda command: None, 0.05)
        agent.start(factory, address)
        agents.append(agent)
    try:
        eventually(lambda: said(caplog, "report of node edge", "says that it is from 'cloud-1'"), "one forger", LIMIT_S)
        eventually(lambda: said(caplog, "report of node tile", "says cloud", "its key is for tile"), "another", LIMIT_S)
        eventually(lambda: len(heard.nodes) > 2, "the honest node's reports", LIMIT_S)
        assert set(heard.nodes) == {"edge-1"}
    finally:
        for agent in agents:
            agent.stop()
        stop.set()
        service.join()


def test_a_node_that_is_taken_out_of_the_list_is_cut_off_and_the_others_come_back(
    folder: Path, factories: list[SocketFactory]
) -> None:
    server, gone, kept = (SocketFactory(zmq.Context(), keyring=Keyring(folder, each, role)) for each, role in [
        ("cloud-1", Role.CLOUD), ("edge", Role.EDGE), ("edge-1", Role.EDGE)])  # fmt: skip
    factories += [server, gone, kept]
    inbox, endpoint = server.pull(ANY)
    with inbox, gone.push(endpoint, "cloud-1", LIMIT_MS) as his, kept.push(endpoint, "cloud-1", LIMIT_MS) as hers:
        for outbox in (his, hers):
            outbox.send_multipart(ping("hello"))
            assert inbox.poll(LIMIT_MS)
            inbox.recv_multipart()
        remove(folder, "edge")
        eventually(lambda: gone.trouble(endpoint) is not None, "the refusal", LIMIT_S)
        his.setsockopt(zmq.SNDTIMEO, 0)
        with pytest.raises(zmq.Again):
            his.send_multipart(ping("edge"))
        hers.send_multipart(ping("edge-1"))
        assert inbox.poll(LIMIT_MS)
        sender = sender_of(inbox.recv_multipart(copy=False)[-1])
        assert sender is not None
        assert sender.node == "edge-1"


def test_a_device_cannot_publish_plans(folder: Path, factories: list[SocketFactory]) -> None:
    """A node listens to the one that holds the scheduler's key: a device in its place is not heard."""
    impostor = SocketFactory(zmq.Context(), keyring=Keyring(folder, "device", Role.DEVICE))
    node = SocketFactory(zmq.Context(), keyring=Keyring(folder, "edge-1", Role.EDGE))
    factories += [impostor, node]
    outbox, plans = impostor.publisher(ANY, bind=True)
    inbox, _ = node.subscriber(plans, bind=False)
    with outbox, inbox:

        def found_out() -> bool:
            outbox.send_multipart([b"edge-1\0", b"plan"])
            return node.trouble(plans) is not None

        eventually(found_out, "the handshake's failure", LIMIT_S)
        assert not inbox.poll(0)


@pytest.mark.parametrize("with_keys", [True, False], ids=["keys", "no keys"])
def test_nothing_crosses_in_the_clear(folder: Path, with_keys: bool) -> None:
    """Every connection of a deployment through a capture; without keys the same words are found."""
    with Tap() as tap:
        deployment = Deployment(keys=folder if with_keys else None, via=tap.before)
        deployment.plan = plan_of(deployment.model.captured.graph, "*", NAMES, "input,second")
        with deployment.scheduler() as address:
            try:
                deployment.node(Tier.EDGE, address)
                deployment.node(Tier.CLOUD, address)
                deployment.run(deployment.device(address), 20)
            finally:
                deployment.stop()
        deployment.check(20)
        assert tap.nbytes > 20 * 768
        fingerprint = deployment.model.captured.graph.fingerprint
        words = [b"camera", b"edge-1", b"announcement", b"report", b"tensors", fingerprint.encode()]
        pictures = [waiting(number, deployment.model).picture.numpy().tobytes()[:256] for number in range(20)]
        for secret in (*words, *pictures):
            assert tap.has_seen(secret) is not with_keys, secret[:40]


def test_without_keys_a_node_keeps_to_itself(
    folder: Path, factories: list[SocketFactory], caplog: pytest.LogCaptureFixture
) -> None:
    plain = SocketFactory(zmq.Context())
    factories.append(plain)
    for endpoint in ("tcp://0.0.0.0:*", "tcp://*:*", "tcp://localhost.example.org:5"):
        with pytest.raises(NodeError, match="there are no keys"):
            plain.pull(endpoint)
    assert not caplog.records
    insecure = SocketFactory(zmq.Context(), insecure=True)
    assert said(caplog, "INSECURE", "nothing is encrypted")
    keyed = SocketFactory(zmq.Context(), keyring=Keyring(folder, "cloud-1", Role.CLOUD))
    factories += [insecure, keyed]
    for factory in (insecure, keyed):
        socket, _ = factory.pull("tcp://0.0.0.0:*")
        socket.close()


def test_a_flood_of_strangers_neither_fills_the_log_nor_memory() -> None:
    once, now = Once(), time.monotonic()
    told = sum(once.is_new(("10.0.0.1", number), now) for number in range(10_000))
    assert told == LINES
    assert once.is_new("somebody else", now + WINDOW_S)
    for number in range(10_000):
        once.is_new(number, now + WINDOW_S * (number + 2))
    assert len(once._seen) == MAX_REMEMBERED


def test_a_deployment_without_a_scheduler_in_its_keys_is_told(tmp_path: Path) -> None:
    new_key(tmp_path, "edge-1", Role.EDGE)
    with pytest.raises(KeysError, match="0 nodes with the role scheduler"):
        _ = Keyring(tmp_path, "edge-1", Role.EDGE).scheduler
