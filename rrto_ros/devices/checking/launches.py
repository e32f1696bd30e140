"""How large a launch may be: what the device's and the kernel's attributes allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rrto_ros.api.info import KernelInfo
from rrto_ros.devices.protocol import Launch

_THREADS, _STATIC_SHARED = 0, 1
_MAX_THREADS, _MAX_BLOCK, _MAX_GRID = 1, (2, 3, 4), (5, 6, 7)
_SHARED, _SHARED_OPT_IN = 8, 97


class LaunchLimits:
    """The limits of a device.

    Args:
        attributes: CUdevice_attribute number -> value.
    """

    DYNAMIC_SHARED = 8
    """CUfunction_attribute: the dynamic shared bytes that a kernel may be given."""

    def __init__(self, attributes: Mapping[int, int]) -> None:
        self._attributes = attributes

    def launch(self, kernel: KernelInfo, launch: Launch, allowed: int | None) -> Iterator[str]:
        """What is wrong with a launch.

        Args:
            kernel: It launches.
            launch: Its geometry.
            allowed: Dynamic shared bytes that the program allowed the kernel, None if it did not.
        """
        for what, sizes, limits in (
            ("grid", launch.grid, _MAX_GRID),
            ("block", launch.block, _MAX_BLOCK),
        ):
            most = tuple(self._attributes[one] for one in limits)
            if any(not 0 < size <= limit for size, limit in zip(sizes, most, strict=True)):
                yield f"{kernel.name}: {what} {sizes}, at most {most} can be"
        threads = launch.block[0] * launch.block[1] * launch.block[2]
        most_threads = self._attributes[_MAX_THREADS]
        if 0 < (own := kernel.attributes.get(_THREADS, 0)) < most_threads:
            most_threads = own
        if threads > most_threads:
            yield f"{kernel.name}: {threads} threads in a block, it can have {most_threads}"
        static = kernel.attributes.get(_STATIC_SHARED, 0)
        most_shared = self._attributes[_SHARED] - static if allowed is None else allowed
        if launch.shared_bytes > max(most_shared, 0):
            yield (
                f"{kernel.name}: {launch.shared_bytes} dynamic shared bytes, {most_shared} are "
                "allowed"
            )

    def attribute(self, kernel: KernelInfo, attribute: int, value: int) -> Iterator[str]:
        """What is wrong with an attribute that is set."""
        if attribute == self.DYNAMIC_SHARED:
            static = kernel.attributes.get(_STATIC_SHARED, 0)
            most = self._attributes[_SHARED_OPT_IN] - static
            if not 0 <= value <= most:
                yield f"{kernel.name}: {value} dynamic shared bytes shall be allowed of {most}"
