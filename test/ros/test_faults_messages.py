"""Bad messages on the real topics: lost, doubled, swapped, replayed, malformed, oversized."""

import pytest
from support.rig import START_S, said

RESULT = {}


def digest(rig, robot=None, *, timeout_s=120):
    """Digest of all results of a short inference loop."""
    program = rig.program("infer.py", "20", "--count", "40000", robot=robot)
    answer = said(program, timeout_s, done=True)
    assert program.wait(20) == 0
    return answer["digest"]


def undisturbed(rig):
    """What the results are without interference (the program compares them with NumPy)."""
    if "digest" not in RESULT:
        RESULT["digest"] = digest(rig)
    return RESULT["digest"]


@pytest.mark.parametrize(
    ("drop", "double", "swap"),
    [(0.1, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 0.3), (0.05, 0.1, 0.15)],
    ids=["lost", "doubled", "out of order", "all at once"],
)
def test_messages_that_the_network_mistreats_change_no_result(rig, drop, double, swap):
    """A relay between the topics of two robot names drops, doubles and swaps messages."""
    rig.both("cpu", recorder={"max_message_bytes": 16384})
    expected = undisturbed(rig)
    far = rig.robot + "far"
    rig.server("cpu", robot=far)
    near = rig.robot + "near"
    rig.recorder(robot=near, max_message_bytes=16384)
    relay = rig.helper("relay.py", near, far, 7, drop, double, swap)
    said(relay, START_S, relaying=True)
    assert digest(rig, near) == expected
    relay.close_input()
    counts = said(relay, up=...)
    for name, share in (("dropped", drop), ("doubled", double), ("swapped", swap)):
        assert (counts["up"][name] + counts["down"][name] > 0) == (share > 0), counts


@pytest.mark.parametrize(
    ("command", "discovery"),
    [
        *((one, "LOCALHOST") for one in ("unknown", "oversized", "far", "old", "replay")),
        *((one, "LOCALHOST") for one in ("garbage_ahead", "acknowledge")),
        (
            "oversized",
            "SUBNET",
        ),  # a node with ROS's own transports reaches ours, large messages too
    ],
)
def test_a_message_that_cannot_be_right_is_refused_and_disturbs_nobody(rig, command, discovery):
    rig.variables["ROS_AUTOMATIC_DISCOVERY_RANGE"] = discovery
    server, recorder = rig.both("cpu")
    watch = rig.watch()
    hostile = rig.helper("hostile.py", rig.robot)
    said(hostile, START_S, hostile=True)
    program = rig.program("infer.py", "1000", "--pace", stdin=True)
    said(program, ready=True)
    program.say("go")
    said(program, iteration=0)
    hostile.say("listen")
    said(hostile, did="listen")
    before = watch.wait("offload_server", lambda m: m["sessions"], what="the session")
    for repeat in range(3):
        hostile.say(command)
        said(hostile, did=command, after=repeat and len(hostile.lines) - 1)
        program.say("go")
        said(program, iteration=repeat + 1)
    if command in ("unknown", "oversized", "far", "acknowledge"):
        after = watch.wait(
            "offload_server",
            lambda m: m["messages_refused"] > before["messages_refused"],
            10,
            "a refused message",
        )
        assert after["last_refusal"]
    program.close_input()
    assert said(program, done=True)["digest"]
    assert server.alive
    assert recorder.alive


def test_garbage_in_the_place_of_a_message_ends_that_session_only_and_says_why(rig):
    """With authentication off anyone on the network can do this; it must not spread."""
    off = {"authentication": "off"}
    server, recorder = rig.both("cpu", server=off, recorder={**off, "resume": "off"})
    hostile = rig.helper("hostile.py", rig.robot)
    said(hostile, START_S, hostile=True)
    victim = rig.program("infer.py", "1000", "--pace", stdin=True)
    said(victim, ready=True)
    victim.say("go")
    said(victim, iteration=0)
    hostile.say("listen")
    said(hostile, did="listen")
    hostile.say("garbage_next")
    said(hostile, did="garbage_next")
    # The message that the garbage displaced will be ignored: nobody may be left waiting for it.
    server.wait_for("closed: the stream of calls broke: malformed", 10)
    victim.say("go")
    assert said(victim, 15, failed=...)["failed"] in ("UNKNOWN", "DEVICE_UNAVAILABLE")
    victim.wait(10)
    assert said(rig.program("infer.py", "3"), done=True)
    assert server.alive
    assert recorder.alive


def test_results_from_a_stranger_are_refused_and_the_program_goes_on(rig):
    rig.both("cpu")
    watch = rig.watch()
    hostile = rig.helper("hostile.py", rig.robot)
    said(hostile, START_S, hostile=True)
    program = rig.program("infer.py", "1000", "--pace", stdin=True)
    said(program, ready=True)
    program.say("go")
    said(program, iteration=0)
    hostile.say("listen")
    said(hostile, did="listen")
    hostile.say("results")
    said(hostile, did="results")
    refused = watch.wait("recorder_replayer", lambda m: m["messages_refused"], 10, "a refusal")
    assert refused["last_refusal"]
    program.say("go")
    said(program, iteration=1)
    program.close_input()
    assert said(program, done=True)
