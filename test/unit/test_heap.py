"""Memory that was freed goes back to the system when a session ends."""

import json
import subprocess
import sys

PROGRAM = """
import json, threading
from rrto_ros.heap import give_back

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def work():
    kept = [bytes([1]) * 100_000 for _ in range(1500)]
    peak.append(resident())
    kept.clear()

peak = []
give_back()
start = resident()
for _ in range(3):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
before = resident()
gave = give_back()
print(json.dumps([start, max(peak), before, resident(), gave]))
"""


def test_what_a_thread_freed_is_given_back_although_malloc_is_told_to_keep_it():
    from rrto_ros.bringup.environment import NODE_DEFAULTS

    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60,
        env={**NODE_DEFAULTS, "PYTHONPATH": ":".join(sys.path)},
    ).stdout  # fmt: skip
    start, peak, before, after, gave = json.loads(said)
    assert peak - start > 100 << 20
    assert before - start > 50 << 20, "malloc keeps nothing here, so this test says nothing"
    assert gave
    assert after - start < 20 << 20
