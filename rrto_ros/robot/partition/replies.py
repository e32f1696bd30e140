"""What several places answer, as a program's one stream of results: owns order and numbers.

Each place counts the calls that it gets by itself. A call's answer is delivered under the
program's own number, once all places that execute it have answered, and after the answers to all
calls before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rrto_ros.api.results import CUresult
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.format import RESULT_STICKY
from rrto_ros.wire.result_codec import ResultRecord, pack_result

Deliver = Callable[[bytes], None]
Arrived = Callable[[int, bytes], None]
"""Told of a status and its data."""


@dataclass(slots=True)
class _Awaited:
    """A call's answer that is not whole.

    Attributes:
        index: The program's number of the call; 0: nobody but `told` wants it.
        speaks: The place whose data it is.
        missing: Places that have not answered.
        alike: Whether all have to answer with the same data.
        told: Told when it is whole, before it is delivered.
    """

    index: int
    speaks: int
    missing: set[int]
    alike: bool
    told: Arrived | None
    status: int = 0
    flags: int = 0
    data: bytes | None = None
    others: list[bytes] = field(default_factory=list)


class OrderedReplies:
    """One session's. Not thread-safe.

    Args:
        places: How many there are.
        deliver: Takes result records of the program.
    """

    def __init__(self, places: int, deliver: Deliver) -> None:
        self._deliver = deliver
        self._awaited: list[dict[int, _Awaited]] = [{} for _ in range(places)]
        self._numbers: list[deque[tuple[int, int]]] = [deque() for _ in range(places)]
        self._order: deque[_Awaited] = deque()
        self.broken = 0
        """CUresult that every call gets from now on, 0 while the session is sound."""
        self._text = b""
        self._delivered = 0
        self.last = 0
        """The program's number of the last call whose answer was delivered."""

    def sent(self, place: int, own: int, index: int) -> None:
        """A place gets the program's call `index` under its own number."""
        self._numbers[place].append((own, index))

    def expect(
        self,
        owns: Iterable[tuple[int, int]],
        index: int,
        speaks: int,
        *,
        alike: bool = False,
        told: Arrived | None = None,
    ) -> None:
        """A call is to be answered.

        Args:
            owns: Each place that gets it, with the place's own number of it.
            index: The program's number; 0: nothing of it is delivered.
            speaks: The place whose data counts.
            alike: Whether the others' data has to be the same.
            told: Told of the answer.
        """
        pairs = list(owns)
        if self.broken:
            # Nobody may answer any more.
            if told is not None:
                told(self.broken, self._text)
            if index:
                self.refuse(index)
            return
        one = _Awaited(index, speaks, {place for place, _ in pairs}, alike, told)
        for place, own in pairs:
            self._awaited[place][own] = one
        if index:
            self._order.append(one)

    def arrived(self, place: int, result: ResultRecord) -> None:
        """A place has answered.

        Raises:
            ProtocolError: With something that nobody asked for.
        """
        if result.sticky:
            self.broke(place, result.index, result.status, bytes(result.payload))
            return
        self._program_s(place, result.index)
        if not result.index:
            # What kernels printed; each runs at one place only.
            self._deliver(pack_result(0, result.status, result.payload, result.flags))
            return
        one = self._awaited[place].pop(result.index, None)
        if one is None:
            if self.broken:
                return
            raise ProtocolError(f"place {place} answers call {result.index}, which is none")
        one.missing.discard(place)
        one.status = one.status or result.status
        data = bytes(result.payload)
        if result.status or place == one.speaks:
            one.flags |= result.flags
            if one.data is None or result.status:
                one.data = data
        if one.alike and not result.status:
            one.others.append(data)
        self._flush(one)

    def answer(self, index: int, status: int, data: bytes = b"") -> None:
        """A call is answered by nobody else."""
        one = _Awaited(index, 0, set(), alike=False, told=None, status=status, data=data)
        self._order.append(one)
        self._flush(one)

    def broke(self, place: int, own: int, status: int, text: bytes) -> None:
        """A place is in error since the call that has this number there."""
        self.break_(self._program_s(place, own), status, text)

    def break_(self, index: int, status: int, text: bytes) -> None:
        """A place's session is in error, and so is the program's: everything gets that."""
        if self.broken:
            return
        self.broken, self._text = status, text
        self._deliver(pack_result(index, status, text, RESULT_STICKY))
        waiting = {id(one): one for place in self._awaited for one in place.values()}
        for awaited in self._awaited:
            awaited.clear()
        for one in [*waiting.values(), *self._order]:
            one.missing.clear()
            one.status, one.data = status, text
            if one.told is not None:
                one.told(status, text)
                one.told = None
        self._flush(None)

    def say(self, record: bytes) -> None:
        """Deliver a record that answers no call."""
        self._deliver(record)

    def refuse(self, index: int) -> None:
        """Answer a call that is not executed any more."""
        self.answer(index, self.broken, self._text)

    def statistics(self) -> dict[str, int]:
        """Answers that are waited for, and those that were delivered."""
        return {"awaited": len(self._order), "delivered": self._delivered}

    def _program_s(self, place: int, own: int) -> int:
        """The program's number of a place's call, or of the last one before it; 0 for none."""
        numbers = self._numbers[place]
        while len(numbers) > 1 and numbers[1][0] <= own:
            numbers.popleft()
        return numbers[0][1] if numbers and numbers[0][0] <= own else 0

    def _flush(self, one: _Awaited | None) -> None:
        if one is not None and not one.missing and not self.broken:
            if one.alike and len(set(one.others)) > 1:
                text = b"places give one call different answers: their devices are not alike"
                self.break_(one.index, CUresult.NOT_SUPPORTED, text)
                return
            if one.told is not None:
                one.told(one.status, one.data or b"")
        while self._order and not self._order[0].missing:
            first = self._order.popleft()
            self._delivered += 1
            self.last = first.index
            self._deliver(pack_result(first.index, first.status, first.data or b"", first.flags))
