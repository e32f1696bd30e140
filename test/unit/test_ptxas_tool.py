"""Our ptxas takes NVIDIA's command line, finds syntax errors, and writes what devices load."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rrto_ros.bringup.stand_ins import with_stand_ins
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.cpu.ptxas import main, read_arguments
from rrto_ros.devices.linked import LinkInput, link_inputs
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import ConfigError

TRITON = Path(__file__).parents[1] / "support" / "triton_softmax.ptx"
WORKS = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() { ret; }\n"
# As Triton 3.x and XLA call it; a file's name and "-o", its output are in them.
TRITON_LINE = (
    "-lineinfo",
    "--fmad=false",
    "-v",
    "--opt-level",
    "0",
    "--regAllocOptLevel=2",
    "--gpu-name=sm_90a",
    "IN",
    "-o",
    "OUT",
)
XLA_LINE = ("IN", "-o", "OUT", "-arch=sm_90a", "--warn-on-spills", "-v", "-O0")


def command(line, source, target):
    return [{"IN": str(source), "OUT": str(target)}.get(word, word) for word in line]


@pytest.fixture
def written(tmp_path):
    """Write a PTX text; its path."""

    def write(text):
        path = tmp_path / "in.ptx"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("line", [TRITON_LINE, XLA_LINE])
def test_what_triton_makes_is_wrapped_by_the_command_that_programs_find(tmp_path, line):
    environment = with_stand_ins(os.environ, "cpu")
    target = tmp_path / "out.o"
    done = subprocess.run(
        ["ptxas", *command(line, TRITON, target)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
        executable=environment["TRITON_PTXAS_BLACKWELL_PATH"],
    )
    assert done.returncode == 0, done.stderr
    wanted = (LinkInput(1, TRITON.name, TRITON.read_bytes()),)
    assert link_inputs(target.read_bytes()) == wanted
    assert re.fullmatch(r"ptxas info    : .*\n", done.stderr)  # of -v, and nothing else
    assert done.stdout == ""


def test_what_it_wrote_computes(tmp_path):
    assert main(command(TRITON_LINE, TRITON, tmp_path / "out.o")) == 0
    width, rows = 100, 3
    values = np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)
    device = CpuDevice(limit_bytes=1 << 20, arena_bytes=1 << 30, threads=1, cache_dir=tmp_path)
    try:
        x = device.info.arena_base
        out = x + 4096
        device.mem_alloc(x, 4096, 0)
        device.mem_alloc(out, 4096, 0)
        device.module_load(1, (tmp_path / "out.o").read_bytes())
        device.memcpy_htod(x, values.tobytes(), 0)
        params = np.array([x, out, width, 0, 0], np.uint64).tobytes()
        device.launch(Launch(1, 0, (rows, 1, 1), (128, 1, 1), 16, params), 0)
        device.ctx_synchronize()
        got = np.frombuffer(bytes(device.memcpy_dtoh(out, values.nbytes, 0)), np.float32)
    finally:
        device.close()
    powers = np.exp(values.astype(np.float64))
    np.testing.assert_allclose(
        got.reshape(values.shape), powers / powers.sum(1, keepdims=True), rtol=1e-5
    )


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_one_that_triton_and_xla_read(capsys, option):
    assert main([option]) == 0
    text = capsys.readouterr().out
    assert re.search(r".*release (\d+\.\d+).*", text, re.MULTILINE)[1] == "13.0"
    assert re.search(r"\bV(\d+)\.(\d+)\.(\d+)\b", text).groups() == ("13", "0", "0")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (WORKS.replace("ret;", "ret"), r"in\.ptx; error   : .*line 4"),
        (WORKS.replace(".visible", "visible"), "error   : .*'visible'"),
        (WORKS.replace("}", ""), "error   : "),
        ("", "error   : "),
        (b"\xff\xfe.version", "no text"),
        (".version 99.0\n.target sm_80\n", "PTX version 99"),
    ],
)
def test_what_is_no_ptx_fails_as_nvidias_does_and_writes_nothing(
    written, tmp_path, capsys, text, says
):
    target = tmp_path / "out.o"
    assert main(command(TRITON_LINE, written(text), target)) == 255
    said = capsys.readouterr()
    assert re.search(says, said.err), said.err
    assert "ptxas fatal   : Ptx assembly aborted due to errors\n" in said.err
    assert said.out == ""
    assert not target.exists()


@pytest.mark.parametrize(
    ("architecture", "code"),
    [("sm_80", 0), ("sm_121a", 0), ("compute_90", 0), ("sm_75", 255), ("sm_lots", 255)],
)
def test_ptx_is_not_made_for_an_architecture_before_its_own(
    written, tmp_path, capsys, architecture, code
):
    line = ("IN", "-o", "OUT", "--gpu-name", architecture)
    assert main(command(line, written(WORKS), tmp_path / "out.o")) == code
    assert ("ptxas fatal" in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("IN", "-o"), "'-output-file' wants a value"),
        (("IN", "IN"), "2 input files"),
        (("-v",), "0 input files"),
        (("-ias", "text"), "'-ias' is not supported"),
        (("/no/such.ptx", "-o", "OUT"), "could not be opened"),
        (("IN", "-o", "/no/such/folder/out"), "could not be written"),
    ],
)
def test_a_wrong_command_line_is_named(written, tmp_path, capsys, line, says):
    assert main(command(line, written(WORKS), tmp_path / "out.o")) == 255
    said = capsys.readouterr().err
    assert said.startswith("ptxas fatal   : ")
    assert says in said


def test_values_are_told_from_files_and_unknown_options_have_none():
    wanted = read_arguments(
        ["-O3", "-O", "2", "-maxrregcount", "64", "--of-tomorrow", "a.ptx", "-arch=sm_90", "-o=b"]
    )
    assert wanted.files == ("a.ptx",)
    assert wanted.options == {
        "O3": "",
        "O": "2",
        "maxrregcount": "64",
        "of-tomorrow": "",
        "gpu-name": "sm_90",
        "output-file": "b",
    }
    with pytest.raises(ConfigError, match="fmad"):
        read_arguments(["-fmad"])
