"""The virtual device: launches are validated, memory is checked, handles are known."""

import hashlib
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from rrto_ros.api.info import DRIVER_VERSION
from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.cache import Entry, KernelCache
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.protocol import Device, Launch, MemcpyNode, MemsetNode
from rrto_ros.errors import AccessError, ConfigError, CudaError

FILL = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry fill(.param .u64 out, .param .u32 value)
.maxntid 256
{
  .reg .b32 %r<4>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r1, [value];
  mov.u32 %r2, %tid.x;
  mul.wide.u32 %rd2, %r2, 4;
  add.s64 %rd3, %rd1, %rd2;
  st.global.u32 [%rd3], %r1;
  ret;
}
.visible .entry exact() .reqntid 32 { ret; }
"""


@pytest.fixture
def device(tmp_path):
    made = CpuDevice(limit_bytes=1 << 20, arena_bytes=1 << 30, threads=2, cache_dir=tmp_path)
    yield made
    made.close()


def refused(result, call, *args):
    with pytest.raises(CudaError) as caught:
        call(*args)
    assert caught.value.result == result


def fill(device, address, value, *, count=4, kernel=0, **changes):
    fields = {
        "grid": (1, 1, 1),
        "block": (count, 1, 1),
        "shared_bytes": 0,
        "params": np.uint64(address).tobytes() + np.uint32(value).tobytes(),
    }
    return Launch(1, kernel, **{**fields, **changes})


@pytest.fixture
def loaded(device):
    device.module_load(1, FILL)
    device.mem_alloc(device.info.arena_base, 4096, 0)
    return device


def words(device, address, count):
    return np.frombuffer(bytes(device.memcpy_dtoh(address, 4 * count, 0)), np.uint32).tolist()


@pytest.mark.parametrize(("target", "number"), [("sm_75", 75), ("sm_90a", 90), ("sm_120f", 120)])
def test_a_kernels_ptx_version_is_the_architecture_that_its_text_is_for(target, number, device):
    text = FILL.replace(b"sm_70", target.encode()).replace(b".version 7.0", b".version 8.8")
    info = device.module_load(1, text)
    assert [kernel.attributes[5] for kernel in info.kernels] == [number] * 2


def test_it_is_a_device_with_the_promised_identity(tmp_path):
    # A base of its own: other devices of this process may hold the default one.
    device = CpuDevice(arena_base=0x3000_0000_0000, cache_dir=tmp_path)
    assert isinstance(device, Device)
    info = device.info
    assert (info.kind, info.compute_capability) == ("cpu", (12, 1))
    assert info.driver_version == DRIVER_VERSION
    assert info.arena_base == 0x3000_0000_0000
    assert info.attributes[1] == 1024
    assert info.attributes[75] == 12
    assert info.attributes[97] == 232448
    assert len(info.uuid) == 16
    device.close()


def test_a_taken_arena_base_is_replaced_and_reported(device, tmp_path):
    second = CpuDevice(arena_base=device.info.arena_base, cache_dir=tmp_path)
    assert second.info.arena_base != device.info.arena_base
    assert second.info.arena_base % (2 << 20) == 0
    second.close()


def test_a_launch_writes_what_the_kernel_says(loaded):
    base = loaded.info.arena_base
    loaded.launch(fill(loaded, base, 7), 0)
    assert words(loaded, base, 5) == [7, 7, 7, 7, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": (0, 1, 1)},
        {"grid": (1, 65536, 1)},
        {"block": (0, 1, 1)},
        {"block": (1025, 1, 1)},
        {"block": (32, 32, 2)},
        {"block": (257, 1, 1)},
        {"block": (1, 1, 65)},
        {"params": b"12345678"},
        {"params": bytes(64)},
        {"shared_bytes": 48 * 1024 + 1},
        {"shared_bytes": -1},
        {"kernel": 1, "params": b"", "block": (31, 1, 1)},
    ],
)
def test_a_launch_that_does_not_fit_is_invalid_value(loaded, changes):
    refused(
        CUresult.INVALID_VALUE,
        loaded.launch,
        fill(loaded, loaded.info.arena_base, 1, **changes),
        0,
    )


def test_dynamic_shared_memory_can_be_raised_to_the_opt_in_limit(loaded):
    base = loaded.info.arena_base
    loaded.function_set_attribute(1, 0, 8, 227 * 1024)
    loaded.launch(fill(loaded, base, 3, shared_bytes=227 * 1024), 0)
    refused(CUresult.INVALID_VALUE, loaded.function_set_attribute, 1, 0, 8, 227 * 1024 + 1)


def test_unknown_modules_and_kernels_are_invalid_handles(loaded):
    refused(CUresult.INVALID_HANDLE, loaded.launch, fill(loaded, 0, 1, kernel=2), 0)
    loaded.module_unload(1)
    refused(CUresult.INVALID_HANDLE, loaded.launch, fill(loaded, 0, 1), 0)
    refused(CUresult.INVALID_HANDLE, loaded.module_unload, 1)


def test_bad_images_have_the_results_of_cuda(device):
    refused(CUresult.INVALID_PTX, device.module_load, 5, FILL[:200])
    refused(CUresult.NO_BINARY_FOR_GPU, device.module_load, 5, b"\x7fELF" + bytes(100))
    refused(CUresult.INVALID_IMAGE, device.module_load, 5, b"\xff\xfe\x80garbage")
    refused(CUresult.INVALID_IMAGE, device.module_load, 5, b"/* kernels */ // soon\nvoid f() {}")
    refused(CUresult.INVALID_PTX, device.module_load, 5, b"// made\n.version 7.0\nnonsense")
    refused(CUresult.INVALID_IMAGE, device.module_load, 5, b"")


def test_copies_must_stay_inside_one_allocation(loaded):
    base = loaded.info.arena_base
    refused(CUresult.INVALID_VALUE, loaded.memcpy_dtoh, base + 4000, 97, 0)
    refused(CUresult.INVALID_VALUE, loaded.memcpy_htod, base - 1, b"ab", 0)
    refused(CUresult.INVALID_VALUE, loaded.memcpy_dtod, base + 8192, base, 4, 0)
    refused(CUresult.INVALID_VALUE, loaded.memset, MemsetNode(base, 0, 1, 4, 1025, 1), 0)
    assert bytes(loaded.memcpy_dtoh(base, 0, 0)) == b""


def test_freed_memory_cannot_be_copied_and_comes_back_zeroed(loaded):
    base = loaded.info.arena_base
    loaded.memcpy_htod(base, b"secret", 0)
    loaded.mem_free(base, 0)
    refused(CUresult.INVALID_VALUE, loaded.memcpy_dtoh, base, 6, 0)
    refused(CUresult.INVALID_VALUE, loaded.mem_free, base, 0)
    loaded.mem_alloc(base, 4096, 0)
    assert bytes(loaded.memcpy_dtoh(base, 6, 0)) == bytes(6)


def test_the_memory_limit_is_kept(device):
    base = device.info.arena_base
    device.mem_alloc(base, 1 << 19, 0)
    refused(CUresult.OUT_OF_MEMORY, device.mem_alloc, base + (1 << 19), (1 << 19) + 1, 0)
    device.mem_alloc(base + (1 << 19), 1 << 19, 0)
    device.mem_free(base, 0)
    device.mem_alloc(base, 1, 0)


def test_overlaps_and_addresses_outside_the_arena_are_refused(device):
    base = device.info.arena_base
    device.mem_alloc(base + 512, 512, 0)
    refused(CUresult.INVALID_VALUE, device.mem_alloc, base + 1023, 16, 0)
    refused(CUresult.INVALID_VALUE, device.mem_alloc, base, 513, 0)
    refused(CUresult.INVALID_VALUE, device.mem_alloc, base - 512, 512, 0)
    refused(CUresult.INVALID_VALUE, device.mem_alloc, base + device.info.arena_bytes, 512, 0)


def test_neighbours_on_a_page_survive_a_free(device):
    base = device.info.arena_base
    for index in range(3):
        device.mem_alloc(base + 512 * index, 512, 0)
        device.memcpy_htod(base + 512 * index, bytes([index + 1]) * 512, 0)
    device.mem_free(base + 512, 0)
    assert bytes(device.memcpy_dtoh(base, 1, 0)) == b"\1"
    assert bytes(device.memcpy_dtoh(base + 1024, 1, 0)) == b"\3"


@pytest.mark.parametrize(("width", "value"), [(1, 0xAB), (2, 0xABCD), (4, 0xABCDEF01)])
def test_memset_2d_leaves_the_gaps(loaded, width, value):
    base = loaded.info.arena_base
    loaded.memset(MemsetNode(base, 32, value, width, 3, 4), 0)
    rows = np.frombuffer(bytes(loaded.memcpy_dtoh(base, 128, 0)), np.uint8).reshape(4, 32)
    assert (rows[:, : 3 * width].reshape(-1).view(f"<u{width}") == value).all()
    assert not rows[:, 3 * width :].any()


def test_streams_and_events_follow_cuda(device):
    device.stream_create(10, 0, 0)
    device.event_create(20, 0)
    device.event_create(21, 2)
    refused(CUresult.INVALID_HANDLE, device.event_elapsed_ms, 20, 20)
    device.event_record(20, 10)
    assert device.event_elapsed_ms(20, 20) == 0
    device.event_record(21, 0)
    refused(CUresult.INVALID_HANDLE, device.event_elapsed_ms, 20, 21)
    device.stream_wait_event(0, 20, 0)
    assert device.stream_query(10)
    assert device.event_query(20)
    device.stream_destroy(10)
    device.event_destroy(20)
    for call, args in (
        (device.stream_query, (10,)),
        (device.event_query, (20,)),
        (device.stream_destroy, (10,)),
        (device.event_record, (21, 10)),
        (device.mem_alloc, (device.info.arena_base, 8, 10)),
    ):
        refused(CUresult.INVALID_HANDLE, call, *args)


def test_a_graph_runs_in_the_order_of_its_dependencies(loaded):
    base = loaded.info.arena_base
    loaded.graph_create(1)
    loaded.graph_add_node(1, 30, [], fill(loaded, base, 5))
    loaded.graph_add_node(1, 20, [30], MemcpyNode(base + 64, base, 16))
    loaded.graph_add_node(1, 10, [20], MemsetNode(base, 0, 9, 4, 2, 1))
    loaded.graph_add_node(1, 40, [30, 20], None)
    loaded.graph_instantiate(2, 1)
    loaded.graph_destroy(1)
    loaded.graph_launch(2, 0)
    assert words(loaded, base, 4) == [9, 9, 5, 5]
    assert words(loaded, base + 64, 4) == [5] * 4
    loaded.graph_exec_node_set(2, 30, fill(loaded, base, 6))
    loaded.graph_launch(2, 0)
    assert words(loaded, base + 64, 4) == [6] * 4
    refused(CUresult.INVALID_VALUE, loaded.graph_exec_node_set, 2, 30, None)
    loaded.graph_exec_destroy(2)
    refused(CUresult.INVALID_HANDLE, loaded.graph_launch, 2, 0)


def test_graphs_refuse_unknown_nodes(loaded):
    loaded.graph_create(1)
    loaded.graph_add_node(1, 1, [], None)
    refused(CUresult.INVALID_VALUE, loaded.graph_add_node, 1, 1, [], None)
    refused(CUresult.INVALID_VALUE, loaded.graph_add_node, 1, 2, [3], None)
    loaded.graph_instantiate(2, 1)
    refused(CUresult.INVALID_VALUE, loaded.graph_exec_node_set, 2, 9, None)
    refused(CUresult.INVALID_HANDLE, loaded.graph_add_node, 5, 1, [], None)


def test_arena_smaller_than_the_limit_is_a_configuration_error():
    with pytest.raises(ConfigError, match="arena_bytes"):
        CpuDevice(limit_bytes=2 << 30, arena_bytes=1 << 30)


def test_a_second_start_compiles_nothing(tmp_path):
    counts = []
    for _ in range(2):
        device = CpuDevice(cache_dir=tmp_path, threads=1)
        device.module_load(1, FILL)
        device.mem_alloc(device.info.arena_base, 64, 0)
        device.launch(fill(device, device.info.arena_base, 8), 0)
        assert words(device, device.info.arena_base, 4) == [8] * 4
        counts.append(
            (device.statistics()["kernels_compiled"], device.statistics()["cache_misses"])
        )
        device.close()
    assert counts == [(1, 2), (0, 0)]


def test_damaged_cache_entries_are_compiled_again(tmp_path):
    for damage in (None, b"", b"RRTOOBJ1" + bytes(60)):
        device = CpuDevice(cache_dir=tmp_path, threads=1)
        device.module_load(1, FILL)
        device.mem_alloc(device.info.arena_base, 64, 0)
        device.launch(fill(device, device.info.arena_base, 8), 0)
        assert words(device, device.info.arena_base, 4) == [8] * 4
        if damage is not None:
            assert device.statistics()["kernels_compiled"] == 1
        device.close()
        entries = list(tmp_path.glob(f"??/{'?' * 64}"))
        assert len(entries) == 2
        for path in entries:
            path.write_bytes(damage or b"")


def test_an_object_that_was_planted_under_a_kernels_key_is_not_loaded(tmp_path):
    """Another kernel's object, whole and with a seal of the attacker's, under the right name."""
    other = FILL.replace(b"st.global.u32 [%rd3], %r1", b"st.global.u32 [%rd3], %r2")
    assert other != FILL

    def compiled(image, folder):
        device = CpuDevice(cache_dir=folder, threads=1)
        device.module_load(1, image)
        device.mem_alloc(device.info.arena_base, 64, 0)
        device.launch(fill(device, device.info.arena_base, 8), 0)
        found = words(device, device.info.arena_base, 4)
        count = device.statistics()["kernels_compiled"]
        device.close()
        return found, count

    def objects(folder):
        return [path for path in folder.glob(f"??/{'?' * 64}") if b"ELF" in path.read_bytes()]

    assert compiled(FILL, tmp_path / "mine") == ([8] * 4, 1)
    compiled(other, tmp_path / "theirs")
    (mine,), (theirs,) = objects(tmp_path / "mine"), objects(tmp_path / "theirs")
    content = theirs.read_bytes()[32:]
    for seal in (
        theirs.read_bytes()[:32],
        hashlib.sha256(b"rrto entry 1 " + mine.name.encode() + content).digest(),
    ):
        mine.write_bytes(seal + content)
        assert compiled(FILL, tmp_path / "mine") == ([8] * 4, 1)
    assert compiled(FILL, tmp_path / "mine") == ([8] * 4, 0)


def test_the_cache_stays_under_its_limit_and_drops_the_oldest(tmp_path):
    cache = KernelCache(tmp_path, 3700)
    keys = [f"{i:02x}{'0' * 62}" for i in range(4)]
    for key in keys[:3]:
        cache.put(key, Entry(bytes(1000), {}))
    for age, key in enumerate((keys[1], keys[0], keys[2])):
        os.utime(tmp_path / key[:2] / key, (1000 + age, 1000 + age))
    cache.put(keys[3], Entry(bytes(1000), {}))
    assert [cache.get(k) is not None for k in keys] == [True, False, True, True]


def test_adding_to_a_large_cache_does_not_look_through_it_every_time(tmp_path):
    cache = KernelCache(tmp_path, 1 << 20)
    for number in range(200):
        cache.put(f"{number:064x}", Entry(bytes(1000), {}))
    assert cache.statistics()["cache_scans"] < 5
    for number in range(200, 2000):
        cache.put(f"{number:064x}", Entry(bytes(1000), {}))
    assert 5 <= cache.statistics()["cache_scans"] < 100
    assert sum(p.stat().st_size for p in tmp_path.glob("??/*")) <= 1 << 20
    assert cache.get(f"{1999:064x}") == Entry(bytes(1000), {})


def test_files_that_a_process_left_half_written_go_in_time(tmp_path):
    (tmp_path / "aa").mkdir()
    for name, age in (("old", 7200), ("young", 10)):
        file = tmp_path / "aa" / f".new-{name}"
        file.write_bytes(bytes(10))
        os.utime(file, (time.time() - age,) * 2)
    KernelCache(tmp_path, 1 << 20).put("a" * 64, Entry(b"", {}))
    assert {p.name for p in tmp_path.glob("??/.new-*")} == {".new-young"}


# Adds and reads the same entries as its siblings; every one read must be the one that was added.
SHARING = """
import random, sys
from pathlib import Path
from rrto_ros.devices.cpu.cache import Entry, KernelCache
folder, seed, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng, cache = random.Random(seed), KernelCache(folder, limit)
def entry(number):
    return Entry(random.Random(number).randbytes(500 + 10 * number), {"number": number})
