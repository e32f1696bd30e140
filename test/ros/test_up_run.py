"""`rrto run`: any program, what it needs, its exit code, signals and the report."""

import json
import os
import signal
import sys

import pytest
from support import cuda_runtimes
from support.domains import domain_lock
from support.ptx_texts import SCALE
from support.rig import PROGRAMS, START_S

RRTO = [sys.executable, "-m", "rrto_ros.cli.main"]


def run(rig, *arguments):
    """Start `rrto run`."""
    environment = rig.environment(RRTO_ROBOT=rig.robot)
    return rig.start("rrto run", [*RRTO, "run", *arguments], environment)


@pytest.fixture
def cuda_program():
    """A command line of a CUDA program that anyone can have."""
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    example = PROGRAMS.parents[2] / "examples" / "vector_add_cuda_bindings.py"
    return [sys.executable, str(example)]


def test_a_program_runs_where_nothing_was_up_and_is_reported(rig, tmp_path, cuda_program):
    report = tmp_path / "report.json"
    process = run(rig, "--mode", "rpc", "--report", report, "--", *cuda_program)
    assert process.wait() == 0, process.text()
    assert "starting offload_server and recorder_replayer" in process.text()
    assert "0 elements differ from NumPy" in process.text()
    found = json.loads(report.read_text())
    assert found["complete"] is True
    assert found["exit_code"] == 0
    (session,) = found["sessions"]
    assert (session["mode"], session["device"], session["phase"]) == ("rpc", "cpu", "closed")
    assert session["calls"]["cuLaunchKernel"] == 4
    assert session["unsupported"] == {}
    # Sent, or known to the server from an earlier run of this user.
    assert found["totals"]["bytes_sent"] + found["totals"]["blob_bytes_saved"] > 8_000_000
    assert found["totals"]["bytes_received"] > 4_000_000
    assert found["totals"]["round_trips"] > 0
    assert found["totals"]["wait_s"] > 0
    # The table says the same.
    assert "1 (rpc on cpu)" in process.text()
    assert f"{found['totals']['round_trips']} in" in process.text()


def test_what_was_refused_is_in_the_report_with_its_count(rig, tmp_path):
    report = tmp_path / "report.json"
    program = [sys.executable, str(PROGRAMS / "shim_refusals.py"), "tables"]
    process = run(rig, "--report", report, "--", *program)
    assert process.wait() == 0, process.text()
    found = json.loads(report.read_text())
    table = "cuGetExportTable: 195bcbf4-d67d-024a-acc5-1d29cea631ae (HEAP_ACCESS)"
    assert found["totals"]["unsupported"][table] == 3
    assert found["totals"]["unsupported"]["cuMemAllocManaged"] == 1
    assert found["sessions"][0]["unsupported"] == found["totals"]["unsupported"]
    assert found["totals"]["calls_unsupported"] == sum(found["totals"]["unsupported"].values())
    assert "cuMemAllocManaged 1" in process.text()


@pytest.fixture
def runtime_program(tmp_path):
    """A program linked with the CUDA runtime library, and its arguments."""
    files = [tmp_path / "scale.fatbin", tmp_path / "scale.ptx"]
    for file, image in zip(files, (cuda_runtimes.FATBIN, SCALE), strict=True):
        file.write_bytes(image)
    return [str(cuda_runtimes.build("13", tmp_path)), *map(str, files)]


def test_the_cuda_runtime_runs_where_the_user_says_so_and_else_the_summary_says_how(
    rig, runtime_program
):
    process = run(rig, "--cuda-runtime", "--", *runtime_program)
    assert process.wait() == 0, process.text()
    assert "done" in process.lines
    assert "--cuda-runtime" not in process.text()
    process = run(rig, "--", *runtime_program)
    assert process.wait() == 1, process.text()
    text = " ".join(process.text().split())
    assert "103 cudaErrorSoftwareValidityNotEstablished" in text
    assert "hint" in text
    assert text.count("rrto run --cuda-runtime") == 2  # the program's line, and the table's


