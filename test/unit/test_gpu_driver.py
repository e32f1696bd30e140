"""The device `gpu`: what is missing is said, driver calls fit their prototypes, errors map."""

import inspect
import re
import sys

import pytest
from support.fake_cuda import FakeCuda
from support.fake_cuda_check import PROTOTYPES, prototype
from support.fake_cuda_types import ENUMS, HANDLES, STRUCTS
from support.gpu import PTX, gpu, kernel, loaded_gpu, refused

from rrto_ros.api.choices import DEVICES
from rrto_ros.api.results import BREAKS_CONTEXT, CUresult
from rrto_ros.devices import registry
from rrto_ros.devices.gpu import driver as gpu_driver
from rrto_ros.devices.gpu.driver import Driver, check_available
from rrto_ros.devices.protocol import Device
from rrto_ros.errors import UnavailableError


def functions(cuda):
    return [name for name in dir(cuda) if name.startswith("cu") and name[2].isupper()]


class TestAvailable:
    def test_a_gpu_is_named(self):
        assert check_available(FakeCuda()) == "Fake GPU"

    def test_without_cuda_python_the_extra_to_install_is_named(self, monkeypatch):
        for name in ("cuda", "cuda.bindings", "cuda.bindings.driver"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UnavailableError, match=r"cuda-python.*pip install 'rrto_ros\[gpu\]'"):
            check_available()

    def test_without_a_gpu_nvidia_smi_and_the_cpu_device_are_named(self):
        cuda = FakeCuda()
        cuda.fail("cuInit", CUresult.NO_DEVICE)
        with pytest.raises(UnavailableError, match=r"NO_DEVICE.*nvidia-smi.*device 'cpu'"):
            check_available(cuda)

    def test_without_a_driver_it_is_the_driver_that_is_missing(self):
        class NoLibrary(FakeCuda):
            def cuInit(self, flags):  # noqa: N802
                raise RuntimeError("Failed to dlopen libcuda.so.1\nmore")

        with pytest.raises(UnavailableError, match=r"libcuda.so.1\) cannot be loaded \(Failed"):
            check_available(NoLibrary())

    def test_an_old_driver_is_refused_with_the_version_that_is_needed(self):
        with pytest.raises(UnavailableError, match=r"CUDA 12\.2, 12\.4 \(release 550\)"):
            check_available(FakeCuda(version=12020))

    def test_no_device_counts_as_none(self, monkeypatch):
        cuda = FakeCuda()
        monkeypatch.setattr(cuda, "cuDeviceGetCount", lambda: (0, 0))
        with pytest.raises(UnavailableError, match="CUDA_VISIBLE_DEVICES"):
            check_available(cuda)


class TestRegistry:
    @pytest.fixture
    def cuda(self, monkeypatch):
        cuda = FakeCuda()
        monkeypatch.setattr(gpu_driver, "load", lambda: cuda)
        monkeypatch.setattr("rrto_ros.devices.gpu.device.load", lambda: cuda)
        return cuda

    def test_auto_takes_the_gpu_if_there_is_one(self, cuda):
        assert registry.resolve("auto") == ("gpu", "found Fake GPU")

    def test_auto_takes_the_cpu_device_otherwise_and_says_why(self, cuda):
        cuda.fail("cuInit", CUresult.NO_DEVICE)
        device, why = registry.resolve("auto")
        assert (device, "finds no GPU" in why) == ("cpu", True)

    def test_another_name_is_not_changed_and_asks_no_driver(self, cuda):
        assert [registry.resolve(name) for name in DEVICES] == [
            ("cpu", ""), ("gpu", ""), ("null", ""),
        ]  # fmt: skip
        assert cuda.calls == []

    def test_a_gpu_device_is_made_with_the_sessions_settings(self, cuda):
        registry.preload("gpu")
        assert cuda.names() == []  # it would start threads before the worker is confined
        registry.start_driver("gpu")
        assert "cuInit" in cuda.names()
        assert cuda.contexts == 0  # it holds no memory of the GPU yet
        registry.check_available("gpu")
        settings = registry.DeviceSettings(
            limit_bytes=1 << 25, arena_base=0x3000_0000_0000, launch_timeout_s=7.0
        )
        device = registry.create_device("gpu", settings)
        assert isinstance(device, Device)
        assert (device.info.kind, device.info.total_bytes) == ("gpu", 1 << 25)
        assert device.info.arena_base == 0x3000_0000_0000
        device.close()
        assert cuda.alive() == {}


