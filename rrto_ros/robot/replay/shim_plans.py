"""Plans that the shim has: owns what it was told, what it has, and what it may say.

docs/wire_format.md, "Plans in the shim". Everything that the shim writes comes from the program's
process, so a reference of it is compared with its plan before it is passed on.

The rule that keeps a number from meaning two plans: a number is the shim's from the moment that it
is told of the plan until its PLAN_TAKEN record says that it is removed or refused. All references
to it that were made before lie before that record in the call ring. Until then the number must not
be defined anew for the server.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from rrto_ros.errors import ProtocolError
from rrto_ros.robot.blob_references import BlobReferences
from rrto_ros.robot.replay.plan_entries import PlanEntry
from rrto_ros.wire.codec import CallHeader, decode_call
from rrto_ros.wire.control import Taken, pack_install, pack_remove, pack_settings
from rrto_ros.wire.format import FLAG_REPLY, FLAG_WAITED, Buffer, pad8
from rrto_ros.wire.plan import Plan
from rrto_ros.wire.reference import Reference, read_reference

_PROGRAM_FLAGS = FLAG_WAITED | FLAG_REPLY


class ShimPlans:
    """The plans of one session's shim. Not thread-safe."""

    def __init__(self) -> None:
        self._told: dict[int, PlanEntry] = {}
        self._removing: set[int] = set()
        self._inputs: dict[int, set[int]] = {}
        self._refused: set[bytes] = set()
        self._apart: bool | None = None
        self._plans: Mapping[int, Plan] = {}
        self.version = 0
        """Counts the numbers that the shim gave back."""
        self._installed = 0
        self._removed = 0
        self._refusals = 0
        self._references = 0
        self._calls = 0

    @property
    def plans(self) -> Mapping[int, Plan]:
        """Plans that references may name, by number; a new mapping after every change."""
        return self._plans

    def holds(self, number: int) -> bool:
        """Whether the number still means a plan to the shim, and must not mean another."""
        return number in self._told

    def tell(self, wanted: Mapping[int, PlanEntry], *, apart: bool) -> list[Buffer]:
        """What to put into the reply ring so that the shim matches with these plans alone.

        A plan must have been defined for the server before the shim is told of it.

        Args:
            wanted: Plans by number. A number that the shim still holds for another plan is left
                out; call again when it was given back.
            apart: Each thread is matched on its own.
        """
        out: list[Buffer] = []
        if apart != self._apart:
            self._apart = apart
            out.append(pack_settings(apart=apart))
        for number, told in self._told.items():
            if number not in self._removing and wanted.get(number) is not told:
                self._removing.add(number)
                out.append(pack_remove(number))
        changed = False
        for number, entry in wanted.items():
            if number in self._told or entry.plan.digest in self._refused:
                continue
            out += pack_install(number, entry.plan.encoded)
            self._told[number] = entry
            self._inputs[number] = set()
            changed = True
        if changed:
            self._publish()
        return out

    def taken(self, view: memoryview, header: CallHeader) -> None:
        """Take a PLAN_TAKEN record.

        Raises:
            ProtocolError: It does not fit the format, or answers nothing.
        """
        number, state = decode_call(view, header).values
        told = self._told.get(number)
        if header.flags or told is None or state not in set(Taken):
            raise ProtocolError(f"the program says {state} about plan {number}")
        if state == Taken.INSTALLED:
            self._installed += 1
            return
        if state == Taken.REMOVED and number not in self._removing:
            raise ProtocolError(f"the program removed plan {number} unasked")
        if state == Taken.REFUSED:
            self._refusals += 1
            self._refused.add(told.plan.digest)
            if number in self._removing:
                return  # the answer to its removal follows
        else:
            self._removed += 1
        del self._told[number], self._inputs[number]
        self._removing.discard(number)
        self.version += 1
        self._publish()

    def reference(self, view: memoryview, header: CallHeader) -> Reference:
        """A reference that the shim wrote, compared with its plan.

        Raises:
            ProtocolError: It does not fit the format or its plan.
        """
        ref = read_reference(view, header)
        told = self._told.get(ref.plan)
        last = ref.first + ref.count
        if told is None or last > len(told.plan):
            raise ProtocolError(
                f"the program refers to calls {ref.first} to {last - 1} of plan {ref.plan}, "
                + ("which it does not have" if told is None else f"which has {len(told.plan)}")
            )
        sums = told.sums
        words = sums.words[last] - sums.words[ref.first]
        payload = sums.payload[last] - sums.payload[ref.first]
        if len(ref.words) != words or len(ref.payload) != payload:
            raise ProtocolError(
                f"the program's reference brings {len(ref.words)} words and {len(ref.payload)} "
                f"bytes; its calls take {words} and {payload}"
            )
        if ref.speculative or any(flags & ~_PROGRAM_FLAGS for flags in ref.flags.values()):
            raise ProtocolError("the program's reference has flags that only the recorder may use")
        self._references += 1
        self._calls += ref.count
        return ref

    def payloads(
        self, ref: Reference, blobs: BlobReferences | None
    ) -> tuple[list[Buffer], Mapping[int, int]]:
        """The payloads of a checked reference, padded, and the flags of its calls.

        An upload that once leaves as it is stays so: its content is an input.
        """
        if not ref.payload:
            return [], ref.flags
        told = self._told[ref.plan]
        first, last = (bisect_left(told.uploads, k) for k in (ref.first, ref.first + ref.count))
        uploads, inputs = told.uploads[first:last], self._inputs[ref.plan]
        if blobs is None or inputs.issuperset(uploads):
            return [ref.payload], ref.flags
        flags = dict(ref.flags)
        pieces: list[Buffer] = []
        at = 0
        for k in uploads:
            call = told.plan.calls[k]
            padded = pad8(call.payload_bytes)
            piece: Buffer = ref.payload[at : at + padded]
            at += padded
            if k not in inputs:
                at_call = k - ref.first
                bits, reference = blobs.name(
                    call.code, ref.index + at_call, call.body, piece[: call.payload_bytes]
                )
                if bits:
                    flags[at_call] = flags.get(at_call, 0) | bits
                else:
                    inputs.add(k)
                piece = reference or piece
            pieces.append(piece)
        return pieces, dict(sorted(flags.items()))

    def statistics(self) -> dict[str, int]:
        """Plans that the shim has, what became of those it was told of, references and calls."""
        return {
            "shim_plans": len(self._told),
            "shim_plans_installed": self._installed,
            "shim_plans_removed": self._removed,
            "shim_plans_refused": self._refusals,
            "shim_references": self._references,
            "shim_referenced_calls": self._calls,
        }

    def _publish(self) -> None:
        self._plans = {number: told.plan for number, told in self._told.items()}
