"""Tiles: two workers beside one, unequal workers beside the ideal, our choice of stacks beside the choices of others.

The edge node is this process, with one torch thread; every further worker is a process of its own, as `anabranch
tile` starts it. A frame's time is from the stage's input to the merged output: splitting, packing, both transfers,
computing and merging are in it. Layouts are measured in turns of a few frames; a figure is the median of the turns'
ratios.

Beside it stands what the machine allows: two untiled copies at once over one alone, and the two workers' tiles computed
at once with nothing sent. What is lost between the rows is lost to the machine, to the halo, and to the transfers.

With `mbps` and `delay_ms`, two workers are joined by emulated links instead, and our layout also stands there with
every strip computed in one go: what it gains that the rows that others lack are computed, and cross, first.
"""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec
import torch

from nodes.bench._ceiling import Job, bystanders, computing_s, jobs_of, together
from nodes.bench._crew import TURN, Between, Site, convolutional_end, interleaved, neighbours, ratio, site
from nodes.bench.report import Bar, BenchReport, Cell, tell
from nodes.tiles.layout import Layout, TiledStep
from pipeline.errors import ConfigError, PlanError
from pipeline.model.capture import CapturedModel
from pipeline.model.spec import load_model
from pipeline.tiling.analysis import analysis_of
from pipeline.tiling.crew import Crew
from pipeline.tiling.fuse import (
    StackChoice,
    equal_strips,
    fuse_everything,
    merge_every_layer,
    waists_between,
)
from pipeline.tiling.halo import halo_overhead
from pipeline.tiling.regions import equal_shares
from pipeline.tiling.search import choose_stacks

SPECS = {
    "alexnet": "pytorchcv.models.alexnet:alexnet",
    "vgg16": "pytorchcv.models.vgg:vgg16",
    "resnet18": "pytorchcv.models.resnet:resnet18",
    "darknet53": "pytorchcv.models.darknet53:darknet53",
    "inceptionv4": "pytorchcv.models.inceptionv4:inceptionv4",
    "darknet53-416": "nodes.bench._networks:darknet53_416",
    "darknet53-608": "nodes.bench._networks:darknet53_608",
}

TABLED = ("alexnet", "vgg16", "resnet18", "darknet53", "inceptionv4")
"""Those whose halo is tabulated."""

MEASURED = ("vgg16", "darknet53", "darknet53-416", "darknet53-608")
GRIDS = ((2, 1), (4, 1), (2, 2), (3, 3), (4, 4))
DEPTHS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the convolutional part's operations up to which the halo table fuses."""

UNEQUAL = (0.5, 0.25, 0.125)
"""Speeds of 1, 1/2 and 1/4, all at half of this machine's, so that three processes fit on two cores."""

ONE_GO = "ours, strips in one go"

LAYERS = "merge every layer (MoDNN)"

RIVALS: dict[str, Callable[..., StackChoice]] = {
    "fuse everything (DeepThings)": fuse_everything,
    LAYERS: merge_every_layer,
    "equal strips (D3)": equal_strips,
}
ROUNDS = 7
MIN_SPEED_UP = 1.7
MAX_OVER_IDEAL = 1.1


def run(
    networks: str = ",".join(MEASURED),
    tabled: str = ",".join(TABLED),
    rounds: int = ROUNDS,
    mbps: float = 0.0,
    delay_ms: float = 0.0,
) -> BenchReport:
    """Measure, and tabulate the halo.

    Args:
        networks: some of `SPECS`, by comma: those whose convolutional part is measured.
        tabled: likewise those of the halo table.
        rounds: turns of each layout that count.
        mbps: of emulated links between two workers, each way; 0 measures over this machine's loopback.
        delay_ms: of these links, one way.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, Cell]] = []
    bars: list[Bar] = []
    try:
        for spec in _specs(networks):
            if mbps:
                tell(f"{spec}: two workers behind links")
                _apart(spec, rounds, Between(1e6 * mbps, 1e-3 * delay_ms), rows, bars)
                continue
            tell(f"{spec}: two workers")
            _even(spec, rounds, rows, bars)
            tell(f"{spec}: unequal workers")
            _uneven(spec, rounds, rows, bars)
        for spec in _specs(tabled):
            tell(f"{spec}: halo")
            rows.extend(_halo(load_model(spec).captured))
    finally:
        torch.set_num_threads(before)
    notes = [
        f"medians of {rounds} turns of {TURN} frames; one torch thread per process; random weights; lossless tiles"
    ]
    return BenchReport("tiles", rows, bars, notes)


def _specs(names: str) -> list[str]:
    chosen = names.split(",") if names else []
    if unknown := set(chosen) - set(SPECS):
        raise ConfigError(
            f"networks {', '.join(sorted(unknown))}", "not measured here", f"known are {', '.join(SPECS)}"
        )
    return [SPECS[name] for name in chosen]


def _even(spec: str, rounds: int, rows: list[dict[str, Cell]], bars: list[Bar]) -> None:
    """Two workers of this machine's full speed."""
    with site(spec, (1.0, 1.0)) as here:
        name = here.captured.graph.name
        ours = here.settle(rounds)
        layouts = {"one worker": here.stage.maker.alone(ours.crew[0]), "ours": ours, **_rivals(here)}
        with neighbours() as others:
            times = interleaved(here, layouts, rounds)
            rows.extend(_ceiling(spec, here, {name: layouts[name] for name in ("ours", LAYERS)}, rounds))
        _report(f"{name}, 2 workers", ours, layouts, times, (rows, bars))
        rows.append(_meanwhile(f"{name}, 2 workers", others))
    bars.append(Bar(f"{name}: one worker / two", ratio(times["one worker"], times["ours"]), MIN_SPEED_UP, "min"))


