"""What a shim is told by a recorder or a server that lies: lengths, counts, sizes of rings.

With the sanitizers of `test_shim_sanitizers.py` this finds reads that do not crash, too.
RRTO_SHIM_FUZZ and RRTO_FUZZ_SEED as in `test_shim_fuzz.py`.
"""

import collections
import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from support.message_fuzz import content
from support.shim_peer import CASES, Peer
from support.shim_under_test import python, shim_environment

from rrto_ros.api.info import DeviceInfo, GlobalInfo, KernelInfo, ModuleInfo
from rrto_ros.devices.null import NullDevice
from rrto_ros.robot.ring import RING_HEAD, RingMemory
from rrto_ros.wire.descriptions import (
    WELCOME,
    Welcome,
    pack_device_info,
    pack_module_info,
    pack_welcome,
)
from rrto_ros.wire.result_codec import pack_result

COUNT = int(os.environ.get("RRTO_SHIM_FUZZ", "6000"))
SEED = int(os.environ.get("RRTO_FUZZ_SEED", "1"))
PROGRAM = Path(__file__).resolve().parents[1] / "support" / "programs" / "shim_hostile_server.py"
INFO = DeviceInfo(
    "cpu", "a device", b"u" * 16, (8, 0), 13050, 1 << 30, 1 << 44, 1 << 30, {1: 1024, 16: 80}
)
GOOD = pack_module_info(
    ModuleInfo(
        (KernelInfo("scale", ((0, 8), (8, 4), (12, 4)), {0: 1024, 1: 0, 4: 16}),
         KernelInfo("limited", ((0, 8),), {0: 64})),
        (GlobalInfo("table", (1 << 44) + 4096, 64),),
    )
)  # fmt: skip
NUMBERS = (0, 1, 7, 8, 4095, 4096, 0x7FFFFFFF, 0xFFFFFFF8, 0xFFFFFFFF)


def welcomes(rng):
    """WELCOMEs with something wrong, and the sizes that the rings say they have."""
    info = pack_device_info(INFO, b"s" * 16)
    good = pack_welcome(Welcome(0, "", info))
    sizes = (1 << 16, 1 << 16)
    for text, size in ((rng.choice(NUMBERS), len(info)), (0, rng.choice(NUMBERS)), (4096, 65536)):
        yield WELCOME.pack(*WELCOME.unpack_from(good)[:2], text, size) + info, sizes
    for at in (0, 12, 16, 24, 32, 72, 76):
        # Counts, sizes and addresses of the device's description.
        damaged = bytearray(info)
        damaged[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS))
        yield good[: WELCOME.size] + bytes(damaged), sizes
    for one in (0, 1, 4095, 4097, 1 << 31, 1 << 40, 1 << 63, (1 << 64) - 4096):
        yield good, rng.choice(((one, 1 << 16), (1 << 16, one)))
    for _ in range(8):
        yield content(rng, good), sizes


def test_a_welcome_that_lies_is_refused_and_ends_no_program(sockets):
    rng = random.Random(SEED)
    cases = list(welcomes(rng))
    env = {**os.environ, **shim_environment(), "RRTO_SOCKET": str(sockets / "s"),
           "RRTO_CONNECT_TIMEOUT_MS": "1000"}  # fmt: skip
    results = collections.Counter()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(sockets / "s"))
        server.listen()

        def serve(welcome, sizes):
            connection, _ = server.accept()
            ring = RingMemory(call_bytes=1 << 16, reply_bytes=1 << 16)
            head = RING_HEAD.unpack_from(ring.view)
            RING_HEAD.pack_into(ring.view, 0, *head[:2], *sizes)
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                fds = [ring.memory_fd, ring.call_fd, ring.reply_fd]
                socket.send_fds(connection, [welcome or b"\0"], fds)
                connection.settimeout(10)
                connection.recv(1)
            ring.close()

        for welcome, sizes in cases:
            thread = threading.Thread(target=serve, args=(welcome, sizes))
            thread.start()
            done = subprocess.run(
                [*python(), str(CASES), "init_only"], env=env, capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
            thread.join(20)
            assert done.returncode == 0, (welcome, sizes, done.stderr)
            results[json.loads(done.stdout)["result"]] += 1
    # What was damaged where it does not matter is taken.
    assert results[0] < len(cases) // 2
    assert results[802] > 5


@pytest.mark.timeout(200 + COUNT // 50)
def test_a_modules_description_that_lies_is_an_error_of_the_load(sockets):
    rng = random.Random(SEED)

    def device(limit_bytes, arena_base):
        return NullDevice(
            limit_bytes=limit_bytes, arena_base=arena_base, bytes_per_s=0, launch_s=0
        )

    def on_call(call):
        if call.op.name == "module_load":
            return pack_result(call.index, 0, mutated())
        return pack_result(call.index, 0) if call.reply else b""

    def mutated():
        if rng.random() < 0.1:
            return GOOD
        return content(rng, GOOD)

    with Peer(device=device, on_call=on_call) as peer:
        said = peer.case("loads", max(200, COUNT // 20), program=PROGRAM)
    results = {int(key): count for key, count in said.items()}
    assert results[0] > 0
    assert sum(count for key, count in results.items() if key) > 0