class TestTable:
    def test_every_function_that_the_device_calls_is_in_the_stand_in(self):
        room = gpu_driver.__file__.rsplit("/", 1)[0]
        from pathlib import Path

        called = set()
        for file in Path(room).glob("*.py"):
            called |= set(re.findall(r'"(cu[A-Z]\w+)"', file.read_text("utf-8")))
        optional = {"cuDeviceGetUuid_v2", "cuGraphMemcpyNodeSetParams",
                    "cuGraphMemsetNodeSetParams"}  # fmt: skip
        # Textures are tried on the real bindings, down to C: test_gpu_mapping_bindings.py.
        optional |= {"cuTexObjectCreate", "cuTexObjectDestroy"}
        assert called - set(functions(FakeCuda())) <= optional
        assert all(prototype(name) is not None for name in called)

    def test_the_stand_in_has_the_parameters_of_the_table(self):
        cuda = FakeCuda()
        for name in functions(cuda):
            known = [p for _, p in prototype(name)]
            taken = list(inspect.signature(getattr(cuda, name)).parameters)
            assert [p for p in known if p in taken] == taken

    def test_the_stand_in_has_the_parameters_and_types_of_the_real_bindings(self):
        real = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
        cuda = FakeCuda()
        for name in functions(cuda):
            line = getattr(real, name).__doc__.strip().splitlines()[0]
            inside = re.sub(r"\[[^\]]*\]", "", line[line.index("(") + 1 : line.rindex(")")])
            given = [part.split(":")[0].split() for part in inside.split(",") if part.strip()]
            names = [words[-1].lstrip("*") for words in given]
            # What would hide a function of Python's is called otherwise there.
            names = [name.removesuffix("name") if name == "typename" else name for name in names]
            assert names == list(inspect.signature(getattr(cuda, name)).parameters), name
        for name in HANDLES:
            getattr(real, name)(0)
        for name, kind in STRUCTS.items():
            assert set(kind.MEMBERS) <= set(dir(getattr(real, name)())), name
        for name, kind in ENUMS.items():
            # Older bindings lack the newest names.
            there = [member for member in kind if hasattr(getattr(real, name), member.name)]
            assert len(there) > 0.9 * len(kind), name
            for member in there:
                assert int(getattr(getattr(real, name), member.name)) == member, member

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("cuStreamSynchronize", (0,)),
            ("cuMemAlloc", (-1,)),
            ("cuMemAlloc", (1 << 64,)),
            ("cuMemAlloc", (True,)),
            ("cuMemAlloc", ()),
            ("cuCtxSynchronize", (1,)),
            ("cuEventDestroy", (HANDLES["CUevent"](77),)),
            ("cuDeviceGetAttribute", (1, HANDLES["CUdevice"](0))),
        ],
    )
    def test_the_stand_in_refuses_arguments_that_do_not_fit(self, name, arguments):
        with pytest.raises(AssertionError):
            getattr(FakeCuda(), name)(*arguments)

    def test_the_table_has_prototypes_of_all_exports(self):
        assert len(PROTOTYPES) > 600


