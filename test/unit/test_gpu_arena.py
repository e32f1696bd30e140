"""The device `gpu`: addresses as agreed, memory mapped on demand and given back, limits."""

import random

import pytest
from support.fake_cuda import FakeCuda
from support.fake_cuda_check import ELSEWHERE, GRANULE
from support.gpu import MIB, PTX, gpu, kernel, refused, word

from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu.arena import DEFAULT_BASE
from rrto_ros.devices.gpu.device import GpuDevice
from rrto_ros.devices.protocol import MemsetNode
from rrto_ros.errors import UnavailableError


def mapped(device):
    return device.statistics()["mapped_bytes"]


class TestBase:
    def test_the_agreed_base_is_taken(self):
        with gpu(arena_base=0x3000_0000_0000) as (device, _):
            assert device.info.arena_base == 0x3000_0000_0000

    def test_without_one_it_is_that_of_the_cpu_device(self):
        with gpu() as (device, _):
            assert device.info.arena_base == DEFAULT_BASE

    @pytest.mark.parametrize("base", [DEFAULT_BASE, DEFAULT_BASE + 512])
    def test_a_base_that_cannot_be_had_is_replaced_and_told(self, base):
        cuda = FakeCuda()
        cuda.taken.add(DEFAULT_BASE)
        with gpu(cuda, arena_base=base) as (device, _):
            assert device.info.arena_base == ELSEWHERE
            device.mem_alloc(ELSEWHERE, 16, 0)
            device.memcpy_htod(ELSEWHERE, b"elsewhere", 0)
            assert bytes(device.memcpy_dtoh(ELSEWHERE, 9, 0)) == b"elsewhere"

    def test_a_refused_reservation_is_tried_at_another_base_then_smaller(self):
        cuda = FakeCuda()
        for _ in range(2):
            cuda.fail("cuMemAddressReserve", CUresult.OUT_OF_MEMORY)
        with gpu(cuda) as (device, _):
            assert device.info.arena_bytes == 128 * MIB  # twice the limit
        assert cuda.count("cuMemAddressReserve") == 3

    def test_no_addresses_at_all_is_said_with_the_parameter_to_change(self):
        cuda = FakeCuda()
        for _ in range(6):
            cuda.fail("cuMemAddressReserve", CUresult.OUT_OF_MEMORY)
        with pytest.raises(UnavailableError, match="limit_bytes"):
            GpuDevice(limit_bytes=64 * MIB, module=cuda)

    def test_a_gpu_without_virtual_memory_gets_one_block(self):
        cuda = FakeCuda(virtual_memory=False)
        with gpu(cuda) as (device, _):
            base = device.info.arena_base
            assert base % (2 * MIB) == 0
            assert device.info.arena_bytes == 64 * MIB
            device.mem_alloc(base + 32 * MIB, 8, 0)
            device.memcpy_htod(base + 32 * MIB, b"12345678", 0)
            assert bytes(device.memcpy_dtoh(base + 32 * MIB, 8, 0)) == b"12345678"
            assert cuda.count("cuMemAlloc") == 1

    def test_a_gpu_with_less_free_memory_says_what_the_session_gets(self):
        with gpu(FakeCuda(memory_bytes=100 * MIB)) as (device, _):
            assert device.info.total_bytes == 36 * MIB

    def test_a_full_gpu_refuses_the_session(self):
        with pytest.raises(UnavailableError, match="70 MiB free"):
            GpuDevice(limit_bytes=64 * MIB, module=FakeCuda(memory_bytes=70 * MIB))


