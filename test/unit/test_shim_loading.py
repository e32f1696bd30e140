"""What a program loads leaves the robot as far as the device needs it, and when it is used."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support.fatbins import FAMILY, ONLY_THIS, Kernel, cubin, entry, fatbin, machine, noise, ptx
from support.one_process import OneProcess
from support.shim_peer import BATCHED, RPC, Peer

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.cpu.outline import LARGE_TEXT
from rrto_ros.devices.null import NullDevice
from rrto_ros.edge.host import HostLimits
from rrto_ros.errors import CudaError
from rrto_ros.robot.status import SessionConfig

CASES = Path(__file__).parents[1] / "support/programs/loading_cases.py"
TEXT = b""".version 8.0
.target sm_50
.address_size 64
.visible .entry k(.param .u64 a, .param .f32 b, .param .u32 c) { ret; }
"""
MARK = "ctx_synchronize"


def run(
    case, image, *arguments, folder, device=NullDevice, call_bytes=1 << 22, mode=BATCHED, **env
):
    """Run a case with an image; gives its answer, the calls' names and the bytes of images."""
    path = folder / "image"
    path.write_bytes(image)
    with Peer(device=device, call_bytes=call_bytes, mode=mode) as peer:
        answer = peer.case(case, path, *arguments, program=CASES, **env)
        sent = sum(r["payload_bytes"] for r in peer.records if r["op"].startswith("module_"))
        return answer, peer.names(), sent, peer


def capability(major, minor):
    return partial(NullDevice, compute_capability=(major, minor))


def text(target):
    return TEXT.replace(b"sm_50", target.encode())


MANY = [machine(a, filler=4000, seed=a) for a in (75, 80, 86, 90)] + [ptx(52, TEXT)]


@pytest.mark.parametrize(
    ("device", "entries", "kept"),
    [
        (capability(8, 9), MANY, [2]),
        (capability(8, 0), MANY, [1]),
        (capability(9, 0), MANY, [3]),
        (capability(7, 0), MANY, [4]),
        (capability(12, 0), MANY, [4]),
        (CpuDevice, MANY, [4]),
        # Of PTX, the newest that is not above.
        (capability(8, 9), [ptx(52, TEXT), ptx(75, text("sm_75")), ptx(90, text("sm_90"))], [1]),
        (CpuDevice, [ptx(52, TEXT), ptx(75, text("sm_75")), machine(75)], [1]),
        # For one architecture alone, or for a family.
        (capability(9, 0), [machine(90, flags=ONLY_THIS), machine(80), ptx(52, TEXT)], [0]),
        (capability(10, 3), [machine(100, flags=ONLY_THIS), machine(100, flags=FAMILY)], [1]),
        (capability(10, 3), [machine(100, flags=ONLY_THIS), ptx(52, TEXT)], [1]),
        (capability(10, 3), [ptx(90, text("sm_90a"), flags=ONLY_THIS), ptx(52, TEXT)], [1]),
        # What an older compiler does not say is left to the driver: both go.
        (capability(12, 1), [machine(120), machine(75), ptx(52, TEXT)], [0, 2]),
        (capability(8, 9), [machine(87), machine(86), machine(80)], [0, 1]),
    ],
)
def test_only_what_the_device_may_choose_leaves_the_robot(device, entries, kept, tmp_path):
    answer, names, sent, _ = run("used", fatbin(*entries), "k", folder=tmp_path, device=device)
    assert answer["results"] == [0] * 5
    assert names.count("module_load") == 1
    assert sent == 16 + sum(len(entries[i]) for i in kept)


@pytest.mark.parametrize("pack", ["", "zstd", "lz4"])
def test_machine_code_goes_when_its_first_kernel_is_used_and_names_cost_nothing(pack, tmp_path):
    image = fatbin(machine(86, ("b", "a", "k"), pack=pack), machine(75))
    answer, names, _, _ = run("used", image, "k", folder=tmp_path)
    assert answer["results"] == [0] * 5
    assert names == [MARK, MARK, "module_load", "launch", "launch", MARK, "module_unload"]


def test_a_cubin_alone_is_lazy_too(tmp_path):
    _, names, _, _ = run("used", cubin(86, ["k"]), "k", folder=tmp_path)
    assert names == [MARK, MARK, "module_load", "launch", "launch", MARK, "module_unload"]