def test_the_recorders_parameter_lets_every_program_of_a_robot_use_the_cuda_runtime(
    rig, runtime_program
):
    rig.both(recorder={"cuda_runtime": True})
    process = run(rig, "--", *runtime_program)
    assert process.wait() == 0, process.text()


def test_a_running_robot_is_used_and_left_running(rig, cuda_program):
    rig.both()
    process = run(rig, "--", *cuda_program)
    assert process.wait() == 0, process.text()
    assert "starting" not in process.text()
    again = run(rig, "--mode", "rpc", "--", *cuda_program)
    assert again.wait() == 125
    assert "rrto mode rpc" in again.text()
    again = run(rig, "--device", "null", "--", *cuda_program)
    assert again.wait() == 125
    assert "'cpu'" in again.text()


def test_options_of_the_replay_reach_the_recorder_that_is_started(rig, tmp_path, cuda_program):
    plans = tmp_path / "plans"
    text = "\n".join([
        "import contextlib, pathlib, subprocess, sys",
        "for process in pathlib.Path('/proc').glob('[0-9]*'):",
        "    with contextlib.suppress(OSError):  # it has just ended",
        "        print((process / 'cmdline').read_text().replace('\\0', ' '), flush=True)",
        f"sys.exit(subprocess.run({cuda_program!r}).returncode)",
    ])  # fmt: skip
    process = run(
        rig, "--mode", "replay", "--search", "data_dependency", "--min-repetitions", "3",
        "--run-ahead", "off", "--plan-cache-directory", plans, "--", sys.executable, "-c", text,
    )  # fmt: skip
    assert process.wait() == 0, process.text()
    # A set: what a process has just forked has its command line, too.
    (node,) = {
        line
        for line in process.lines
        if "rrto_ros.nodes.recorder_replayer" in line and f"/{rig.robot} " in line
    }
    for wanted in ('mode:="replay"', 'search:="data_dependency"', "min_repetitions:=3",
                   'run_ahead:="off"', f'plan_cache_directory:="{plans}"'):  # fmt: skip
        assert wanted in node
    assert "max_length" not in node
    assert "1 (replay on cpu)" in process.text()


def test_options_of_the_replay_for_a_recorder_that_runs_are_refused(rig, cuda_program):
    rig.both(mode="replay")
    process = run(rig, "--mode", "replay", "--min-length", "5", "--", *cuda_program)
    assert process.wait() == 125
    text = " ".join(process.text().split())
    assert "--min-length would change nothing" in text
    assert f"ros2 param set /{rig.robot}/recorder_replayer min_length" in text
    assert "--robot" in text
    process = run(rig, "--mode", "replay", "--", *cuda_program)
    assert process.wait() == 0, process.text()


@pytest.mark.parametrize(
    ("text", "code"),
    [("raise SystemExit(9)", 9), ("import os; os.kill(os.getpid(), 9)", 137)],
    ids=["exit", "signal"],
)
def test_the_exit_code_is_the_programs(rig, text, code):
    process = run(rig, "--device", "null", "--", sys.executable, "-c", text)
    assert process.wait() == code
    assert "0 (none)" in process.text()


def test_a_program_that_is_not_there_is_named_before_anything_starts(rig):
    process = run(rig, "--", "no-such-program-at-all")
    assert process.wait() == 125
    assert "no-such-program-at-all" in process.text()
    assert "starting" not in process.text()


def test_signals_reach_the_program_and_everything_ends(rig):
    text = (
        "import signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "print('program is up', flush=True)\n"
        "signal.sigwait([signal.SIGTERM])\n"
        "sys.exit(5)"
    )
    process = run(rig, "--device", "null", "--", sys.executable, "-c", text)
    process.wait_for("^program is up", START_S)
    process.signal(signal.SIGTERM)
    assert process.wait() == 5
    assert "Traceback" not in process.text()