for _ in range(600):
    number = rng.randrange(60)
    key = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4
    found = cache.get(key)
    assert found in (None, entry(number)), number
    if found is None:
        cache.put(key, entry(number))
counts = cache.statistics()
assert (counts["cache_failed"], counts["cache_corrupt"]) == (0, 0), counts
print(counts["cache_hits"])
"""


def test_processes_share_a_cache_that_is_too_small_for_them(tmp_path):
    limit = 30000
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SHARING, tmp_path, str(seed), str(limit)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(4)
    ]
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        assert int(out) > 100
    # Each may be one entry above its share, a thirty-second, before it looks.
    used = sum(p.stat().st_size for p in tmp_path.glob("??/*"))
    assert used <= limit + 4 * (limit // 32 + 1300)
    assert not list(tmp_path.glob("??/.new-*"))


ENDLESS = b""".version 8.0
.target sm_80
.address_size 64
.visible .entry spin(){ L: bra L; }
.visible .entry barriers(){ L: bar.sync 0; bra L; }
.visible .entry many_blocks(){ ret; }
.visible .entry counts(.param .u64 out)
{ .reg .b32 %i; .reg .pred %p; .reg .b64 %a;
  ld.param.u64 %a, [out]; mov.u32 %i, 0;
L: add.s32 %i, %i, 1; st.global.u32 [%a], %i; setp.lt.s32 %p, %i, 1000; @%p bra L; ret; }
.visible .entry restarts()
{ .reg .b32 %i, %j; .reg .pred %p;
A: mov.u32 %i, 0;
B: add.s32 %i, %i, 1; setp.lt.s32 %p, %i, 10; @%p bra B; bra A; }
.func (.reg .b32 %out) deep(.reg .b32 %n)
{ .reg .pred %p; L: add.s32 %n, %n, 1; setp.ne.s32 %p, %n, 0; @%p bra L; mov.u32 %out, %n; bra L; }
.visible .entry in_a_function()
{ .reg .b32 %t; mov.u32 %t, %tid.x; call (%t), deep, (%t); ret; }
.visible .entry vectors(.param .u64 out)
{ .reg .b32 %t, %s; .reg .b64 %a, %b;
  ld.param.u64 %a, [out]; mov.u32 %t, %tid.x; mad.wide.u32 %a, %t, 4, %a; mov.u32 %s, %t;
L: mad.lo.u32 %s, %s, %s, %t; st.global.u32 [%a], %s; bra L; }
.visible .entry one_lane(.param .u64 out)
{ .reg .b32 %t; .reg .b64 %a; .reg .pred %p;
  ld.param.u64 %a, [out]; mov.u32 %t, %tid.x; mad.wide.u32 %a, %t, 4, %a;
  setp.eq.u32 %p, %t, 37;
L: st.global.u32 [%a], %t; @%p bra L; ret; }
.visible .entry exchanges()
{ .reg .b32 %t; mov.u32 %t, %tid.x; L: shfl.sync.bfly.b32 %t, %t, 1, 31, -1; bra L; }
.visible .entry table()
{ .reg .b32 %t; mov.u32 %t, %tid.x;
T: .branchtargets A, B;
A: and.b32 %t, %t, 1; brx.idx %t, T;
B: xor.b32 %t, %t, 1; brx.idx %t, T; }
.visible .entry counted(.param .u64 out)
{ .reg .b32 %n; mov.u32 %n, %ntid.x; L: bar.sync 1, %n; bra L; }
.visible .entry alone(.param .u64 out)
{ .reg .b32 %n; mov.u32 %n, %ntid.x; add.u32 %n, %n, 32; bar.sync 1, %n; ret; }
.visible .entry lock(.param .u64 out)
{ .reg .b32 %r; .reg .b64 %a; .reg .pred %p; ld.param.u64 %a, [out];
L: atom.global.cas.b32 %r, [%a+256], 0, 1; setp.ne.u32 %p, %r, 0; @%p bra L; ret; }
.visible .entry flag(.param .u64 out)
{ .reg .b32 %r; .reg .b64 %a; .reg .pred %p; ld.param.u64 %a, [out];
L: ld.volatile.global.u32 %r, [%a+260]; setp.eq.u32 %p, %r, 0; @%p bra L; ret; }
"""


@pytest.mark.parametrize(
    ("kernel", "grid"),
    [
        ("spin", (3, 1, 1)),
        ("barriers", (1, 1, 1)),
        ("many_blocks", (2**31 - 1, 60000, 1)),
        ("restarts", (1, 1, 1)),
        ("in_a_function", (2, 1, 1)),
        ("vectors", (2, 1, 1)),
        ("one_lane", (2, 1, 1)),
        ("exchanges", (1, 1, 1)),
        ("table", (1, 1, 1)),
        ("counted", (2, 1, 1)),
        ("alone", (2, 1, 1)),
        ("lock", (2, 1, 1)),
        ("flag", (2, 1, 1)),
    ],
)
def test_an_endless_kernel_ends_with_launch_timeout(kernel, grid):
    device = CpuDevice(threads=2, cache_bytes=0, launch_timeout_s=0.2)
    kernels = device.module_load(1, ENDLESS).kernels
    names = [k.name for k in kernels]
    base = device.info.arena_base
    device.mem_alloc(base, 512, 0)
    address = base.to_bytes(8, "little")
    params = address if kernels[names.index(kernel)].params else b""
    with pytest.raises(CudaError, match=f"{kernel} ran longer than 0.2 s") as caught:
        device.launch(Launch(1, names.index(kernel), grid, (64, 1, 1), 0, params), 0)
    assert caught.value.result == CUresult.LAUNCH_TIMEOUT
    assert device.statistics()["launches_ended"] == 1
    if kernel in ("vectors", "one_lane"):
        assert device.statistics()["kernels_vectorised"] == 1
    # The flag is down again: the next launch runs to its end.
    device.launch(Launch(1, names.index("counts"), (1, 1, 1), (1, 1, 1), 0, address), 0)
    assert words(device, base, 1) == [1000]
    device.close()


def test_a_negative_launch_timeout_is_a_configuration_error():
    with pytest.raises(ConfigError, match="launch_timeout_s"):
        CpuDevice(launch_timeout_s=-1)


STRAY = b""".version 8.0
.target sm_80
.address_size 64
.visible .entry store(.param .u64 at)
{ .reg .b32 %t; .reg .b64 %a, %b;
  ld.param.u64 %a, [at]; mov.u32 %t, %tid.x; mul.wide.u32 %b, %t, 4; add.s64 %a, %a, %b;
  st.global.u32 [%a], %t; ret; }
