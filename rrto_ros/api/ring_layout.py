"""The memory that a program and its recorder share: where in it what lies, in bytes.

docs/wire_format.md, "Ring between the program and recorder_replayer", says who writes what. The
shim's header with the same numbers is generated from here, and they are part of the hash by which
both sides know that they fit.
"""

CALL_HEAD = 64
"""Written by the program, as all positions are free-running byte counts."""
CALL_TAIL = 128
CONSUMER_SLEEPING = 192
PRODUCER_WAITING = 256
REPLY_HEAD = 320
REPLY_TAIL = 384
REPLY_WAITING = 448
MODE = 512
STATE = 516
WAIT_TIMEOUT_MS = 520
ALIVE = 524
CUDA_RUNTIME = 528
"""1: the CUDA runtime library's validity check is answered, unless a program's user says other."""
COUNTERS = 576
REFUSALS = 1024
REFUSAL_BYTES = 128
"""Count as u32, then what was refused as text with a zero at its end."""
MOST_REFUSALS = 24
CALLS_PER_EXPORT = 4096
RINGS = 8192
"""Calls, then replies."""

LAYOUT: dict[str, int] = {
    name: value for name, value in list(globals().items()) if name.isupper()
}  # fmt: skip
"""All of it, by name."""