@pytest.mark.parametrize("node", ["offload_server", "recorder_replayer"])
def test_a_node_that_stands_still_while_they_meet_is_started_anew(rig, node):
    process = run(rig, "--device", "null", "--", sys.executable, "-c", "print('program is up')")
    process.wait_for("starting offload_server and recorder_replayer", START_S)
    (stuck,) = rig.running(f"rrto_ros.nodes.{node}")
    os.kill(stuck, signal.SIGSTOP)
    assert process.wait() == 0, process.text()
    assert "starting anew" in process.text()
    assert "program is up" in process.text()
    assert stuck not in rig.running(f"rrto_ros.nodes.{node}")


def test_options_of_the_program_are_not_taken_for_ours(rig):
    text = "import sys; print(sys.argv[1:])"
    process = run(rig, "--device", "null", "--", sys.executable, "-c", text, "--mode", "-q")
    assert process.wait() == 0
    assert "['--mode', '-q']" in process.text()


def test_robots_of_one_name_in_two_domains_run_side_by_side(rig, cuda_program):
    with domain_lock() as other:
        # Each waits until both programs run, so that the two are there at the same time.
        files = [rig.folder / "a", rig.folder / "b"]
        text = ("import pathlib, subprocess, sys, time; pathlib.Path(sys.argv[1]).touch()\n"
                "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)\n"
                f"sys.exit(subprocess.run({cuda_program!r}).returncode)")  # fmt: skip
        both = [
            run(rig, "--domain", str(domain), "--", sys.executable, "-c", text, mine, others)
            for domain, mine, others in ((rig.domain, *files), (other, *reversed(files)))
        ]
        for process in both:
            assert process.wait() == 0, process.text()
            assert "starting offload_server and recorder_replayer" in process.text()
            assert "0 elements differ from NumPy" in process.text()


@pytest.mark.parametrize("name", ["my robot", "/r9/", "r-3", "9bot", "a//b", "n" * 300])
def test_a_robot_name_that_is_none_is_refused_in_one_line(rig, name):
    process = run(rig, "--robot", name, "--", "true")
    assert process.wait() == 125
    (line,) = process.lines
    assert line.startswith("rrto: robot name ")
    assert len(line) < 250


def test_a_second_server_of_a_robot_is_refused_at_once(rig):
    rig.server("null")
    second = rig.server("null", wait=False)
    assert second.wait() == 2
    assert f"serves robot '{rig.robot}'" in second.text()


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_numba_as_its_makers_advise_it_runs_as_it_is(rig, mode):
    for name in ("numba_cuda", "cuda.bindings.nvvm"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    example = PROGRAMS.parents[2] / "examples" / "matmul_numba.py"
    process = run(rig, "--mode", mode, "--", sys.executable, str(example))
    code = process.wait(120)
    if code == 77:
        pytest.skip(process.text(1))
    assert code == 0, process.text()
    assert "numba matmul 130x200x150" in process.text()


def test_cuda_cores_cubins_load_and_link_and_errors_of_compiling_arrive(rig):
    process = run(rig, "--", sys.executable, str(PROGRAMS / "cuda_core_cubin.py"))
    code = process.wait(120)
    if code == 77:
        pytest.skip(process.text(1))
    assert code == 0, process.text()
    (line,) = [one for one in process.text().splitlines() if one.startswith("{")]
    found = json.loads(line)
    assert found["worst"] < 1e-12
    assert found["threads"] == 256  # of its launch bounds, so the attributes are the kernel's
    assert "NVRTC_ERROR_COMPILATION" in found["log"]
    assert "error: " in found["log"]


def test_machine_code_is_refused_with_the_remedy_where_the_user_wants_no_stand_ins(rig):
    environment = rig.environment(RRTO_ROBOT=rig.robot, RRTO_STAND_INS="0")
    program = [sys.executable, str(PROGRAMS / "cuda_core_cubin.py")]
    process = rig.start("rrto run", [*RRTO, "run", "--", *program], environment)
    code = process.wait(120)
    if code == 77:
        pytest.skip(process.text(1))
    assert code == 1, process.text()
    assert "CUDA_ERROR_NO_BINARY_FOR_GPU" in process.text()
    assert "machine code for sm_121 and no PTX" in process.text()
    assert "`rrto run` with RRTO_STAND_INS unset" in process.text()
