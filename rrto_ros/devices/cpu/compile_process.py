"""The compile process: ``python -m rrto_ros.devices.cpu.compile_process``.

It reads jobs from its standard input (a JSON line, then that many bytes of LLVM IR), and answers
each on its standard output (a status byte, eight bytes of length, object code or a message). It
ends with its input, even in the middle of a job, so that no compiler outlives its session.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import BinaryIO

from rrto_ros.devices.cpu.jit import compile_object, host_target
from rrto_ros.errors import PtxError

OK, REFUSED = b"\0", b"\1"
MAX_IR_BYTES = 1 << 30
MOST_JOB_S = 600
"""A job that takes longer ends the process, whatever its session wants."""


def _read_jobs(source: BinaryIO, jobs: queue.Queue[tuple[dict[str, object], str]]) -> None:
    while True:
        line = source.readline()
        head = json.loads(line) if line.endswith(b"\n") else {"bytes": -1}
        size = int(head["bytes"])
        text = source.read(size) if 0 <= size <= MAX_IR_BYTES else b""
        if len(text) != size:
            os._exit(0)  # also while LLVM is busy
        jobs.put((head, text.decode()))


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Compiles jobs from `source` one after the other until it ends (which ends the process)."""
    jobs: queue.Queue[tuple[dict[str, object], str]] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(source, jobs), daemon=True).start()
    target = host_target()
    while True:
        head, text = jobs.get()
        signal.alarm(MOST_JOB_S)
        try:
            answer, status = compile_object(text, target, vectorise=bool(head["vectorise"])), OK
        except PtxError as error:
            answer, status = error.detail.encode(), REFUSED
        signal.alarm(0)
        sink.write(status + len(answer).to_bytes(8, "little") + answer)
        sink.flush()


def main() -> None:
    """Entry point: keeps the pipes to itself, whatever a library prints."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
