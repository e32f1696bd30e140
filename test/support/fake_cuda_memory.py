"""Device memory of the stand-in for the driver: mapped ranges, read and written by address."""

import bisect


class FaultError(Exception):
    """An access outside everything that is mapped."""


class FakeMemory:
    """Bytes by device address, in ranges that do not overlap."""

    def __init__(self):
        self._starts = []
        self._ranges = {}

    def add(self, start, data):
        at = bisect.bisect_right(self._starts, start)
        assert at == 0 or self._end(self._starts[at - 1]) <= start, "mapped over a mapping"
        assert at == len(self._starts) or start + len(data) <= self._starts[at]
        self._starts.insert(at, start)
        self._ranges[start] = data

    def remove(self, start):
        self._starts.remove(start)
        return self._ranges.pop(start)

    def size(self, start):
        """Bytes of the range that begins there, None if none does."""
        data = self._ranges.get(start)
        return None if data is None else len(data)

    def mapping(self, address, size):
        """The ranges themselves that lie there: others when memory was mapped anew."""
        return [data for data, _, _ in self._parts(address, size)]

    def total(self):
        return sum(map(len, self._ranges.values()))

    def read(self, address, size):
        return b"".join(bytes(data[a:b]) for data, a, b in self._parts(address, size))

    def write(self, address, content):
        at = 0
        for data, first, last in self._parts(address, len(content)):
            data[first:last] = content[at : at + last - first]
            at += last - first

    def _end(self, start):
        return start + len(self._ranges[start])

    def _parts(self, address, size):
        out, at, end = [], address, address + size
        while at < end:
            index = bisect.bisect_right(self._starts, at) - 1
            if index < 0 or self._end(self._starts[index]) <= at:
                raise FaultError(f"{at:#x} is not mapped")
            start = self._starts[index]
            stop = min(end, self._end(start))
            out.append((self._ranges[start], at - start, stop - start))
            at = stop
        return out
