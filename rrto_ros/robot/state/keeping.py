"""What a session keeps for another server: owns its journal, and what uploads that one refers to.

An upload that left as a reference is with `BlobReferences` until it was executed, and put aside
there after; what a checkpoint holds is with the journal. Whoever asks for a content gets it here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rrto_ros.errors import ProtocolError
from rrto_ros.robot.blob_references import BlobReferences
from rrto_ros.robot.state.journal import Journal
from rrto_ros.wire.format import Buffer


class Keeping:
    """One session's journal and uploads.

    `fold` and `settle` are the session's thread's, and take the lock; it guards the rest.

    Args:
        limit_bytes: Of what is kept; 0 to keep nothing.
        lock: The session's.
        objected: Told, under the lock, that a checkpoint came that cannot be this session's.
    """

    def __init__(
        self, limit_bytes: int, lock: threading.Lock, objected: Callable[[ProtocolError], None]
    ) -> None:
        self.journal = Journal(limit_bytes, self._archived)
        self._lock = lock
        self._objected = objected
        self._blobs: BlobReferences | None = None

    def begin(self, blobs: BlobReferences | None) -> None:
        """The session is open; `blobs` is None where uploads never leave as references."""
        self._blobs = blobs

    # ---- checkpoints

    @property
    def thinks(self) -> bool:
        """Whether a checkpoint has come and has not taken the place of its calls."""
        return self.journal.thinks

    def fold(self, *, hard: bool = False) -> None:
        """Let a checkpoint take the place of its calls: a piece of that, or with `hard` much."""
        journal = self.journal
        with self._lock:
            if not journal.thinks:
                return
            try:
                done = journal.think_hard() if hard else journal.think()
            except ProtocolError as error:
                self._objected(error)
                return
            if done and self._blobs is not None:
                journal.kept(self._blobs.forget_aside(journal.covered))

    def settle(self) -> bool:
        """Let a checkpoint that came take the place of its calls at once.

        Returns:
            Whether it can be one of this session.
        """
        with self._lock:
            try:
                self.journal.settle()
            except ProtocolError as error:
                self._objected(error)
                return False
        return True

    # ---- uploads

    @property
    def full(self) -> bool:
        """Whether the server should first execute some of what refers to kept contents."""
        return self._blobs is not None and self._blobs.full

    def content(self, call: int) -> bytes | None:
        """What a call uploaded, for a session that stands by."""
        found = self._archived(call)
        return found[1] if found is not None else self.journal.upload(call)

    def record_of(self, call: int) -> bytes | None:
        """The record that brings a server what a reference names; None if it names nothing."""
        if self._blobs is None:
            return None
        record = self._blobs.wanted(call)
        if record is None and (content := self.journal.upload(call)) is not None:
            record = self._blobs.brought(call, content)
        return record

    def executed(self, call: int) -> None:
        """The server has executed all calls up to this one."""
        if self._blobs is not None and call:
            self.journal.kept(self._blobs.executed(call, keep=self.journal.whole))

    def take_new(self) -> bool:
        """Whether contents that the server lacks were given out since this was asked last."""
        return self._blobs is not None and self._blobs.take_new()

    def begin_again(self, holds: int) -> list[Buffer]:
        """What another server is sent, which may ask for what it lacks; as `Journal`'s."""
        batches = self.journal.begin_again(holds)
        if self._blobs is not None:
            self._blobs.resumed()
        return batches

    def _archived(self, call: int) -> tuple[bytes, bytes] | None:
        return self._blobs.put_aside(call) if self._blobs is not None else None