class TestMapping:
    def test_nothing_is_mapped_before_it_is_needed(self):
        with gpu() as (device, cuda):
            assert mapped(device) == 0
            device.mem_alloc(device.info.arena_base + 10 * GRANULE, 100, 0)
            assert mapped(device) == GRANULE
            assert cuda.count("cuMemMap") == 1

    def test_neighbours_share_a_granule(self):
        with gpu() as (device, cuda):
            base = device.info.arena_base
            for number in range(64):
                device.mem_alloc(base + number * 512, 512, 0)
            assert (mapped(device), cuda.count("cuMemCreate")) == (GRANULE, 1)

    def test_a_large_allocation_is_mapped_in_few_pieces(self):
        with gpu() as (device, cuda):
            device.mem_alloc(device.info.arena_base + 512, 20 * MIB, 0)
            assert mapped(device) == 22 * MIB
            assert cuda.count("cuMemCreate") == 3  # its ends may be shared later

    def test_a_range_over_several_pieces_is_copied_and_filled_whole(self):
        with gpu() as (device, _):
            base = device.info.arena_base
            device.mem_alloc(base, GRANULE - 512, 0)
            device.mem_alloc(base + GRANULE - 512, 3 * GRANULE, 0)
            device.memset(MemsetNode(base + GRANULE - 512, 0, 7, 1, 3 * GRANULE, 1), 0)
            got = device.memcpy_dtoh(base + GRANULE - 512, 3 * GRANULE, 0)
            assert bytes(got) == b"\x07" * (3 * GRANULE)

    def test_freed_memory_stays_up_to_the_policys_limit_then_goes_oldest_first(self):
        with gpu(keep_bytes=2 * GRANULE) as (device, cuda):
            base = device.info.arena_base
            for number in range(4):
                device.mem_alloc(base + number * GRANULE, GRANULE, 0)
            for number in (2, 0, 3):
                device.mem_free(base + number * GRANULE, 0)
            unmapped = [int(a[0]) for name, a in cuda.calls if name == "cuMemUnmap"]
            assert unmapped == [base + 2 * GRANULE]
            assert device.statistics()["mapped_idle_bytes"] == 2 * GRANULE
            device.mem_alloc(base, 100, 0)
            assert cuda.count("cuMemCreate") == 4  # was still there

    def test_a_granule_is_kept_while_a_neighbour_lives(self):
        with gpu(keep_bytes=0) as (device, cuda):
            base = device.info.arena_base
            device.mem_alloc(base, 512, 0)
            device.mem_alloc(base + 512, 512, 0)
            device.memcpy_htod(base + 512, b"neighbour", 0)
            device.mem_free(base, 0)
            assert cuda.count("cuMemUnmap") == 0
            assert bytes(device.memcpy_dtoh(base + 512, 9, 0)) == b"neighbour"
            device.mem_free(base + 512, 0)
            assert (cuda.count("cuMemUnmap"), mapped(device)) == (1, 0)

    def test_memory_is_not_unmapped_before_the_kernels_that_use_it_ended(self):
        with gpu(keep_bytes=0) as (device, cuda):
            base = device.info.arena_base
            device.module_load(1, PTX)
            device.mem_alloc(base, 64, 0)
            device.launch(kernel(0, at=base, value=1), 0)
            device.mem_free(base, 0)  # the stand-in refuses to unmap under a kernel
            assert (len(cuda.launched), cuda.broken) == (1, 0)

    def test_when_the_gpu_is_full_kept_memory_is_given_back_first(self):
        cuda = FakeCuda(memory_bytes=164 * MIB)
        with gpu(cuda, limit_bytes=100 * MIB) as (device, _):
            base = device.info.arena_base
            device.mem_alloc(base, 80 * MIB, 0)
            device.mem_free(base, 0)
            cuda.memory.add(1 << 40, bytearray(70 * MIB))  # another process
            device.mem_alloc(base + 80 * MIB, 60 * MIB, 0)
            assert mapped(device) == 60 * MIB
            cuda.memory.remove(1 << 40)

    def test_kept_memory_under_the_new_allocation_is_not_given_back_for_it(self):
        cuda = FakeCuda(memory_bytes=200 * MIB)
        with gpu(cuda, limit_bytes=100 * MIB) as (device, _):
            base = device.info.arena_base
            device.mem_alloc(base, 40 * MIB, 0)
            device.mem_alloc(base + 60 * MIB, 40 * MIB, 0)
            device.mem_free(base, 0)
            device.mem_free(base + 60 * MIB, 0)
            cuda.memory.add(1 << 40, bytearray(110 * MIB))
            device.mem_alloc(base, 58 * MIB, 0)  # over the first, and 18 MiB more
            device.memset(MemsetNode(base, 0, 1, 4, 58 * MIB // 4, 1), 0)
            device.ctx_synchronize()
            assert (cuda.broken, mapped(device)) == (0, 58 * MIB)
            cuda.memory.remove(1 << 40)

    @pytest.mark.parametrize("name", ["cuMemCreate", "cuMemMap", "cuMemSetAccess"])
    def test_a_failed_mapping_leaves_the_arena_as_it_was(self, name):
        with gpu(keep_bytes=0) as (device, cuda):
            base = device.info.arena_base
            device.mem_alloc(base, 512, 0)
            cuda.fail(name, CUresult.OUT_OF_MEMORY, after=1)
            refused(CUresult.OUT_OF_MEMORY, device.mem_alloc, base + 512, 20 * MIB, 0)
            assert mapped(device) == GRANULE
            assert device.statistics()["memory_bytes"] == 512
            device.mem_alloc(base + 512, 20 * MIB, 0)
            device.mem_free(base, 0)
            device.mem_free(base + 512, 0)
            assert mapped(device) == 0

    def test_a_thousand_random_allocations_map_what_they_need_and_no_more(self):
        rng = random.Random(5)
        with gpu(keep_bytes=0) as (device, cuda):
            base, live = device.info.arena_base, {}
            for _ in range(1000):
                if live and (len(live) > 12 or rng.random() < 0.5):
                    device.mem_free(live.popitem()[0], 0)
                else:
                    at = base + rng.randrange(0, 60 * MIB, 512)
                    size = rng.choice((100, 4096, 3 * MIB)) + rng.randrange(0, 512)
                    if all(at + size <= a or a + s <= at for a, s in live.items()):
                        device.mem_alloc(at, size, 0)
                        live[at] = size
                granules = {
                    g
                    for at, size in live.items()
                    for g in range((at - base) // GRANULE, -(-(at + size - base) // GRANULE))
                }
                assert mapped(device) >= len(granules) * GRANULE
                if not live:
                    assert mapped(device) == 0
            for at, size in live.items():
                cuda.memory.read(at, size)


class TestLimits:
    def test_more_than_the_limit_is_out_of_memory_of_that_call_alone(self):
        with gpu() as (device, _):
            base = device.info.arena_base
            device.mem_alloc(base, 60 * MIB, 0)
            refused(CUresult.OUT_OF_MEMORY, device.mem_alloc, base + 60 * MIB, 5 * MIB, 0)
            device.mem_alloc(base + 60 * MIB, 4 * MIB, 0)

    @pytest.mark.parametrize(
        ("offset", "size"), [(-512, 100), (0, 0), (64 << 30, 512), ((64 << 30) - 512, 1024)]
    )
    def test_outside_the_arena_is_an_invalid_value(self, offset, size):
        with gpu() as (device, _):
            refused(CUresult.INVALID_VALUE, device.mem_alloc,
                    device.info.arena_base + offset, size, 0)  # fmt: skip

    def test_overlaps_and_unknown_frees_are_invalid_values(self):
        with gpu() as (device, _):
            base = device.info.arena_base
            device.mem_alloc(base + 512, 1024, 0)
            for at, size in ((base, 1024), (base + 1024, 8), (base + 512, 1024)):
                refused(CUresult.INVALID_VALUE, device.mem_alloc, at, size, 0)
            refused(CUresult.INVALID_VALUE, device.mem_free, base, 0)
            device.mem_free(base + 512, 0)
            refused(CUresult.INVALID_VALUE, device.mem_free, base + 512, 0)

    def test_allocations_too_scattered_for_the_limit_are_refused(self):
        with gpu(limit_bytes=16 * MIB, keep_bytes=0) as (device, _):
            base = device.info.arena_base
            text = ""
            for number in range(100):
                if number == 41:
                    text = refused(CUresult.OUT_OF_MEMORY, device.mem_alloc,
                                   base + number * 4 * MIB, 512, 0)  # fmt: skip
                    break
                device.mem_alloc(base + number * 4 * MIB, 512, 0)
            assert "scattered" in text


class TestReuse:
    """cuMemFree waits in a program and not here: what it protects must be protected still."""

    def scenario(self, flags, freed_in=0, allocated_in=0):
        """A kernel in a stream uses memory that is freed and, newly allocated, written by copy."""
        with gpu() as (device, cuda):
            base = device.info.arena_base
            device.module_load(1, PTX)
            device.stream_create(7, flags, 0)
            device.mem_alloc(base, 64, 0)
            device.launch(kernel(0, at=base, value=0xBAD), 7)
            device.mem_free(base, freed_in)
            device.mem_alloc(base, 64, allocated_in)
            device.memcpy_htod(base, (11).to_bytes(4, "little"), allocated_in)
            device.ctx_synchronize()
            return word(device, base), cuda.count("cuCtxSynchronize")

    @pytest.mark.parametrize("flags", [0, 1])
    def test_a_kernel_of_another_stream_does_not_reach_the_next_allocation(self, flags):
        assert self.scenario(flags) == (11, 2)

    def test_in_one_stream_its_order_suffices(self):
        value, waits = self.scenario(1, freed_in=7, allocated_in=7)
        assert (value, waits) == (11, 1)  # the test's own

    def test_a_later_free_stream_does_not_overtake_the_default_one(self):
        with gpu() as (device, _):
            base = device.info.arena_base
            device.module_load(1, PTX)
            device.mem_alloc(base, 64, 0)
            device.launch(kernel(0, at=base, value=0xBAD), 0)
            device.mem_free(base, 0)
            device.mem_alloc(base, 64, 0)
            device.stream_create(7, 1, 0)
            device.memcpy_htod(base, (12).to_bytes(4, "little"), 7)
            device.stream_synchronize(7)
            device.ctx_synchronize()
            assert word(device, base) == 12


class TestOwnMappings:
    """What the program maps itself."""

    def at(self, device):
        return device.info.arena_base + device.info.arena_bytes // 2

    def test_one_memory_at_two_addresses_is_one_and_is_given_back_once(self):
        with gpu() as (device, cuda):
            at = self.at(device)
            device.mem_create(1, GRANULE)
            for place in (at, at + GRANULE):
                device.mem_map(place, GRANULE, 1)
                device.mem_access(place, GRANULE, 3)
            device.memcpy_htod(at + 8, b"same", 0)
            assert bytes(device.memcpy_dtoh(at + GRANULE + 8, 4, 0)) == b"same"
            device.mem_unmap(at, 2 * GRANULE)
            assert cuda.count("cuMemRelease") == 0
            device.mem_release(1)
            assert cuda.count("cuMemRelease") == 1

    def test_what_is_queued_runs_before_memory_is_unmapped(self):
        with gpu() as (device, _):
            at = self.at(device)
            device.module_load(1, PTX)
            device.stream_create(7, 1, 0)
            device.mem_create(1, GRANULE)
            device.mem_map(at, GRANULE, 1)
            device.mem_access(at, GRANULE, 3)
            device.launch(kernel(0, at=at, value=77), 7)
            device.mem_unmap(at, GRANULE)
            device.mem_map(at + GRANULE, GRANULE, 1)
            device.mem_access(at + GRANULE, GRANULE, 1)
            assert word(device, at + GRANULE) == 77

    def test_freed_memory_that_stayed_mapped_makes_room(self):
        with gpu() as (device, cuda):
            at = self.at(device)
            device.mem_alloc(at, 3 * GRANULE, 0)
            device.mem_free(at, 0)
            assert mapped(device) == 3 * GRANULE
            device.mem_create(1, GRANULE)
            device.mem_map(at + GRANULE, GRANULE, 1)
            assert cuda.count("cuMemUnmap") > 0
            device.mem_access(at + GRANULE, GRANULE, 3)
            device.memcpy_htod(at + GRANULE, b"here", 0)
            assert bytes(device.memcpy_dtoh(at + GRANULE, 4, 0)) == b"here"

    def test_memory_in_use_gives_way_to_no_mapping(self):
        with gpu() as (device, _):
            at = self.at(device)
            device.mem_alloc(at, 4 * GRANULE, 0)
            device.mem_free(at, 0)
            device.mem_alloc(at, 512, 0)
            device.mem_create(1, GRANULE)
            refused(CUresult.OUT_OF_MEMORY, device.mem_map, at + GRANULE, GRANULE, 1)

    def test_a_session_that_ends_gives_everything_back(self):
        with gpu() as (device, _):
            device.mem_create(1, GRANULE)
            device.mem_create(2, GRANULE)
            device.mem_map(self.at(device), GRANULE, 2)

    def test_a_gpu_without_virtual_memory_refuses_it(self):
        with gpu(FakeCuda(virtual_memory=False)) as (device, _):
            refused(CUresult.NOT_SUPPORTED, device.mem_create, 1, GRANULE)
