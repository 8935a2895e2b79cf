"""Which links a simulated node keeps figures of."""

from __future__ import annotations

from scheduler.simulate.links import Pipe, SimulatedLink, Watch
from scheduler.simulate.peers import Peers
from scheduler.timing import MAX_PEERS, MAX_STRANGERS
from traces.trace import Trace


def link(number: int) -> SimulatedLink:
    name = f"device-{number}"
    return SimulatedLink(name, "edge-1", Pipe(Trace.constant(1e6)), 0.01, Watch(name))


def names(peers: Peers) -> set[int]:
    return {int(name.rpartition("-")[2]) for name in peers.links}


def test_the_strangers_heard_of_last_are_kept() -> None:
    peers, links = Peers(), [link(number) for number in range(MAX_STRANGERS + 3)]
    for each in links:
        peers.expect(each)
    assert names(peers) == set(range(MAX_STRANGERS)), "a message on its way takes nobody's place"
    for each in links:
        each.watch.finished(5000, 1.0)
        peers.heard(each)
    assert names(peers) == set(range(3, MAX_STRANGERS + 3))
    assert links[2].take(2.0).bytes_total == 0, "forgotten"
    assert links[3].take(2.0).bytes_total == 5000
    assert links[2].watch.bytes_total == 5000, "the record counts it all the same"


def test_named_peers_are_not_pushed_out_by_strangers() -> None:
    peers, links = Peers(), [link(number) for number in range(MAX_PEERS + 60)]
    for each in links[:5]:
        peers.heard(each)
    peers.learn([each.source for each in links[:MAX_PEERS]])
    for each in links:
        peers.heard(each)
    assert names(peers) == {*range(MAX_PEERS), *range(MAX_PEERS + 60 - MAX_STRANGERS, MAX_PEERS + 60)}
    peers.learn([links[-1].source])
    assert names(peers) == {*range(1, MAX_PEERS), *range(MAX_PEERS + 60 - MAX_STRANGERS, MAX_PEERS + 60)}
    assert len(peers.links) == MAX_PEERS + MAX_STRANGERS - 1
