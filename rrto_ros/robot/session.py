"""One interposed process: moves call records from its ring to the server and results back.

Two threads work here. The session's own thread waits for the program (ring or hang-up) and for
due times, and publishes calls. The port's take thread brings results (`on_results`) and puts them
into the reply ring itself, so that an answer passes no queue. The link's state is guarded by one
lock; nothing is published or waited for under it.

With `resume: exact` a server that is lost does not end the session: another one is looked for
(`places/`) while the program waits, and is brought to the same state (`state/`).

Over 400 lines: ring, link and phases of one session change together, under one lock.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import statistics
import threading
import time
import uuid
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

from rrto_ros.api.choices import LOCAL, travels
from rrto_ros.api.results import CUresult
from rrto_ros.errors import ConfigError, ProtocolError, UnavailableError
from rrto_ros.robot.blob_references import BlobReferences
from rrto_ros.robot.inferences import InferenceCost
from rrto_ros.robot.liveness import ALIVE_PERIOD_S, Liveness
from rrto_ros.robot.outgoing import Outgoing
from rrto_ros.robot.places.fallback import OWN, Fallback
from rrto_ros.robot.places.migration import MOMENT_S, SUSPECT_S, Migration
from rrto_ros.robot.places.servers import Choice, open_somewhere
from rrto_ros.robot.places.standby import Standby
from rrto_ros.robot.places.standby_link import StandbyLink
from rrto_ros.robot.plan_store import PlanStore, memory_of
from rrto_ros.robot.replay.replayer import ReplayState
from rrto_ros.robot.reply_writer import ReplyWriter
from rrto_ros.robot.ring import (
    LINGERING,
    SLEEPING,
    Counters,
    RingConsumer,
    RingMemory,
    drain_eventfd,
)
from rrto_ros.robot.ring_socket import hung_up, no_room, send_welcome
from rrto_ros.robot.state.journal import Journal
from rrto_ros.robot.status import SessionConfig, SessionSnapshot, check_mode
from rrto_ros.text import printable
from rrto_ros.wire.descriptions import Hello, Welcome, pack_device_info
from rrto_ros.wire.format import RESULT_BLOB_WANTED, RESULT_STATE, Buffer
from rrto_ros.wire.link import MessageReceiver, MessageSender
from rrto_ros.wire.opening import Opened, believed, close_session
from rrto_ros.wire.packing import Packer
from rrto_ros.wire.port import (
    FLAG_ACK_ONLY,
    FLAG_BUSY,
    FLAG_CLOSED,
    FLAG_FULL,
    FLAG_MORE,
    FLAG_PACKED,
    FLAG_PROBE,
    CallsMessage,
    OpenAnswer,
    OpenRequest,
    ResultsMessage,
    RobotPort,
)
from rrto_ros.wire.result_codec import ResultRecord, iter_results
from rrto_ros.wire.versions import with_own_version

ACK_SLACK_S = 0.04
"""How late an acknowledgement may be that waits for the program's next call; with the receiver's
own delay it stays below the other side's shortest retransmission time."""
WAIT_SAMPLES, LEAST_WAITS = 512, 16
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
        self._server_full = False
        self._said_full = False
        self._sleeps_until = 0.0
        self._opened = False
        self._opening = Opened(OpenAnswer(False))
        self._most_bytes = 0
        self._unproven = self._foreign = 0
        self._welcomed = False
        self._ring: RingMemory | None = None
        self._sender = MessageSender()
        self._receiver = MessageReceiver()
        kept = config.resume_bytes if config.resume == "exact" else 0
        self._journal = Journal(kept, self._archived)
        self._migration = Migration(config, port, self._journal, self._awake)
        self._fallback = Fallback(config, port, self._awake, self._migration.order)
        self._standby = Standby(
            config, port, self._journal, self._content, self._awake,
            lambda gone, came: routed(self, gone, came),
        )  # fmt: skip
        self._edge_ms = 0.0
        self.last_move = ""
        """How it went to the robot's own device, or came back, last; empty for other moves."""
        self._earlier: Counter[str] = Counter()
        self._resumed = 0
        self._blobs: BlobReferences | None = None
        self._blobs_wanted: deque[int] = deque()
        self._packer = Packer()
        self._packs_to = self._packed_to = 0
        self._live = Liveness(config.server_timeout_s, time.monotonic())
        self._beyond = False
        self._spoke = 0.0
        self._refused = 0
        self._last_refusal = ""
        self._wait_samples: deque[float] = deque(maxlen=WAIT_SAMPLES)
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
            if self._ring is not None and not self._over:
                self._ring.set_mode(value)
        self._awake()

    def move(self, wanted: Callable[[bytes], bool], reason: str) -> None:
        """Go on at another server soon (any thread); the program notices a pause at most.

        Args:
            wanted: Whether the server of an id will do.
            reason: Why, for logs.
        """
        self._migration.order(wanted, reason)
        self._awake()

    @property
    def stays_local(self) -> bool:
        """Whether it is to be on the robot's own device, and nowhere else."""
        return self._mode == LOCAL and self._config.place is not None

    @property
    def ordered(self) -> bool:
        """Whether it is to move and has not yet."""
        return self._migration.ordered

    def pace(self) -> tuple[float, float]:
        """How long a result takes at this server, in seconds, and the round trips in it.

        Both are 0 as long as too little has run here.
        """
        with self._lock:
            if self._ring is None or self._over:
                return 0.0, 0.0
            cost = self._out.meter.cost()
            if travels(self._mode) == "replay" and cost.median_ms:
                return cost.median_ms / 1e3, max(cost.round_trips, 1.0)
            samples = self._wait_samples
            if len(samples) < LEAST_WAITS:
                return 0.0, 0.0
            return statistics.median(samples), 1.0

    @property
    def choice(self) -> Choice:
        """Where it may run."""
        return self._config.choice

    @property
    def here_s(self) -> float:
        """For how long it has been on the robot's own device, in seconds; 0 if it is not."""
        return self._fallback.here_s(time.monotonic())

    @property
    def server(self) -> bytes:
        """Id of the server that it is open on."""
        return self._opening.answer.server

    @property
    def _server_name(self) -> str:
        return OWN if self._fallback.here else self._config.choice.servers.name_of(self.server)

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
            self._opening = self._find_server(request)
        except (ConfigError, UnavailableError) as error:
            return self._refuse(str(error))
        answer = self._opening.answer
        if not answer.accepted or answer.info is None:
            why = with_own_version(answer.reason) or "it gave no reason"
            return self._refuse(f"the offload server refused the session: {why}")
        self._opened = True
        self._migration.begin(request, answer.info)
        self._fallback.begin(request, answer.info, answer.server, time.monotonic())
        self._standby.begin(request, answer.info)
        self._believe(self._opening)
        now = time.monotonic()
        with self._lock:
            if self._stop:
                return self._refuse(self._stop)
            self._ring = RingMemory(
                call_bytes=config.call_ring_bytes,
                reply_bytes=config.reply_ring_bytes,
                mode=check_mode(self._mode),
                # The recorder's own verdict, which says more, comes first.
                wait_timeout_ms=int((config.server_timeout_s + 1.0) * 1000),
                cuda_runtime=config.cuda_runtime,
            )
            self._consumer = RingConsumer(self._ring)
            self._replies = ReplyWriter(self._ring, config.untaken_bytes)
            self._link(answer.max_message_bytes)
            if config.blob_references:
                self._blobs = BlobReferences(answer.known_blobs, config.blob_min_bytes)
            memory = memory_of(self._plans, hello.program, answer.info.arena_base)
            self._out = Outgoing(config, self._blobs, self._totals, memory)
            self._device = answer.info.kind
            self._live = Liveness(config.server_timeout_s, now)
            self._spoke = now
            self._phase = "open"
        ring = self._ring
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
            return self._fallback.start(request, None)
        config = self._config
        try:
            return open_somewhere(
                self._port, request, config.credentials, config.connect_timeout_s, config.choice,
                answer_s=self._fallback.patience_s,
            )  # fmt: skip
        except UnavailableError as error:
            # It may have been opened after all, only too late. Where messages are sealed there
            # is no proof to give, and the server finds that nobody speaks.
            self._close_there("the robot no longer waits for this session")
            return self._fallback.start(request, error)

    def _believe(self, opened: Opened) -> None:
        """Take messages of the server that opened the session, and of no other."""
        if opened.seal is not None:
            self._config.disclose(self.id, opened.seal.keys.pack())
        self._most_bytes = opened.answer.max_message_bytes

    def _link(self, max_message_bytes: int, link: StandbyLink | None = None) -> None:
        """Begin to number messages to and from a server, or go on with what stood by there."""
        config = self._config
        if link is not None:
            self._sender, self._receiver, self._packed_to = link.sender, link.receiver, 0
            most = min(config.max_message_bytes, max_message_bytes)
            self._sender.widen(most, config.window_bytes)
            return
        self._sender = MessageSender(
            max_message_bytes=min(config.max_message_bytes, max_message_bytes),
            window_messages=config.window,
            window_bytes=config.window_bytes,
        )
        self._receiver = MessageReceiver(max_message_bytes=max_message_bytes)
        self._packed_to = 0

    def _refuse(self, text: str) -> bool:
        self._error = text
        send_welcome(self._connection, Welcome(int(CUresult.SYSTEM_NOT_READY), text))
        return False

    def _serve(self) -> str:
        """Serve until the end; returns the reason where it was not the program's."""
        ring, consumer = self._ring, self._consumer
        assert ring is not None
        call_fd, socket_fd = ring.call_fd, self._connection.fileno()
        while True:
            if self._stop:
                self._fail(self._stop, CUresult.DEVICE_UNAVAILABLE)
                return self._stop
            self._seek(time.monotonic())
            open_ = self._phase == "lost" or self._room
            out = self._out
            lingers, more = out.pending, False
            if open_:
                consumer.announce(LINGERING if lingers else SLEEPING)
                if self._absorb():
                    # A program that waits for room has said so before, and wakes nobody again.
                    more = consumer.more
            news = out.shim_news()
            if news:
                self._replies.write(news)
            self._replies.flush()
            timeout = self._send(time.monotonic())
            if out.must_think:
                out.think(time.monotonic())
            if self._journal.must_think or (self._journal.thinks and self._migration.settles):
                self._fold(self._journal.think_hard)
            if more or out.pending != lingers or (not open_ and self._room):
                # The announcement no longer says what would wake us, or there is room again.
                continue
            thinks = out.thinks or self._journal.thinks
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
        if self._journal.thinks:
            self._fold(self._journal.think)
        else:
            self._out.think(time.monotonic())

    def _fold(self, think: Callable[[], bool]) -> None:
        """Let a checkpoint take the place of its calls; `think` does a piece of that."""
        with self._lock:
            if not self._journal.thinks:
                return
            try:
                done = think()
            except ProtocolError as error:
                self._not_ours(error)
                return
            if done and self._blobs is not None:
                self._journal.kept(self._blobs.forget_aside(self._journal.covered))

    def _not_ours(self, error: ProtocolError) -> None:
        """A checkpoint came that cannot be one of this session."""
        self._migration.give_up()
        self._refused += 1
        self._last_refusal = str(error)

    def _content(self, call: int) -> bytes | None:
        """The content of an upload, for a session that stands by."""
        found = self._archived(call)
        return found[1] if found is not None else self._journal.upload(call)

    def _archived(self, call: int) -> tuple[bytes, bytes] | None:
        return self._blobs.put_aside(call) if self._blobs is not None else None

    def _wants_checkpoint(self, now: float) -> bool:
        if self._out.replayer.speculation.awaits:
            return False
        if self._migration.wants_checkpoint:
            return True
        idle = not self._out.waits and self._sender.idle
        return self._journal.wants_checkpoint(now, idle=idle)

    @property
    def _room(self) -> bool:
        """Whether the program's next calls can go on; else they stay in its ring."""
        if self._server_full or not self._sender.room or self._journal.full:
            return False
        # After an error nothing is executed any more, so nothing would make room.
        return self._blobs is None or not self._blobs.full or bool(self._error)

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
        assert self._ring is not None
        traffic = self._traffic()
        trips = self._ring.waits() - self._out.saved_waits
        return traffic["bytes"] - self._packer.saved_bytes, traffic["received_bytes"], trips

    def _traffic(self) -> Counter[str]:
        """What went to and came from all servers of the session so far."""
        sent, received = self._sender.statistics(), self._receiver.statistics()
        out = Counter(
            {name: int(sent[name]) for name in ("batches", "messages", "bytes", "resent")}
        )
        out.update({f"received_{name}": int(received[name]) for name in ("messages", "bytes")})
        return out + self._earlier

    def _send(self, now: float) -> float:
        """Publish what is due; returns for how long nothing else will be (seconds)."""
        if self._phase == "lost":
            self._out.drop()
            return 3600.0
        out = self._out
        if self._migration.searches and self._ring is not None:
            # The program's patience with a server that says nothing is ours to extend.
            self._ring.beat()
        if self._lost:
            return ALIVE_PERIOD_S
        with self._lock:
            self._live.woke(now, self._sleeps_until)
            pushed = bool(self._blobs_wanted)
            while self._blobs_wanted:
                self._answer_wanted(self._blobs_wanted.popleft())
            if out.pending and now >= out.flush_at:
                self._sender.push(self._journal.sent(out.take()), given=True)
                pushed = True
            if not out.pending and self._wants_checkpoint(now):
                # What the server has executed speculatively is not the session's state.
                out.replayer.speculation.drop()
                self._sender.push(self._journal.checkpoint(now), given=True)
                self._migration.checkpoint_asked()
            if pushed and self._blobs is not None and self._blobs.take_new():
                self._packs_to = self._sender.last
            ack, full = self._receiver.ack, FLAG_FULL if self._replies.full else 0
            outgoing = [
                CallsMessage(self.id, m.sequence, ack, full | (FLAG_MORE if m.more else 0), m.data)
                for m in self._sender.due(now)
            ]
            silent = now >= self._live.probe_at(self._spoke)
            news = bool(full) is not self._said_full
            if not outgoing and (news or silent or self._receiver.ack_due(now)):
                flags = full | FLAG_ACK_ONLY | (FLAG_PROBE if silent else 0)
                outgoing = [CallsMessage(self.id, self._sender.newest, ack, flags, b"")]
            if outgoing:
                self._said_full = bool(full)
                self._spoke = now
                self._receiver.ack_sent()
            self._lost = self._lost or self._live.lost(
                now, self._waited_for, self._settled, self._patience_s
            )
            due = [self._live.probe_at(self._spoke), self._gives_up_at]
            if self._resumable and not self._migration.searches:
                due.append(self._live.heard_at + SUSPECT_S)
            if self._migration.settles:
                due.append(now + MOMENT_S)
            if (falls_at := self._fallback.due(self._live.heard_at)) is not None and (
                falls_at > now
            ):
                due.append(falls_at)
            if out.pending:
                due.append(out.flush_at)
            deadlines = (self._sender.deadline(), self._receiver.ack_deadline())
            due.extend(deadline for deadline in deadlines if deadline is not None)
            if out.waits:
                due.append(now + ACK_SLACK_S)
            # What stands by gets what the program's own calls leave of the link.
            idle = self._sender.idle and not (outgoing or out.pending or self._blobs_wanted)
            standing_by = self._standby.due(now, self._sleeps_until, idle)
            if (looks_at := self._standby.wakes_at(now, idle)) is not None:
                due.append(looks_at)
            # What is due already is wanted now: later than that is what was stood still.
            self._sleeps_until = now if self._lost else max(min(due), now)
            self._blocked = not self._room
            timeout = self._sleeps_until - now
            rate = self._sender.bytes_per_s
        seal = self._opening.seal
        for message in outgoing:
            packed = self._packed(message, rate)
            self._port.publish_calls(packed if seal is None else seal.calls(packed))
        for message in self._standby.leaving(standing_by):
            self._port.publish_calls(message)
        return timeout

    @property
    def _waited_for(self) -> int:
        """The oldest call for whose result the program waits; 0: none, or its error is known."""
        return 0 if self._error else next(iter(self._out.waits), 0)

    @property
    def _settled(self) -> bool:
        """Whether everything that was sent is there, and everything that was announced is here.

        Where more is here than the server has sent, nothing that is said to it is believed.
        """
        if self._beyond:
            return True
        pending = self._out.pending or self._blobs_wanted or self._blocked
        return self._sender.idle and not pending and not self._receiver.missing()

    def _packed(self, message: CallsMessage, bytes_per_s: float) -> CallsMessage:
        """The message as it leaves.

        Inputs of inferences, which are new each time, stay as they are: what packing saves of
        them is little, and it costs every time.
        """
        if message.flags & FLAG_ACK_ONLY or message.sequence > self._packs_to:
            return message
        again = message.sequence <= self._packed_to
        self._packed_to = max(self._packed_to, message.sequence)
        data = self._packer.pack(message.data, bytes_per_s, again=again)
        if data is None:
            return message
        return replace(message, flags=message.flags | FLAG_PACKED, data=data)

    def _answer_wanted(self, index: int) -> None:
        record = self._blobs.wanted(index) if self._blobs is not None else None
        content = self._journal.upload(index) if record is None else None
        if content is not None and self._blobs is not None:
            record = self._blobs.brought(index, content)
        if record is None:
            self._lost = f"the server wants a blob of call {index}, which refers to none"
            return
        self._sender.push(record, given=True)

    def _seek(self, now: float) -> None:
        """Where the server is lost, in doubt, or to be left: look for another, and move."""
        if self._phase == "lost":
            return
        migration = self._migration
        if self._lost and (not self._resumable or now >= self._gives_up_at):
            self._phase = "lost"
            why = self._lost
            if migration.searches:
                why = f"{why}; resuming failed: {migration.reason}"
            elif migration.objection:
                why = f"{why}; it cannot go on at another: {migration.objection}"
            if objection := self._fallback.objection:
                why = f"{why}; on this robot: {objection}"
            migration.cancel(why)
            self._fallback.cancel(why)
            self._standby.cancel(why)
            self._fail(why, CUresult.DEVICE_UNAVAILABLE)
            return
        local = self.stays_local
        # What is silent on the robot is slow; when to leave it is not decided by that.
        silent = now - self._live.heard_at >= SUSPECT_S and not self._fallback.here
        doubted = bool(self._lost) or silent
        if doubted and (link := self._adopted(now)) is not None:
            migration.adopted(link.opened)
            self._move(link.session, link.opened, link)
            return
        stays = self._resumable and not (self._fallback.here or migration.ordered or local)
        self._standby.look(now, self.server, stays, doubted)
        migration.look(now, self._resumable, doubted and not local)
        self._phase = migration.phase
        taken = migration.take(now, self._quiet) or self._fallback.look(
            now, self._live.heard_at, bool(self._lost), self._resumable and doubted,
            migration.ordered, local,
        )  # fmt: skip
        if taken is not None:
            self._move(*taken)

    @property
    def _quiet(self) -> bool:
        """Whether nothing is under way, and the program waits for nothing."""
        return self._sender.idle and not (self._out.waits or self._out.pending)

    def _adopted(self, now: float) -> StandbyLink | None:
        """What stands by and has all but the calls since the last checkpoint, if it can be had."""
        if not (self._standby.there and self._resumable):
            return None
        with self._lock:
            try:
                # A checkpoint that came counts, and may be newer than what stands by.
                self._journal.settle()
            except ProtocolError as error:
                self._not_ours(error)
                return None
            return self._standby.adopt(now)

    def _move(self, session: bytes, opened: Opened, link: StandbyLink | None = None) -> None:
        """Go on with another session, which gets all calls so far first.

        Args:
            session: Its id.
            opened: What its opening came to.
            link: If it stood by: its link, and what it has already.
        """
        now, old = time.monotonic(), self._opening
        with self._lock:
            self._opening = opened
            before, outage_s = self.id, now - self._live.heard_at
            was_here_s, silence = self._fallback.here_s(now), not self._lost
            self._earlier = self._traffic()
            self.id = session
            self._believe(opened)
            self._link(opened.answer.max_message_bytes, link)
            self._blobs_wanted.clear()
            self._out.replayer.speculation.resumed()
            for batch in self._journal.begin_again(link.holds if link is not None else 0):
                self._sender.push(batch, given=True)
            self._packs_to = self._sender.last
            self._lost = ""
            self._server_full = self._said_full = False
            self._live = Liveness(self._config.server_timeout_s, now)
            self._spoke, self._beyond, self._sleeps_until = now, False, 0.0
            if self._blobs is not None:
                self._blobs.resumed()
            self._resumed += 1
            self._phase = "open"
            self._fallback.moved(opened.answer.server, now)
            self._measure_anew(was_here_s, outage_s)
            self._migration.moved(now, silence=silence and self._fallback.here)
        self._moved(self, before, outage_s)
        close_session(self._port, old, before, "the session goes on elsewhere")

    def _measure_anew(self, was_here_s: float, outage_s: float) -> None:
        """After a move: what inferences take is of one server at a time."""
        here, meter = self._fallback.here, self._out.meter
        self.last_move = ""
        if here and not was_here_s:
            self._edge_ms = meter.cost().median_ms or self._edge_ms
            because = (
                "mode is local" if self._mode == LOCAL else
                f"no edge answered for {outage_s:.1f} s"
            )  # fmt: skip
            self.last_move = f"goes on on this robot's {self._device} device as {{}}: {because}"
        elif was_here_s and not here:
            self.last_move = f"is back at an edge as {{}} after {was_here_s:.1f} s on this robot"
        meter.moved()
        self._wait_samples.clear()

    @property
    def _resumable(self) -> bool:
        """Whether another server can be brought to the session's state."""
        return self._migration.possible and not self._error

    @property
    def _gives_up_at(self) -> float:
        """When the program is told that its server is gone, monotonic seconds."""
        return self._live.heard_at + self._patience_s

    @property
    def _patience_s(self) -> float:
        """How long the server may be silent."""
        config = self._config
        return config.outage_timeout_s if self._resumable else config.server_timeout_s

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
        self._error = self._error or text
        if self._ring is not None:
            self._ring.set_state(int(status))

    def _end(self, reason: str) -> SessionSnapshot:
        with self._lock:
            self._phase = "closed" if self._phase != "lost" else "lost"
            final = self._snapshot()
            self._final = final
            self._over = True
            if self._ring is not None:
                self._ring.close()
            os.close(self._wake)
        self._connection.close()
        self._migration.cancel(reason)
        self._fallback.cancel(reason)
        self._standby.cancel(reason)
        if self._ring is not None:
            self._out.replayer.end()
        if self._opened:
            self._close_there(reason)
        return final

    def _close_there(self, reason: str) -> None:
        close_session(self._port, self._opening, self.id, reason)

    # ---- the port's take thread

    def on_results(self, message: ResultsMessage) -> None:
        """Take one message of results (the port's take thread)."""
        now = time.monotonic()
        with self._lock:
            if self._over or self._ring is None:
                return
            if message.session != self.id:
                if self._standby.received(message, now):
                    os.eventfd_write(self._wake, 1)
                return
            if self._lost:
                return
            if message.flags & FLAG_CLOSED and self._opening.server.is_other(bytes(message.data)):
                # Each server hears all calls, and says of which sessions it knows nothing.
                self._foreign += 1
                return
            try:
                message = believed(self._opening, self.id, message, self._most_bytes)
            except ProtocolError as error:
                # Anybody can send it, so it is no sign of life.
                self._unproven += 1
                self._refused += 1
                self._last_refusal = str(error)
                return
            if message.flags & FLAG_CLOSED:
                self._lost = "the offload server has closed the session"
            else:
                try:
                    self._received(message, now)
                except ProtocolError as error:
                    self._refused += 1
                    self._last_refusal = str(error)
                    self._lost = self._lost or self._receiver.broken
            if self._needs_thread():
                os.eventfd_write(self._wake, 1)

    def _needs_thread(self) -> bool:
        """Whether the session's thread has to act before it wakes by itself.

        A wake-up costs as much as the rest of a short round trip. Usually none is needed: the
        program's next call carries the acknowledgement.
        """
        if self._lost or self._blobs_wanted or self._blocked or self._sender.urgent:
            return True
        if self._out.urgent or self._replies.full is not self._said_full:
            return True
        due = self._receiver.ack_deadline()
        return due is not None and self._sleeps_until > due + ACK_SLACK_S

    def _received(self, message: ResultsMessage, now: float) -> None:
        assert self._ring is not None
        # Before anything of it is used: data that was delivered cannot be taken back, and the
        # message whose place it took would never be.
        self._sender.check(message.batches_ack)
        if message.flags & FLAG_ACK_ONLY:
            self._receiver.announced(message.sequence, now)
            self._beyond = message.sequence < self._receiver.ack
        else:
            more = bool(message.flags & FLAG_MORE)
            for batch in self._receiver.receive(message.sequence, more, message.data, now):
                self._deliver(batch, now)
        self._ring.beat()
        self._server_full = bool(message.flags & FLAG_FULL)
        busy = message.flags & (FLAG_BUSY | FLAG_FULL) != 0 or self._replies.full
        position = (message.batches_ack, message.executed_call, self._receiver.ack)
        self._live.heard(now, busy, position)
        self._sender.acknowledged(message.batches_ack, message.missing, now)
        self._out.measured(self._sender.fastest_s)
        self._migration.executed(message.executed_call, now)
        if self._blobs is not None and message.executed_call:
            done = self._blobs.executed(message.executed_call, keep=self._journal.whole)
            self._journal.kept(done)

    def _deliver(self, batch: Buffer, now: float) -> None:
        """Give the results of one batch to the program, or end the session if they are wrong."""
        view = memoryview(batch).cast("B")
        records: list[Buffer] = []
        answers: list[ResultRecord] = []
        offset = 0
        try:
            for result in iter_results(view):
                again = self._resumed and not result.flags & RESULT_STATE
                known, rest = self._journal.repeated(result) if again else (False, b"")
                if result.flags & RESULT_BLOB_WANTED:
                    self._blobs_wanted.append(result.index)
                elif result.flags & RESULT_STATE:
                    self._journal.piece(result)
                elif known:
                    if rest:
                        records.append(rest)
                elif record := self._out.due(result, view[offset : offset + result.size]):
                    records.append(record)
                    answers.append(result)
                    since = self._out.answered(result.index, now)
                    if since is not None:
                        self._wait_samples.append(now - since)
                offset += result.size
                if result.sticky and not self._error:
                    self._error = bytes(result.payload).decode(errors="replace")
            if offset != len(view):
                raise ProtocolError("padding between results")
            self._replies.write(records)
            # Only now: the program need not wait for it.
            for result in answers:
                self._journal.answered(result)
        except ProtocolError as error:
            # The stream was in order, so this is no accident of the network.
            self._migration.give_up()
            self._lost = f"results of the server cannot be used: {error}"
            raise

    # ---- any thread

    def snapshot(self) -> SessionSnapshot:
        """What the session did so far, or did in all."""
        with self._lock:
            return self._final or self._snapshot()

    def statistics(self) -> dict[str, int | float | str]:
        """Counters of the session's parts, prefixed by part."""
        with self._lock:
            out: dict[str, int | float | str] = {}
            for name, part in (
                ("server", self._live.statistics()),
                ("sender", self._sender.statistics()),
                ("receiver", self._receiver.statistics()),
                ("blobs", self._blobs.statistics() if self._blobs is not None else {}),
                ("packed", self._packer.statistics()),
                ("journal", self._journal.statistics()),
                ("migration", self._migration.statistics()),
                ("fallback", self._fallback.statistics()),
                ("standby", self._standby.statistics()),
                ("seal", seal.statistics() if (seal := self._opening.seal) is not None else {}),
                ("ring", self._consumer.statistics() if self._ring is not None else {}),
                ("replies", self._replies.statistics() if self._ring is not None else {}),
                ("replay", self._out.statistics() if self._ring is not None else {}),
            ):
                out.update({f"{name}_{key}": value for key, value in part.items()})
            out["unproven_results"] = self._unproven
            out["closed_by_others"] = self._foreign
            return out

    def _snapshot(self) -> SessionSnapshot:
        ring = self._ring
        counters = ring.counters() if ring is not None else Counters(0, 0, 0, 0, 0, 0, 0)
        traffic = self._traffic()
        samples = self._wait_samples
        replay, cost, saved_waits = ReplayState(""), InferenceCost(), 0
        if ring is not None:
            replay, cost = self._out.replayer.state(), self._out.meter.cost()
            saved_waits = self._out.saved_waits
        moves_failed, move_error = self._migration.failed
        served = self._phase == "open"
        return SessionSnapshot(
            session=self.id,
            label=printable(self.hello.label),
            program=printable(self.hello.program),
            pid=self.hello.pid,
            device=self._device,
            mode=self._mode,
            phase=replay.phase if served else self._phase,
            error=self._error,
            duration_s=time.monotonic() - self._started,
            calls_local=counters.local,
            calls_async=counters.asynchronous,
            calls_sync=counters.synchronous,
            calls_unsupported=counters.unsupported,
            export_counts=tuple(ring.export_counts()) if ring is not None else (),
            refusals=tuple(ring.refusals().items()) if ring is not None else (),
            round_trips=counters.waits - saved_waits,
            batches=traffic["batches"],
            messages_sent=traffic["messages"],
            messages_received=traffic["received_messages"],
            messages_resent=traffic["resent"],
            messages_refused=self._refused,
            bytes_sent=traffic["bytes"] - self._packer.saved_bytes,
            bytes_received=traffic["received_bytes"],
            blob_bytes_saved=self._blobs.statistics()["saved_bytes"] if self._blobs else 0,
            wait_s=counters.wait_ns / 1e9,
            last_wait_ms=counters.last_wait_ns / 1e6,
            median_wait_ms=statistics.median(samples) * 1000 if samples else 0.0,
            plans=replay.plans,
            sequence_calls=replay.sequence_calls,
            sequence_repetitions=replay.sequence_repetitions,
            inferences=replay.inferences,
            divergences=replay.divergences,
            hit_rate=replay.hit_rate,
            inference_bytes_sent=cost.bytes_sent,
            inference_bytes_received=cost.bytes_received,
            inference_round_trips=cost.round_trips,
            last_inference_ms=cost.last_ms,
            median_inference_ms=cost.median_ms,
            speculation_exchanges_saved=replay.speculation_saved,
            speculation_saved_ms=replay.speculation_saved_ms,
            speculation_rollbacks=replay.speculation_rollbacks,
            speculation_lost_ms=replay.speculation_lost_ms,
            last_refusal=self._last_refusal,
            resumed=self._resumed,
            server=self._server_name,
            moves_failed=moves_failed,
            move_error=move_error,
            fallback=self._fallback.here,
            edge_inference_ms=self._edge_ms if self._fallback.here else 0.0,
            standby=self._config.choice.servers.name_of(self._standby.server),
        )
