"""What device memory holds that the robot does not know: owns what a checkpoint sends.

The robot can make a session again elsewhere if it knows what kernels left in memory. It knows its
own uploads, and what earlier checkpoints said. Here each block of live memory is compared with a
digest of what the robot knows of it; only blocks that differ are sent (docs/resume.md).

Memory that a program maps itself (`mem_create`) is not followed: such a session has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

from rrto_ros.api.info import ModuleInfo
from rrto_ros.wire.allocations import Allocations
from rrto_ros.wire.format import Buffer
from rrto_ros.wire.state import (
    BLOCK_BYTES,
    MAX_BLOCKS_BYTES,
    MAX_PIECES,
    Piece,
    PieceKind,
    pack_pieces,
)

READ_BYTES = 4 << 20
"""Read from the device at once."""
FOLLOWED_DEVICES = frozenset(("cpu", "null"))
"""Devices all of whose memory is in allocations and in variables that modules name."""
_DIGEST_BYTES = 16
Block = tuple[int, int]
"""Address and size of a block."""


class MemoryState:
    """What the robot knows of one session's memory. Not thread-safe.

    Args:
        read: Copies device memory to the host (address, bytes).
        kind: Of the device.
    """

    def __init__(self, read: Callable[[int, int], Buffer], kind: str = "cpu") -> None:
        self._read = read
        self._kind = kind
        self._known: dict[Block, bytes] = {}
        self._uploads: dict[Block, tuple[bytes, int, int]] = {}
        self._globals: dict[int, tuple[Block, ...]] = {}
        self._maps = False
        self._checkpoints = 0
        self._sent_bytes = 0

    def loaded(self, module: int, info: ModuleInfo) -> None:
        """A module came, with its variables."""
        self._globals[module] = tuple((one.address, one.bytes) for one in info.globals)

    def unloaded(self, module: int) -> None:
        """A module went."""
        self._globals.pop(module, None)

    def mapped(self) -> None:
        """The program maps memory itself."""
        self._maps = True

    def uploaded(self, address: int, content: Buffer, call: int, memory: Allocations) -> None:
        """An upload came whose content the robot can name again."""
        found = memory.find(address)
        if found is None:
            return
        for at, block, digest in _whole_blocks(*found, address, content):
            self._uploads[at, block] = digest, call, at - address

    def restored(self, address: int, content: Buffer, memory: Allocations) -> None:
        """Memory has what the robot knows of it."""
        found = memory.find(address) or self._variable(address)
        if found is not None:
            for at, block, digest in _whole_blocks(*found, address, content):
                self._known[at, block] = digest

    def refused(self) -> str:
        """Why memory is not all that would have to be restored, empty if it is."""
        if self._kind not in FOLLOWED_DEVICES:
            # The heap of kernels, and variables that no symbol names, would be left out.
            return f"checkpoints of device {self._kind} have not been tried"
        return "the program maps memory itself (cuMemCreate)" if self._maps else ""

    def changes(self, memory: Allocations) -> Iterator[bytes]:
        """Payloads of the results that make a checkpoint; from then on the robot knows it all.

        Raises:
            CudaError: The device cannot be read.
        """
        self._checkpoints += 1
        known: dict[Block, bytes] = {}
        pieces: list[Piece] = []
        held = 0
        for piece in self._pieces(memory, known):
            pieces.append(piece)
            held += len(piece.content)
            if held + BLOCK_BYTES > MAX_BLOCKS_BYTES or len(pieces) >= MAX_PIECES:
                yield self._packed(pieces)
                pieces, held = [], 0
        if pieces:
            yield self._packed(pieces)
        self._known = known
        self._uploads.clear()

    def statistics(self) -> dict[str, int]:
        """Checkpoints made and what they sent."""
        return {"state_checkpoints": self._checkpoints, "state_bytes": self._sent_bytes}

    def _packed(self, pieces: list[Piece]) -> bytes:
        payload = pack_pieces(pieces)
        self._sent_bytes += len(payload)
        return payload

    def _pieces(self, memory: Allocations, known: dict[Block, bytes]) -> Iterator[Piece]:
        for start, size in self._ranges(memory):
            yield Piece(PieceKind.LIVE, start, size)
            yield from self._changed(start, size, known)

    def _changed(self, start: int, size: int, known: dict[Block, bytes]) -> Iterator[Piece]:
        """The blocks of a range that the robot does not know; `known` gets all their digests."""
        for read_at in range(start, start + size, READ_BYTES):
            data = memoryview(self._read(read_at, min(READ_BYTES, start + size - read_at)))
            for at, block in _blocks(read_at, len(data)):
                content = data[at - read_at : at - read_at + block]
                digest = known[at, block] = _digest(content)
                upload = self._uploads.get((at, block))
                if self._known.get((at, block)) == digest:
                    continue
                if upload is not None and upload[0] == digest:
                    yield Piece(PieceKind.UPLOAD, at, block, upload[1], upload[2])
                else:
                    yield Piece(PieceKind.CONTENT, at, block, content=bytes(content))

    def _variable(self, address: int) -> Block | None:
        """The module's variable that holds an address."""
        for variables in self._globals.values():
            for start, size in variables:
                if start <= address < start + size:
                    return start, size
        return None

    def _ranges(self, memory: Allocations) -> Iterable[Block]:
        yield from memory
        for variables in self._globals.values():
            yield from variables


def _blocks(start: int, size: int) -> Iterator[Block]:
    for at in range(start, start + size, BLOCK_BYTES):
        yield at, min(BLOCK_BYTES, start + size - at)


def _whole_blocks(
    start: int, size: int, address: int, content: Buffer
) -> Iterator[tuple[int, int, bytes]]:
    """Address, bytes and digest of the blocks of a range that lie whole in what was written there.

    Args:
        start: Of the range.
        size: Its bytes.
        address: In it, where the content was written.
        content: What was written.
    """
    view = memoryview(content)
    end = min(address + len(view), start + size)
    for at in range(address + -(address - start) % BLOCK_BYTES, end, BLOCK_BYTES):
        block = min(BLOCK_BYTES, start + size - at)
        if at + block > end:
            break
        yield at, block, _digest(view[at - address : at - address + block])


def _digest(content: Buffer) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()
