"""Memory told, and set, in a few bits for each float: what the worker does with such a record."""

from __future__ import annotations

from collections.abc import Callable

from rrto_ros.api.results import CUresult
from rrto_ros.devices.protocol import Device
from rrto_ros.errors import CudaError, ProtocolError
from rrto_ros.execution.dispatch import Handler, read_memory
from rrto_ros.wire.codec import CallRecord
from rrto_ros.wire.format import QUANTISED_READ_OP, QUANTISED_WRITE_OP, Buffer
from rrto_ros.wire.quantised import KINDS, MOST_ELEMENTS, NAMES, WIDTHS, decode, encode


def quantised_handlers(device: Device, holds: Callable[[int, int], bool]) -> dict[int, Handler]:
    """Handlers of both records, by code.

    Args:
        device: The session's.
        holds: Whether bytes from an address on lie in the session's memory.
    """

    def wanted(record: CallRecord) -> tuple[int, int, str, int]:
        """Address, elements, type and bits, as far as they can be used."""
        address, elements, number, bits = record.values[:4]
        known = number < len(NAMES) and bits in WIDTHS
        if not known or not 0 < elements <= MOST_ELEMENTS:
            raise CudaError(
                CUresult.INVALID_VALUE,
                f"{record.op.name} of {elements} elements of type {number} in {bits} bits; want 1 "
                f"to {MOST_ELEMENTS} of types 0 to {len(NAMES) - 1} in {WIDTHS} bits",
            )
        kind = NAMES[number]
        size = elements * KINDS[kind].itemsize
        if not holds(address, size):
            raise CudaError(
                CUresult.INVALID_VALUE,
                f"{record.op.name} of {size} bytes at 0x{address:x}, which do not lie in one "
                "allocation of the session",
            )
        return address, elements, kind, bits

    def read(record: CallRecord) -> Buffer:
        address, elements, kind, bits = wanted(record)
        return encode(read_memory(device, address, elements * KINDS[kind].itemsize), kind, bits)

    def write(record: CallRecord) -> Buffer:
        address, elements, kind, bits = wanted(record)
        try:
            content = decode(record.payload or b"", kind, bits, elements)
        except ProtocolError as error:
            raise CudaError(CUresult.INVALID_VALUE, str(error)) from error
        device.memcpy_htod(address, memoryview(content), 0)
        return b""

    return {QUANTISED_READ_OP: read, QUANTISED_WRITE_OP: write}
