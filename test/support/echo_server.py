"""An offload server without a device, in this process: what a recorder session talks to in tests.

It executes nothing. It keeps every call record in order, and answers a REPLY with the payload that
`answer` gives. It can be deaf, shy (speak only when spoken to), lose messages, ask for blobs, and
be slow, as a test wants.
"""

from __future__ import annotations

import queue
import random
import threading
import time

from rrto_ros.api.info import DeviceInfo
from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.wire.codec import iter_calls, unpack_blob_ref
from rrto_ros.wire.format import (
    BLOB_DATA_OP,
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_REPLY,
    RESULT_BLOB_WANTED,
)
from rrto_ros.wire.link import MessageReceiver, MessageSender
from rrto_ros.wire.literal import LiteralReader
from rrto_ros.wire.packing import unpacked
from rrto_ros.wire.port import (
    FLAG_ACK_ONLY,
    FLAG_CLOSED,
    FLAG_MORE,
    FLAG_PACKED,
    OpenAnswer,
    ResultsMessage,
)
from rrto_ros.wire.result_codec import pack_result

INFO = DeviceInfo("cpu", "echo", b"u" * 16, (8, 0), 12080, 1 << 30, 1 << 40, 1 << 30, {1: 1024})


class EchoServer:
    """The port of a recorder and the server behind it.

    Args:
        on_results: Where results go (`RobotHost.on_results`).
        loss: Share of messages lost, each way.
        seed: Of the losses.
        max_message_bytes: Told to the robot.
        known: Tags of blobs told to the robot.
    """

    def __init__(self, on_results, *, loss=0.0, seed=0, max_message_bytes=1 << 20, known=()):
        self.on_results = on_results
        self.loss = loss
        self.random = random.Random(seed)
        self.max_message_bytes = max_message_bytes
        self.known = frozenset(known)
        self.blobs = {}
        self.calls = []
        self.flags = []
        self.messages = []
        self.closed = []
        self.opened = []
        self.accept = True
        self.there = True
        self.deaf = False
        self.shy = False
        self.answer = lambda call: bytes(call.payload or b"")
        self.waiting = {}
        self.inbox = queue.SimpleQueue()
        self.links = {}
        self.readers = {}
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    # the recorder's port

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        if not self.there:
            time.sleep(timeout_s)
            raise UnavailableError(f"no offload server answered within {timeout_s:g} s")
        if not self.accept:
            return OpenAnswer(False, "this server is full")
        self.opened.append(request)
        self.links[request.session] = (
            MessageReceiver(max_message_bytes=self.max_message_bytes),
            MessageSender(max_message_bytes=self.max_message_bytes),
        )
        return OpenAnswer(True, "", INFO, self.max_message_bytes, self.known)

    def publish_calls(self, message):
        self.messages.append(message)
        if self.random.random() >= self.loss:
            self.inbox.put(message)

    def close_session(self, session, reason, proof=b""):
        self.closed.append((session, reason))

    # the server

    def run(self):
        while True:
            deadlines = [
                t
                for receiver, sender in list(self.links.values())
                for t in (receiver.ack_deadline(), sender.deadline())
                if t is not None
            ]
            timeout = max(min(deadlines) - time.monotonic(), 0) if deadlines else 0.25
            try:
                message = self.inbox.get(timeout=timeout)
            except queue.Empty:
                message = None
            if message == "stop":
                return
            if message is not None and not self.deaf:
                self.receive(message)
            if not self.deaf and not (self.shy and message is None):
                self.speak(time.monotonic())

    def stop(self):
        self.inbox.put("stop")
        self.thread.join()

    def hang_up(self, session):
        """Say that the session is not open here."""
        flags = FLAG_ACK_ONLY | FLAG_CLOSED
        self.on_results(ResultsMessage(session, 0, 0, 0, (), flags, b""))

    def receive(self, message):
        receiver, sender = self.links[message.session]
        now = time.monotonic()
        try:
            sender.acknowledged(message.results_ack, (), now)
        except ProtocolError:
            # As a session's host: refused, and the robot hears that the server lives.
            self.say(message.session, None)
            return
        if message.flags & FLAG_ACK_ONLY:
            receiver.announced(message.sequence, now)
            self.say(message.session, None)
            return
        more = bool(message.flags & FLAG_MORE)
        data = message.data
        if message.flags & FLAG_PACKED:
            data = unpacked(data, self.max_message_bytes)
        for batch in receiver.receive(message.sequence, more, data, now):
            # Plans and references as a reader that is not the executor sees them.
            for record in self.readers.setdefault(message.session, LiteralReader()).read(batch):
                for call in iter_calls(bytes(record)):
                    self.execute(call, sender)

    def execute(self, call, sender):
        payload = bytes(call.payload or b"")
        if call.op.code == BLOB_DATA_OP:
            call, _ = self.waiting.pop(call.index)
        elif call.flags & FLAG_BLOB_REF:
            digest, _ = unpack_blob_ref(call.payload)
            if digest not in self.blobs:
                self.waiting[call.index] = (call, digest)
                sender.push(pack_result(call.index, 500, flags=RESULT_BLOB_WANTED))
                return
            payload = self.blobs[digest]
        elif call.flags & FLAG_KEEP:
            import hashlib

            self.blobs[hashlib.sha256(payload).digest()] = payload
        self.calls.append((call.op.name, call.index, payload))
        self.flags.append(call.flags)
        if call.flags & FLAG_REPLY:
            sender.push(pack_result(call.index, 0, self.answer(call)))

    def speak(self, now):
        for session, (receiver, sender) in list(self.links.items()):
            for message in sender.due(now):
                self.say(session, message)
            if receiver.ack_due(now):
                self.say(session, None)

    def say(self, session, message):
        receiver, sender = self.links[session]
        flags = FLAG_ACK_ONLY if message is None else FLAG_MORE * message.more
        executed = self.calls[-1][1] if self.calls else 0
        out = ResultsMessage(
            session,
            sender.newest if message is None else message.sequence,
            receiver.ack,
            executed,
            tuple(receiver.missing()),
            flags,
            b"" if message is None else message.data,
        )
        receiver.ack_sent()
        if self.random.random() >= self.loss:
            self.on_results(out)
