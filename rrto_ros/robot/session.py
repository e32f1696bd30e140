"""One interposed process: moves call records from its ring to the server and results back.

Two threads work here. The session's own thread waits for the program (ring or hang-up) and for
due times, and publishes calls. The port's take thread brings results (`on_results`) and puts them
into the reply ring itself, so that an answer passes no queue. What both change is guarded by one
lock; nothing is published or waited for under it.

What is said to a server and heard of it is `server_link.py`'s. With `resume: exact` a server that
is lost does not end the session: another one is looked for (`places/`) while the program waits,
and is brought to the same state (`state/`).

Over 400 lines: owns what its parts do one after the other, in both threads, under that lock.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import threading
import time
import uuid
from array import array
from collections.abc import Callable
from dataclasses import replace

from rrto_ros.api.choices import EXACT, LOCAL, PARTITION, travels
from rrto_ros.api.results import CUresult
from rrto_ros.errors import ConfigError, ProtocolError, UnavailableError
from rrto_ros.robot.blob_references import BlobReferences
from rrto_ros.robot.incoming import LEAST_WAITS, Incoming
from rrto_ros.robot.liveness import ALIVE_PERIOD_S
from rrto_ros.robot.outgoing import Outgoing
from rrto_ros.robot.places.servers import Choice, open_somewhere
from rrto_ros.robot.places.whereabouts import Move, Situation, Whereabouts
from rrto_ros.robot.plan_store import PlanStore, memory_of
from rrto_ros.robot.reply_writer import ReplyWriter
from rrto_ros.robot.ring import (
    LINGERING,
    SLEEPING,
    RingConsumer,
    RingMemory,
    drain_eventfd,
)
from rrto_ros.robot.ring_socket import hung_up, no_room, send_welcome
from rrto_ros.robot.server_link import ServerLink
from rrto_ros.robot.snapshots import Served, snapshot
from rrto_ros.robot.state.keeping import Keeping
from rrto_ros.robot.status import SessionConfig, SessionSnapshot, check_mode, prefixed
from rrto_ros.text import printable
from rrto_ros.wire.descriptions import Hello, Welcome, pack_device_info
from rrto_ros.wire.link import MEASURES_BYTES
from rrto_ros.wire.opening import Opened, close_session
from rrto_ros.wire.port import (
    FLAG_CLOSED,
    OpenAnswer,
    OpenRequest,
    ResultsMessage,
    RobotPort,
)
from rrto_ros.wire.versions import with_own_version

ACK_SLACK_S = 0.04
"""How late an acknowledgement may be that waits for the program's next call; with the receiver's
own delay it stays below the other side's shortest retransmission time."""
MAX_TEXT = 256


