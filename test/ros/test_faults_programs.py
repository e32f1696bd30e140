"""What a program does wrong gets the error code that CUDA documents, and nothing else breaks.

One server and one recorder serve all cases, so each case also shows that those before it left
nothing behind. Memory of a session is limited to 256 MiB.
"""

import pytest
from support.domains import domain_lock
from support.rig import Rig, said, steps

LIMIT = 256 << 20
GOES_ON = [(call, "SUCCESS") for call in ("alloc", "upload", "launch", "download", "compare")]


@pytest.fixture(scope="module", params=["batched", "rpc"])
def nodes(request, tmp_path_factory):
    with domain_lock() as domain:
        rig = Rig(domain, tmp_path_factory.mktemp(request.param))
        try:
            rig.both("cpu", request.param, server={"limit_bytes": LIMIT})
            yield rig
        finally:
            rig.close()


def run(nodes, case):
    """[(call, result)] of one misuse program, run to its end."""
    program = nodes.program("misuse.py", case)
    assert program.wait() == 0, program.text() + "\n" + "\n".join(nodes.logs().values())
    return steps(program)


@pytest.mark.parametrize(
    ("case", "result"),
    [
        ("too_many_threads", "INVALID_VALUE"),
        ("no_blocks", "INVALID_VALUE"),
        ("too_much_shared_memory", "INVALID_VALUE"),
        ("copy_from_freed", "INVALID_VALUE"),
        ("free_twice", "INVALID_VALUE"),
        ("upload_past_the_end", "INVALID_VALUE"),
        ("download_past_the_end", "INVALID_VALUE"),
        ("copy_on_device_past_the_end", "INVALID_VALUE"),
        ("fill_past_the_end", "INVALID_VALUE"),
        ("parameters_too_short", "INVALID_VALUE"),
        ("parameters_too_long", "INVALID_VALUE"),
        ("truncated_ptx", "INVALID_PTX"),
        ("not_ptx", "INVALID_PTX"),
        ("unknown_instruction", "INVALID_PTX"),
        ("unknown_kernel", "NOT_FOUND"),
        ("huge_allocation", "OUT_OF_MEMORY"),
        ("zero_bytes", "INVALID_VALUE"),
        ("unsupported_call", "NOT_SUPPORTED"),
    ],
)
def test_a_mistake_is_answered_at_once_and_the_program_can_go_on(nodes, case, result):
    assert run(nodes, case) == [("bad", result), *GOES_ON]


@pytest.mark.parametrize(
    ("case", "result"),
    [
        ("not_initialised", "NOT_INITIALIZED"),
        ("no_context", "INVALID_CONTEXT"),
        ("unknown_device", "INVALID_DEVICE"),
    ],
)
def test_calls_out_of_order_are_answered_as_the_driver_answers_them(nodes, case, result):
    assert run(nodes, case) == [("bad", result)]


@pytest.mark.parametrize("case", ["freed_pointer_in_kernel", "far_pointer_in_kernel"])
def test_a_kernel_that_leaves_its_memory_fails_and_the_error_stays(nodes, case):
    program = nodes.program("misuse.py", case)
    assert program.wait() == 0, program.text()
    launch, synchronize, *after = steps(program)
    # In mode rpc the launch itself waits, so it may already say it.
    assert launch in (("launch", "SUCCESS"), ("launch", "ILLEGAL_ADDRESS"))
    assert synchronize == ("synchronize", "ILLEGAL_ADDRESS")
    assert {result for _, result in after} == {"ILLEGAL_ADDRESS"}


def test_memory_runs_out_at_the_sessions_limit_and_comes_back(nodes):
    program = nodes.program("misuse.py", "out_of_memory")
    assert program.wait() == 0, program.text()
    assert steps(program)[0] == ("bad", "OUT_OF_MEMORY")
    # 32 MiB at a time; a little may go to the device itself.
    assert LIMIT // (32 << 20) - 2 <= said(program, call="held")["count"] <= LIMIT // (32 << 20)
    assert steps(program)[2:] == GOES_ON


def test_a_right_program_runs_after_all_of_this(nodes):
    program = nodes.program("infer.py", "3")
    assert said(program, done=True)["digest"]
    assert program.wait() == 0
