"""A recorder and a server without ROS, each in a process of its own, joined by a Unix socket.

    python bench/local_ends.py server FOLDER JSON
    python bench/local_ends.py recorder FOLDER JSON

The recorder's sessions and the server's table are the ones of the two nodes, with the same ordered
link between them; what carries its messages is the socket FOLDER/link. bench/local_stack.py starts
both. JSON: of the server {"device", "blob_directory", "limit_bytes"}, of the recorder {"mode",
"robot"}. The recorder prints one JSON line for each session that ends.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rrto_ros.api._generated.exports import EXPORTS
from rrto_ros.api.parameters import RECORDER, SERVER
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.host import HostLimits
from rrto_ros.edge.settings import ServerSettings
from rrto_ros.edge.table import SessionTable
from rrto_ros.errors import RrtoError, UnavailableError
from rrto_ros.robot.host import RobotHost
from rrto_ros.robot.status import SessionConfig, SessionSnapshot
from rrto_ros.termination import Termination
from rrto_ros.wire.port import CallsMessage, OpenAnswer, OpenRequest, ResultsMessage

LINK, RING = "link", "robot.sock"
_SWITCH_INTERVAL_S = 0.0005
"""As in the nodes: the thread that brings a result takes over from a busy one within this time."""


class Pipe:
    """Named values to and from the other end, in order.

    What comes is taken off the socket at once, whatever its handling waits for: so neither end
    ever waits in a send for the other's.

    Args:
        connection: To the other end.
        handlers: Name -> takes the values, in the pipe's own thread.
    """

    def __init__(self, connection: Connection, handlers: dict[str, Callable[..., object]]) -> None:
        self._connection = connection
        self._handlers = handlers
        self._lock = threading.Lock()
        self._came: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        for work in (self._read, self._handle):
            threading.Thread(target=work, name=f"link {work.__name__}", daemon=True).start()

    def send(self, name: str, *values: object) -> None:
        """Send (any thread); nothing happens if the other end has gone."""
        with self._lock:
            try:
                self._connection.send((name, *values))
            except OSError:
                return

    def _read(self) -> None:
        try:
            while True:
                self._came.put(self._connection.recv())
        except (EOFError, OSError):
            self._came.put(None)

    def _handle(self) -> None:
        while (came := self._came.get()) is not None:
            self._handlers[came[0]](*came[1:])


class RecorderPort:
    """The network, as `RobotPort` wants it."""

    def __init__(self, connection: Connection, on_results: Callable[[ResultsMessage], None]):
        self._answers: dict[bytes, queue.SimpleQueue[OpenAnswer]] = {}
        self._pipe = Pipe(connection, {"results": on_results, "opened": self._opened})

    def publish_calls(self, message: CallsMessage) -> None:
        """Send one message of calls."""
        self._pipe.send("calls", replace(message, data=bytes(message.data)))

    def open_session(self, request: OpenRequest, timeout_s: float, *_: object) -> OpenAnswer:
        """Ask, and wait for the answer."""
        waits = self._answers[request.session] = queue.SimpleQueue()
        self._pipe.send("open", request)
        try:
            return waits.get(timeout=timeout_s)
        except queue.Empty:
            raise UnavailableError(f"no server answered within {timeout_s:g} s") from None
        finally:
            del self._answers[request.session]

    def close_session(self, session: bytes, reason: str, proof: bytes = b"") -> None:
        """Ask, and do not wait."""
        self._pipe.send("close", session, reason, proof)

    def _opened(self, session: bytes, answer: OpenAnswer) -> None:
        if (waits := self._answers.get(session)) is not None:
            waits.put(answer)


def report(final: SessionSnapshot) -> dict[str, Any]:
    """What a session's last snapshot says, calls by name."""
    counts = zip(EXPORTS, final.export_counts, strict=False)
    return {
        **{name: value for name, value in asdict(final).items() if name != "export_counts"},
        "session": final.session.hex(),
        "calls": {name: count for name, count in counts if count},
    }


def say(text: str) -> None:
    """One whole line, at once: threads take turns."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run_recorder(folder: Path, said: dict[str, Any], termination: Termination) -> None:
    """Serve programs until a signal comes."""
    config = SessionConfig(
        robot=said["robot"],
        mode=said["mode"],
        plan_cache_bytes=RECORDER["plan_cache_bytes"].default,
        plan_cache_directory=folder / "plans",
    )
    host = RobotHost(
        folder / RING, config, RECORDER["max_sessions"].default,
        lambda final: say(json.dumps({"report": report(final)})), say,
    )  # fmt: skip
    try:
        connection = Client(str(folder / LINK), "AF_UNIX")
        host.activate(RecorderPort(connection, host.on_results))
        say(f"active in mode {said['mode']}")
        termination.wait()
    finally:
        host.close()


def run_server(folder: Path, said: dict[str, Any], termination: Termination) -> None:
    """Serve the one recorder that connects, until a signal comes."""
    pipes: list[Pipe] = []

    def publish(message: ResultsMessage) -> None:
        if pipes:
            pipes[0].send("results", replace(message, data=bytes(message.data)))

    settings = ServerSettings(
        said["device"],
        DeviceSettings(said["limit_bytes"] or SERVER["limit_bytes"].default),
        blob_directory=Path(said["blob_directory"]),
        blob_bytes=SERVER["blob_cache_bytes"].default,
        limits=HostLimits(SERVER["max_message_bytes"].default),
    )
    table = SessionTable(settings, publish, lambda _: None, say)

    def answer(request: OpenRequest) -> None:
        pipes[0].send("opened", request.session, table.open(request))

    def open_apart(request: OpenRequest) -> None:
        # Making a device may take a second, in which other sessions go on.
        threading.Thread(target=answer, args=(request,), name="open", daemon=True).start()

    def accept(listener: Listener) -> None:
        handlers = {"calls": table.receive, "open": open_apart, "close": table.close_session}
        pipes.append(Pipe(listener.accept(), handlers))

    try:
        listener = Listener(str(folder / LINK), "AF_UNIX")
        threading.Thread(target=accept, args=(listener,), name="accept", daemon=True).start()
        say(f"ready on device {said['device']}")
        termination.wait()
    finally:
        table.close()


def main() -> int:
    side, folder, text = sys.argv[1:]
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with Termination() as termination:
        try:
            run = {"recorder": run_recorder, "server": run_server}[side]
            run(Path(folder), json.loads(text), termination)
        except (RrtoError, OSError) as error:
            say(f"{side}: {error}")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