def test_without_its_names_an_image_is_loaded_when_a_kernel_is_asked_for(tmp_path):
    broken = entry(2, noise(500), flags=0x8000, raw=900, compressed=500, arch=86)
    answer, names, _, _ = run("used", fatbin(broken), "k", folder=tmp_path)
    assert answer["results"] == [0, 200, 200, 200, 0]
    assert names == [MARK, "module_load", MARK, MARK]


@pytest.mark.parametrize("mode", [BATCHED, RPC])
def test_eager_loading_is_obeyed(mode, tmp_path):
    image = fatbin(machine(86))
    eager = {"CUDA_MODULE_LOADING": "EAGER"}
    answer, names, _, _ = run("used", image, "k", folder=tmp_path, mode=mode, **eager)
    assert answer["results"] == [0] * 5
    assert names[:2] == ["module_load", MARK]
    assert run("result_only", image, folder=tmp_path, **eager)[0] == {"result": 0, "mode": 1}
    assert run("result_only", image, folder=tmp_path)[0] == {"result": 0, "mode": 2}


def test_a_module_that_is_never_used_costs_nothing(tmp_path):
    answer, names, _, _ = run("result_only", fatbin(machine(86)), folder=tmp_path)
    assert answer["result"] == 0
    assert names == [MARK]


def test_ptx_is_loaded_at_once_so_that_its_errors_come_there(tmp_path):
    image = fatbin(machine(75), ptx(52, TEXT))
    _, names, _, _ = run("used", image, "k", folder=tmp_path)
    assert names[:2] == ["module_load", MARK]
    wrong = fatbin(machine(75), ptx(52, b"no PTX at all"))
    assert run("result_only", wrong, folder=tmp_path)[0]["result"] == 200


def test_kernels_are_named_counted_and_listed_without_the_server(tmp_path):
    kernels = [
        Kernel("second", ((0, 8), (8, 4)), registers=40, shared=512, threads=256),
        Kernel("first", ((0, 24),)),
        Kernel("none", ()),
    ]
    answer, names, _, _ = run("names", fatbin(machine(86, kernels)), folder=tmp_path)
    assert names == [MARK, MARK, "module_load"]
    assert answer == {
        "listed": ["first", "none", "second"],
        "found": [[0, True]] * 3,
        "missing": 500,
        "owner": True,
        "loaded": [0, 1],
        "layouts": [[[0, 24]], [], [[0, 8], [8, 4]]],
        "attributes": [[1024, 0, 24], [1024, 0, 24], [256, 512, 40]],
    }


def test_a_variable_is_a_use(tmp_path):
    image = fatbin(machine(86, variables=(("counter", 4), ("table", 256))))
    answer, names, _, _ = run("variable", image, folder=tmp_path)
    assert answer == {"results": [500, 0], "size": 256}
    assert names == [MARK, "module_load", "memset"]


def test_threads_that_use_a_module_first_at_once_load_it_once(tmp_path):
    answer, names, _, _ = run("threads", fatbin(machine(86)), folder=tmp_path)
    assert answer["results"] == [0] * 8
    assert names.count("module_load") == 1
    assert names.count("launch") == 8


def test_a_node_of_a_graph_is_a_use(tmp_path):
    answer, names, _, _ = run("node", fatbin(machine(86)), folder=tmp_path)
    assert answer["results"] == [0]
    assert names == [MARK, "module_load"]


def test_a_context_that_goes_unloads_what_was_loaded_and_a_library_lives_on(tmp_path):
    answer, names, _, _ = run("contexts", fatbin(machine(86)), folder=tmp_path)
    assert answer["results"] == [0, 400, 400, 0]
    assert names == [
        "module_load", "launch", MARK, "module_unload", MARK,
        "module_load", "launch", "module_unload",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("image", "held"),
    [
        (fatbin(machine(75, filler=9000), machine(90)), "sm_75, sm_90"),
        (fatbin(machine(90, flags=ONLY_THIS), ptx(100, TEXT)), "sm_90a, PTX 100"),
        (cubin(75, ["k"]), "sm_75"),
        (fatbin(), "no image"),
    ],
)
def test_an_image_without_code_for_the_device_is_refused_on_the_robot(image, held, tmp_path):
    answer, names, sent, peer = run("result_only", image, folder=tmp_path)
    assert answer["result"] == 209
    assert names == []
    assert sent == 0
    assert f"it holds {held}; the device is sm_89" in peer.stderr


