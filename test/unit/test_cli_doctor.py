"""`rrto doctor`: what it concludes from made-up environments, and when it exits with what."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from support.fatbins import entry, fatbin
from support.installations import ELF, PTX, install, library

from rrto_ros import confinement
from rrto_ros.cli import checks, doctor
from rrto_ros.cli.checks import Check, State
from rrto_ros.clients import environment
from rrto_ros.clients.catalogue import CLIENTS, Client, Kernels, normalised
from rrto_ros.clients.libraries import Budget
from rrto_ros.clients.verdicts import Outcome, architectures, look, missing_of
from rrto_ros.errors import ConfigError

CODE = entry(ELF, b"\x7fELF" + bytes(60), arch=90)
TEXT = entry(PTX, b".version 8.0\n", arch=90)
RUNTIME = b"\0libcudart.so.13\0"


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    folder.mkdir(parents=True)
    return folder


def found_in(site):
    """{client: what was found of it} of an environment."""
    where = environment.of_venv(site.parents[2])
    return {one.client.name: one for one in look(where, Budget(30))[0]}


def doctored(site, *arguments):
    """Runs the command where ROS cannot be imported, on an environment; (code, its JSON)."""
    start = (
        "import sys\nsys.modules['rclpy'] = None\n"
        "from rrto_ros.cli.main import main\nsys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", start, "doctor", "--json", "--venv", site.parents[2], *arguments],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_machine_code_alone_runs_on_a_gpu_and_not_on_the_processor(site):
    install(site, "torch", "2.14.1", {
        "torch/lib/libtorch_cuda.so": library(nv_fatbin=fatbin(CODE), dynstr=RUNTIME),
    })  # fmt: skip
    one = found_in(site)["PyTorch"]
    verdicts = one.verdicts()
    assert verdicts["cpu"].outcome is Outcome.NOT
    assert "machine code for sm_90 and no PTX" in verdicts["cpu"].why
    assert verdicts["gpu"].outcome is Outcome.SWITCHED
    assert one.settings("gpu") == {"RRTO_CUDA_RUNTIME": "1"}
    assert one.contents.runtime == {"libcudart.so.13"}


def test_kernels_inside_as_ptx_run_on_the_processor_in_part(site):
    install(site, "tensorflow", "2.21.0", {
        "tensorflow/libtensorflow_cc.so.2": library(nv_fatbin=fatbin(CODE, TEXT), dynstr=RUNTIME),
    })  # fmt: skip
    verdict = found_in(site)["TensorFlow"].verdicts()["cpu"]
    assert verdict.outcome is Outcome.PARTLY
    assert "PTX for sm_90" in verdict.why


def test_ptx_for_newer_devices_only_does_not_run_on_the_processor(site):
    new = entry(PTX, b".version 9.0\n", arch=130)
    install(site, "tensorflow", "9", {"tensorflow/a.so": library(nv_fatbin=fatbin(CODE, new))})
    verdict = found_in(site)["TensorFlow"].verdicts()["cpu"]
    assert (verdict.outcome, "sm_130 only" in verdict.why) == (Outcome.NOT, True)


@pytest.mark.parametrize("name", ["torch", "tensorflow", "opencv-contrib-python"])
def test_a_build_without_cuda_is_not_listed(site, name):
    install(site, name, "1", {"m/a.so": library(rodata=b"nothing of CUDA")})
    assert found_in(site) == {}


def test_a_program_that_makes_its_kernels_by_driver_calls_runs_on_both(site):
    install(site, "tinygrad", "0.14.0")
    one = found_in(site)["tinygrad"]
    assert {v.outcome for v in one.verdicts().values()} == {Outcome.RUNS}
    assert one.settings("cpu") == {"DEV": "CUDA:PTX"}
    assert one.settings("gpu") == {}


@pytest.mark.parametrize("name", ["CuPy-CUDA13x", "cupy_cuda12x", "cupy"])
def test_a_package_is_known_by_each_of_its_names(site, name):
    install(site, name, "14.2")
    install(site, "nvidia-cuda-nvrtc-cu12", "12.9")
    verdict = found_in(site)["CuPy"].verdicts()["cpu"]
    assert verdict.outcome is Outcome.SWITCHED


def test_what_a_program_needs_and_has_not_is_missing(site):
    install(site, "cuda-core", "1.2")
    code, told = doctored(site, "--no-server")
    assert code == 1
    assert "cuda.core: its bindings (cuda-bindings)" in told["missing"]
    (one,) = told["clients"]
    assert one["devices"]["cpu"]["outcome"] == "does not run"


def test_an_assembler_that_is_preferred_to_ours_keeps_a_program_from_the_processor(site):
    install(site, "jax-cuda13-plugin", "0.10")
    install(site, "jaxlib", "0.10")
    install(site, "nvidia-cudnn-cu13", "9")
    files = dataclasses.replace(found_in(site)["JAX"], missing=())
    assert files.verdicts()["cpu"].outcome is Outcome.SWITCHED
    assert "libnvptxcompiler=false" in files.settings("cpu")["XLA_FLAGS"]
    install(site, "nvidia-cuda-nvcc", "13.5")
    spoilt = dataclasses.replace(found_in(site)["JAX"], missing=())
    assert spoilt.verdicts()["cpu"].outcome is Outcome.NOT
    assert "pip uninstall nvidia-cuda-nvcc" in spoilt.verdicts()["cpu"].why
    assert spoilt.verdicts()["gpu"].outcome is Outcome.SWITCHED


def test_a_file_that_a_program_looks_for_is_missing_where_it_is_not(site, tmp_path):
    client = Client("Any", ("any",), "any", Kernels.MADE, runtime=False,
                    files=(str(tmp_path / "one"), str(tmp_path / "two")))  # fmt: skip
    (lacking,) = missing_of(client, {})
    assert f"touch {tmp_path / 'two'}" in lacking
    (tmp_path / "one").touch()
    assert missing_of(client, {}) == ()


def test_packages_without_a_list_of_files_are_looked_through_by_their_folder(site):
    install(site, "warp-lang", "1.19", {"warp/bin/warp.so": library(nv_fatbin=fatbin(TEXT))},
            record=False)  # fmt: skip
    assert found_in(site)["Warp"].contents.ptx == {90}


def test_without_ros_the_doctor_says_so_and_exits_with_1(site):
    code, told = doctored(site)
    assert code == 1
    (ros,) = (check for check in told["checks"] if check["name"] == "ROS 2")
    assert ros["state"] == "missing"
    assert told["next"] == ros["step"]
    assert "make demo" in ros["step"]


def test_a_server_that_is_wanted_and_cannot_be_looked_for_is_missing(site):
    assert any("server" in one for one in doctored(site, "--server")[1]["missing"])
    assert not any("server" in one for one in doctored(site)[1]["missing"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--device", "tpu"], "tpu"),
        (["--venv", "/nowhere"], "/nowhere"),
        (["--python", "/nowhere/python"], "/nowhere/python"),
        (["--venv", "/x", "--python", "/y"], "--python and --venv"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(arguments, named):
    done = subprocess.run(
        [sys.executable, "-m", "rrto_ros.cli.main", "doctor", *arguments],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, named in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def examination(site, *, device="cpu", **states):
    """What was found in an environment, with checks of these states."""
    clients, libraries = look(environment.of_venv(site.parents[2]), Budget(30))
    done = tuple(Check(name, state, "text", "step of " + name) for name, state in states.items())
    where = environment.of_venv(site.parents[2])
    return doctor.Examination(where, tuple(clients), tuple(libraries), done, device)


def test_the_next_step_is_the_command_with_the_switch_where_one_is_needed(site):
    install(site, "triton", "3.9")
    assert doctor.next_step(examination(site, shim=State.OK), {}) == (
        "rrto run --device cpu -- python your_program.py"
    )
    install(site, "warp-lang", "1.19")
    found = examination(site, shim=State.NOTE)
    assert "--device cpu --cuda-runtime --" in doctor.next_step(found, {})
    assert "--cuda-runtime" not in doctor.next_step(found, {"RRTO_CUDA_RUNTIME": "1"})


def test_the_next_step_is_first_what_is_missing_then_a_device_that_can(site):
    install(site, "torch", "2", {"torch/a.so": library(nv_fatbin=fatbin(CODE))})
    assert doctor.next_step(examination(site, shim=State.MISSING), {}) == "step of shim"
    assert "--device gpu" in doctor.next_step(examination(site), {})
    assert "rrto run --device gpu" in doctor.next_step(examination(site, device="gpu"), {})


def test_all_of_it_can_be_printed(site, capsys):
    install(site, "torch", "2", {"torch/a.so": library(nv_fatbin=fatbin(CODE), dynstr=RUNTIME)})
    install(site, "nvidia-cudnn-cu13", "9", {"nvidia/a.so": library(nv_fatbin=fatbin(TEXT))})
    doctor.show(examination(site, link=State.MISSING))
    text = capsys.readouterr().out
    for part in (
        "PyTorch",
        "nvidia-cudnn-cu13",
        "machine code sm_90",
        "step of link",
        "next:",
        "your decision",
    ):
        assert part in text


def test_shared_memory_that_is_not_there_is_missing_and_a_small_one_noted(tmp_path, monkeypatch):
    assert checks.shared_memory(tmp_path / "none").state is State.MISSING
    assert checks.shared_memory(tmp_path).state is State.OK
    monkeypatch.setattr(checks, "LEAST_SHARED_BYTES", 1 << 62)
    assert checks.shared_memory(tmp_path).state is State.NOTE


def test_what_workers_would_give_up_is_told_with_what_this_machine_lacks(monkeypatch):
    monkeypatch.setattr(confinement, "version", lambda: 7)
    monkeypatch.setattr(confinement, "available", lambda: "")
    found = checks.confinement()
    assert (found.state, found.step) == (State.OK, "")
    assert "Landlock 7, seccomp" in found.text
    monkeypatch.setattr(confinement, "version", lambda: 3)
    found = checks.confinement()
    assert "Landlock 3 does not cover TCP" in found.text
    assert "kernel" in found.step
    monkeypatch.setattr(confinement, "version", lambda: 0)
    monkeypatch.setattr(confinement, "available", lambda: "not here")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = checks.confinement()
    assert found.state is State.NOTE
    assert "seccomp (not here)" in found.text


def test_a_folder_without_an_environment_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no Python environment"):
        environment.of_venv(tmp_path)


def test_the_environment_of_this_python_has_its_packages():
    where = environment.of_python(sys.executable)
    names = {package.name for package in environment.packages(where)}
    assert {"pytest", "numpy"} <= names


def test_the_facts_of_the_catalogue_are_well_formed():
    assert len({client.name for client in CLIENTS}) == len(CLIENTS)
    for client in CLIENTS:
        names = [*client.distributions, *(name for _, of in client.needs for name in of)]
        assert all(normalised(name) == name for name in names), client
        assert not client.builds or client.kernels is Kernels.INSIDE, client


def test_architectures_are_told_as_people_write_them():
    assert architectures({90, 75}) == "sm_75, sm_90"
    assert architectures({75, 80, 86, 90, 120}) == "sm_75 to sm_120 (5 kinds)"
    assert architectures({0}) == ""