class RobotSession:
    """One program's session, from HELLO to its end; `run` serves it in the caller's thread.

    Args:
        connection: The program's socket, HELLO already read; closed by `run`.
        hello: What the program said.
        config: Settings; the mode may change later (`set_mode`).
        port: The way to the server.
        plans: Plans of earlier starts; None for none.
        moved: Told when it goes on under another id: the session, its last id, and how long its
            program had no server, in seconds.
        routed: Told of further ids whose messages are its own: the session, one that is gone, and
            one that came; b"" for none.
    """

    def __init__(
        self,
        connection: socket.socket,
        hello: Hello,
        config: SessionConfig,
        port: RobotPort,
        plans: PlanStore | None = None,
        moved: Callable[[RobotSession, bytes, float], None] = lambda *_: None,
        routed: Callable[[RobotSession, bytes, bytes], None] = lambda *_: None,
    ) -> None:
        self.id = uuid.uuid4().bytes
        self.hello = hello
        self._connection = connection
        self._config = config
        self._port = port
        self._plans = plans
        self._moved = moved
        self._mode = config.mode
        self._phase = "opening"
        self._error = ""
        self._started = time.monotonic()
        self._device = config.device
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop = ""
        self._lost = ""
        self._over = False
        self._blocked = False
        self._sleeps_until = 0.0
        self._opened = False
        self._welcomed = False
        self._served: Served | None = None
        self._ring: RingMemory
        self._consumer: RingConsumer
        self._replies: ReplyWriter
        self._out: Outgoing
        self._incoming: Incoming
        self._link = ServerLink(config, self.id, Opened(OpenAnswer(False)), self._started)
        kept = config.resume_bytes if config.resume == "exact" else 0
        self._kept = Keeping(kept, self._lock, self._not_ours)
        journal = self._journal = self._kept.journal
        self._where = Whereabouts(
            config, port, journal, self._kept.content, self._awake,
            lambda gone, came: routed(self, gone, came), self._lock,
        )  # fmt: skip
        self._resumed = 0
        self._final: SessionSnapshot | None = None

    # ---- the session's thread

    def run(self) -> SessionSnapshot:
        """Open the session, serve the program until it or the server is gone, close.

        Returns the final snapshot.
        """
        reason = "the program ended"
        try:
            if self._open():
                reason = self._serve() or reason
        except ProtocolError as error:
            reason = f"program {self.hello.pid} broke the ring's format: {error}"
            self._fail(reason, CUresult.UNKNOWN)
        except OSError as error:
            reason = f"the program's socket failed: {error}"
            if not self._welcomed:
                reason = no_room(error)
                with contextlib.suppress(OSError):
                    self._refuse(reason)
            self._fail(reason, CUresult.DEVICE_UNAVAILABLE)
        except Exception as error:
            # A fault of ours must not leave a session open on the server or a program waiting.
            reason = f"recorder_replayer failed: {type(error).__name__}: {error}"
            self._fail(reason, CUresult.UNKNOWN)
            if not self._welcomed:
                with contextlib.suppress(OSError):
                    self._refuse(reason)
        return self._end(reason)

    def stop(self, reason: str) -> None:
        """End the session soon (any thread); the program's calls fail from then on."""
        with self._lock:
            self._stop = reason
        self._awake()

    def set_mode(self, mode: str) -> None:
        """Change the mode; it holds from the program's next call on (any thread).

        Raises:
            ConfigError: The mode cannot be run.
        """
        value = check_mode(mode)
        with self._lock:
            self._mode = mode
            if self._served is not None and not self._over:
                self._served.ring.set_mode(value)
        self._awake()

    def move(self, wanted: Callable[[bytes], bool], reason: str) -> None:
        """Go on at another server soon (any thread); the program notices a pause at most.

        Args:
            wanted: Whether the server of an id will do.
            reason: Why, for logs.
        """
        self._where.order(wanted, reason)
        self._awake()

    @property
    def stays_local(self) -> bool:
        """Whether the place on the robot is to have it, and nobody else."""
        partitioned = self._where.fallback.partitioned and self._mode == PARTITION
        return (partitioned or self._mode == LOCAL) and self._config.place is not None

    @property
    def _to_part(self) -> bool:
        """Whether it is to be partitioned, and is not."""
        fallback = self._where.fallback
        return self._mode == PARTITION and fallback.fits and not fallback.partitioned

    @property
    def ordered(self) -> bool:
        """Whether it is to move and has not yet."""
        return self._where.ordered

    def pace(self) -> tuple[float, float]:
        """How long a result takes at this server, in seconds, and the round trips in it.

        Both are 0 as long as too little has run here.
        """
        with self._lock:
            if self._served is None or self._over:
                return 0.0, 0.0
            cost, incoming = self._served.out.meter.cost(), self._served.incoming
            if travels(self._mode) == "replay" and cost.median_ms:
                return cost.median_ms / 1e3, max(cost.round_trips, 1.0)
            return (incoming.wait_s, 1.0) if incoming.waits >= LEAST_WAITS else (0.0, 0.0)

    @property
    def last_move(self) -> str:
        """How it went to the robot's own device, or came back, last; empty for other moves."""
        return self._where.last_move

    @property
    def choice(self) -> Choice:
        """Where it may run."""
        return self._config.choice

    @property
    def here_s(self) -> float:
        """For how long it has been on the robot's own device, in seconds; 0 if it is not."""
        fallback = self._where.fallback
        return 0.0 if fallback.partitioned else fallback.here_s(time.monotonic())

    @property
    def server(self) -> bytes:
        """Id of the server that it is open on."""
        return self._where.server

    def _open(self) -> bool:
        config, hello = self._config, self.hello
        request = OpenRequest(
            self.id,
            config.robot,
            printable(hello.program)[:MAX_TEXT],
            printable(hello.label)[:MAX_TEXT],
            hello.pid,
            config.device,
            limit_bytes=config.limit_bytes,
        )
        try:
            opened = self._find_server(request)
        except (ConfigError, UnavailableError) as error:
            return self._refuse(str(error))
        answer = opened.answer
        if not answer.accepted or answer.info is None:
            why = with_own_version(answer.reason) or "it gave no reason"
            return self._refuse(f"the offload server refused the session: {why}")
        now = time.monotonic()
        self._link = ServerLink(config, self.id, opened, now)
        self._opened = True
        self._where.begin(request, answer.info, answer.server, now)
        self._disclose(opened)
        with self._lock:
            if self._stop:
                return self._refuse(self._stop)
            self._ring = ring = RingMemory(
                call_bytes=config.call_ring_bytes,
                reply_bytes=config.reply_ring_bytes,
                mode=check_mode(self._mode),
                # The recorder's own verdict, which says more, comes first.
                wait_timeout_ms=int((config.server_timeout_s + 1.0) * 1000),
                cuda_runtime=config.cuda_runtime,
            )
            self._consumer = RingConsumer(ring)
            self._replies = ReplyWriter(ring, config.untaken_bytes)
            blobs = None
            if self._where.fallback.fits:
                # Nobody there knows uploads by name, or executes anything ahead.
                ahead = replace(config.replay, run_ahead="off")
                config = replace(config, blob_references=False, replay=ahead)
                self._journal.coarse = config.transfer_precision != EXACT
            if config.blob_references:
                blobs = BlobReferences(answer.known_blobs, config.blob_min_bytes)
            memory = memory_of(self._plans, hello.program, answer.info.arena_base)
            self._kept.begin(blobs)
            self._out = Outgoing(config, blobs, self._totals, memory)
            self._incoming = Incoming(self._out, self._journal, self._replies)
            self._served = Served(ring, self._out, self._incoming, blobs)
            self._device = answer.info.kind
            self._phase = "open"
        self._welcomed = True
        fds = (ring.memory_fd, ring.call_fd, ring.reply_fd)
        send_welcome(
            self._connection, Welcome(0, info=pack_device_info(answer.info, self.id)), fds
        )
        self._connection.setblocking(False)
        return True

    def _find_server(self, request: OpenRequest) -> Opened:
        """Open the session where the mode says, or else where it can be had.

        Raises:
            ConfigError: What is configured cannot be used.
            UnavailableError: Nobody takes it.
        """
        if self._mode == LOCAL:
            return self._where.fallback.start(request, None)
        if self._mode == PARTITION:
            try:
                return self._where.fallback.start_partitioned(request)
            except UnavailableError as error:
                return self._where.fallback.start(request, error)
        config = self._config
        try:
            return open_somewhere(
                self._port, request, config.credentials, config.connect_timeout_s, config.choice,
                answer_s=self._where.fallback.patience_s,
            )  # fmt: skip
        except UnavailableError as error:
            # It may have been opened after all, only too late. Where messages are sealed there
            # is no proof to give, and the server finds that nobody speaks.
            self._close_there("the robot no longer waits for this session")
            return self._where.fallback.start(request, error)

    def _disclose(self, opened: Opened) -> None:
        """Give recordings what they need to read the session's messages."""
        if opened.seal is not None:
            self._config.disclose(self.id, opened.seal.keys.pack())

    def _refuse(self, text: str) -> bool:
        self._error = text
        send_welcome(self._connection, Welcome(int(CUresult.SYSTEM_NOT_READY), text))
        return False

    def _serve(self) -> str:
        """Serve until the end; returns the reason where it was not the program's."""
        out, consumer = self._out, self._consumer
        call_fd, socket_fd = self._ring.call_fd, self._connection.fileno()
        while True:
            if self._stop:
                self._fail(self._stop, CUresult.DEVICE_UNAVAILABLE)
                return self._stop
            self._seek(time.monotonic())
            open_ = self._phase == "lost" or self._room
            lingers, more = out.pending, False
            if open_:
                consumer.announce(LINGERING if lingers else SLEEPING)
                if self._absorb():
                    # A program that waits for room has said so before, and wakes nobody again.
                    more = consumer.more
            if news := out.shim_news():
                self._replies.write(news)
            self._replies.flush()
            timeout = self._send(time.monotonic())
            if out.must_think:
                out.think(time.monotonic())
            if self._kept.thinks and (self._journal.must_think or self._where.migration.settles):
                self._kept.fold(hard=True)
            if more or out.pending != lingers or (not open_ and self._room):
                # The announcement no longer says what would wake us, or there is room again.
                continue
            thinks = out.thinks or self._kept.thinks
            timeout = 0.0 if thinks else timeout
            readable, _, _ = select.select([call_fd, socket_fd, self._wake], [], [], timeout)
            if thinks and not readable:
                # Nobody waits for this thread: the calls have left, and no other is there.
                self._think()
            if call_fd in readable:
                consumer.awake()
            if self._wake in readable:
                drain_eventfd(self._wake)
            if socket_fd in readable and hung_up(self._connection):
                self._last_words()
                return ""

    def _think(self) -> None:
        """Do a piece of what can wait: search, or let a checkpoint take the place of its calls."""
        # There may be no end to the search, and there is one to this.
        if self._kept.thinks:
            self._kept.fold()
        else:
            self._out.think(time.monotonic())

    def _not_ours(self, error: ProtocolError) -> None:
        """A checkpoint came that cannot be one of this session."""
        self._where.migration.give_up()
        self._link.refuse(error)

    def _wants_checkpoint(self, now: float) -> bool:
        if self._out.replayer.speculation.awaits:
            return False
        if self._where.migration.wants_checkpoint:
            return True
        idle = not self._out.waits and self._link.sender.idle
        return self._journal.wants_checkpoint(now, idle=idle)

    @property
    def _room(self) -> bool:
        """Whether the program's next calls can go on; else they stay in its ring."""
        if self._link.full or not self._link.sender.room or self._journal.full:
            return False
        # After an error nothing is executed any more, so nothing would make room.
        return not self._kept.full or bool(self._failure)

    def _absorb(self) -> bool:
        """Take records out of the ring into the batch that is being made; whether it had any."""
        if self._phase == "lost":
            return bool(self._consumer.take_into(array("B")))
        answers = self._out.absorb(self._consumer, travels(self._mode), time.monotonic())
        if answers:
            # The lock keeps them behind the results that came before them.
            with self._lock:
                self._replies.write(answers)
        return answers is not None

    def _totals(self) -> tuple[int, int, int]:
        """Bytes sent and received, and round trips."""
        return *self._link.exchanged, self._ring.waits() - self._out.saved_waits

    def _send(self, now: float) -> float:
        """Publish what is due; returns for how long nothing else will be (seconds)."""
        if self._phase == "lost":
            self._out.drop()
            return 3600.0
        out = self._out
        if self._where.migration.searches:
            # The program's patience with a server that says nothing is ours to extend.
            self._ring.beat()
        if self._lost:
            return ALIVE_PERIOD_S
        link, where, wanted = self._link, self._where, self._incoming.blobs_wanted
        standby, standing_by = where.standby, None
        with self._lock:
            link.live.woke(now, self._sleeps_until)
            pending = self._queue(now)
            outgoing = link.due(now, full=self._replies.full)
            movable = self._movable
            silence_s = self._patience_s(movable)
            # The oldest call for whose result the program waits; none, if its error is known.
            waited_for = 0 if self._failure else next(iter(out.waits), 0)
            self._lost = self._lost or link.lost(
                now, waited_for, pending=pending or self._blocked, silence_s=silence_s
            )
            due = min(
                link.wakes_at(),
                link.heard_at + silence_s,
                where.wakes_at(now, link.heard_at, movable),
                out.flush_at if pending else math.inf,
                now + ACK_SLACK_S if out.waits else math.inf,
            )
            if standby.on:
                # What stands by gets what the program's own calls leave of the link.
                idle = link.sender.idle and not (outgoing or pending or wanted)
                standing_by = standby.due(now, self._sleeps_until, idle)
                due = min(due, standby.wakes_at(now, idle))
            # What is due already is wanted now: later than that is what was stood still.
            self._sleeps_until = now if self._lost or due < now else due
            self._blocked = not self._room
            timeout = self._sleeps_until - now
        for message in link.leaving(outgoing):
            if len(message.data) >= MEASURES_BYTES:
                with self._lock:
                    link.sender.left(message.sequence, len(message.data), time.monotonic())
            self._port.publish_calls(message)
        if standing_by:
            for message in standby.leaving(standing_by):
                self._port.publish_calls(message)
        return timeout

    def _queue(self, now: float) -> bool:
        """Hand the link what is to leave: content that was asked for, calls, a checkpoint.

        Returns:
            Whether there are calls that stay.
        """
        out, link, wanted = self._out, self._link, self._incoming.blobs_wanted
        queued = bool(wanted)
        while wanted:
            self._answer_wanted(wanted.popleft())
        pending = out.pending
        if pending and now >= out.flush_at:
            link.push([self._journal.sent(out.take())])
            queued, pending = True, False
        if not pending and self._wants_checkpoint(now):
            # What the server has executed speculatively is not the session's state.
            out.replayer.speculation.drop()
            link.push([self._journal.checkpoint(now)])
            self._where.migration.checkpoint_asked()
            queued, pending = True, out.pending
        if queued and self._kept.take_new():
            link.packs()
        return pending

    def _answer_wanted(self, index: int) -> None:
        record = self._kept.record_of(index)
        if record is None:
            self._lost = f"the server wants a blob of call {index}, which refers to none"
            return
        self._link.push([record])

    def _seek(self, now: float) -> None:
        """Where the server is lost, in doubt, or to be left: look for another, and move."""
        where, heard_at = self._where, self._link.heard_at
        wanted_elsewhere = self.stays_local or self._to_part
        still = self._phase == "open" and not (self._lost or wanted_elsewhere)
        if self._phase == "lost" or (still and where.rests(now, heard_at)):
            return
        movable = self._movable
        if self._lost and (not movable or now >= heard_at + self._patience_s(movable)):
            self._phase = "lost"
            why = where.objections(self._lost)
            where.cancel(why)
            self._fail(why, CUresult.DEVICE_UNAVAILABLE)
            return
        out = self._out
        quiet = self._link.sender.idle and not (out.waits or out.pending)
        at = Situation(
            now, heard_at, bool(self._lost), quiet, movable, self.stays_local, self._to_part
        )
        if where.may_adopt(at) and not self._kept.settle():
            at = replace(at, movable=False)
        move = where.look(at)
        self._phase = where.phase
        if move is not None:
            self._move(move)

    def _move(self, move: Move) -> None:
        """Go on with another session, which gets all calls so far first."""
        now, old, where = time.monotonic(), self._link, self._where
        outage_s = now - old.heard_at
        stood_by = move.stood_by
        with self._lock:
            if stood_by is not None:
                self._link = stood_by.link
            else:
                self._link = ServerLink(self._config, move.session, move.opened, now)
            self._link.follows(old)
            self.id = move.session
            self._disclose(move.opened)
            self._incoming.moved()
            self._out.replayer.speculation.resumed()
            holds = stood_by.holds if stood_by is not None else 0
            self._link.push(self._kept.begin_again(holds), packs=True)
            self._sleeps_until = 0.0
            self._resumed += 1
            self._phase = "open"
            where.moved(
                move, now, silence=not self._lost, outage_s=outage_s, local=self._mode == LOCAL,
                inference_ms=self._out.meter.cost().median_ms,
            )  # fmt: skip
            # What inferences take is of one server at a time.
            self._out.meter.moved()
            self._lost = ""
        self._moved(self, old.session, outage_s)
        close_session(self._port, old.opened, old.session, "the session goes on elsewhere")

    @property
    def _movable(self) -> bool:
        """Whether another server can be brought to the session's state."""
        return self._where.migration.possible and not self._failure

    def _patience_s(self, movable: bool) -> float:
        """How long the server may be silent, in seconds."""
        config = self._config
        return config.outage_timeout_s if movable else config.server_timeout_s

    @property
    def _failure(self) -> str:
        """What the program is told of its device; empty while it works."""
        return self._error or (self._incoming.error if self._served is not None else "")

    def _awake(self) -> None:
        """Have the session's thread look about (any thread)."""
        with self._lock:
            if not self._over:
                os.eventfd_write(self._wake, 1)

    def _last_words(self) -> None:
        """Send what the program called before it ended: its effects are part of the recording."""
        while self._phase != "lost" and self._room and self._absorb():
            pass
        self._out.flush()
        self._send(time.monotonic())

    def _fail(self, text: str, status: CUresult) -> None:
        self._error = self._failure or text
        if self._served is not None:
            self._ring.set_state(int(status))

    def _end(self, reason: str) -> SessionSnapshot:
        with self._lock:
            self._phase = "closed" if self._phase != "lost" else "lost"
            final = self._snapshot()
            self._final = final
            self._over = True
            if self._served is not None:
                self._ring.close()
            os.close(self._wake)
        self._connection.close()
        self._where.cancel(reason)
        if self._served is not None:
            self._out.replayer.end()
        if self._opened:
            self._close_there(reason)
        return final

    def _close_there(self, reason: str) -> None:
        close_session(self._port, self._link.opened, self.id, reason)

    # ---- the port's take thread

    def on_results(self, message: ResultsMessage) -> None:
        """Take one message of results (the port's take thread)."""
        now = time.monotonic()
        with self._lock:
            if self._over or self._served is None:
                return
            if message.session != self.id:
                if self._where.standby.received(message, now):
                    os.eventfd_write(self._wake, 1)
                return
            believed = None if self._lost else self._link.believed(message)
            if believed is None:
                return
            if believed.flags & FLAG_CLOSED:
                self._lost = "the offload server has closed the session"
            else:
                try:
                    self._received(believed, now)
                except ProtocolError as error:
                    self._link.refuse(error)
                    self._lost = self._lost or self._link.receiver.broken
            if self._needs_thread():
                os.eventfd_write(self._wake, 1)

    def _received(self, message: ResultsMessage, now: float) -> None:
        link = self._link
        for batch in link.received(message, now):
            try:
                self._incoming.deliver(batch, now)
            except ProtocolError as error:
                self._where.migration.give_up()
                self._lost = f"results of the server cannot be used: {error}"
                raise
        self._ring.beat()
        link.heard(message, now, waits=self._replies.full)
        self._out.measured(link.sender.fastest_s)
        self._where.migration.executed(message.executed_call, now)
        self._kept.executed(message.executed_call)

    def _needs_thread(self) -> bool:
        """Whether the session's thread has to act before it wakes by itself.

        A wake-up costs as much as the rest of a short round trip. Usually none is needed: the
        program's next call carries the acknowledgement.
        """
        link = self._link
        if self._lost or self._incoming.blobs_wanted or self._blocked or link.sender.urgent:
            return True
        if self._out.urgent or not link.says_full(self._replies.full):
            return True
        due = link.receiver.ack_deadline()
        return due is not None and self._sleeps_until > due + ACK_SLACK_S

    # ---- any thread

    def snapshot(self) -> SessionSnapshot:
        """What the session did so far, or did in all."""
        with self._lock:
            return self._final or self._snapshot()

    def statistics(self) -> dict[str, int | float | str]:
        """Counters of the session's parts, prefixed by part."""
        with self._lock:
            own = prefixed(journal=self._journal.statistics())
            if self._served is not None:
                blobs = self._served.blobs
                own |= prefixed(
                    blobs=blobs.statistics() if blobs is not None else {},
                    ring=self._consumer.statistics(),
                    replies=self._replies.statistics(),
                    replay=self._out.statistics(),
                )
            return {**self._link.statistics(), **self._where.statistics(), **own}

    def _snapshot(self) -> SessionSnapshot:
        said = SessionSnapshot(
            session=self.id,
            label=printable(self.hello.label),
            program=printable(self.hello.program),
            pid=self.hello.pid,
            device=self._device,
            mode=self._mode,
            phase=self._phase,
            error=self._failure,
            duration_s=time.monotonic() - self._started,
            resumed=self._resumed,
        )
        return snapshot(said, self._served, self._link, self._where)
