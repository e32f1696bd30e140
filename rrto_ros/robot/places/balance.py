"""Whether a session's results would come sooner at another server: owns that judgement.

It compares times that were measured: how long a session takes to a result where it is, and how
long each server takes to answer a question. Of a server that the program has run on, what is left
without the round trips is remembered; of another it is taken to be what it is here. A session
moves only where it is clearly slower, for a while, and then rests; so noise moves nobody, and a
server that turns out to be slower is left once and not tried again soon.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

from rrto_ros.robot.places.servers import MOST_SERVERS, RUNNING, Servers
from rrto_ros.robot.session import RobotSession

MEASURE_S = 2.0
"""How often servers are asked, and sessions judged."""
SAMPLES, LEAST_SAMPLES = 7, 3
FRESH_S = 20.0
"""An answer's time counts for so long."""
FACTOR = 1.25
"""How much longer a result has to take here than it would there."""
LEAST_S = 0.001
SUSTAINED_S = 10.0
"""For how long it has to be so; after a move no other session moves for as long."""
REST_S = 60.0
"""A session that has moved stays for so long."""
REMEMBERED_S = 600.0
"""How long it is remembered what a program took at a server."""
MOST_REMEMBERED = 256

Send = Callable[[RobotSession, bytes, str], bool]
"""Orders a session to a server; whether the order was taken."""


class Balance:
    """The judgement over one recorder's sessions.

    `measured` may be called by any thread, `judge` by one.

    Args:
        servers: Those that are heard of.
        send: Orders a session to a server.
    """

    def __init__(self, servers: Servers, send: Send) -> None:
        self._servers = servers
        self._send = send
        self._lock = threading.Lock()
        self._trips: OrderedDict[bytes, deque[tuple[float, float]]] = OrderedDict()
        self._taken: OrderedDict[tuple[str, bytes], tuple[float, float]] = OrderedDict()
        self._worse_since: WeakKeyDictionary[RobotSession, float] = WeakKeyDictionary()
        self._moved_at: WeakKeyDictionary[RobotSession, float] = WeakKeyDictionary()
        self._last_move = 0.0
        self._judged = 0
        self._moves = 0

    def measured(self, server: bytes, seconds: float) -> None:
        """A server has answered a question after so many seconds."""
        with self._lock:
            samples = self._trips.pop(server, None) or deque(maxlen=SAMPLES)
            samples.append((time.monotonic(), seconds))
            self._trips[server] = samples
            if len(self._trips) > MOST_SERVERS:
                self._trips.popitem(last=False)

    def round_trip_s(self, server: bytes) -> float:
        """The median of a server's last answers, in seconds; 0 where too few are known."""
        since = time.monotonic() - FRESH_S
        with self._lock:
            times = [seconds for at, seconds in self._trips.get(server, ()) if at >= since]
        return statistics.median(times) if len(times) >= LEAST_SAMPLES else 0.0

    def judge(self, sessions: Iterable[RobotSession]) -> None:
        """Order those sessions elsewhere of which it is time."""
        now = time.monotonic()
        for session in sessions:
            self._judged += 1
            target = self._better(session, now)
            if not target:
                self._worse_since.pop(session, None)
                continue
            since = self._worse_since.setdefault(session, now)
            rested = now - self._moved_at.get(session, now - REST_S) >= REST_S
            if now - since < SUSTAINED_S or not rested:
                continue
            if self._last_move and now - self._last_move < SUSTAINED_S:
                continue  # what the others would gain is seen when this one has gone
            if self._send(session, target, "its results come sooner there"):
                self._worse_since.pop(session, None)
                self._moved_at[session] = self._last_move = now
                self._moves += 1

    def statistics(self) -> dict[str, int | float]:
        """Judgements, moves, and the round trip of each server by name, in ms."""
        with self._lock:
            servers = list(self._trips)
        return {
            "balance_judged": self._judged,
            "balance_moves": self._moves,
            **{
                f"round_trip_ms {self._servers.name_of(server)}": 1e3 * self.round_trip_s(server)
                for server in servers
            },
        }

    def _better(self, session: RobotSession, now: float) -> bytes:
        """The server at which results would come clearly sooner; empty if there is none."""
        took, trips = session.pace()
        here = self.round_trip_s(session.server)
        if session.ordered or not (took and here):
            return b""
        program = session.hello.program
        rest = max(took - trips * here, 0.0)
        self._remember((program, session.server), rest, now)
        best, target = took, b""
        for one in self._servers.present():
            there = self.round_trip_s(one.id)
            if one.id == session.server or one.state != RUNNING or not there:
                continue
            if session.choice.rank(one.id) is None:
                continue
            at, known = self._taken.get((program, one.id), (0.0, rest))
            would = (known if at and now - at < REMEMBERED_S else rest) + trips * there
            if would < best:
                best, target = would, one.id
        return target if took > FACTOR * best and took - best > LEAST_S else b""

    def _remember(self, key: tuple[str, bytes], rest: float, now: float) -> None:
        self._taken.pop(key, None)
        self._taken[key] = now, rest
        if len(self._taken) > MOST_REMEMBERED:
            self._taken.popitem(last=False)
