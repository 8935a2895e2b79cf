"""Trace files: every format read and written, every real file, and broken files named with their line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import DATA, needs_data
from tests.traces.strategies import millisecond_traces, traces
from traces.errors import TraceError
from traces.formats import FORMATS, ReadOptions, detect_format, parse_traces, read_trace, read_traces, write_trace
from traces.trace import Trace

FILES = sorted(path for path in (DATA / "traces").glob("*/*") if path.is_file())
EXPECTED_FORMAT = {
    **dict.fromkeys(("norway_hsdpa", "fcc_broadband", "puffer", "lumos5g"), "columns"),
    **dict.fromkeys(("ucc_5g", "starlink", "wifi_walk"), "csv"),
    **{"mahimahi": "mahimahi", "oboe": "oboe"},
}


def one(text: str, options: ReadOptions | None = None) -> Trace:
    (trace,) = parse_traces(text, "file", options)
    return trace


# --- the real files -------------------------------------------------------------------------------------------------


@needs_data
def test_there_are_27_real_files() -> None:
    assert len(FILES) == 27


@needs_data
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name[:20]}")
def test_every_real_file_reads_with_sane_rates(path: Path) -> None:
    assert detect_format(path.read_text(), path.name) == EXPECTED_FORMAT[path.parent.name]
    for trace in read_traces(path):
        assert trace.duration_s >= 90
        assert 1e5 < trace.mean_bps < 1e9
        assert trace.peak_bps < 2.5e9


@needs_data
def test_mahimahi_capacity_is_its_number_of_lines() -> None:
    for path in (DATA / "traces" / "mahimahi").iterdir():
        lines = path.read_text().split()
        trace = read_trace(path)
        assert trace.total_bits == pytest.approx(len(lines) * 12000)
        assert trace.duration_s == int(lines[-1]) / 1000
        # By any millisecond, as much has passed as mahimahi would have let pass.
        for at_ms in (1, 500, 60_001, 119_999):
            allowed = sum(int(line) <= at_ms for line in lines) * 12000
            assert trace.bits_between(0.0, at_ms / 1000) == pytest.approx(allowed, abs=1.0)


@needs_data
def test_starlink_is_cut_into_its_drives() -> None:
    drives = read_traces(DATA / "traces" / "starlink" / "tcp_downlink_mobility.csv")
    assert len(drives) == 33 and [len(drive.starts_s) for drive in drives[:4]] == [1200, 1198, 1199, 300]
    assert drives[3].name == "tcp_downlink_mobility.csv#4"
    assert read_trace(DATA / "traces" / "starlink" / "tcp_downlink_mobility.csv", part=4).duration_s == 300
    with pytest.raises(TraceError, match="holds 10 runs; give #1 to #10"):
        read_trace(DATA / "traces" / "starlink" / "udp_uplink_mobility.csv", part=11)


@needs_data
def test_named_columns_of_a_real_table() -> None:
    path = DATA / "traces" / "ucc_5g" / "Download_Static_B_2020.02.14_13.21.26.csv"
    down, up = read_trace(path), read_trace(path, ReadOptions(rate_column="UL_bitrate"))
    assert up.mean_bps < 0.05 * down.mean_bps
    with pytest.raises(TraceError, match="no column 'Bandwidth'; its columns: Timestamp, Longitude"):
        read_trace(path, ReadOptions(rate_column="Bandwidth"))


# --- meaning --------------------------------------------------------------------------------------------------------


def test_mahimahi_by_hand() -> None:
    trace = one("0\n2\n2\n5\n")
    assert trace.duration_s == 0.005
    passed = [trace.bits_between(0.0, at / 1000) / 12000 for at in range(6)]
    assert passed == pytest.approx([0, 1, 3, 3, 3, 4])


def test_two_columns_of_uneven_steps() -> None:
    trace = one("# a comment\n1.0\t8\n\n2.0 4\n5.0   1\n")
    assert trace.starts_s.tolist() == [0, 1, 4] and trace.rates_bps.tolist() == [8e6, 4e6, 1e6]
    assert trace.duration_s == 4 + 2  # the last step is as long as the median one


def test_oboe_pairs() -> None:
    trace = one("100 500\n1100 500\n1200 900\n2000 900\n")
    assert trace.starts_s.tolist() == pytest.approx([0, 1.1]) and trace.rates_bps.tolist() == [5e5, 9e5]
    assert trace.duration_s == pytest.approx(1.9)


def test_bytes_per_second_without_a_header() -> None:
    trace = one("1,1000000\r\n2,0\r\n3,0\r\n4,500000\r\n")
    assert trace.rates_bps.tolist() == [8e6, 0, 0, 4e6] and trace.duration_s == 4


def test_doubled_times_are_averaged_and_missing_ones_filled() -> None:
    text = "Timestamp,DL_bitrate\n2019.12.14_10.16.30,100\n2019.12.14_10.16.31,200\n2019.12.14_10.16.31,400\n"
    trace = one(text + "2019.12.14_10.16.32,-\n2019.12.14_10.16.34,50\n")
    assert trace.starts_s.tolist() == [0, 1, 4] and trace.rates_bps.tolist() == [1e5, 3e5, 5e4]


@pytest.mark.parametrize(
    ("header", "row", "rate_bps"),
    [
        ("time,throughput", "1,5", 5e6),
        ("time_ms,rate_kbps", "1000,5", 5e3),
        ("t [s];Throughput (kbit/s)", "1;5", 5e3),
        ("elapsed\tbandwidth_bps", "1\t5", 5.0),
        ("time,speed,goodput_gbps", "1,9,5", 5e9),
        ("time,rssi,Mbps", "1,-70,5", 5e6),
        ("timestamp,lat,bytes", "1700000001,50.1,5", 40.0),
        ("date,rate (B/s)", "2024-01-01T00:00:01Z,5", 40.0),
    ],
)
def test_units_and_columns_from_the_header(header: str, row: str, rate_bps: float) -> None:
    separator = next(mark for mark in ",;\t" if mark in header)
    second = separator.join([{"1": "2", "1000": "2000"}.get(row.split(separator)[0], ""), *row.split(separator)[1:]])
    second = second if second[0] != separator else second.replace(separator, f"1700000002{separator}", 1)
    if "T00" in row:
        second = row.replace("00:00:01", "00:00:02")
    trace = one(f"{header}\n{row}\n{second}\n")
    assert trace.rates_bps.tolist() == [rate_bps, rate_bps] and trace.duration_s == 2


def test_options_override_what_is_found() -> None:
    text = "a,b,c\n1,2,3\n2,4,6\n"
    options = ReadOptions(time_column="a", rate_column="3", rate_unit="kbit/s", time_unit="min", max_gap_s=600)
    trace = one(text, options)
    assert trace.rates_bps.tolist() == [3e3, 6e3] and trace.duration_s == 120
    logged = one("0 1 7 9\n1 1 7 5\n", ReadOptions(format="csv", time_column="1", rate_column="4"))
    assert logged.rates_bps.tolist() == [9e6, 5e6]


def test_a_gap_begins_another_run() -> None:
    runs = parse_traces("time,throughput\n0,1\n1,2\n100,3\n101,4\n", "log")
    assert [run.name for run in runs] == ["log#1", "log#2"]
    assert [run.rates_bps.tolist() for run in runs] == [[1e6, 2e6], [3e6, 4e6]]


# --- round trips ----------------------------------------------------------------------------------------------------


@given(traces(loop=True), st.sampled_from(["csv", "oboe"]))
def test_csv_and_oboe_come_back_as_they_were(trace: Trace, format: str) -> None:
    back = one(FORMATS[format].write(trace), ReadOptions(format=format, max_gap_s=1e6))
    assert back.starts_s == pytest.approx(trace.starts_s, rel=1e-9, abs=1e-9)
    assert back.rates_bps == pytest.approx(trace.rates_bps, rel=1e-12)
    assert back.duration_s == pytest.approx(trace.duration_s, rel=1e-9)


@given(traces(loop=True))
def test_two_columns_come_back_but_for_the_length_of_the_last_step(trace: Trace) -> None:
    back = one(FORMATS["columns"].write(trace), ReadOptions(format="columns", max_gap_s=1e6))
    count = len(trace.starts_s)
    assert back.starts_s[:count] == pytest.approx(trace.starts_s)
    assert back.rates_bps[:count] == pytest.approx(trace.rates_bps, rel=1e-12)
    assert (back.rates_bps[count:] == back.rates_bps[count - 1]).all()


@given(millisecond_traces())
def test_mahimahi_comes_back_where_it_can_tell_the_trace(trace: Trace) -> None:
    back = one(FORMATS["mahimahi"].write(trace), ReadOptions(format="mahimahi"))
    assert back.duration_s == trace.duration_s
    at_s = np.arange(round(trace.duration_s * 1000) + 1) / 1000.0
    once, again = trace.looping(False), back.looping(False)
    assert again.bits_between(0.0, at_s) == pytest.approx(once.bits_between(0.0, at_s), abs=1.0)


@given(traces(loop=True, some_capacity=True).filter(lambda trace: trace.total_bits < 1e8 and trace.duration_s < 60))
def test_mahimahi_is_never_more_than_a_packet_off(trace: Trace) -> None:
    back = one(FORMATS["mahimahi"].write(trace), ReadOptions(format="mahimahi"))
    assert back.duration_s == pytest.approx(trace.duration_s, abs=0.0005)
    assert back.total_bits == pytest.approx(trace.total_bits, abs=12001)


@pytest.mark.parametrize("suffix", [".csv", ".down", ".txt", ".oboe", ".csv.gz"])
def test_files_by_suffix(tmp_path: Path, suffix: str) -> None:
    trace = Trace(np.array([0.0, 1.0, 2.0]), np.array([2.4e6, 1.2e6, 3.6e6]), 3.0)
    path = write_trace(trace, tmp_path / f"trace{suffix}")
    back = read_trace(path)
    assert back.name == path.name and back.duration_s == pytest.approx(3.0)
    assert back.bits_between(0.0, np.arange(4.0)) == pytest.approx(trace.bits_between(0.0, np.arange(4.0)), abs=12001)


# --- broken files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "condition"),
    [
        ("1\n2\nx\n", 3, "not a whole number"),
        ("1\n2\n-3\n", 3, "not a whole number"),
        ("1\n5\n\n4\n", 4, "backward"),
        ("1\n99999999999999\n", 2, "not a whole number"),
        ("0 1\n1 2\n2\n", 3, "not two columns"),
        ("0 1\n1 two\n", 2, "rate 'two' is not a number"),
        ("0 1\n1 nan\n", 2, "not finite"),
        ("0 1\n1 -2\n", 2, "negative"),
        ("0 1\n2 1\n1 1\n", 3, "backward"),
        ("# c\n\ntime,throughput\n0,1\n1\n", 5, "only 1 of its columns"),
        ("time,throughput\n0,1\n1,fast\n", 3, "not a number"),
        ("time,throughput\n0,1\nnoon,2\n", 3, "time 'noon' is not a number"),
        ("time,throughput\n2024-01-01 00:00:00,1\nnoon,2\n", 3, "neither a number nor a date"),
        ("name,throughput\nx,1\n", 1, "looks like a time; name one of: name, throughput"),
        ("time,colour\n1,1\n", 1, "looks like a throughput"),
        ("1,2,3\n", 1, "3 columns and no header"),
        ("hello\nworld\n", 1, "like no known format"),
        ("1 2 3\n", 1, "like no known format"),
    ],
)
def test_a_broken_line_is_named(text: str, line: int, condition: str) -> None:
    with pytest.raises(TraceError, match=condition) as caught:
        parse_traces(text, "log.txt")
    assert caught.value.line == line and str(caught.value).startswith(f"log.txt, line {line}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# only a comment\n", "time,throughput\n", "time,throughput\n1,-\n", "0\n0\n"]
)
def test_files_that_hold_nothing(text: str) -> None:
    with pytest.raises(TraceError, match=r"empty|no sample|all opportunities"):
        parse_traces(text, "log.txt")


def test_oboe_that_is_not_in_pairs() -> None:
    options = ReadOptions(format="oboe")
    for text, line in (("0 5\n100 5\n200 7\n", 3), ("0 5\n100 6\n", 2)):
        with pytest.raises(TraceError, match=f"line {line}"):
            parse_traces(text, "pairs", options)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00", b"1\n\xff\xfe\n", b"1\n2\0\n"])
def test_files_that_are_no_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.down"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"not UTF-8 text|zero bytes"):
        read_traces(path)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(TraceError, match="cannot be read"):
            read_traces(path)
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"1\n2\n")[:-9])
    with pytest.raises(TraceError, match="cannot be read"):
        read_traces(broken)


@given(st.text(max_size=200))
def test_no_text_does_worse_than_a_trace_error(text: str) -> None:
    for format in (None, *FORMATS):
        try:
            parsed = parse_traces(text, "fuzz", ReadOptions(format=format))
        except TraceError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert all(trace.duration_s > 0 for trace in parsed)


def test_unknown_names() -> None:
    with pytest.raises(TraceError, match=r"format 'pcap': is unknown; use one of mahimahi"):
        parse_traces("1\n", "x", ReadOptions(format="pcap"))
    with pytest.raises(TraceError, match="rate unit 'furlong'"):
        parse_traces("0 1\n", "x", ReadOptions(rate_unit="furlong"))
    with pytest.raises(TraceError, match="cannot be told"):
        FORMATS["mahimahi"].write(Trace.constant(0.0, 2.0))
