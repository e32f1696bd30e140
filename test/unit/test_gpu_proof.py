"""bench/gpu_proof.sh and .py: what they say and write when something is wrong; needs no GPU."""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys

import pytest
from support.bench import BENCH, forget
from support.compiling import compile_c

from rrto_ros.shim.build import ensure_built


def shell(tmp_path, *arguments, **environment):
    """(exit code, stdout, stderr) of the script where the NVIDIA driver cannot be loaded."""
    library = tmp_path / "libcuda.so.1"
    library.write_text("no library")
    env = {**os.environ, "PYTHON": sys.executable, "LD_LIBRARY_PATH": str(tmp_path), **environment}
    done = subprocess.run(
        ["sh", BENCH / "gpu_proof.sh", *arguments],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


class TestShell:
    def test_without_a_driver_it_ends_with_3_and_says_what_to_do(self, tmp_path):
        code, _, err = shell(tmp_path)
        assert code == 3
        assert "nvidia-smi" in err
        assert "device cpu" in err
        assert sorted(p.name for p in tmp_path.iterdir()) == ["libcuda.so.1"]

    @pytest.mark.parametrize("flag", ["-h", "--help"])
    def test_help_needs_no_gpu(self, tmp_path, flag):
        code, out, _ = shell(tmp_path, "--smoke", flag)
        assert code == 0
        assert "exit code:" in out
        assert "native" in out

    @pytest.mark.parametrize(
        "wrong",
        [["--smok e"], ["--only", "all"], ["--out", "libcuda.so.1"], ["--transport", "tcp"],
         ["--offline", "nowhere"], ["--clients", "no-python"]],
    )  # fmt: skip
    def test_wrong_arguments_are_said_before_anything_else(self, tmp_path, wrong):
        code, _, err = shell(tmp_path, *wrong)
        assert code == 2
        assert "gpu_proof: error:" in err
        assert "nvidia-smi" not in err

    def test_a_python_that_is_not_there_is_named(self, tmp_path):
        code, _, err = shell(tmp_path, PYTHON="no-such-python")
        assert code == 2
        assert "no-such-python" in err
        assert "3.10 to 3.13" in err


DRIVER = """
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
static int number(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
int cuInit(unsigned flags)
{
    (void)flags;
    if (getenv("DRIVER_STUCK") && open(getenv("DRIVER_STUCK"), O_WRONLY) >= 0)
        for (;;)
            pause();
    return number("DRIVER_STARTS", 0);
}
int cuDeviceGetCount(int *out) { return *out = number("DRIVER_GPUS", 1), 0; }
int cuDriverGetVersion(int *out) { return *out = number("DRIVER_VERSION", 12080), 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A folder with a libcuda.so.1 that says what its environment tells it to."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    compile_c(folder / "driver.c", folder / "libcuda.so.1", "-shared", "-fPIC")
    return str(folder)


class TestDriver:
    @pytest.mark.parametrize(
        ("told", "said"),
        [
            ({"DRIVER_STARTS": "803"}, "cuInit gave 803"),
            ({"DRIVER_GPUS": "0"}, "CUDA_VISIBLE_DEVICES"),
            ({"DRIVER_VERSION": "12020"}, "release 550"),
        ],
    )
    def test_what_is_wrong_with_it_is_said_with_the_next_step(self, tmp_path, driver, told, said):
        code, _, err = shell(tmp_path, LD_LIBRARY_PATH=driver, VENV=str(tmp_path / "venv"), **told)
        assert code == 3
        assert said in err
        assert "device cpu" in err
        assert not (tmp_path / "venv").exists()

    @pytest.mark.parametrize(
        ("options", "version", "wanted"),
        [
            ([], "13000", "demo test clients gpu"),
            ([], "12080", "--cuda-12 demo test clients gpu"),
            (["--transport", "local"], "13000", "--no-ros gpu models clients"),
            (["--offline", "my wheels"], "13000", "--offline FOLDER"),
            (["--transport", "local", "--offline", "my wheels"], "12080",
             "--offline FOLDER --cuda-12 --no-ros"),
        ],
    )  # fmt: skip
    def test_the_set_up_is_that_of_the_transport_and_the_folder(
        self, tmp_path, driver, options, version, wanted
    ):
        (tmp_path / "my wheels").mkdir()
        (tmp_path / "python").write_text(
            '#!/bin/sh\ncase $1 in */bootstrap.py) shift 3; for a; do echo "<$a>"; done >&2; '
            f'exit 9 ;; esac\nexec {sys.executable} "$@"\n'
        )
        (tmp_path / "python").chmod(0o755)
        code, _, err = shell(
            tmp_path, *options, PYTHON=str(tmp_path / "python"), LD_LIBRARY_PATH=driver,
            VENV=str(tmp_path / "venv"), DRIVER_VERSION=version,
        )  # fmt: skip
        assert code == 2
        assert "the set-up did not end well" in err
        given = [line[1:-1] for line in err.splitlines() if line.startswith("<")]
        folder = str(tmp_path / "my wheels")
        assert given == [folder if word == "FOLDER" else word for word in wanted.split()]

    def test_interrupt_ends_it_at_once_with_a_line(self, tmp_path, driver):
        stuck = tmp_path / "stuck"
        os.mkfifo(stuck)
        env = {**os.environ, "PYTHON": sys.executable, "LD_LIBRARY_PATH": driver,
               "DRIVER_STUCK": str(stuck)}  # fmt: skip
        started = subprocess.Popen(
            ["sh", BENCH / "gpu_proof.sh"], env=env, cwd=tmp_path, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
            # A shell that starts with SIGINT ignored, as in the background, cannot trap it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            with stuck.open("rb"):  # opens when the driver does
                os.killpg(started.pid, signal.SIGINT)
                _, err = started.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
        assert started.returncode == 130
        assert "stopped" in err
        assert "Traceback" not in err


@pytest.fixture
def proof(monkeypatch, tmp_path):
    """The module on a machine with a GPU; `run(parts)` gives (exit code, the JSON)."""
    monkeypatch.syspath_prepend(str(BENCH))
    module = importlib.import_module("gpu_proof")
    monkeypatch.setattr(module, "check_available", lambda: "Fake GPU")
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)

    def run(**parts):
        monkeypatch.setattr(module, "PARTS", parts)
        monkeypatch.setattr(sys, "argv", ["gpu_proof", "--out", str(tmp_path / "out")])
        code = module.main()
        return code, json.loads((tmp_path / "out" / "gpu_proof.json").read_text())

    yield run
    forget()


def good(proof):
    proof.note("good", "it", "works", good=True)


class TestParts:
    def test_all_well_is_0(self, proof, capsys):
        code, found = proof(good=good)
        assert (code, found["ended"], found["gpu"]) == (0, True, "Fake GPU")
        assert "good  it" in capsys.readouterr().out

    @pytest.mark.parametrize("error", [IndexError("list"), SyntaxError("no XML"), TypeError("x")])
    def test_a_part_that_fails_in_any_way_is_a_row_and_the_others_go_on(
        self, proof, error, tmp_path
    ):
        def bad(_):
            raise error

        code, found = proof(bad=bad, good=good)
        assert code == 1
        assert [row[3] for row in found["rows"]] == ["FAILED", "ok"]
        assert "Traceback" in (tmp_path / "out" / "bad_error.txt").read_text()

    def test_stopped_in_the_middle_it_writes_what_it_has_and_says_so(self, proof, capsys):
        def stopped(_):
            raise KeyboardInterrupt

        code, found = proof(good=good, stopped=stopped, never=good)
        assert (code, found["ended"], len(found["rows"])) == (130, False, 1)
        assert "stopped before its end" in capsys.readouterr().out

    def test_a_report_of_an_earlier_run_is_not_taken_for_this_ones(
        self, proof, monkeypatch, tmp_path
    ):
        module = sys.modules["gpu_proof"]
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "tests.xml").write_text("<testsuites/>")
        monkeypatch.setattr(module, "_run_group", lambda *_: 4)
        code, found = proof(tests=module.tests)
        assert code == 1
        assert "pytest ended with 4" in found["rows"][0][2]

    def test_a_command_that_takes_too_long_is_ended_with_all_it_started(self, proof, tmp_path):
        module = sys.modules["gpu_proof"]
        text = ("import subprocess, sys, time\n"
                "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
                "print(child.pid, flush=True); time.sleep(99)")  # fmt: skip
        with (tmp_path / "log").open("w") as log, pytest.raises(subprocess.TimeoutExpired):
            module._run_group([sys.executable, "-c", text], log, 3.0)
        inner = int((tmp_path / "log").read_text())
        with contextlib.suppress(ProcessLookupError):
            ended = os.pidfd_open(inner)
            assert select.select([ended], [], [], 10.0)[0]
            os.close(ended)


NO_ROS = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("rclpy", "rrto_msgs", "std_msgs", "sensor_msgs", "yaml", "typer",
                                  "rich", "rosbags", "cv2", "tinygrad", "matplotlib"):
            raise ModuleNotFoundError("without " + name)
sys.meta_path.insert(0, Without())
sys.path.insert(0, {bench!r})
"""


def test_the_proof_imports_nothing_of_ros(tmp_path):
    text = NO_ROS.format(bench=str(BENCH)) + "import gpu_proof, gpu_device, local_ends"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_without_ros_a_program_computes_over_the_socket_in_every_mode(monkeypatch):
    """What `--transport local` is made of, with the device `cpu` in the place of `gpu`."""
    monkeypatch.syspath_prepend(str(BENCH))
    stack = importlib.import_module("stack")
    example = BENCH.parent / "examples" / "cascade_cuda_bindings.py"
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    trips = {}
    for mode in ("rpc", "batched", "replay"):
        with stack.stack("cpu", mode, local=True) as nodes:
            nodes.run([sys.executable, str(example)], 120.0)
            (report,) = nodes.reports()
            with pytest.raises(stack.UnavailableError, match="ended with 7"):
                nodes.run([sys.executable, "-c", "raise SystemExit(7)"], 60.0)
            nodes.run([sys.executable, "-c", "raise SystemExit(7)"], 60.0, allowed=(7,))
        assert (report["error"], report["device"]) == ("", "cpu")
        trips[mode] = report["round_trips"]
    assert trips["rpc"] > trips["batched"] >= trips["replay"]
    forget()


def test_a_local_server_that_cannot_start_says_why(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    stack = importlib.import_module("stack")
    with pytest.raises(stack.UnavailableError, match=r"server did not become ready:\n.*'tpu'"):
        stack.LocalStack("tpu")
    forget()


BOARD = """
import ctypes, os
if os.environ.setdefault("RRTO_SOCKET", {socket!r}) == {socket!r}:
    ctypes.CDLL({library!r}, ctypes.RTLD_GLOBAL)
"""
"""Every Python that is not offloaded itself has the shim of another robot for its driver."""


@pytest.mark.timeout(300)
def test_the_proof_runs_to_its_end_without_ros_on_a_driver_that_computes(monkeypatch, tmp_path):
    """Program, shim, recorder, worker, bindings, the shim of a board, its device `cpu`."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    monkeypatch.syspath_prepend(str(BENCH))
    stack = importlib.import_module("stack")
    # The device under test takes nearly all of the board's.
    with stack.stack("cpu", "batched", local=True, limit_bytes=8 << 30) as board:
        socket = board.command([])[1]["RRTO_SOCKET"]
        site = BOARD.format(socket=socket, library=str(ensure_built() / "libcuda.so.1"))
        (tmp_path / "sitecustomize.py").write_text(site)
        paths = [str(tmp_path), str(BENCH.parent), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        env.pop("RRTO_SOCKET", None)
        done = subprocess.run(
            [sys.executable, BENCH / "gpu_proof.py", "--smoke", "--transport", "local",
             "--out", tmp_path / "out", "--only", "calls", "device", "clients"],
            env=env, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "gpu_proof.json").read_text())
    assert (found["transport"], found["ended"]) == ("local", True)
    values = {(part, what): value for part, what, value, _ in found["rows"]}
    assert values["calls", "over DDS"] == "needs ROS"
    assert set(found["calls"]) == {"rpc", "batched", "replay"}
    assert found["device"]["segments_declined"] == 0
    forget()
