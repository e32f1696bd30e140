"""Checks of memory: ranges, access, what is freed, and that streams use it in order."""

from __future__ import annotations

import struct

from rrto_ros.api.ops import READ_WRITE
from rrto_ros.devices.checking.findings import Findings, Rule
from rrto_ros.devices.checking.order import Order
from rrto_ros.devices.checking.ranges import ALLOCATION, MAPPING, VARIABLE, Ranges, Region
from rrto_ros.devices.mappings import READ
from rrto_ros.devices.textures import Texture

_WORD = struct.Struct("<Q")


class CheckedMemory:
    """The memory of one session.

    Args:
        findings: Takes what is wrong.
        order: Which work is finished before which.
        arena: First address of the arena and the one behind it.

    Attributes:
        ranges: What is live.
        created: Memory without address, by handle: its bytes.
        textures: Live ones, by number.
    """

    def __init__(self, findings: Findings, order: Order, arena: tuple[int, int]) -> None:
        self._findings = findings
        self._order = order
        self._arena = arena
        self.ranges = Ranges()
        self.created: dict[int, int] = {}
        self.textures: dict[int, Texture] = {}

    # what is used

    def use(self, address: int, size: int, stream: int, flags: int = READ) -> None:
        """Work of a stream reads, or with READ_WRITE writes, a range."""
        if size == 0:
            return
        found = self.ranges.cover(address, size)
        if found is None:
            why = self.ranges.why(address, size)
            self._findings.add(Rule.MEMORY, f"{size} bytes at {address:#x}: {why}")
            return
        for region in found:
            if region.flags & flags != flags:
                how = "written" if flags == READ_WRITE else "read"
                self._findings.add(Rule.MEMORY, f"the {region} may not be {how}")
            self._in_order(region, stream)

    def pointers(self, name: str, arguments: bytes, stream: int) -> None:
        """A launch may use what its arguments point to."""
        first, last = self._arena
        for at in range(0, len(arguments) - 7, 8):
            (value,) = _WORD.unpack_from(arguments, at)
            if not first <= value < last:
                continue
            region = self.ranges.holding(value)
            if region is not None:
                self._in_order(region, stream)
            elif self.ranges.holding(value - 1) is None:  # the end of an array is no stray pointer
                why = self.ranges.why(value, 1)
                text = f"{name}: byte {at} of its arguments is {value:#x}: {why}"
                self._findings.add(Rule.POINTER, text)

    def _in_order(self, region: Region, stream: int) -> None:
        """Stream-ordered memory is used behind its allocation; note the use."""
        if region.what != ALLOCATION:
            return
        if region.stream and not self._order.follows(stream, region.stream, region.born):
            self._findings.add(
                Rule.ORDER,
                f"stream {stream} uses the {region} of stream {region.stream} and does not come "
                "behind its allocation",
            )
        region.uses[stream] = self._order.place

    # what comes and goes

    def allocate(self, address: int, size: int, stream: int, place: int) -> None:
        """An allocation was made."""
        self.ranges.add(Region(address, address + size, ALLOCATION, stream, place))

    def check_new(self, address: int, size: int) -> None:
        """Memory shall lie where none does."""
        for region in self.ranges.touched(address, max(size, 1))[:1]:
            text = f"{size} bytes at {address:#x} lie over the {region}"
            self._findings.add(Rule.MEMORY, text)

    def check_free(self, address: int, stream: int) -> None:
        """An allocation shall be freed in a stream's order."""
        region = self.ranges.at(address)
        if region is None or region.what != ALLOCATION:
            why = self.ranges.why(address, 1) if region is None else f"it is a {region}"
            self._findings.add(Rule.FREE, f"{address:#x} is no allocation: {why}")
            return
        if not stream:
            return  # as cuMemFree, which waits for everything
        for user, place in region.uses.items():
            if not self._order.follows(stream, user, place):
                self._findings.add(
                    Rule.ORDER,
                    f"stream {stream} frees the {region} and does not come behind its use by "
                    f"stream {user}",
                )

    def free(self, address: int) -> None:
        """It was freed."""
        region = self.ranges.at(address)
        if region is not None:
            self._no_textures(region)
            self.ranges.remove(region)

    def variable(self, address: int, size: int, module: int) -> None:
        """A module's variable is there."""
        if size:
            self.ranges.add(Region(address, address + size, VARIABLE, handle=module))

    def module_gone(self, module: int) -> None:
        """Its variables went with it."""
        for region in [r for r in self.ranges if r.what == VARIABLE and r.handle == module]:
            self._no_textures(region)
            self.ranges.remove(region)

    # memory that is mapped

    def check_map(self, address: int, size: int, handle: int) -> None:
        """Memory shall be mapped."""
        self.check_new(address, size)
        if size > self.created.get(handle, size):
            text = f"memory {handle} has {self.created[handle]} bytes, {size} shall be mapped"
            self._findings.add(Rule.MEMORY, text)

    def map(self, address: int, size: int, handle: int) -> None:
        """It was."""
        self.ranges.add(Region(address, address + size, MAPPING, flags=0, handle=handle))

    def mapped(self, address: int, size: int) -> list[Region]:
        """The mappings that make up a range exactly."""
        found = self.ranges.cover(address, size)
        whole = found and found[0].start == address and found[-1].end == address + size
        if found and whole and all(region.what == MAPPING for region in found):
            return found
        self._findings.add(Rule.MEMORY, f"{size} bytes at {address:#x} are not whole mappings")
        return []

    def unmap(self, regions: list[Region]) -> None:
        """Mappings went."""
        for region in regions:
            self._no_textures(region)
            self.ranges.remove(region)

    def check_release(self, handle: int) -> None:
        """Memory without address shall go."""
        users = [r for r in self.ranges if r.what == MAPPING and r.handle == handle]
        if users:
            self._findings.add(Rule.FREE, f"memory {handle} is still mapped at {users[0]}")

    def _no_textures(self, region: Region) -> None:
        for number, what in self.textures.items():
            if region.start <= what.address < region.end:
                self._findings.add(Rule.FREE, f"texture {number} still reads the {region}")

    def left(self) -> dict[str, int]:
        """What lives, by kind; bytes of allocations too."""
        kinds = [region.what for region in self.ranges]
        bytes_left = sum(r.end - r.start for r in self.ranges if r.what == ALLOCATION)
        return {
            "allocations": kinds.count(ALLOCATION),
            "allocated bytes": bytes_left,
            "mappings": kinds.count(MAPPING),
            "memory handles": len(self.created),
            "textures": len(self.textures),
        }
