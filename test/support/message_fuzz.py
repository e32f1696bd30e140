"""Mutated messages of a session, in order and not, and a worker without a process to take them."""

import dataclasses
import queue
import random
import threading

from rrto_ros.execution.executor import Executor
from rrto_ros.execution.messages import Results
from rrto_ros.execution.progress import Executing
from rrto_ros.wire.port import CallsMessage

EDGES = (0, 1, 2, 63, 64, 255, 256, 1023, 1024, 1025, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40,
         (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
MOST_BYTES = 1 << 14


def number(rng, near):
    """A number that is often close to the right one."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(EDGES)
    if kind == 1:
        return rng.getrandbits(64)
    return max(0, near + rng.choice((-2, -1, 0, 0, 1, 1, 2, 3, 70, 1000)))


def content(rng, data):
    """Bytes: damaged, cut, repeated, or of no message at all."""
    out = bytearray(data)
    kind = rng.randrange(6)
    if kind == 0 or not out:
        return rng.randbytes(rng.choice((0, 1, 8, 24, 100, MOST_BYTES)))
    if kind == 1:
        return bytes(out[: rng.randrange(len(out))])
    if kind == 2:
        return bytes(out[:MOST_BYTES] * rng.randint(2, 3))
    if kind == 3:
        at = rng.randrange(len(out))
        return bytes(out[at:] + out[:at])
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(out))
        # Lengths, counts and operations are words at the start of a record.
        at = at & ~3 if kind == 4 else at
        width = min(4 if kind == 4 else 1, len(out) - at)
        value = rng.choice((*EDGES[:13], rng.getrandbits(32))) & ((1 << 8 * width) - 1)
        out[at : at + width] = value.to_bytes(width, "little")
    return bytes(out)


def mutated(rng, message, sessions):
    """A message made from a right one by changing one to three of its fields."""
    changes = {}
    for name in rng.sample([f.name for f in dataclasses.fields(message)], rng.randint(1, 3)):
        value = getattr(message, name)
        if name == "session":
            changes[name] = rng.choice((*sessions, rng.randbytes(16), bytes(16)))
        elif name == "flags":
            changes[name] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 32, 34, rng.randrange(256)))
        elif name == "missing":
            count = rng.choice((0, 1, 3, 64, 1000))
            changes[name] = tuple(number(rng, message.sequence) for _ in range(count))
        elif name == "data":
            changes[name] = content(rng, bytes(value))
        else:
            changes[name] = number(rng, value)
    return dataclasses.replace(message, **changes)


def is_calls(message):
    """Whether a message goes to the server."""
    return isinstance(message, CallsMessage)


class ThreadWorker:
    """What a session's host needs of a worker process, in a thread.

    Args:
        device: The session's device.
    """

    pid = 0
    queued_bytes = 0
    executing = Executing(0, 0, "")

    def __init__(self, device):
        self._executor = Executor(device)
        self._queue = queue.SimpleQueue()
        self._on_results = self._on_malformed = None
        self._info = device.info
        self.alive = True
        self.failure = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def open(self, wanted, on_results, on_malformed, stores=None):
        self._on_results, self._on_malformed = on_results, on_malformed
        self._thread.start()
        return self._info

    def watch(self, on_death):
        """Nothing kills it."""

    def send(self, batch):
        self._queue.put(bytes(batch))

    def close(self, timeout_s=2.0):
        self.alive = False
        self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(10)

    def statistics(self):
        return {}

    def _run(self):
        executor = self._executor

        def flush(records):
            progress = (executor.executed_call, executor.batches_done, executor.last_reply)
            self._on_results(Results(records, *progress))

        try:
            while (batch := self._queue.get()) is not None:
                flush(executor.execute(batch, flush))
                if executor.malformed:
                    self._on_malformed(executor.malformed)
        except Exception as error:
            # What no message may bring about; the test looks here.
            self.failure = error


class ThreadPool:
    """Makes such workers in the place of `edge.worker_pool.WorkerPool`."""

    confined = "not confined"

    def __init__(self, make_device):
        self._make = make_device
        self.workers = []

    def take(self):
        self.workers = [w for w in self.workers if w.alive or w.failure]
        self.workers.append(ThreadWorker(self._make()))
        return self.workers[-1]

    def statistics(self):
        return {}

    def close(self):
        for worker in self.workers:
            worker.close()

    @property
    def failures(self):
        return [worker.failure for worker in self.workers if worker.failure]


def seeded(seed):
    """A generator for a seed; random.randbytes and all."""
    return random.Random(seed)
