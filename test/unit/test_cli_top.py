"""The live view: what it shows of sessions, and what it says where there is nothing to see."""

import io

import pytest
from rich.console import Console

from rrto_ros.cli.top import Rates, short, view

SESSION = {
    "session": "ab" * 16, "label": "", "program": "/usr/bin/python3 /home/me/node.py --rate 3",
    "pid": 77, "device": "cpu", "server": "", "mode": "replay", "phase": "replaying", "error": "",
    "duration_s": 3725.0, "calls_unsupported": 3,
    "unsupported": [{"name": "cuTexRefCreate", "count": 3}], "calls": [],
    "round_trips": 1300, "bytes_sent": 5_000_000, "bytes_received": 100_000,
    "last_wait_ms": 1.5, "median_wait_ms": 2.5, "plans": 2, "sequence_calls": 1234,
    "sequence_repetitions": 1009, "inferences": 1010, "divergences": 4, "hit_rate": 0.987,
    "inference_bytes_sent": 12_496.0, "inference_bytes_received": 88.0,
    "inference_round_trips": 1.0, "last_inference_ms": 15.25, "median_inference_ms": 17.75,
    "speculation_exchanges_saved": 2021, "speculation_rollbacks": 6,
}  # fmt: skip
RECORDER = {
    "node": "/robot/recorder_replayer", "kind": "recorder_replayer", "state": "active",
    "mode": "replay", "device": "", "server_state": "connected", "messages_refused": 0,
    "last_refusal": "", "sessions": [SESSION], "server_name": "",
}  # fmt: skip
SERVER = {
    **RECORDER, "node": "/robot/offload_server", "kind": "offload_server", "state": "running",
    "mode": "", "device": "cpu", "server_state": "",
    "sessions": [{**SESSION, "phase": "on the server"}],
}  # fmt: skip


def text_of(statuses, rates=None, ages=None, width=160):
    out = io.StringIO()
    Console(file=out, width=width).print(view(statuses, rates or Rates(), ages, width))
    return out.getvalue()


def test_a_replayed_session_is_shown_with_all_that_matters():
    text = text_of([RECORDER, SERVER])
    for part in (
        "/robot/recorder_replayer: active, mode replay, server connected, 1 sessions",
        "/robot/offload_server: running, device cpu",
        "python3 node.py --rate 3", "pid 77, 1:02:05", "replaying", "replay on cpu",
        "1,234 calls, of 2 known", "1,009 times", "98.7%", "4 divergences",
        "12.5 kB sent, 88 B received", "1 round trips", "15.25 ms last", "17.75 ms median",
        "cuTexRefCreate 3", "2,021 saved, 6 rollbacks",
    ):  # fmt: skip
        assert part in text, part
    assert "on the server" not in text, "a session is shown once, as the recorder knows it"


def test_without_a_recorder_the_sessions_are_those_of_the_server():
    text = text_of([SERVER])
    assert "recorder: not seen" in text
    assert "on the server" in text


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_a_session_without_a_sequence_shows_its_waits(mode):
    session = {**SESSION, "mode": mode, "phase": "recording", "plans": 0, "inferences": 0,
               "hit_rate": 0.0, "sequence_calls": 0}  # fmt: skip
    text = text_of([{**RECORDER, "sessions": [session]}, SERVER])
    assert ("none yet" in text) == (mode == "replay")
    assert "5.0 MB sent, 100.0 kB received in all" in text
    assert "1,300 round trips" in text
    assert "2.50 ms median of a wait" in text


def test_rates_come_from_two_looks():
    rates = Rates()
    rates.look([SESSION])
    assert rates.of(SESSION["session"]) is None
    later = {**SESSION, "duration_s": 3727.0, "inferences": 1040, "round_trips": 1330}
    rates.look([later])
    assert rates.of(SESSION["session"]) == (15.0, 15.0)
    rates.look([later])
    assert rates.of(SESSION["session"]) == (15.0, 15.0), "the same status says nothing new"
    assert "1,009 times, 15.0/s" in text_of([{**RECORDER, "sessions": [later]}, SERVER], rates)
    rates.look([])
    assert rates.of(SESSION["session"]) is None


def test_a_node_that_fell_silent_and_a_lost_session_catch_the_eye():
    lost = {**SESSION, "phase": "lost", "error": "the server [cpu] is gone"}
    text = text_of([{**RECORDER, "sessions": [lost]}, SERVER], ages=[12.3, 0.0], width=200)
    assert "(silent for 12 s)" in text
    assert text.count("silent") == 1
    assert "the server [cpu] is gone" in text


def test_what_to_do_is_told_when_no_program_runs():
    assert "rrto run" in text_of([{**RECORDER, "sessions": []}, SERVER])


def test_a_narrow_terminal_folds_and_loses_nothing():
    text = text_of([RECORDER, SERVER], width=70)
    assert max(map(len, text.splitlines())) <= 70
    assert "cuTexRefCreate 3" in text
    assert "15.25 ms last" in text


def test_programs_are_shown_without_folders():
    assert short("/usr/bin/python3 /home/me/node.py /data/a b") == "python3 node.py /data/a b"
    assert short("") == ""
    assert short("/") == "/"


def test_several_servers_and_where_a_session_is_are_told_by_name():
    session = {**SESSION, "server": "west"}
    east, west = ({**SERVER, "server_name": name} for name in ("east", "west"))
    text = text_of([east, west, {**RECORDER, "sessions": [session]}], ages=[0.0, 12.0, 0.0])
    assert "/robot/offload_server east: running" in text
    assert "/robot/offload_server west: running, device cpu, 1 sessions (silent for 12 s)" in text
    assert "replay on cpu of west" in text
