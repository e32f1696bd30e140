"""The device `gpu`: copies, fills, modules, launches, streams and events on the stand-in."""

import random
import struct

import numpy as np
import pytest
from support.fake_cuda import FakeCuda
from support.fake_cuda_check import VARIABLES
from support.gpu import ADD, MIB, NONE, PTX, WRITE, gpu, kernel, loaded_gpu, refused, word

from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu import symbols
from rrto_ros.devices.gpu.staging import DOWNLOAD_BYTES, UPLOAD_BYTES
from rrto_ros.devices.linked import LinkInput, linked_image
from rrto_ros.devices.protocol import Device, MemsetNode
from rrto_ros.errors import PtxError


@pytest.fixture
def loaded():
    with loaded_gpu() as made:
        yield made


class TestInfo:
    def test_it_has_the_protocol_of_every_device(self):
        with gpu() as (device, _):
            assert isinstance(device, Device)

    def test_the_program_is_told_of_the_gpu_less_what_does_not_travel(self):
        with gpu(FakeCuda(version=13050)) as (device, _):
            info = device.info
            assert (info.kind, info.name, info.uuid) == ("gpu", "Fake GPU", bytes(range(16)))
            assert (info.compute_capability, info.driver_version) == ((9, 0), 13000)
            assert (info.attributes[1], info.attributes[16]) == (1024, 20)
            assert info.attributes[83] == 0  # 1 on the GPU
            assert info.attributes[102] == 1
            assert info.attributes[115] == 1


