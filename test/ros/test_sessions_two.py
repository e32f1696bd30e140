"""Two programs at once, each in its own session, as if alone."""

import pytest
from support.rig import said


def digest(program, timeout_s=120):
    """Digest of a program's results; the program itself compared them with NumPy."""
    answer = said(program, timeout_s, done=True)
    assert program.wait(20) == 0
    return answer["digest"]


@pytest.mark.parametrize("mode", ["batched", "rpc"])
def test_the_same_program_twice_at_once_gives_the_results_of_one_alone(rig, mode):
    rig.both("cpu", mode)
    alone = digest(rig.program("infer.py", "60", "--seed", "3"))
    watch = rig.watch()
    both = [rig.program("infer.py", "60", "--seed", "3", "--pace", stdin=True) for _ in range(2)]
    for program in both:
        said(program, ready=True)
    watch.wait("offload_server", lambda m: len(m["sessions"]) == 2, what="two sessions")
    for program in both:
        program.say("go\n" * 60)
    assert [digest(program) for program in both] == [alone, alone]


def test_a_kernel_that_fails_in_one_session_leaves_the_other_alone(rig):
    rig.both("cpu")
    good = rig.program("infer.py", "1000", "--pace", stdin=True)
    said(good, ready=True)
    good.say("go")
    said(good, iteration=0)
    for case in ("far_pointer_in_kernel", "freed_pointer_in_kernel"):
        assert rig.program("misuse.py", case).wait() == 0
        good.say("go")
    said(good, iteration=2)
    good.close_input()
    assert said(good, done=True)


def test_a_session_that_computes_long_does_not_hold_up_another(rig):
    rig.both("cpu", server={"threads": 1})
    slow = rig.program("long_kernel.py", "4000000000")
    said(slow, launched=True)
    assert digest(rig.program("infer.py", "10"), 60)
    assert slow.alive
    slow.kill()


def test_more_programs_than_the_server_takes_are_refused_with_the_reason(rig):
    rig.both("cpu", server={"max_sessions": 1})
    first = rig.program("infer.py", "1000", "--pace", stdin=True)
    said(first, ready=True)
    second = rig.program("infer.py", "1")
    assert said(second, 20, failed=...)["failed"] == "SYSTEM_NOT_READY"
    assert "max_sessions" in second.text()
    first.close_input()
    assert said(first, done=True)
