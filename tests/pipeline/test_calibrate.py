"""The calibration table as a file, its intervals, and the measuring behind it."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from pipeline.calibrate import VERSION, Calibration, Entry, Estimate, PairEntry
from pipeline.errors import ConfigError, ModelMismatch, UnknownCut
from pipeline.frames.preprocess import Preprocess
from pipeline.model.capture import capture
from pipeline.model.picture import PictureModel
from pipeline.model.spec import LoadedModel
from pipeline.packing.campaign import PART, Job, calibrate
from pipeline.packing.choice import family, select_codecs, select_cuts
from pipeline.packing.confidence import paired_drop, share
from pipeline.packing.measure import Settings

EXACT = Estimate(1.0, 0.9, 1.0)
FEW = ("fp32", "q8", "q4", "q4-lz4", "e20", "t-q4", "jpeg85")


class Tiny(nn.Module):
    """Two convolutions and a classifier, with cuts of fewer elements than the picture has."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 4, 1)
        self.second = nn.Conv2d(8, 16, 3, 2, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    torch.manual_seed(1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    preprocess = Preprocess(size=(64, 64), resize=64)
    model = PictureModel(Tiny().eval().requires_grad_(False), preprocess)
    loaded = LoadedModel(capture(model, model.example(), "tiny"), preprocess, tuple("abcde"), "tiny")
    torch.set_num_threads(before)
    return loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of coloured waves, with labels of which some are right."""
    path = tmp_path_factory.mktemp("pictures")
    rows, columns = np.mgrid[:70, :80]
    for number in range(10):
        waves = [np.sin(rows / (3 + number + c) + columns / (9 - number / 2)) * 100 + 128 for c in range(3)]
        Image.fromarray(np.stack(waves, 2).astype(np.uint8)).save(path / f"{number}.png")
    with (path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "class"), *((f"{n}.png", "abcde"[n % 5]) for n in range(10))])
    return path


def job(folder: Path, out: Path, **changes: object) -> Job:
    made = Job(str(folder), out, batch=4, pairs=3, bound=1.0, settings=Settings(codecs=FEW))
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def table(tiny: LoadedModel, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    return calibrate(tiny, job(folder, tmp_path_factory.mktemp("out") / "tiny.calibration"))


def entry(cut: str, codec: str, nbytes: float, drop: float) -> Entry:
    estimate = Estimate(drop, drop - 0.01, drop + 0.01)
    return Entry(cut, codec, 100, nbytes, nbytes * 1.1, 1e-3, 2e-3, 30.0, Estimate(0.9, 0.8, 0.95), estimate)


def small_table() -> Calibration:
    entries = (entry("a", "q4", 100, 0.01), entry("b", "q4", 50, 0.02), entry("b", "e20", 20, 0.03))
    pair = PairEntry("a", "q4", "b", "q4", 100, 25.0, EXACT, Estimate(0.025, 0.0, 0.05))
    return Calibration("f" * 64, "tiny", "here", 100, True, EXACT, entries, (pair,), {"c": "cut a is smaller"})


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "t.calibration"
    small_table().save(path)
    assert Calibration.load(path, "f" * 64) == small_table()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_table_of_another_model_is_refused(tmp_path: Path) -> None:
    small_table().save(tmp_path / "t")
    with pytest.raises(ModelMismatch, match="made for model ffffffffffff, not 000000000000"):
        Calibration.load(tmp_path / "t", "0" * 64)


@pytest.mark.parametrize("damage", ("", "{}", "[]", '{"version": 1}', "\x00", '{"version": "x"}'))
def test_a_damaged_table_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / "t").write_text(damage)
    with pytest.raises(ConfigError, match="calibration"):
        Calibration.load(tmp_path / "t", "f" * 64)
    with pytest.raises(ConfigError, match="calibration"):
        Calibration.load(tmp_path / "absent", "f" * 64)


def test_a_table_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(msgspec.json.encode({"version": VERSION + 1, "new": 1}))
    with pytest.raises(ConfigError, match=f"version {VERSION + 1}, not {VERSION}; make it anew"):
        Calibration.load(tmp_path / "t", "f" * 64)


def test_lookups() -> None:
    found = small_table()
    assert found.bytes("a", "q4") == (100, 100 * 1.1)
    assert (found.encode_s("b", "e20"), found.decode_s("b", "e20")) == (1e-3, 2e-3)
    assert found.drop("b", "q4").value == 0.02
    assert found.has("a", "q4") and not found.has("a", "e20")
    with pytest.raises(ConfigError, match="cut c: cut a is smaller"):
        found.drop("c", "q4")


def test_pairs_are_as_measured_or_the_sum() -> None:
    found = small_table()
    assert found.drop_pair(("a", "q4"), ("b", "q4")).value == 0.025
    summed = found.drop_pair(("a", "q4"), ("b", "e20"))
    assert (summed.value, summed.low, summed.high) == pytest.approx((0.04, 0.02, 0.06))


def test_without_labels_the_loss_is_the_disagreement() -> None:
    loss = msgspec.structs.replace(entry("a", "q4", 1, 0.0), drop=None).loss
    assert (loss.value, loss.low, loss.high) == pytest.approx((0.1, 0.05, 0.2))


@given(st.integers(1, 1000), st.data())
def test_wilson_interval_holds_the_share(count: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, count))
    found = share(hits, count)
    assert 0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1
    if hits == count:
        assert found.low == pytest.approx(count / (count + 1.959964**2))


def test_wilson_interval_of_a_known_case() -> None:
    found = share(8, 10)
    assert found.low == pytest.approx(0.4902, abs=1e-4) and found.high == pytest.approx(0.9433, abs=1e-4)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 400))
def test_paired_interval_holds_the_drop_and_mirrors(lost: int, won: int, rest: int) -> None:
    count = lost + won + rest + 1
    found, mirrored = paired_drop(lost, won, count), paired_drop(won, lost, count)
    assert found.low <= found.value + 1 / count and found.value - 1 / count <= found.high
    assert found.low == pytest.approx(-mirrored.high) and found.high == pytest.approx(-mirrored.low)


def test_paired_interval_covers_what_it_promises() -> None:
    """Of many draws with 2 % lost and 1 % won, about 95 % of the intervals hold the true drop of one point."""
    draws = np.random.default_rng(3).multinomial(500, (0.02, 0.01, 0.97), size=2000)
    found = [paired_drop(int(lost), int(won), 500) for lost, won, _ in draws]
    covered = sum(estimate.low <= 0.01 <= estimate.high for estimate in found) / len(found)
    assert 0.935 <= covered <= 0.975


def test_cuts_that_no_plan_would_choose_are_left_out(tiny: LoadedModel) -> None:
    graph = tiny.captured.graph
    kept, skipped = select_cuts(graph)
    names = [cut.name for cut in kept]
    assert names[0] == "input" and "output" not in names
    assert set(names) | set(skipped) | {"output"} == {cut.name for cut in graph.cuts}
    assert all(skipped.values())


def test_codecs_are_chosen_by_tensor(tiny: LoadedModel) -> None:
    graph = tiny.captured.graph
    cut = graph.cuts[1]
    plain, ordered = select_codecs(graph, cut, False), select_codecs(graph, cut, True)
    assert {"fp32", "q4", "q4-lz4", "e20"} <= set(plain) and not any(name.startswith("t-") for name in plain)
    assert set(ordered) > set(plain) and {"t-q4", "t-e20"} <= set(ordered) - set(plain)
    assert {"jpeg85", "webp85", "fp32"} <= set(select_codecs(graph, graph.cuts[0], True))
    assert (family("q3ca-zstd"), family("q4-lz4"), family("t-q4")) == ("q3ca", "q4", "t-q4")


def test_every_cut_and_codec_is_measured_on_every_frame(table: Calibration, tiny: LoadedModel) -> None:
    assert table.fingerprint == tiny.captured.graph.fingerprint and table.labelled and table.frames == 10
    assert table.accuracy is not None and table.accuracy.value == pytest.approx(round(table.accuracy.value, 1))
    assert set(table.by_cut["input"]) == {"fp32", "jpeg85"}
    for cut, by_codec in table.by_cut.items():
        if cut != "input":
            assert set(by_codec) == set(FEW) - {"jpeg85"}
    for found in table.entries:
        assert found.frames == 10 and 0 < found.bytes_p50 <= found.bytes_p95
        assert found.encode_s > 0 and found.decode_s > 0 and found.drop is not None


def test_exact_codecs_change_nothing_and_coarse_ones_do(table: Calibration) -> None:
    for cut, by_codec in table.by_cut.items():
        assert by_codec["fp32"].agreement.value == 1 and by_codec["fp32"].loss.value == 0
        assert (by_codec["fp32"].snr_db or math.inf) > 90
        if cut != "input":
            coarse, fine = by_codec["q4"].snr_db, by_codec["q8"].snr_db
            assert coarse is not None and fine is not None and coarse + 10 < fine
            assert by_codec["q4-lz4"].snr_db == coarse
            assert by_codec["q4-lz4"].bytes_p50 <= by_codec["q4"].bytes_p50


def test_pairs_are_nested_and_worse_than_each_of_their_links(table: Calibration, tiny: LoadedModel) -> None:
    graph = tiny.captured.graph
    assert 1 <= len(table.pairs) <= 3
    for pair in table.pairs:
        assert graph.cut(pair.first_cut).before(graph.cut(pair.second_cut)) and pair.frames == 10
        single = table.entry(pair.second_cut, pair.second_codec).snr_db
        assert pair.snr_db is not None and (single is None or pair.snr_db < single + 3)


class Stopped(Exception):
    """Stands for Ctrl-C."""


def test_it_can_be_stopped_and_goes_on(tiny: LoadedModel, folder: Path, tmp_path: Path, table: Calibration) -> None:
    work = job(folder, tmp_path / "t.calibration")

    def stop_at(frames: int) -> None:
        def progress(done: int, what: str) -> None:
            if done >= frames:
                raise Stopped

        with pytest.raises(Stopped):
            calibrate(tiny, work, progress)
        assert (tmp_path / f"t.calibration{PART}").exists() and not work.out.exists()

    stop_at(4)
    stop_at(8)
    done: list[int] = []
    found = calibrate(tiny, work, lambda count, what: done.append(count))
    assert done[0] == 8 and not (tmp_path / f"t.calibration{PART}").exists()
    for one, other in zip(found.entries, table.entries, strict=True):
        if not one.codec.startswith("t-"):
            assert (one.cut, one.codec, one.bytes_p50, one.drop) == (
                other.cut,
                other.codec,
                other.bytes_p50,
                other.drop,
            )
    assert found.pairs == table.pairs


def test_an_unfinished_run_of_another_job_is_not_mixed_in(tiny: LoadedModel, folder: Path, tmp_path: Path) -> None:
    def stop(done: int, what: str) -> None:
        if done:
            raise Stopped

    work = job(folder, tmp_path / "t")
    with pytest.raises(Stopped):
        calibrate(tiny, work, stop)
    with pytest.raises(ConfigError, match=r"another model, source or choice of codecs; delete its \.part file"):
        calibrate(tiny, dataclasses.replace(work, settings=Settings(codecs=("q8",))))
    (tmp_path / f"t{PART}").write_bytes(b"\xc1")
    with pytest.raises(ConfigError, match="delete it"):
        calibrate(tiny, work)


def test_labels_of_ones_own(tiny: LoadedModel, folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "mine.csv"
    labels.write_text("filename,class\n" + "".join(f"{n}.png,{n % 5}\n" for n in range(9)))
    work = job(folder, tmp_path / "t", labels=labels, pairs=0, settings=Settings(codecs=("q8",)))
    assert not calibrate(tiny, work).labelled
    assert calibrate(tiny, dataclasses.replace(work, limit=9)).labelled
    labels.write_text("filename,class\n0.png,zebra\n")
    with pytest.raises(ConfigError, match="'zebra'"):
        calibrate(tiny, work)
    with pytest.raises(ConfigError, match="not there"):
        calibrate(tiny, dataclasses.replace(work, labels=tmp_path / "absent.csv"))


def test_unknown_cuts_are_refused(tiny: LoadedModel, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownCut, match="nowhere"):
        calibrate(tiny, job(folder, tmp_path / "t", settings=Settings(cuts=("nowhere",))))