def _apart(spec: str, rounds: int, between: Between, rows: list[dict[str, Cell]], bars: list[Bar]) -> None:
    """Two workers of this machine's full speed, joined by emulated links."""
    with site(spec, (1.0, 1.0), between) as here:
        label = f"{here.captured.graph.name}, {between.rate_bps / 1e6:g} Mbit/s, {between.delay_s * 1e3:g} ms"
        ours = here.settle(rounds)
        layouts = {"one worker": here.stage.maker.alone(ours.crew[0]), "ours": ours, **_rivals(here)}
        layouts[ONE_GO] = here.prepare(in_one_go(ours))
        times = interleaved(here, layouts, rounds)
        _report(label, ours, layouts, times, (rows, bars))
    if ours.early:
        bars.append(Bar(f"{label}: {ONE_GO} / ours", ratio(times[ONE_GO], times["ours"]), 1.0, "min"))


def in_one_go(layout: Layout) -> Layout:
    """The same strips, none of them with its edges first."""
    tasks = {
        worker: tuple(msgspec.structs.replace(task, early=False) for task in own)
        for worker, own in layout.tasks.items()
    }
    chains = {
        number: replace(chain, links=tuple(map(_link_in_one_go, chain.links)))
        for number, chain in layout.chains.items()
    }
    steps = tuple(_link_in_one_go(step) if isinstance(step, TiledStep) else step for step in layout.steps)
    return replace(layout, order=secrets.randbits(60), tasks=tasks, steps=steps, chains=chains)


def _link_in_one_go(link: TiledStep) -> TiledStep:
    return replace(link, parts=tuple(replace(part, early=False) for part in link.parts))


def _ceiling(spec: str, here: Site, layouts: Mapping[str, Layout], rounds: int) -> list[dict[str, Cell]]:
    """What two processes on this machine can do at best, and what a tile does not save of it; nothing is sent.

    A merge behind every layer leaves no halo: what that loses, tiles lose by their size alone.
    """
    whole: list[Job] = [(here.captured.graph.cuts[0].name, here.end.name, None)]
    crew = layouts["ours"].crew
    tiles_s: dict[str, list[float]] = {name: [] for name in layouts}
    with bystanders(spec, len(crew)) as processes:
        alone_s, both_s = [], []
        for _ in range(3):
            [[alone]] = together(processes[:1], [whole], rounds)
            alone_s.append(alone)
            both_s.append(max(seconds for [seconds] in together(processes, [whole] * len(processes), rounds)))
            for name, layout in layouts.items():
                found = together(processes, [jobs_of(layout, worker) for worker in crew], rounds)
                tiles_s[name].append(computing_s(layout, dict(zip(crew, found, strict=True))))
    label, count = f"{here.captured.graph.name}, 2 processes, nothing sent", len(crew)
    rows: list[dict[str, Cell]] = [
        {"what": label, "layout": "untiled, one alone", "frame_ms": _ms(alone_s), "speed-up": 1.0},
        {"what": label, "layout": "untiled, one in each at once", "frame_ms": _ms(both_s),
         "speed-up": round(count * ratio(alone_s, both_s), 2)},
    ]  # fmt: skip
    for name, seconds in tiles_s.items():
        speed_up = round(ratio(alone_s, seconds), 2)
        rows.append({"what": label, "layout": f"{name}, at once", "frame_ms": _ms(seconds), "speed-up": speed_up})
    return rows


def _ms(seconds: Sequence[float]) -> float:
    return round(1e3 * statistics.median(seconds), 1)


def _uneven(spec: str, rounds: int, rows: list[dict[str, Cell]], bars: list[Bar]) -> None:
    """Workers of unequal speeds: beside the ideal for their shares, as far as that can be measured beside them."""
    with site(spec, UNEQUAL) as here:
        name = here.captured.graph.name
        ours = here.settle(rounds)
        alone = here.stage.maker.alone(ours.crew[0])
        layouts = {"one worker": alone, "ours": ours, **_rivals(here)}
        with neighbours() as others:
            times = interleaved(here, layouts, rounds)
        _report(f"{name}, speeds 1, 1/2, 1/4", ours, layouts, times, (rows, bars))
        rows.append(_meanwhile(f"{name}, speeds 1, 1/2, 1/4", others))
        ideal, modelled = _ideal(spec, ours, rounds), _modelled_ideal(here, ours)
    shares = [ours.work_s(worker) for worker in ours.crew]
    over = ratio(times["ours"], times["one worker"]) / ideal
    rows.append({
        "what": f"{name}: shares", "layout": ", ".join(f"{share / sum(shares):.0%}" for share in shares),
        "ideal / one worker": round(ideal, 3), "modelled": round(modelled, 3), "over ideal": round(over, 3),
    })  # fmt: skip
    bars.append(Bar(f"{name}: frame / ideal for the shares", over, MAX_OVER_IDEAL, "max"))


