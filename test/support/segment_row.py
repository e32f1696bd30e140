"""A segment for devices of tests: its calls are made one by one."""

from rrto_ros.devices.protocol import MemcpyNode, MemsetNode


class Row:
    """Calls that the log's device executes as one."""

    def __init__(self, device, calls):
        self.device = device
        self.calls = list(calls)
        self.position = 0

    def run(self, first, last, changed, index, page):
        assert first < last <= len(self.calls)
        for k, call in changed.items():
            self.calls[k] = call
        for self.position in range(first, last):
            work, stream, _ = vars(self.calls[self.position]).values()
            if isinstance(work, MemcpyNode):
                self.device.memcpy_dtod(work.dst, work.src, work.bytes, stream)
            elif isinstance(work, MemsetNode):
                self.device.memset(work, stream)
            else:
                self.device.launch(work, stream)
