"""Which plan's next call each of a program's calls is: the C matcher, as the recorder uses it.

The rule is in shim/core/match.c, which the shim has too. A record that equals the call which its
lane expects (operation, payload length and every byte of its fields, varying words aside) is that
call; any other is looked for in the plan's variants, at the start of plans, then further on in
them. Owns the C object and the form of what goes in and comes out.
"""

from __future__ import annotations

import ctypes
import struct
import weakref
from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache

from rrto_ros.api.ops import OPS
from rrto_ros.robot.atomics import recorder_library
from rrto_ros.wire.plan import Plan

_MATCHED = struct.Struct("<IIHHIQIIIII4x")
_EVENT = struct.Struct("<III")
_ROOM = 4096
_EVENT_ROOM = 1024

Matched = tuple[int, int, int, int, int, int, int, int, int, int, int]
"""Of one call record: offset, bytes, operation, flags, thread, index, bytes of its payload, where
its fields end from its start, number of the plan (0: none), its position there, and how many
events there are up to here."""
Events = list[tuple[int, int, int]]
"""(kind, number of the plan, calls) each."""


class Event(IntEnum):
    """What happened to a lane."""

    BEGUN = 1
    ENTERED = 2
    """It goes on in a variant, whose calls up to here are the same."""
    COMPLETED = 3
    """A plan was followed to its end; 1 if that was clear only by the call after it."""
    FAILED = 4
    """A plan was left early, or had gaps; calls of it that were made."""
    DIVERGED = 5
    """The program made a call that is not the plan's; once, however many follow."""


class _Told(ctypes.Structure):
    """What the C side says; `struct rrto_told` of shim/core/recorder_match.c."""

    _fields_ = (
        ("count", ctypes.c_uint32),
        ("events", ctypes.c_uint32),
        ("inside", ctypes.c_uint32),
        ("stray", ctypes.c_uint32),
        ("lanes", ctypes.c_uint32),
        ("zero", ctypes.c_uint32),
        ("matched", ctypes.c_char * (_ROOM * _MATCHED.size)),
        ("event", ctypes.c_char * (_EVENT_ROOM * _EVENT.size)),
    )


class Matcher:
    """The plans of one session and where its lanes stand in them. Not thread-safe."""

    def __init__(self) -> None:
        library = self._library = _library()
        self._told = _Told()
        self._c = library.rrto_rm_new(_IS_CALL, ctypes.byref(self._told))
        if not self._c:
            raise MemoryError("no memory for matching calls with plans")
        weakref.finalize(self, library.rrto_rm_free, self._c)
        self._feed = library.rrto_rm_feed
        view = memoryview(self._told).cast("B")
        self._matched = view[_Told.matched.offset :]
        self._event = view[_Told.event.offset :]

    @property
    def parted(self) -> bool:
        """Whether no lane was in the middle of a plan after the last `feed` or `follow`."""
        return not self._told.inside

    @property
    def clean(self) -> bool:
        """Whether every call in it was the one that its lane expected."""
        return not self._told.stray

    @property
    def lanes(self) -> int:
        """How many lanes there were after it."""
        return int(self._told.lanes)

    def add(self, number: int, plan: Plan, *, start_up: bool = False) -> bool:
        """Take a plan; whether there was room for it.

        Args:
            number: A number that no plan has.
            plan: The plan.
            start_up: The session stands at its beginning, and no lane enters it by itself.
        """
        data = plan.encoded
        return not self._library.rrto_rm_add(self._c, number, data, len(data), start_up)

    def drop(self, number: int) -> None:
        """Forget a plan."""
        self._library.rrto_rm_drop(self._c, number)

    def set_active(self, number: int, active: bool) -> None:
        """Whether lanes may begin in a plan; if not, none stands in it any longer."""
        self._library.rrto_rm_set_active(self._c, number, active)

    def set_apart(self, apart: bool) -> None:
        """Whether each thread has a lane of its own. All lanes forget where they stand."""
        self._library.rrto_rm_set_apart(self._c, apart)

    def shared(self, a: int, b: int) -> int:
        """How many first calls the plans of two numbers have in common."""
        return int(self._library.rrto_rm_shared(self._c, a, b))

    def standing(self) -> int:
        """The number of the plan in which the session's lane stands, 0 for none."""
        return int(self._library.rrto_rm_standing(self._c, 0))

    def feed(self, data: memoryview, at: int) -> tuple[int, Iterator[Matched], Events]:
        """Match call records until one is none, or not whole, or there are very many.

        Args:
            data: Records out of the call ring, in memory that can be written.
            at: Offset of the first.

        Returns:
            The offset up to which it came, the records up to there, to be looked at before the
            next call, and what happened.
        """
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        at = self._feed(self._c, address, at, len(data))
        count = self._told.count
        matched = _MATCHED.iter_unpack(self._matched[: count * _MATCHED.size])
        return at, matched, self._happened()

    def follow(self, thread: int, number: int, first: int, calls: int) -> Events:
        """The shim matched these calls of a plan itself; what happened."""
        self._library.rrto_rm_follow(self._c, thread, number, first, calls)
        return self._happened()

    def _happened(self) -> Events:
        count = self._told.events
        return list(_EVENT.iter_unpack(self._event[: count * _EVENT.size])) if count else []


_IS_CALL = bytes(int(code in {op.code for op in OPS}) for code in range(256))


@lru_cache(maxsize=1)
def _library() -> ctypes.PyDLL:
    library = recorder_library()
    pointer, u32, size = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t
    for name, result, arguments in (
        ("new", pointer, [ctypes.c_char_p, pointer]),
        ("free", None, [pointer]),
        ("add", ctypes.c_int, [pointer, u32, ctypes.c_char_p, size, ctypes.c_int]),
        ("drop", None, [pointer, u32]),
        ("set_active", None, [pointer, u32, ctypes.c_int]),
        ("set_apart", None, [pointer, ctypes.c_int]),
        ("shared", u32, [pointer, u32, u32]),
        ("standing", u32, [pointer, u32]),
        ("feed", size, [pointer, pointer, size, size]),
        ("follow", None, [pointer, u32, u32, u32, u32]),
    ):
        function = getattr(library, f"rrto_rm_{name}")
        function.restype, function.argtypes = result, arguments
    return library