.visible .entry load(.param .u64 at)
{ .reg .b32 %t; .reg .b64 %a;
  ld.param.u64 %a, [at]; ld.global.u32 %t, [%a]; st.global.u32 [%a], %t; ret; }
.visible .entry atomic(.param .u64 at)
{ .reg .b64 %a; ld.param.u64 %a, [at]; red.global.add.u32 [%a], 1; ret; }
.visible .entry guarded(.param .u64 at)
{ .reg .b32 %t; .reg .b64 %a; .reg .pred %p;
  ld.param.u64 %a, [at]; mov.u32 %t, 5; setp.gt.u32 %p, %t, 9; @%p ld.global.u32 %t, [%a];
  @%p st.global.u32 [%a], %t; ret; }
.visible .entry memories(.param .u64 at, .param .u32 shift)
{ .reg .b32 %t, %s; .reg .b64 %a, %b; .shared .align 8 .b8 tile[256]; .local .align 8 .b8 mine[8];
  ld.param.u64 %a, [at]; ld.param.u32 %s, [shift]; mov.u32 %t, %tid.x; shl.b32 %t, %t, 2;
  add.s32 %t, %t, %s; st.shared.u32 [%t], 7; st.local.u32 [mine+4], 8; cvta.local.u64 %b, mine;
  ld.u32 %t, [%b+4]; cvta.shared.u64 %b, tile; ld.u32 %s, [%b+252]; ret; }