@pytest.mark.parametrize(
    "image",
    [fatbin(machine(75, filler=9000), machine(90, filler=9000)), cubin(80, ["k"], filler=9000)],
)
def test_the_cpu_device_refuses_machine_code_by_name_and_gets_none_of_it(image, tmp_path):
    answer, names, sent, peer = run("result_only", image, folder=tmp_path, device=CpuDevice)
    assert answer["result"] == 209
    assert names == ["module_load"]
    assert sent < 200
    named = (
        "machine code for sm_80" if image[:4] == b"\x7fELF" else "machine code for sm_75, sm_90"
    )
    assert f"{named} and no PTX, which is what this device executes" in peer.stderr


def test_what_is_no_fatbin_inside_is_left_to_the_server(tmp_path):
    image = bytearray(fatbin(machine(86), machine(75)))
    image[16 + 4 : 16 + 8] = b"\xff\xff\xff\x7f"
    answer, names, sent, _ = run("result_only", bytes(image), folder=tmp_path)
    assert answer["result"] == 200
    assert names == ["module_load"]
    assert sent == len(image)


@pytest.mark.parametrize("pack", ["", "zstd"])
def test_a_damaged_fatbin_is_refused_or_loaded_and_never_crashes_the_program(pack, tmp_path):
    kernels = [Kernel(f"k{i}") for i in range(6)]
    image = fatbin(machine(80, kernels, pack=pack), machine(86, kernels, pack=pack))
    answer, _, _, _ = run("damaged", image, 300, folder=tmp_path)
    assert sum(answer.values()) == 300
    assert answer.keys() <= {"0", "200", "209"}
    assert answer["0"] > 100


def test_a_failure_that_may_pass_is_no_verdict_on_an_image(tmp_path):
    failing = [2, 200]

    class Full(NullDevice):
        def module_load(self, module, image):
            if failing:
                raise CudaError(CUresult(failing.pop(0)), "not now")
            return super().module_load(module, image)

    image = fatbin(machine(86))
    answer, names, _, _ = run("tries", image, folder=tmp_path, device=Full)
    assert answer["results"] == [2, 200, 200, 0]
    assert names.count("module_load") == 2