def _meanwhile(label: str, others: Sequence[float]) -> dict[str, Cell]:
    """How busy everybody else kept the machine: what a figure is worth."""
    return {"what": label, "layout": "other processes", "cores": round(others[0], 2)}


def _ideal(spec: str, layout: Layout, rounds: int) -> float:
    """Of one worker's time, what a frame takes if nothing but computing does: every tile by itself, as it is measured.

    Tiles and untiled frame run in one process and in turns, at this machine's speed; slower workers take as many times
    as long as they are slower. The crew is the edge node and then the workers, the fastest first, as `UNEQUAL` is.
    """
    whole: list[Job] = [(layout.pieces[0][0].name, layout.pieces[-1][1].name, None)]
    slowness = [UNEQUAL[0] / speed for speed in UNEQUAL]
    found = []
    with bystanders(spec, 1) as process:
        for _ in range(3):
            [[alone_s]] = together(process, [whole], rounds)
            seconds = {}
            for worker, slower in zip(layout.crew, slowness, strict=True):
                [own] = together(process, [jobs_of(layout, worker)], rounds)
                seconds[worker] = [slower * each for each in own]
            found.append(computing_s(layout, seconds) / alone_s)
    return statistics.median(found)


def _modelled_ideal(here: Site, layout: Layout) -> float:
    """The same by the times of blocks that the layout was chosen by."""
    speeds = {worker: speed / UNEQUAL[0] for worker, speed in zip(layout.crew, UNEQUAL, strict=True)}
    return layout.ideal_s(speeds) / sum(here.stage.maker.times.block_s.values())


def _rivals(here: Site) -> dict[str, Layout]:
    conditions = here.conditions()
    crew = conditions.model(here.stage.maker.times)
    start = here.captured.graph.cuts[0]
    found = {}
    for name, choose in RIVALS.items():
        choice = choose(here.captured, start, here.end, crew)
        found[name] = here.prepare(here.stage.maker.of_choice(conditions, choice))
    return found


def _report(
    label: str,
    ours: Layout,
    layouts: dict[str, Layout],
    times: dict[str, list[float]],
    into: tuple[list[dict[str, Cell]], list[Bar]],
) -> None:
    rows, bars = into
    for name, layout in layouts.items():
        rows.append({
            "what": label, "layout": name, "stacks": layout.merges,
            "frame_ms": _ms(times[name]),
            "speed-up": round(ratio(times["one worker"], times[name]), 2),
        })  # fmt: skip
        if name in RIVALS and layout.pieces != ours.pieces:
            bars.append(Bar(f"{label}: {name} / ours", ratio(times[name], times["ours"]), 1.0, "min"))


def _halo(captured: CapturedModel) -> list[dict[str, Cell]]:
    """Work computed twice, by depth and grid, everything from the picture to a cut as one fused stack."""
    graph, start, end = captured.graph, captured.graph.cuts[0], convolutional_end(captured)
    cuts = [
        cut
        for cut in waists_between(captured, start, end)[1:]
        if analysis_of(captured).why_no_stack(start, cut) is None
    ]
    work = {cut.name: sum(block.flops for block in graph.between(start, cut)) for cut in cuts}
    rows = []
    for depth in DEPTHS:
        cut = min(cuts, key=lambda each: abs(work[each.name] - depth * work[end.name]))
        row: dict[str, Cell] = {
            "what": f"{graph.name}: halo",
            "fused until": cut.name,
            "depth": f"{work[cut.name] / work[end.name]:.0%}",
        }
        for down, across in GRIDS:
            try:
                extra = halo_overhead(captured, start, cut, equal_shares(down), equal_shares(across))
                row[f"{down}x{across}"] = f"{extra:.0%}"
            except PlanError:  # fewer rows or columns than tiles
                row[f"{down}x{across}"] = None
        rows.append(row)
    return [*rows, *_chosen(captured)]


def _chosen(captured: CapturedModel) -> list[dict[str, Cell]]:
    """The stacks that the system chooses for equal workers at 50 GFLOP/s each and 1 Gbit/s."""
    graph = captured.graph
    block_s = {block.name: block.flops / 50e9 for block in graph.blocks}
    rows: list[dict[str, Cell]] = []
    for count in (2, 4):
        choice = choose_stacks(captured, graph.cuts[0], convolutional_end(captured), Crew((1.0,) * count, block_s))
        tiled = [piece for piece in choice.pieces if piece.tiles > 1]
        rows.append({
            "what": f"{graph.name}: chosen for {count}", "stacks": len(tiled),
            "merges": sum(not piece.stack.chained for piece in tiled),
            "fused until": ", ".join(piece.end.name for piece in tiled),
        })  # fmt: skip
    return rows
