"""The order of a stand-in GPU's work: each piece of work runs as late as CUDA's rules allow.

What nothing waits for stays undone; what must be done is done in the reverse of the order in
which it was given, as far as stream order, the legacy default stream and events permit. Code that
forgets to order or to wait for something then gets other bytes than on a patient GPU.
"""

LEGACY = 0


class Work:
    """Something to do, and what must be done before."""

    __slots__ = ("done", "run", "waits")

    def __init__(self, run, waits):
        self.run = run
        self.waits = waits
        self.done = False


class FakeQueue:
    """Streams, events and work of one context."""

    def __init__(self):
        self.work = []
        self._tails = {}
        self._free = set()
        self._extra = {}

    def add_stream(self, stream, free):
        if free:
            self._free.add(stream)

    def remove_stream(self, stream):
        self._free.discard(stream)

    def submit(self, stream, run=None, waits=()):
        """Put work into a stream; returns it."""
        work = Work(run, [*self.entry(stream), *waits])
        return self._end(stream, work)

    def entry(self, stream):
        """What new work of a stream has to wait for."""
        stream = LEGACY if stream == 1 else stream
        waits = [self._tails[stream]] if stream in self._tails else []
        if stream == LEGACY:
            waits += [w for name, w in self._tails.items() if name not in self._free]
        elif stream not in self._free and LEGACY in self._tails:
            waits.append(self._tails[LEGACY])
        return waits

    def inner(self, run, waits):
        """Work of a graph, in no stream itself."""
        work = Work(run, list(waits))
        self.work.append(work)
        return work

    def finish(self, wanted):
        """Do some work and all that it waits for."""
        stack = [(wanted, False)]
        while stack:
            work, ready = stack.pop()
            if work.done:
                continue
            if not ready:
                stack.append((work, True))
                stack.extend((w, False) for w in work.waits if not w.done)
                continue
            work.done = True
            if work.run is not None:
                work.run()

    def finish_stream(self, stream):
        for work in self.entry(stream):
            self.finish(work)

    def finish_all(self):
        for work in reversed(self.work):
            self.finish(work)
        self.work.clear()

    @property
    def idle(self):
        return all(work.done for work in self.work)

    def _end(self, stream, work):
        self._tails[LEGACY if stream == 1 else stream] = work
        self.work.append(work)
        return work