"""


@pytest.fixture
def careful(tmp_path):
    device = CpuDevice(threads=2, cache_dir=tmp_path, memcheck=True)
    names = [k.name for k in device.module_load(1, STRAY).kernels]
    base = device.info.arena_base
    device.mem_alloc(base, 256, 0)

    def run(kernel, *params, block=(64, 1, 1), grid=(2, 1, 1)):
        device.launch(Launch(1, names.index(kernel), grid, block, 0, b"".join(params)), 0)

    yield device, base, run
    device.close()


def address(value):
    return value.to_bytes(8, "little")


def test_memcheck_lets_a_right_program_run(careful):
    device, base, run = careful
    run("store", address(base))
    assert words(device, base, 64) == list(range(64))
    run("guarded", address(12))
    run("memories", address(base), bytes(4))


@pytest.mark.parametrize(
    ("kernel", "offset", "block", "text"),
    [
        (
            "store",
            4,
            (64, 1, 1),
            (
                r"kernel store, line 7: thread \(63, 0, 0\) of block \(., 0, 0\) "
                r"writes 4 bytes at 0x[0-9a-f]+, 0 bytes behind the end of the allocation of "
                r"256 bytes at "
            ),
        ),
        (
            "load",
            -8,
            (1, 1, 1),
            (
                r"kernel load, line 10: thread \(0, 0, 0\) of block \(., 0, 0\) "
                r"reads 4 bytes at 0x[0-9a-f]+, 8 bytes before the allocation of 256 bytes"
            ),
        ),
        ("atomic", 254, (1, 1, 1), r"line 12: .* writes 4 bytes at .*, 2 bytes before the end of"),
        ("load", -(1 << 44), (1, 1, 1), r"kernel load"),
    ],
)
def test_memcheck_names_kernel_thread_address_and_allocation(careful, kernel, offset, block, text):
    device, base, run = careful
    with pytest.raises(AccessError, match=text) as caught:
        run(kernel, address(base + offset), block=block)
    assert caught.value.result == CUresult.ILLEGAL_ADDRESS
    # The device goes on; whether the session may is not its concern.
    run("store", address(base))
    assert words(device, base, 2) == [0, 1]


def test_memcheck_covers_shared_memory(careful):
    _, base, run = careful
    with pytest.raises(AccessError, match=r"kernel memories, line 20: .*writes 4 bytes at offset"):
        run("memories", address(base), (8).to_bytes(4, "little"))


BLOCKED = b""".version 8.0
.target sm_80
.address_size 64
.visible .entry trapped(.param .u32 n)
{ .reg .b32 %a, %n; .reg .pred %p; ld.param.u32 %n, [n]; mov.u32 %a, %ctaid.x;
  setp.eq.u32 %p, %a, %n; @%p trap; ret; }