class TestCopies:
    @pytest.mark.parametrize(
        "size", [1, 4096, UPLOAD_BYTES // 4 + 1, DOWNLOAD_BYTES // 2 + 1, 2 * UPLOAD_BYTES + 12345]
    )
    def test_what_goes_up_comes_down(self, size):
        data = random.Random(size).randbytes(size)
        with gpu() as (device, _):
            base = device.info.arena_base
            device.mem_alloc(base, size, 0)
            device.memcpy_htod(base, data, 0)
            assert bytes(device.memcpy_dtoh(base, size, 0)) == data

    def test_the_callers_buffer_may_be_reused_at_once(self, loaded):
        device, _, base = loaded
        buffer = bytearray(b"first")
        device.memcpy_htod(base, memoryview(buffer), 0)
        buffer[:] = b"later"
        device.memcpy_htod(base + 512, memoryview(buffer), 0)
        assert bytes(device.memcpy_dtoh(base, 5, 0)) == b"first"
        assert bytes(device.memcpy_dtoh(base + 512, 5, 0)) == b"later"

    def test_many_uploads_in_flight_do_not_overwrite_each_other(self, loaded):
        device, cuda, base = loaded
        rng = random.Random(3)
        parts = [(512 * n, rng.randbytes(rng.randrange(1, 512))) for n in range(2000)]
        for at, data in parts:
            device.memcpy_htod(base + at, data, 0)
        for at, data in parts:
            assert cuda.broken == 0
            assert bytes(device.memcpy_dtoh(base + at, len(data), 0)) == data
        assert cuda.count("cuEventCreate") < 200

    def test_a_download_waits_for_its_stream_only(self, loaded):
        device, cuda, base = loaded
        device.stream_create(7, 1, 0)
        device.launch(kernel(WRITE, base, 5), 7)
        device.launch(kernel(WRITE, base + 4, 6), 0)
        assert word(device, base, stream=7) == 5
        assert [launch[0] for launch in cuda.launched] == ["write_word"]

    def test_from_device_to_device_in_order(self, loaded):
        device, _, base = loaded
        device.launch(kernel(WRITE, base, 42), 0)
        device.memcpy_dtod(base + 512, base, 4, 0)
        device.launch(kernel(WRITE, base, 43), 0)
        assert (word(device, base + 512), word(device, base)) == (42, 43)

    def test_a_range_that_is_not_allocated_is_an_invalid_value(self, loaded):
        device, cuda, base = loaded
        before = len(cuda.calls)
        for call, *arguments in (
            (device.memcpy_htod, base + MIB - 2, b"1234", 0), (device.memcpy_dtoh, base - 4, 4, 0),
            (device.memcpy_dtod, base, base + 2 * MIB, 4, 0), (device.memcpy_dtoh, base, -1, 0),
            (device.memset, MemsetNode(base + MIB - 1, 0, 0, 1, 2, 1), 0),
        ):  # fmt: skip
            refused(CUresult.INVALID_VALUE, call, *arguments)
        assert len(cuda.calls) == before

    def test_nothing_copied_is_no_call(self, loaded):
        device, cuda, base = loaded
        before = len(cuda.calls)
        device.memcpy_htod(base, b"", 0)
        device.memcpy_dtod(base, base, 0, 0)
        assert bytes(device.memcpy_dtoh(base, 0, 0)) == b""
        assert len(cuda.calls) == before


class TestFills:
    @pytest.mark.parametrize("width", [1, 2, 4])
    @pytest.mark.parametrize("height", [1, 3])
    def test_fills_equal_numpy(self, loaded, width, height):
        device, _, base = loaded
        kind = np.dtype(f"<u{width}")
        want = np.zeros((4, 64 // width), kind)
        device.memset(MemsetNode(base, 0, 0, 1, 256, 1), 0)
        value = 0x1122334455 & (1 << 8 * width) - 1
        device.memset(MemsetNode(base, 64, value | 1 << 40, width, 5, height), 0)
        want[:height, :5] = value
        got = np.frombuffer(bytes(device.memcpy_dtoh(base, 256, 0)), kind)
        assert (got.reshape(want.shape) == want).all()

    @pytest.mark.parametrize(
        ("offset", "pitch", "width", "count", "height"),
        [(1, 0, 4, 1, 1), (0, 0, 3, 1, 1), (0, 8, 4, 4, 2), (0, 18, 4, 4, 2), (0, 0, 1, -1, 1)],
    )
    def test_a_bad_fill_is_an_invalid_value(self, loaded, offset, pitch, width, count, height):
        device, _, base = loaded
        fill = MemsetNode(base + offset, pitch, 0, width, count, height)
        refused(CUresult.INVALID_VALUE, device.memset, fill, 0)


class TestModules:
    def test_kernels_are_numbered_as_in_the_text_with_their_parameters(self):
        with gpu() as (device, _):
            kernels = device.module_load(1, PTX).kernels
            assert [k.name for k in kernels] == ["write_word", "add_word", "no_arguments"]
            assert [k.params for k in kernels] == [((0, 8), (8, 4)), ((0, 8), (8, 4)), ()]
            assert kernels[0].attributes == {0: 1024, 1: 16, 8: 48 << 10}

    def test_the_compilers_words_come_with_a_refused_text(self):
        with gpu() as (device, _):
            text = refused(CUresult.INVALID_PTX, device.module_load, 1, b".version 7.5\n")
            assert "declares no kernel" in text
            with pytest.raises(PtxError):
                device.module_load(1, b".version 7.5\n")

    def test_variables_are_found_where_the_driver_put_them(self):
        cuda = FakeCuda()
        cuda.variables.update(table=16, counter=4)
        text = (
            b".version 7.5\n.visible .global .align 4 .b8 table[16] = {1, 2};\n"
            b".global .u32 counter; .extern .global .u32 outside;\n"
            b".const .f32 unknown = 0f0;\n" + PTX
        )
        with gpu(cuda) as (device, _):
            info = device.module_load(1, text)
            assert [(g.name, g.bytes) for g in info.globals] == [("table", 16), ("counter", 4)]
            at = info.globals[0].address
            assert at == VARIABLES
            device.memcpy_htod(at, b"x" * 16, 0)
            assert bytes(device.memcpy_dtoh(at, 16, 0)) == b"x" * 16
            refused(CUresult.INVALID_VALUE, device.memcpy_dtoh, at, 17, 0)
            refused(CUresult.INVALID_VALUE, device.mem_free, at, 0)
            device.module_unload(1)
            refused(CUresult.INVALID_VALUE, device.memcpy_dtoh, at, 16, 0)

    def test_several_names_for_one_place_are_one_variable_to_copy(self):
        cuda = FakeCuda()
        cuda.variables.update(table=16)
        cuda.aliases.update(same=("table", 0, 16), part=("table", 4, 8))
        text = (
            b".version 7.5\n.global .b8 table[16]; .global .b8 same[16]; .global .b8 part[8];\n"
            + PTX
        )
        with gpu(cuda) as (device, _):
            table, same, part = (g.address for g in device.module_load(1, text).globals)
            assert (same, part) == (table, table + 4)
            device.memcpy_htod(part, b"y" * 8, 0)
            assert bytes(device.memcpy_dtoh(table, 16, 0)) == bytes(4) + b"y" * 8 + bytes(4)
            refused(CUresult.INVALID_VALUE, device.memcpy_dtoh, part, 13, 0)
            device.module_unload(1)
            refused(CUresult.INVALID_VALUE, device.memcpy_dtoh, part, 1, 0)

    def test_a_module_is_unloaded_when_its_kernels_are_done(self, loaded):
        device, cuda, base = loaded
        device.stream_create(7, 1, 0)
        for stream in (0, 7):
            device.launch(kernel(WRITE, base, 5), stream)
        device.module_unload(1)
        assert len(cuda.launched) == 2
        device.module_load(1, PTX)
        device.module_unload(1)
        assert cuda.names()[-1] == "cuModuleUnload"

    def test_machine_code_goes_to_the_driver_as_it_is(self):
        image = b"\x7fELF" + bytes(100)
        with gpu() as (device, cuda):
            assert device.module_load(1, image).kernels[0].name == "from_elf"
            sent = [a[0] for name, a in cuda.calls if name == "cuModuleLoadDataEx"]
            assert sent == [image]

    def test_a_link_is_made_by_the_drivers_linker_and_its_kernels_keep_their_order(self):
        second = PTX.replace(b"write_word", b"a_first").replace(b"add_word", b"b_second")
        image = linked_image((LinkInput(1, "one", PTX), LinkInput(1, "two", second)))
        with gpu() as (device, cuda):
            names = [k.name for k in device.module_load(1, image).kernels]
            assert names == ["write_word", "add_word", "no_arguments", "a_first", "b_second"]
            added = [a for name, a in cuda.calls if name == "cuLinkAddData"]
            assert [(int(a[1]), a[2], a[4]) for a in added] == [
                (1, PTX + b"\0", b"one"),
                (1, second + b"\0", b"two"),
            ]
            assert cuda.names().count("cuLinkDestroy") == 1

    def test_the_linkers_words_come_with_a_refused_link(self):
        missing = b".extern .func foo;\n" + PTX
        with gpu() as (device, cuda):
            image = linked_image((LinkInput(1, "one", missing),))
            text = refused(CUresult.INVALID_SOURCE, device.module_load, 1, image)
            assert "Undefined reference" in text
            image = linked_image((LinkInput(1, "one", b"what"),))
            assert "bad" in refused(CUresult.INVALID_PTX, device.module_load, 1, image)
            refused(
                CUresult.INVALID_IMAGE,
                device.module_load,
                1,
                linked_image((LinkInput(9, "one", PTX),)),
            )
            assert cuda.names().count("cuLinkDestroy") == 3

    def test_names_twice_or_unknown_are_invalid_handles(self, loaded):
        device, _, base = loaded
        refused(CUresult.INVALID_HANDLE, device.module_load, 1, PTX)
        refused(CUresult.INVALID_HANDLE, device.module_unload, 2)
        refused(CUresult.INVALID_HANDLE, device.launch, kernel(3, base), 0)
        refused(CUresult.INVALID_HANDLE, device.launch, kernel(0, base, module=9), 0)
        device.module_unload(1)
        refused(CUresult.INVALID_HANDLE, device.launch, kernel(0, base), 0)

    def test_function_attributes_reach_the_driver(self, loaded):
        device, cuda, _ = loaded
        device.function_set_attribute(1, ADD, 8, 96 << 10)
        name, (_, attribute, value) = cuda.calls[-1]
        assert (name, int(attribute), value) == ("cuFuncSetAttribute", 8, 96 << 10)
        refused(CUresult.INVALID_VALUE, device.function_set_attribute, 1, ADD, 77, 0)
        refused(CUresult.INVALID_HANDLE, device.function_set_attribute, 1, 9, 8, 0)

    def test_a_module_that_cannot_be_described_is_unloaded(self):
        cuda = FakeCuda()
        cuda.fail("cuModuleEnumerateFunctions", CUresult.OUT_OF_MEMORY)
        with gpu(cuda) as (device, _):
            refused(CUresult.OUT_OF_MEMORY, device.module_load, 1, PTX)
            device.module_load(1, PTX)

    def test_damaged_images_have_no_names_and_raise_nothing(self):
        rng = random.Random(1)
        for size in (0, 3, 64, 500):
            for head in (b"\x7fELF\x02", b"\x50\xed\x55\xba", b".global {", b""):
                image = head + rng.randbytes(size)
                symbols.variable_names(image)
                symbols.kernel_order(image)

    def test_data_symbols_of_an_elf_file_are_found(self):
        strings = b"\0weights\0code\0"
        symbol = struct.Struct("<IBBHQQ")
        table = (
            symbol.pack(0, 0, 0, 0, 0, 0)
            + symbol.pack(1, 0x11, 0, 3, 0, 64)
            + symbol.pack(9, 0x12, 0, 3, 0, 64)
            + symbol.pack(9, 0x11, 0, 0, 0, 64)
        )
        section = struct.Struct("<IIQQQQIIQQ")
        head = bytearray(64)
        head[:5] = b"\x7fELF\x02"
        body = strings + table
        struct.pack_into("<Q", head, 0x28, 64 + len(body))
        struct.pack_into("<HH", head, 0x3A, section.size, 3)
        sections = (
            section.pack(*[0] * 10)
            + section.pack(0, 3, 0, 0, 64, len(strings), 0, 0, 0, 0)
            + section.pack(0, 2, 0, 0, 64 + len(strings), len(table), 1, 0, 0, 24)
        )
        assert symbols.variable_names(bytes(head) + body + sections) == ["weights"]


class TestLaunches:
    def test_a_launch_reaches_the_driver_with_geometry_and_packed_arguments(self, loaded):
        device, cuda, base = loaded
        launch = kernel(WRITE, base, 9, grid=(2, 3, 4), block=(8, 2, 1), shared_bytes=64)
        device.launch(launch, 0)
        device.ctx_synchronize()
        assert cuda.launched == [("write_word", (2, 3, 4), (8, 2, 1), 64, launch.params)]
        assert word(device, base) == 9

    def test_arguments_are_taken_when_the_kernel_is_launched(self, loaded):
        device, _, base = loaded
        for number in range(50):
            device.launch(kernel(WRITE, base + 4 * number, number), 0)
        got = np.frombuffer(bytes(device.memcpy_dtoh(base, 200, 0)), "<u4")
        assert got.tolist() == list(range(50))

    def test_padding_behind_the_arguments_is_cut_and_other_sizes_are_refused(self, loaded):
        from dataclasses import replace

        device, cuda, base = loaded
        launch = kernel(WRITE, base, 3)
        device.launch(replace(launch, params=launch.params + bytes(4)), 0)
        device.launch(kernel(NONE), 0)
        for params in (launch.params[:-1], launch.params + bytes(5), b""):
            refused(CUresult.INVALID_VALUE, device.launch, replace(launch, params=params), 0)
        device.ctx_synchronize()
        assert [run[4] for run in cuda.launched] == [launch.params, b""]

    def test_a_cooperative_launch_gets_pointers_to_the_same_arguments(self, loaded):
        device, cuda, base = loaded
        device.launch(kernel(WRITE, base, 77, cooperative=True), 0)
        assert word(device, base) == 77
        assert cuda.count("cuLaunchCooperativeKernel") == 1

    def test_what_the_driver_refuses_is_an_error_of_that_launch(self, loaded):
        device, _, base = loaded
        text = refused(CUresult.INVALID_VALUE, device.launch,
                       kernel(WRITE, base, block=(2048, 1, 1)), 0)  # fmt: skip
        assert "write_word" in text
        device.launch(kernel(WRITE, base, 4), 0)
        assert word(device, base) == 4


class TestStreamsAndEvents:
    def test_the_default_streams_are_the_drivers(self, loaded):
        device, cuda, _ = loaded
        for name in (0, 1, 2):
            device.launch(kernel(NONE), name)
        used = [int(a[8]) for name, a in cuda.calls if name == "cuLaunchKernel"]
        assert used == [0, 1, 2]

    def test_streams_are_made_with_flags_and_priority(self, loaded):
        device, cuda, _ = loaded
        device.stream_create(5, 1, -3)
        assert cuda.calls[-1] == ("cuStreamCreateWithPriority", (1, -3))
        refused(CUresult.INVALID_HANDLE, device.stream_create, 5, 0, 0)
        device.stream_destroy(5)
        for call in (device.stream_destroy, device.stream_synchronize, device.stream_query):
            refused(CUresult.INVALID_HANDLE, call, 5)
        refused(CUresult.INVALID_HANDLE, device.stream_destroy, 0)

    def test_an_event_orders_two_streams(self, loaded):
        device, _, base = loaded
        for stream in (5, 6):
            device.stream_create(stream, 1, 0)
        device.event_create(9, 2)
        device.launch(kernel(WRITE, base, 100), 5)
        device.event_record(9, 5)
        device.stream_wait_event(6, 9, 0)
        device.launch(kernel(ADD, base, 1), 6)
        assert word(device, base, stream=6) == 301
        device.event_destroy(9)

    def test_queries_say_whether_the_gpu_is_there_yet(self, loaded):
        device, _, base = loaded
        device.event_create(9, 0)
        assert device.event_query(9)
        device.launch(kernel(WRITE, base, 1), 0)
        device.event_record(9, 0)
        assert not device.event_query(9)
        assert device.event_query(9)  # the stand-in went on meanwhile
        device.launch(kernel(WRITE, base, 2), 0)
        assert not device.stream_query(0)
        device.stream_synchronize(0)
        assert device.stream_query(0)

    def test_times_between_events(self, loaded):
        device, _, _ = loaded
        for event in (1, 2):
            device.event_create(event, 0)
        refused(CUresult.INVALID_HANDLE, device.event_elapsed_ms, 1, 2)
        device.event_record(1, 0)
        device.launch(kernel(NONE), 0)
        device.event_record(2, 0)
        refused(CUresult.NOT_READY, device.event_elapsed_ms, 1, 2)
        device.event_synchronize(2)
        assert device.event_elapsed_ms(1, 2) == 2.5
        refused(CUresult.INVALID_HANDLE, device.event_elapsed_ms, 1, 3)

    def test_an_event_of_another_process_is_made_as_a_plain_one(self, loaded):
        device, cuda, _ = loaded
        device.event_create(4, 4 | 2)
        assert cuda.calls[-1] == ("cuEventCreate", (2,))

    def test_waits_end_with_the_limit_set_too(self):
        with gpu(wait_limit_s=5.0) as (device, _):
            base = device.info.arena_base
            device.module_load(1, PTX)
            device.mem_alloc(base, 64, 0)
            device.launch(kernel(WRITE, base, 8), 0)
            device.stream_synchronize(0)
            assert word(device, base) == 8


class TestTelemetry:
    def test_device_time_counts_from_the_first_work_to_the_wait(self, loaded):
        device, _, base = loaded
        assert device.statistics()["device_s"] == 0
        device.launch(kernel(NONE), 0)
        device.launch(kernel(NONE), 0)
        device.stream_synchronize(0)
        device.ctx_synchronize()
        assert device.statistics()["device_s"] == pytest.approx(0.0025)
        device.launch(kernel(WRITE, base, 1), 0)
        word(device, base)
        assert device.statistics()["device_s"] == pytest.approx(0.005)

    def test_counters_are_plain_values(self, loaded):
        device, _, base = loaded
        device.memcpy_htod(base, b"1234", 0)
        found = device.statistics()
        assert all(isinstance(v, int | float | str) for v in found.values())
        assert (found["modules"], found["copies"], found["memory_bytes"]) == (1, 1, MIB)

    def test_nvml_adds_the_whole_gpu_and_its_absence_or_failure_nothing(self):
        class Memory:
            used, total = 5, 10

        class Rates:
            gpu, memory = 30, 40

        class FakeNvml:
            NVML_TEMPERATURE_GPU = 0
            asked = None

            def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
                return Memory

            def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
                return Rates

            def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
                return 61

            def nvmlInit(self):  # noqa: N802
                self.open = True

            def nvmlShutdown(self):  # noqa: N802
                self.open = False

            def nvmlDeviceGetHandleByUUID(self, text):  # noqa: N802
                self.asked = text
                return object()

            def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
                raise OSError("not supported")

        nvml = FakeNvml()
        with gpu(nvml=nvml) as (device, _):
            found = device.statistics()
            assert nvml.asked == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
            assert found["gpu_memory_used_bytes"] == 5
            assert (found["gpu_utilisation_percent"], found["gpu_temperature_c"]) == (30, 61)
            assert "gpu_power_w" not in found
        assert not nvml.open
        with gpu(nvml=object()) as (device, _):
            assert not [name for name in device.statistics() if name.startswith("gpu_")]


class TestClose:
    def test_closing_twice_is_once(self):
        with gpu() as (device, cuda):
            device.close()
            before = len(cuda.calls)
            device.close()
            assert len(cuda.calls) == before

    def test_everything_that_the_session_left_is_given_back(self):
        with gpu() as (device, _):
            base = device.info.arena_base
            device.module_load(1, PTX)
            device.module_load(2, PTX)
            device.mem_alloc(base, 5 * MIB, 0)
            device.stream_create(7, 1, 0)
            device.event_create(8, 0)
            device.graph_create(9)
            device.graph_add_node(9, 1, [], kernel(WRITE, base, 1))
            device.graph_instantiate(10, 9)
            device.graph_launch(10, 7)
            device.memcpy_htod(base, b"under way", 7)
            # checked by `gpu`
