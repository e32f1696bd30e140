"""Which work is finished before other work begins, as streams, events and waits order it.

Each piece of work has a place, a number that grows from call to call. For every stream there is
kept up to which place of each other stream it comes after; so does the program's side, which
learns of it where it waits.
"""

from __future__ import annotations

DEFAULT_STREAMS = frozenset({0, 1, 2})
"""The default stream by its three names; the shim makes them one."""
NON_BLOCKING = 1
Clock = dict[int, int]
"""Stream -> place up to which its work is finished."""


def _join(into: Clock, other: Clock) -> None:
    for stream, place in other.items():
        if place > into.get(stream, 0):
            into[stream] = place


def _one(stream: int) -> int:
    return 0 if stream in DEFAULT_STREAMS else stream


class Order:
    """The order of one session's work.

    Attributes:
        place: Of the last work.
    """

    def __init__(self) -> None:
        self.place = 0
        self._host: Clock = {}
        self._after: dict[int, Clock] = {0: {}}
        self._blocking: set[int] = set()
        self._events: dict[int, Clock] = {}

    def stream_made(self, stream: int, flags: int) -> None:
        """A stream begins with what the program has waited for."""
        self._after[stream] = dict(self._host)
        if not flags & NON_BLOCKING:
            self._blocking.add(stream)
            _join(self._after[stream], self._after[0])

    def stream_gone(self, stream: int) -> None:
        """Its work goes on, and the default stream still comes after it."""
        if stream in self._blocking:
            self._blocking.remove(stream)
            _join(self._after[0], self._after[stream])

    def work(self, stream: int) -> int:
        """Work is put into a stream; its place."""
        stream = _one(stream)
        self.place += 1
        clock = self._after.setdefault(stream, {})
        _join(clock, self._host)
        if stream == 0:  # comes after all that blocking streams have, and they after it
            for other in self._blocking:
                _join(clock, self._after[other])
        clock[stream] = self.place
        if stream == 0:
            for other in self._blocking:
                _join(self._after[other], clock)
        return self.place

    def follows(self, stream: int, other: int, place: int) -> bool:
        """Whether a stream's last work comes after that of another stream at a place."""
        stream, other = _one(stream), _one(other)
        return stream == other or self._after.get(stream, {}).get(other, 0) >= place

    def recorded(self, event: int, stream: int) -> None:
        """An event stands for all that a stream has now."""
        self.work(stream)
        self._events[event] = dict(self._after[_one(stream)])

    def event_gone(self, event: int) -> None:
        """Nothing waits for it any more; who did already still does."""
        self._events.pop(event, None)

    def waits(self, stream: int, event: int) -> None:
        """A stream's later work comes after an event."""
        _join(self._after.setdefault(_one(stream), {}), self._events.get(event, {}))

    def program_waited(self, stream: int | None = None, event: int | None = None) -> None:
        """The program went on when a stream, an event, or (neither) everything was finished."""
        if event is not None:
            _join(self._host, self._events.get(event, {}))
        elif stream is not None:
            _join(self._host, self._after.get(_one(stream), {}))
        else:
            for clock in self._after.values():
                _join(self._host, clock)
