"""Sums over sessions and their table."""

import io

from rich.console import Console

from rrto_ros.api.runtime_tables import VALIDITY_REFUSED
from rrto_ros.cli.summary import counts, human_bytes, report, summary_table

SESSION = {
    "session": "00" * 16, "label": "x", "program": "p", "pid": 3, "device": "cpu",
    "mode": "batched", "phase": "closed", "error": "", "duration_s": 1.0, "calls_local": 10,
    "calls_async": 5, "calls_sync": 2, "calls_unsupported": 1,
    "unsupported": [{"name": "cuFoo", "count": 1}],
    "calls": [{"name": "cuLaunchKernel", "count": 5}, {"name": "cuInit", "count": 1}],
    "round_trips": 2, "batches": 3, "messages_sent": 4, "messages_received": 5,
    "messages_resent": 0, "messages_refused": 0, "bytes_sent": 2500, "bytes_received": 100,
    "blob_bytes_saved": 0, "wait_s": 0.25, "last_wait_ms": 1.0, "median_wait_ms": 1.0,
}  # fmt: skip


def test_totals_are_sums_and_calls_are_counted_by_name():
    other = {**SESSION, "calls": [{"name": "cuInit", "count": 2}], "unsupported": [], "wait_s": 1}
    result = report(["prog"], 0, 2.0, [SESSION, other], True)
    total = result["totals"]
    assert total["calls_async"] == 10
    assert total["wait_s"] == 1.25
    assert total["calls"] == {"cuLaunchKernel": 5, "cuInit": 3}
    assert total["unsupported"] == {"cuFoo": 1}
    assert total["sessions"] == 2
    assert result["sessions"][0]["calls"] == {"cuLaunchKernel": 5, "cuInit": 1}


def test_what_can_be_done_about_a_refusal_is_said_where_it_came_up():
    refused = {**SESSION, "unsupported": [{"name": VALIDITY_REFUSED, "count": 3}]}
    text = " ".join(text_of(report(["prog"], 1, 2.0, [refused], True)).split())
    assert f"{VALIDITY_REFUSED} (3 x)" in text
    assert "rrto run --cuda-runtime" in text
    assert "licence terms" in text
    assert "--cuda-runtime" not in text_of(report(["prog"], 1, 2.0, [SESSION], True))


def text_of(result):
    out = io.StringIO()
    Console(file=out, width=200).print(summary_table(result))
    return out.getvalue()


def test_the_table_names_unsupported_calls_errors_and_missing_reports():
    asked = [*SESSION["unsupported"], {"name": "cuBar: [flag] 4", "count": 2}]
    lost = {**SESSION, "error": "the server [cpu] is gone", "unsupported": asked}
    text = text_of(report(["prog"], 1, 2.0, [lost], False))
    parts = ("cuFoo 1", "cuBar: [flag] 4 (2 x)", "the server [cpu] is gone", "not all reports",
             "2 in 3 batches")  # fmt: skip
    for part in parts:
        assert part in text


def test_a_program_without_driver_calls_has_a_table_too():
    text = text_of(report(["prog"], 0, 2.0, [], True))
    assert "0 (none)" in text


def test_counts_are_sorted_by_frequency():
    entries = [{"name": "a", "count": 1}, {"name": "b", "count": 5}, {"name": "a", "count": 2}]
    assert list(counts(entries).items()) == [("b", 5), ("a", 3)]


def test_bytes_are_readable():
    assert [human_bytes(n) for n in (0, 999, 1500, 2_500_000, 3e9)] == [
        "0 B", "999 B", "1.5 kB", "2.5 MB", "3.00 GB",
    ]  # fmt: skip
