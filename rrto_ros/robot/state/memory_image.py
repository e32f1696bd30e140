"""What device memory held at a session's last checkpoint, as the robot knows it: owns the blocks.

A block's content came with a checkpoint, or it is that of an upload, of which one copy is kept. A
checkpoint counts when it has come whole: until then the image is that of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.codec import pack_blob_ref, pack_call
from rrto_ros.wire.format import FLAG_BLOB_REF, Buffer
from rrto_ros.wire.state import BLOCK_BYTES, Piece, PieceKind

Content = Callable[[int], tuple[bytes, bytes] | None]
"""Digest and content of the upload of a call, if they are still there."""


class MemoryImage:
    """One session's. Not thread-safe."""

    def __init__(self) -> None:
        self._blocks: dict[int, Piece] = {}
        self._uploads: dict[int, tuple[bytes, bytes]] = {}
        self._bytes = 0
        self._coming: list[Piece] = []
        self._coming_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """What is kept of memory, what comes included."""
        return self._bytes + self._coming_bytes

    def arrived(self, piece: Piece) -> None:
        """A piece of a checkpoint came."""
        self._coming.append(piece)
        self._coming_bytes += len(piece.content)

    def forget_coming(self) -> None:
        """The rest of a checkpoint will not come."""
        self._coming.clear()
        self._coming_bytes = 0

    def complete(self, content: Content) -> None:
        """The checkpoint is whole.

        Args:
            content: Gives the uploads that blocks refer to.

        Raises:
            ProtocolError: It refers to an upload that there was not.
        """
        blocks = dict(self._blocks)
        live: set[tuple[int, int]] = set()
        for piece in self._coming:
            if piece.kind is PieceKind.LIVE:
                for at in range(piece.address, piece.address + piece.size, BLOCK_BYTES):
                    live.add((at, min(BLOCK_BYTES, piece.address + piece.size - at)))
                continue
            if piece.kind is PieceKind.UPLOAD and piece.call not in self._uploads:
                found = content(piece.call)
                if found is None or piece.offset + piece.size > len(found[1]):
                    raise ProtocolError(f"a checkpoint refers to the upload of call {piece.call}")
                self._uploads[piece.call] = found
            blocks[piece.address] = piece
        self._blocks = {at: p for at, p in blocks.items() if (at, p.size) in live}
        missing = len(live) - len(self._blocks)
        if missing:
            raise ProtocolError(f"a checkpoint leaves out {missing} blocks that were never sent")
        used = {p.call for p in self._blocks.values() if p.kind is PieceKind.UPLOAD}
        self._uploads = {call: found for call, found in self._uploads.items() if call in used}
        self._bytes = sum(len(p.content) for p in self._blocks.values())
        self._bytes += sum(len(found[1]) for found in self._uploads.values())
        self.forget_coming()

    def upload(self, call: int) -> bytes | None:
        """The content of an upload, for a server that asks for it."""
        found = self._uploads.get(call)
        return None if found is None else found[1]

    def records(self) -> Iterator[bytes]:
        """What brings memory to this state: an upload by reference where all of it is there."""
        whole = self._whole_uploads()
        for call, address in whole.items():
            digest, content = self._uploads[call]
            yield pack_call("memory_restore", call, address=address, record_flags=FLAG_BLOB_REF,
                            payload=pack_blob_ref(digest, len(content)))  # fmt: skip
        for at, piece in self._blocks.items():
            # Kernels may have copied an upload: only where it was uploaded it is there already.
            by_upload = piece.kind is PieceKind.UPLOAD
            if not by_upload or whole.get(piece.call) != at - piece.offset:
                yield pack_call("memory_restore", 0, address=at, payload=self._content(piece))

    def _whole_uploads(self) -> dict[int, int]:
        """Call -> address of uploads of which nothing was overwritten."""
        there: dict[tuple[int, int], int] = {}
        for at, piece in self._blocks.items():
            if piece.kind is PieceKind.UPLOAD:
                key = piece.call, at - piece.offset
                there[key] = there.get(key, 0) + piece.size
        return {
            call: address
            for (call, address), size in there.items()
            if size == len(self._uploads[call][1])
        }

    def _content(self, piece: Piece) -> Buffer:
        if piece.kind is PieceKind.CONTENT:
            return piece.content
        return self._uploads[piece.call][1][piece.offset : piece.offset + piece.size]
