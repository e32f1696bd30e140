"""Programs on NVIDIA's CUDA runtime library: with the user's consent they run, else they are told."""

import struct

import pytest
from support import cuda_runtimes
from support.cuda_runtimes import COPIES
from support.shim_peer import BATCHED, RPC, Peer

from rrto_ros.api.runtime_tables import VALIDITY_REFUSED, VALIDITY_VARIABLE

PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .global .align 4 .f32 offset[4] = {1.0, 2.0, 3.0, 4.0};
.visible .entry scale(.param .u64 p, .param .f32 k, .param .u32 n)
{
  .reg .pred %q; .reg .b32 %r<6>; .reg .b64 %rd<4>; .reg .f32 %f<3>;
  ld.param.u64 %rd1, [p]; ld.param.f32 %f1, [k]; ld.param.u32 %r1, [n];
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %q, %r5, %r1;
  @%q bra DONE;
  cvta.to.global.u64 %rd1, %rd1;
  mul.wide.u32 %rd2, %r5, 4;
  add.s64 %rd3, %rd1, %rd2;
  ld.global.f32 %f2, [%rd3];
  mul.f32 %f2, %f2, %f1;
  st.global.f32 [%rd3], %f2;
DONE:
  ret;
}
"""
NOT_ESTABLISHED = "103 cudaErrorSoftwareValidityNotEstablished"


def fatbin(ptx):
    """A fatbin with one PTX for sm_70, as nvcc has it."""
    body = ptx + bytes(8 - len(ptx) % 8)
    entry = struct.pack("<HHIQIIHHI", 1, 0x101, 64, len(body), 0, 0, 0, 8, 70).ljust(40, b"\0")
    entry += struct.pack("<QQQ", 0, 0, 0) + body
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entry)) + entry


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Builds the program with a copy once; gives it with its two arguments."""
    folder = tmp_path_factory.mktemp("runtime")
    files = [folder / "scale.fatbin", folder / "scale.ptx"]
    files[0].write_bytes(fatbin(PTX))
    files[1].write_bytes(PTX)
    made = {}

    def program(name):
        if name not in made:
            own = folder / name.replace(" ", "-")
            own.mkdir()
            made[name] = cuda_runtimes.build(name, own)
        return made[name], files

    return program


def run(peer, program, *more, **environment):
    path, files = program
    return cuda_runtimes.run(path, [*files, *more], peer.environment(**environment))


@pytest.mark.parametrize("mode", [RPC, BATCHED])
@pytest.mark.parametrize("name", COPIES)
def test_a_program_on_the_runtime_computes_what_it_should(programs, name, mode):
    program = programs(name)
    with Peer(mode=mode) as peer:
        done = run(peer, program, **{VALIDITY_VARIABLE: "1"})
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "done"
        assert done.stderr == ""
        names = peer.rings[0].refusals()
    assert VALIDITY_REFUSED not in names


@pytest.mark.parametrize("name", COPIES)
def test_without_consent_a_program_gets_cudas_error_and_one_line_that_says_what_to_do(
    programs, name
):
    program = programs(name)
    with Peer() as peer:
        done = run(peer, program, "alloc")
        names = peer.rings[0].refusals()
    assert done.stdout.splitlines() == [NOT_ESTABLISHED]
    assert names[VALIDITY_REFUSED] >= 1
    (line,) = done.stderr.splitlines()
    for wanted in ("rrto run --cuda-runtime", f"{VALIDITY_VARIABLE}=1", "licence terms"):
        assert wanted in line


@pytest.mark.parametrize(
    ("recorder", "program", "answered"),
    [(True, None, True), (True, "0", False), (False, "1", True), (False, "0", False),
     (True, "", True)],
)  # fmt: skip
def test_the_programs_variable_comes_before_the_recorders_parameter(
    programs, recorder, program, answered
):
    built = programs("13")
    extra = {} if program is None else {VALIDITY_VARIABLE: program}
    with Peer(cuda_runtime=recorder) as peer:
        done = run(peer, built, "alloc", **extra)
    assert done.stdout.splitlines() == ["0 cudaSuccess" if answered else NOT_ESTABLISHED]
