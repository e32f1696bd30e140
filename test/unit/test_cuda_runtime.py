"""Programs on NVIDIA's CUDA runtime library: they run if the user says so, and say why if not."""

import pytest
from support import cuda_runtimes
from support.cuda_runtimes import COPIES
from support.ptx_texts import SCALE
from support.shim_peer import BATCHED, RPC, Peer

from rrto_ros.api.runtime_tables import VALIDITY_REFUSED, VALIDITY_VARIABLE

NOT_ESTABLISHED = "103 cudaErrorSoftwareValidityNotEstablished"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Builds the program with a copy once; gives it with its two arguments."""
    folder = tmp_path_factory.mktemp("runtime")
    files = [folder / "scale.fatbin", folder / "scale.ptx"]
    files[0].write_bytes(cuda_runtimes.FATBIN)
    files[1].write_bytes(SCALE)
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