class TestErrors:
    def test_a_result_is_raised_with_the_drivers_words(self):
        cuda = FakeCuda()
        cuda.fail("cuMemAlloc", CUresult.OUT_OF_MEMORY)
        text = refused(CUresult.OUT_OF_MEMORY, Driver(cuda).call, "cuMemAlloc", 8)
        assert "cuMemAlloc" in text
        assert "text of CUDA_ERROR_OUT_OF_MEMORY" in text

    @pytest.mark.parametrize("code", sorted(BREAKS_CONTEXT))
    def test_what_ends_a_context_is_remembered_and_asked_no_more(self, code):
        cuda = FakeCuda()
        driver = Driver(cuda)
        cuda.fail("cuMemAlloc", code)
        refused(code, driver.call, "cuMemAlloc", 8)
        before = len(cuda.calls)
        refused(code, driver.call, "cuMemAlloc", 8)
        assert len(cuda.calls) == before

    @pytest.mark.parametrize("raised", [KeyError, ValueError])
    def test_a_number_that_the_bindings_do_not_know_is_unknown_and_does_not_end_the_context(
        self, raised
    ):
        cuda = FakeCuda()
        cuda.nameless = raised
        driver = Driver(cuda)
        cuda.fail("cuMemAlloc", 4242)
        assert "CUresult 4242" in refused(CUresult.UNKNOWN, driver.call, "cuMemAlloc", 8)
        cuda.fail("cuStreamQuery", 4242)
        refused(CUresult.UNKNOWN, driver.ready, "cuStreamQuery", cuda.CUstream(0))
        with loaded_gpu(cuda) as (device, _, base):
            cuda.fail("cuLaunchKernel", 4242)
            refused(CUresult.UNKNOWN, device.launch, kernel(0, at=base), 0)
        driver.check_sound()

    def test_other_errors_of_the_bindings_are_not_taken_for_a_result(self):
        class Strict(FakeCuda):
            def cuMemAlloc(self, bytesize):  # noqa: N802
                raise ValueError("bytesize is no number")

        with pytest.raises(ValueError, match="no number"):
            Driver(Strict()).call("cuMemAlloc", 8)

    def test_every_result_of_the_bindings_has_its_number_here(self):
        real = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
        names = {int(c): c.name for c in CUresult}
        for result in real.CUresult:
            short = result.name.removeprefix("CUDA_").removeprefix("ERROR_")
            assert names[int(result)] == short

    def test_a_function_that_the_driver_lacks_is_not_supported(self):
        class Older(FakeCuda):
            def cuMemAlloc(self, bytesize):  # noqa: N802
                raise RuntimeError('Function "cuMemAlloc_v2" not found')

        refused(CUresult.NOT_SUPPORTED, Driver(Older()).call, "cuMemAlloc", 8)
        refused(CUresult.NOT_SUPPORTED, Driver(FakeCuda()).call, "cuNoSuchThing")

    def test_a_poisoned_session_gives_its_error_for_everything_and_closes(self):
        with gpu() as (device, cuda):
            base = device.info.arena_base
            device.module_load(1, PTX)
            device.mem_alloc(base, 64, 0)
            device.launch(kernel(0, at=0x1234), 0)  # nothing is mapped there
            refused(CUresult.ILLEGAL_ADDRESS, device.stream_synchronize, 0)
            for call, *arguments in (
                (device.ctx_synchronize,), (device.mem_alloc, base + 4096, 64, 0),
                (device.launch, kernel(0, at=base), 0), (device.memcpy_dtoh, base, 4, 0),
                (device.event_create, 5, 0), (device.mem_free, base, 0),
                (device.memcpy_htod, base, b"1234", 0), (device.stream_query, 0),
            ):  # fmt: skip
                refused(CUresult.ILLEGAL_ADDRESS, call, *arguments)
            assert "ILLEGAL_ADDRESS" in device.statistics()["poisoned"]
        assert cuda.names()[-1] == "cuDevicePrimaryCtxRelease"

    def test_a_kernel_that_never_ends_is_a_timeout_and_close_does_not_wait_for_it(self):
        cuda = FakeCuda()
        cuda.slow.add(0)
        with gpu(cuda, wait_limit_s=0.05) as (device, _):
            device.module_load(1, PTX)
            device.launch(kernel(2), 0)
            refused(CUresult.LAUNCH_TIMEOUT, device.stream_synchronize, 0)
            refused(CUresult.LAUNCH_TIMEOUT, device.ctx_synchronize)
            before = len(cuda.calls)
            device.close()
            assert len(cuda.calls) == before
            cuda.broken = 702  # what is left is the process's end
