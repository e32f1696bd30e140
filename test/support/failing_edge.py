"""A recorder whose server dies and is there again, at moments that a test chooses."""

import os
import signal
import threading

from support.one_process import OneProcess

from rrto_ros.edge.gate import Gate
from rrto_ros.edge.table import SessionTable
from rrto_ros.errors import UnavailableError
from rrto_ros.wire.port import OpenAnswer


class FailingEdge(OneProcess):
    """One robot, and a server that takes another's place each time that one dies.

    What was on its way to or from a server that died is lost.

    Args:
        lives: How many messages of calls each server gets until it dies, and for how long none is
            there then, in seconds; the last one lives on. A sequence of pairs.

    Attributes:
        deaths: How many servers have died.
    """

    def __init__(self, path, config, limits, lives=(), **server):
        self.deaths = 0
        self._lives = list(lives)
        self._heard = 0
        self._swap = threading.Lock()
        self._gone = False
        # The server that comes is the same one started anew, and may say what is not open there.
        server = {"gate": Gate(None), "confinement": "off", **server}
        super().__init__(path, config, limits, **server)

    def make_table(self):
        mine = self.deaths

        def heard(message):
            # A dead server's words do not arrive.
            if mine == self.deaths and not self._gone:
                self.down.put(message)

        return SessionTable(self.settings, heard, self.events.put, self.lines.append, self._gate)

    def receive(self, message):
        with self._swap:
            if self._gone:
                return
            table = self.table
            self._heard += 1
            dies = self._lives and self._heard >= self._lives[0][0]
            pause_s = self._lives.pop(0)[1] if dies else 0.0
        table.receive(message)
        if not dies:
            return
        self.die()
        threading.Timer(pause_s, self.rise).start()

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        with self._swap:
            table, gone = self.table, self._gone
        if gone:
            raise UnavailableError("no server is there")
        return table.open(request)

    def close_session(self, session, reason, proof=b""):
        self.table.close_session(session, reason, proof)

    def die(self):
        """The server ends at once, with all its workers; nobody is told, and nobody answers."""
        with self._swap:
            self._gone = True
            for host in self.table.hosts:
                os.kill(host.worker.pid, signal.SIGKILL)
        self.table.close()

    def rise(self):
        """A server is there that knows nothing."""
        with self._swap:
            self.deaths += 1
            self._heard = 0
            self.table = self.make_table()
            self._gone = False


class RefusingEdge(FailingEdge):
    """Its later servers have no room."""

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        if self.deaths:
            return OpenAnswer(False, "8 sessions are open (max_sessions)")
        return super().open_session(request, timeout_s, believes, patience_s)
