"""Handshake and descriptions: read back as packed, refused when damaged."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrto_ros.api.info import DeviceInfo, GlobalInfo, KernelInfo, ModuleInfo
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.descriptions import (
    Hello,
    Welcome,
    pack_device_info,
    pack_hello,
    pack_module_info,
    pack_welcome,
    unpack_device_info,
    unpack_hello,
    unpack_module_info,
    unpack_welcome,
)

U32, I32 = st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1)
U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=40)
KERNELS = st.builds(
    KernelInfo, TEXT, st.lists(st.tuples(U32, U32), max_size=5).map(tuple),
    st.dictionaries(I32, I32, max_size=5),
)  # fmt: skip
MODULES = st.builds(
    ModuleInfo, st.lists(KERNELS, max_size=4).map(tuple),
    st.lists(st.builds(GlobalInfo, TEXT, U64, U64), max_size=4).map(tuple),
)  # fmt: skip
DEVICES = st.builds(
    DeviceInfo, st.sampled_from(["cpu", "gpu", "null"]), TEXT, st.binary(min_size=16, max_size=16),
    st.tuples(I32, I32), U32, U64, U64, U64, st.dictionaries(I32, I32, max_size=9),
)  # fmt: skip


@given(MODULES)
@settings(deadline=None)
def test_a_module_description_is_read_back(module):
    assert unpack_module_info(pack_module_info(module)) == module


@given(DEVICES, st.binary(min_size=16, max_size=16))
@settings(deadline=None)
def test_a_device_description_is_read_back(device, session):
    assert unpack_device_info(pack_device_info(device, session)) == (device, session)


@given(st.integers(0, 2**32 - 1), TEXT, TEXT)
def test_hello_is_read_back(pid, program, label):
    hello = Hello(pid, program, label)
    assert unpack_hello(pack_hello(hello)) == hello


@given(U32, TEXT, st.binary(max_size=99))
def test_welcome_is_read_back(status, text, info):
    welcome = Welcome(status, text, info)
    assert unpack_welcome(pack_welcome(welcome)) == welcome


@given(MODULES, st.data())
@settings(deadline=None)
def test_a_cut_module_description_is_refused(module, data):
    packed = pack_module_info(module)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(ProtocolError):
        unpack_module_info(packed[:cut])


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    for read in (unpack_module_info, unpack_device_info, unpack_hello, unpack_welcome):
        try:
            read(data)
        except ProtocolError:
            continue


def test_counts_that_promise_more_than_there_is_are_refused_at_once():
    with pytest.raises(ProtocolError, match="cannot hold"):
        unpack_module_info(b"\xff" * 8)


def test_a_device_with_a_wrong_uuid_or_too_long_a_name_is_refused():
    device = DeviceInfo("cpu", "n" * 256, b"u" * 16, (7, 0), 1, 1, 0, 1)
    with pytest.raises(ProtocolError, match="255"):
        pack_device_info(device, bytes(16))
    with pytest.raises(ProtocolError, match="16"):
        pack_device_info(DeviceInfo("cpu", "n", b"u", (7, 0), 1, 1, 0, 1), bytes(16))