@pytest.mark.parametrize("ring", [1 << 15, 1 << 17])
def test_an_image_larger_than_the_ring_goes_in_pieces(ring, tmp_path):
    image = fatbin(machine(86, filler=300_000), machine(75))
    answer, names, sent, _ = run("used", image, "k", folder=tmp_path, call_bytes=ring)
    assert answer["results"] == [0] * 5
    assert names.count("module_load") == 1
    assert (
        names.count("module_piece")
        == -(-(len(machine(86, filler=300_000)) + 16) // (ring // 4 - 256)) - 1
    )
    assert sent == 16 + len(machine(86, filler=300_000))


def test_large_ptx_goes_in_pieces_and_runs(tmp_path):
    image = fatbin(ptx(52, TEXT + b"// " + noise(20_000).hex().encode() + b"\n"))
    answer, names, _, _ = run(
        "used", image, "k", folder=tmp_path, device=CpuDevice, call_bytes=1 << 15
    )
    assert answer["results"] == [0] * 5
    assert names.count("module_piece") > 1


LARGE = b"// " + b"=" * LARGE_TEXT + b"\n"
REFUSED = b".visible .entry refused(.param .u64 a, .param .f32 b, .param .u32 c) { mulch; ret; }\n"


def test_a_kernel_of_a_large_text_is_loaded_when_it_is_used(tmp_path):
    answer, names, _, _ = run("used", TEXT + LARGE, "k", folder=tmp_path, device=CpuDevice)
    assert answer["results"] == [0] * 5
    assert names == [
        "module_load", MARK, MARK, "kernel_load", "launch", "launch", MARK, "module_unload",
    ]  # fmt: skip


def test_a_program_learns_of_kernels_of_a_large_text_what_it_does_of_a_small_one(tmp_path):
    answers = [
        run("names", text, folder=tmp_path, device=CpuDevice)[:2] for text in (TEXT, TEXT + LARGE)
    ]
    (small, _), (large, names) = answers
    assert (small.pop("loaded"), large.pop("loaded")) == ([1, 1], [0, 1])
    assert small == large
    assert names == ["module_load", MARK, MARK, "kernel_load"]


def test_a_refused_kernel_of_a_large_text_fails_where_it_is_used_and_by_name(tmp_path):
    text = TEXT + REFUSED + LARGE
    path = tmp_path / "image"
    path.write_bytes(text)
    with Peer() as peer:
        answer = peer.case("used", path, "refused", program=CASES)
        (name,) = peer.rings[0].refusals()
    assert answer["results"] == [0, 0, 218, 218, 0]
    assert peer.names() == ["module_load", MARK, MARK, "kernel_load", MARK, "module_unload"]
    assert name.startswith("image: CUDA_ERROR_INVALID_PTX: kernel refused: ")
    assert "mulch" in name
    assert run("used", text, "k", folder=tmp_path, device=CpuDevice)[0]["results"] == [0] * 5


def test_without_lazy_loading_a_large_text_is_read_at_the_load(tmp_path):
    eager = {"folder": tmp_path, "device": CpuDevice, "CUDA_MODULE_LOADING": "EAGER"}
    answer, names, _, _ = run("used", TEXT + LARGE, "k", **eager)
    assert answer["results"] == [0] * 5
    assert names[:3] == ["module_load", "kernel_load", MARK]
    answer, names, _, _ = run("result_only", TEXT + REFUSED + LARGE, **eager)
    assert answer["result"] == 218
    assert names == ["module_load", "kernel_load", "kernel_load", "module_unload"]


def test_threads_that_use_a_kernel_of_a_large_text_first_at_once_load_it_once(tmp_path):
    answer, names, _, _ = run("threads", TEXT + LARGE, folder=tmp_path, device=CpuDevice)
    assert answer["results"] == [0] * 8
    assert names.count("kernel_load") == 1
    assert names.count("launch") == 8


def test_a_damaged_description_of_a_kernel_fails_its_use(tmp_path):
    class Other(CpuDevice):
        def kernel_load(self, module, kernel):
            return replace(super().kernel_load(module, kernel), name="other")

    answer, _, _, peer = run("used", TEXT + LARGE, "k", folder=tmp_path, device=Other)
    assert answer["results"] == [0, 0, 999, 999, 0]
    assert peer.stderr.count("description of a kernel is damaged") == 1


def test_of_many_libraries_those_that_are_used_are_loaded(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(40):
        image = fatbin(*(machine(a, filler=2000, seed=number) for a in (75, 80, 90)))
        (images / f"{number:03}").write_bytes(image)
    answer, names, sent, _ = run("libraries", b"", images, 3, 17, folder=tmp_path)
    assert answer["results"] == [0, 0]
    assert names == ["module_load", "launch"] * 2 + [MARK]
    assert sent == 2 * (16 + len(machine(80, filler=2000)))


@pytest.fixture
def make_world(sockets, tmp_path):
    made = []

    def make(mode="batched"):
        config = SessionConfig(mode=mode, plan_cache_directory=tmp_path / "plans")
        made.append(
            OneProcess(sockets / "r" / "s.sock", config, HostLimits(), device="null",
                       blob_directory=sockets / "blobs", blob_bytes=1 << 28)
        )  # fmt: skip
        return made[-1]

    yield make
    for world in made:
        world.close()


def ended(world, *arguments):
    """Run a case to its end; gives its output and the session's report."""
    program = world.start(CASES, *arguments)
    text, errors = program.communicate(timeout=60)
    assert program.returncode == 0, errors
    report = world.reports.get(timeout=20)
    assert report.error == ""
    return text, report


def test_a_module_that_is_first_used_inside_a_sequence_is_loaded_there(make_world, tmp_path):
    (tmp_path / "image").write_bytes(fatbin(machine(86, filler=5000)))
    text, report = ended(make_world("replay"), "replayed", tmp_path / "image")
    assert text.split("\n")[:2] == ['{"loaded": 1}'] * 2
    assert report.divergences >= 1
    assert report.inferences >= 20
    assert report.calls_unsupported == 0


def test_a_second_start_names_the_images_that_the_server_has(make_world, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        entries = [machine(a, filler=60_000, seed=number) for a in (75, 86, 90)]
        (images / f"{number:03}").write_bytes(fatbin(*entries))
    world = make_world()
    first, second = (
        ended(world, "libraries", images / "000", images, 1, 4, 7, 10)[1].bytes_sent
        for _ in range(2)
    )
    assert 4 * 60_000 < first < 4 * 65_000
    assert second < 2000