.visible .entry never_open(.param .u32 n)
{ .reg .b32 %a, %n; .reg .pred %p; ld.param.u32 %n, [n]; mov.u32 %a, %tid.x;
  setp.lt.u32 %p, %a, %n; @%p bar.sync 1, 64; bar.sync 0; ret; }
.visible .entry stopped(.param .u64 at)
{ .reg .b32 %a; .reg .b64 %d; .reg .pred %p; ld.param.u64 %d, [at]; mov.u32 %a, %tid.x;
  st.global.u32 [%d], %a; setp.eq.u32 %p, %a, 77; @%p brkpt; brkpt; st.global.u32 [%d+4], 9; ret; }
"""


@pytest.mark.parametrize(
    ("kernel", "n", "result"),
    [
        (0, 3, CUresult.LAUNCH_FAILED),
        (0, 9, None),
        (1, 64, None),
        (1, 40, CUresult.LAUNCH_TIMEOUT),
    ],
)
def test_a_trap_and_a_barrier_that_never_opens_end_the_launch(tmp_path, kernel, n, result):
    device = CpuDevice(threads=2, cache_dir=tmp_path, launch_timeout_s=0.3)
    device.module_load(1, BLOCKED)
    launch = Launch(1, kernel, (5, 1, 1), (128, 1, 1), 0, n.to_bytes(4, "little"))
    if result is None:
        device.launch(launch, 0)
    else:
        refused(result, device.launch, launch, 0)
    device.close()


@pytest.mark.parametrize("lanes", [1, 0], ids=["thread by thread", "in vectors"])
def test_a_breakpoint_ends_its_thread_and_fails_the_launch(tmp_path, lanes):
    device = CpuDevice(threads=2, cache_dir=tmp_path, vector_lanes=lanes)
    device.module_load(1, BLOCKED)
    base = device.info.arena_base
    device.mem_alloc(base, 512, 0)
    device.memset(MemsetNode(base, 0, 5, 4, 2, 1), 0)
    launch = Launch(1, 2, (1, 1, 1), (128, 1, 1), 0, base.to_bytes(8, "little"))
    with pytest.raises(CudaError, match="stopped executed brkpt") as caught:
        device.launch(launch, 0)
    assert caught.value.result is CUresult.LAUNCH_FAILED
    # What was stored before is there, what comes behind it is not.
    assert int.from_bytes(device.memcpy_dtoh(base + 4, 4, 0), "little") == 5
    device.close()
