"""What `rrto evaluate` keeps, shows and compares, from runs that are made up here."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from rrto_ros.errors import ConfigError
from rrto_ros.evaluation.charts import cumulative, stacked, ticks
from rrto_ros.evaluation.comparison import cautions, compare
from rrto_ros.evaluation.figures import markdown, notes, share, table
from rrto_ros.evaluation.report import page
from rrto_ros.evaluation.results import FILE, Results, Settings, opened, read, unequal
from rrto_ros.evaluation.runner import Plan, Stop
from rrto_ros.evaluation.watching import LEAST_STEADY, Output, Seen, Wanted, sampled, steady

MODES = ["local", "rpc", "replay"]


def settings(**other):
    values = {
        "program": ["prog", "--a <b>"], "link": "80mbit-4ms", "link_origin": "constant",
        "link_digest": "1234", "modes": MODES, "device": "cpu", "latency_pattern": "(x)",
        "compare_output": True,
    }  # fmt: skip
    return Settings(**{**values, **other})


def run(mode, number, ms=10.0, **other):
    session = {
        "mode": mode, "error": "", "round_trips": 50, "bytes_sent": 9000, "inferences": 0,
        "inference_bytes_sent": 0, "inference_bytes_received": 0, "inference_round_trips": 0,
    }  # fmt: skip
    steady_ = {"bytes_sent": 100.0, "bytes_received": 20.0, "round_trips": 9.0,
               "wait_s": 0.004, "seconds": 0.01, "inferences": 20}  # fmt: skip
    return {
        "mode": mode, "round": number, "failed": "", "told_ms": [500.0, ms, 1.1 * ms, 1.2 * ms],
        "sampled_ms": [], "steady": steady_, "seconds": 2.0, "first_s": 0.5,
        "results": "same", "program_cpu_s": 0.4, "recorder_cpu_s": 0.2, "load": 1.0,
        "program_memory_kb": 50_000, "recorder_memory_kb": 100_000, "wire_up": 70_000,
        "wire_down": 8000, "complete": True, "sessions": [session], **other,
    }  # fmt: skip


def results(rounds=3, factor=1.0, **other):
    ms = {"local": 5.0, "rpc": 40.0, "replay": 10.0}
    runs = [
        run(mode, number, factor * ms[mode] * (1 + 0.01 * number * (place + 1)))
        for number in range(rounds)
        for place, mode in enumerate(MODES)
    ]
    return Results(settings(**other), runs, {"cores": 2}, {"rrto_ros": "1"})


def test_an_evaluation_goes_on_with_what_is_left(tmp_path):
    kept = results(1)
    kept.runs.pop()
    kept.runs.append(run("replay", 0, failed="ended with 1: no"))
    kept.write(tmp_path)
    again = opened(tmp_path, settings(), again=False)
    # What failed is tried again.
    assert Plan(2, 1.0, ()).left(again) == [
        ("replay", 0), ("rpc", 1), ("replay", 1), ("local", 1),
    ]  # fmt: skip
    assert opened(tmp_path, settings(), again=True).runs == []
    assert Plan(1, 1.0, ()).left(results(1)) == []


def test_other_settings_in_a_folder_are_refused_by_name(tmp_path):
    results(1).write(tmp_path)
    with pytest.raises(ConfigError) as refused:
        opened(tmp_path, settings(device="null", link="loopback", link_digest="x"), again=False)
    said = str(refused.value)
    for part in ("device 'cpu', now 'null'", "link '80mbit-4ms', now 'loopback'", "--again"):
        assert part in said
    assert "digest" not in said
    with pytest.raises(ConfigError, match="link_digest"):
        opened(tmp_path, settings(link_digest="x"), again=False)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "runs": 3}'])
def test_a_file_that_has_no_results_is_named(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match=FILE):
        read(tmp_path)


def test_the_file_has_everything(tmp_path):
    results(2).write(tmp_path)
    body = json.loads((tmp_path / FILE).read_text())
    assert set(body) == {"format", "settings", "runs", "on", "versions"}
    assert read(tmp_path / FILE) == results(2)


def test_outputs_that_differ_are_told():
    found = results(2)
    assert unequal(found) == []
    found.runs[4]["results"] = "other"
    assert unequal(found) == ["rpc, round 2"]
    assert any("differs" in note and "rpc, round 2" in note for note in notes(found))
    found.settings = settings(compare_output=False)
    assert unequal(found) == []


def test_the_table_has_medians_of_the_rounds_and_leaves_out_what_is_not_known():
    head, *rows = table(results(3))
    by = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert by["rpc"]["latency, median, ms"] == "44.9"  # the second of 44, 44.88, 45.76
    assert by["rpc"]["bytes up per inference, B"] == "100"
    # What a session hands to a place on the robot does not cross the link.
    assert by["local"]["bytes up per inference, B"] == "-"
    assert by["local"]["link's bytes up, B"] == "70,000"
    loopback = results(1)
    for one in loopback.runs:
        del one["wire_up"], one["wire_down"]
    assert not any("link's" in title for title in table(loopback)[0])
    assert "| replay |" in markdown(results(1))


def test_shares_are_values_that_were_measured():
    assert share([3.0, 1.0, 2.0], 0.5) == 2.0
    assert share([1.0], 0.99) == 1.0
    assert share([float(n) for n in range(1, 101)], 0.95) == 95.0


class Strict(HTMLParser):
    """Counts open elements, and keeps what a page would load."""

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset")]
        if tag in ("script", "link", "img", "iframe"):
            self.loads.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_well_formed_and_needs_nothing_else():
    text = page(results(2))
    reader = Strict()
    reader.feed(text)
    assert reader.open == []
    assert reader.loads == []
    assert "url(" not in text
    assert "@import" not in text
    assert text.count("<svg") == 8
    assert "--a &lt;b&gt;" in text
    for part in text.split("<svg")[1:]:
        ET.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")


def test_a_report_of_a_program_that_tells_nothing_has_the_whole_programs_time():
    found = results(2)
    for one in found.runs:
        one.update(told_ms=[], steady={})
    text = page(found)
    assert "Time of the whole program" in text
    assert "not known" in text
    assert "latency" not in " ".join(table(found)[0])


def test_pictures_without_values_are_left_out():
    assert cumulative({"a": []}, "ms") == ""
    assert stacked({"a": {}}, "ms") == ""
    ET.fromstring(cumulative({"a": [1.0], "b": [1.0, 1.0]}, "ms"))
    ET.fromstring(cumulative({"a": [0.1, 5.0, 900.0]}, "ms"))
    ET.fromstring(stacked({"a": {"x & y": 0.0}}, "ms"))


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(("low", "high"), [(0.3, 7), (1, 1.5), (0.001, 0.9), (3, 90_000)])
def test_an_axis_has_a_few_ticks_within_it(low, high, wide):
    found = ticks(low, high, wide=wide)
    assert 1 <= len(found) <= 30
    assert all(low <= value <= high for value in found)


def test_a_difference_counts_if_it_is_larger_than_the_spread():
    before, after = results(3), results(3, 1.5)
    by = {(one.mode, one.measure.name): one for one in compare(before, after)}
    latency = by["replay", "latency_median"]
    assert latency.ratio == pytest.approx(1.5, rel=0.1)
    assert latency.counts
    assert latency.over(30)
    assert not latency.over(60)
    assert not by["replay", "seconds"].counts
    # All modes are slower alike: within a round nothing has changed.
    within = by["replay : rpc", "latency_median"]
    assert within.ratio == pytest.approx(1, rel=0.05)
    assert not within.counts
    noisy = results(3, 1.05)
    noisy.runs[2]["told_ms"] = [1.0, 900.0, 900.0, 900.0]
    by = {(one.mode, one.measure.name): one for one in compare(before, noisy)}
    assert not by["replay", "latency_median"].counts


def test_a_single_round_proves_nothing():
    assert not any(one.counts for one in compare(results(1), results(1, 3.0)))


def test_what_else_differs_is_told_and_nothing_in_common_is_refused():
    other = results(2, device="null")
    other.versions = {"rrto_ros": "2"}
    said = cautions(results(2), other)
    assert any("device 'cpu', now 'null'" in text for text in said)
    assert any("rrto_ros 1, now 2" in text for text in said)
    with pytest.raises(ConfigError, match="no mode in common"):
        compare(results(1), Results(settings(modes=["batched"])))


@pytest.mark.parametrize(
    ("factor", "limit", "code"), [(1.5, "20", 1), (1.5, "80", 0), (1, "0", 0)]
)
def test_the_command_fails_where_it_is_told_to(tmp_path, factor, limit, code):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, one in zip(folders, (1.0, factor), strict=True):
        results(3, one).write(folder)
    done = subprocess.run(
        [sys.executable, "-m", "rrto_ros.cli.main", "compare", *folders, "--fail-over", limit],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "replay : rpc" in done.stdout
    assert ("times as much" in done.stderr) == bool(code)


def wanted(**other):
    return Wanted(
        **{"mode": "rpc", "command": [], "environment": {}, "label": "", "timeout_s": 1, **other}
    )


def test_times_are_taken_from_the_output_and_do_not_count_as_results():
    digests = []
    for ms in ("1.5", "27"):
        output = Output(0.0)
        output.take("hello\n", wanted(latency="took (.*) ms"))
        assert output.first_s is None
        output.take(f"took {ms} ms, found 3\n", wanted(latency="took (.*) ms"))
        assert output.latencies_ms == [float(ms)]
        assert output.first_s > 0
        digests.append(output.results.hexdigest())
    assert digests[0] == digests[1]
    output = Output(0.0)
    output.take("took 1.5 ms, found 4\n", wanted(result="found .*"))
    other = Output(0.0)
    other.take("took 9 ms, found 4\n", wanted(result="found .*"))
    assert output.results.hexdigest() == other.results.hexdigest()


def seen(at_s, told, count):
    session = {
        "bytes_sent": 1000 + 100 * told, "bytes_received": 10 * told, "wait_s": 0.001 * told,
        "round_trips": 2 * told, "inferences": count, "last_inference_ms": 3.0,
    }  # fmt: skip
    return Seen(at_s, told, session)


def test_an_inference_is_the_difference_of_two_statuses():
    found = steady([seen(1.0, 0, 0), seen(2.0, 10, 9), seen(3.0, 20, 9), seen(4.0, 30, 29)])
    # What the start sent is not in it.
    assert found["bytes_sent"] == 100
    assert found["round_trips"] == 2
    assert found["seconds"] == pytest.approx(0.1)
    assert steady([seen(1.0, 0, 0), seen(1.1, LEAST_STEADY - 1, 0)]) == {}
    assert steady([]) == {}
    assert sampled([seen(1, 0, 0), seen(2, 0, 4), seen(3, 0, 4), seen(4, 0, 5)]) == [3.0, 3.0]


def test_who_wants_no_more_ends_what_begins_later_too():
    calls = []
    stop = Stop()
    stop.ask()
    assert stop.asked
    stop.ends(lambda: calls.append(1))
    stop.ask()
    assert len(calls) == 2
