"""What the recorder does with a 600 KB upload: from the program's ring to the published message.

The ring is filled as the shim does; nobody subscribes, so what DDS does beyond taking the message
is not in it. In mode replay the upload is in a reference, which the shim wrote or the recorder.
Memory is kept as in a node that bring-up starts.
"""

from __future__ import annotations

import os
import random
import statistics
import struct
import sys
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import rclpy
from common import Row, main

from rrto_msgs.msg import CallBatch
from rrto_ros.api import ring_layout as layout
from rrto_ros.bringup.environment import NODE_DEFAULTS
from rrto_ros.robot.atomics import atomics
from rrto_ros.robot.outgoing import Outgoing
from rrto_ros.robot.ring import RingConsumer, RingMemory
from rrto_ros.robot.status import SessionConfig
from rrto_ros.ros.message_bytes import set_bytes
from rrto_ros.ros.participant import call_qos
from rrto_ros.wire.codec import iter_headers, pack_call
from rrto_ros.wire.format import FLAG_REPLY, FLAG_WAITED, HEADER_BYTES, pad8
from rrto_ros.wire.link import MessageSender
from rrto_ros.wire.plan import Plan
from rrto_ros.wire.reference import mark, pack_reference
from rrto_ros.wire.templates import CallTemplate

UPLOAD_BYTES = 600_000
RING_BYTES = 8 << 20


class Recorder:
    """The recorder's part of the way, in one thread.

    Args:
        mode: Of the session.
        plan: What the program repeats, as an earlier start has left it; None for nothing.
        publisher: Where messages go.
    """

    def __init__(self, mode: str, plan: Plan | None, publisher: Any) -> None:
        memory: Any = None
        if plan is not None:
            recalled = SimpleNamespace(plans=[plan], apart=False, start=None)
            memory = SimpleNamespace(recall=lambda: recalled, keep=lambda *_, **__: None)
        self._ring = RingMemory(call_bytes=RING_BYTES, reply_bytes=4096)
        self._consumer = RingConsumer(self._ring)
        self.out = Outgoing(SessionConfig(mode=mode), None, lambda: (0, 0, 0), memory)
        self._sender = MessageSender()
        self._mode = mode
        self._publisher = publisher
        self._head = 0

    def calls(self, records: Iterable[bytes]) -> None:
        """The program makes calls."""
        for record in records:
            rest = RING_BYTES - self._head % RING_BYTES
            if len(record) > rest:
                at = layout.RINGS + self._head % RING_BYTES
                struct.pack_into("<IHH", self._ring.view, at, rest, 0, 0)
                self._head += rest
            at = layout.RINGS + self._head % RING_BYTES
            self._ring.view[at : at + len(record)] = record
            self._head += len(record)
        atomics().store_u64(self._ring.address + layout.CALL_HEAD, self._head)

    def send(self) -> float:
        """Publish all that was called; returns how long that took, seconds."""
        started = time.perf_counter()
        while self.out.absorb(self._consumer, self._mode, 0.0) is not None:
            pass
        self._sender.push(self.out.take(), given=True)
        for message in self._sender.due(0.0):
            made = CallBatch()
            set_bytes(made, "data", message.data)
            self._publisher.publish(made)
        took = time.perf_counter() - started
        self._sender.acknowledged(self._sender.newest, (), 0.0)
        return took


def inference(index: int, data: bytes) -> list[bytes]:
    """Calls of an inference: an upload, twelve fills, a read that is waited for."""
    fill = {"value": 1, "element_bytes": 1, "width": 64, "height": 1, "pitch": 64, "stream": 0}
    calls = [pack_call("memcpy_htod", index, dst=1 << 20, stream=0, payload=data)]
    calls += [pack_call("memset", index + k, dst=k << 12, **fill) for k in range(1, 13)]
    flags = FLAG_WAITED | FLAG_REPLY
    return [
        *calls,
        pack_call("memcpy_dtoh", index + 13, src=0, stream=0, size=400, record_flags=flags),
    ]


def references(calls: list[bytes], index: int) -> list[bytes]:
    """The same as the shim refers to it: a large upload ends a reference."""
    payload = calls[0][-pad8(UPLOAD_BYTES) :]
    marks = [mark(len(calls) - 2, FLAG_WAITED | FLAG_REPLY)]
    return [
        pack_reference(1, 0, 1, index, 1, [], [], payload),
        pack_reference(1, 1, len(calls) - 1, index + 1, 1, marks, [], b""),
    ]


def uploads(smoke: bool) -> list[Row]:
    """In every mode; the plan is known from the start."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("uploads", context=context, start_parameter_services=False)
    publisher = node.create_publisher(CallBatch, "uploads", call_qos())
    data = random.Random(1).randbytes(UPLOAD_BYTES)
    templates = []
    for call in inference(1, data):
        header = next(iter_headers(call))
        body = call[HEADER_BYTES : header.size - pad8(header.payload_bytes)]
        templates.append(CallTemplate(header.op, header.payload_bytes, body))
    rows = []
    for name, mode in (("rpc", "rpc"), ("batched", "batched"), ("replay, matched by the shim",
                       "replay"), ("replay, matched by the recorder", "replay")):  # fmt: skip
        recorder = Recorder(mode, Plan(tuple(templates)) if mode == "replay" else None, publisher)
        by_shim = name.endswith("shim")
        took, index = [], 1
        for number in range(20 if smoke else 1000):
            calls = inference(index, data)
            recorder.calls(references(calls, index) if by_shim and number else calls)
            index += len(calls)
            took.append(1e3 * recorder.send())
            if by_shim and not number:
                assert recorder.out.shim_news()
                recorder.calls([pack_call("plan_taken", 0, plan=1, state=1)])
        took = sorted(took[10:])
        low, high = took[len(took) // 10], took[len(took) * 99 // 100]
        rows.append(
            Row(f"600 KB upload to message, {name}", "ms", statistics.median(took), low, high,
                len(took))
        )  # fmt: skip
    node.destroy_node()
    context.shutdown()
    return rows


if __name__ == "__main__":
    if not NODE_DEFAULTS.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**NODE_DEFAULTS, **os.environ})
    sys.exit(main(__doc__ or "", [uploads]))
